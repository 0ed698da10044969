"""The benches of maps: what they evaluate once for all estimators is what the library makes."""

import argparse
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bench import map_quality, sobol_maps
from jaxplain import masks, sobol
from jaxplain.sobol import estimators


@pytest.mark.parametrize("form", sobol_maps.FORMS)
def test_the_first_rows_of_a_stored_design_are_a_smaller_attribution(form):
    x = 1 + jax.random.uniform(jax.random.key(1), (2, 4, 4))
    f = lambda x, label, params: jnp.sin(params @ x.ravel())[label]
    params = jax.random.normal(jax.random.key(2), (3, 16)) / 4
    labels = jnp.array([0, 2], jnp.int32)
    model = types.SimpleNamespace(x=x, f=f, labels=labels, params=params, baseline=0 * x[0])
    options = argparse.Namespace(
        samples=[4, 8], seeds=2, truth=8, grid=2, sampler="sobol", chunk_size=8
    )
    data = sobol_maps.evaluated(model, options, sobol_maps.FORMS[form])
    explain = sobol.attribution(
        f, masks=masks.grid(2, 2), samples=4, estimator=getattr(estimators, form)
    )
    for image, seed in np.ndindex(2, 2):
        key = jax.random.fold_in(jax.random.key(image), seed)
        r = explain(key, x[image], model.baseline, labels[image], params)
        total = getattr(estimators, form).total_order
        found = sobol_maps.total_indices(total, data, image, seed, 4)
        np.testing.assert_allclose(found, np.ravel(r.cells), rtol=1e-4, atol=1e-5)


def test_the_middle_of_a_flat_top_points():
    values = np.zeros((8, 8, 3))
    values[2:4, 4:6] = 1  # its middle is x = 5, y = 3
    assert map_quality.points_into(values, [[4.9, 2.9, 5.1, 3.1]])
    assert not map_quality.points_into(values, [[2.9, 4.9, 3.1, 5.1]])
    assert not map_quality.points_into(values, [])
