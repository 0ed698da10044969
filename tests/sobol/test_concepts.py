"""The importance of concepts, as CRAFT has it: Sobol indices of their coefficients."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxplain import masks, sobol
from jaxplain.sobol import estimators

POSITIONS, CONCEPTS, WIDTH = 5, 4, 6
U = jax.random.uniform(jax.random.key(0), (POSITIONS, CONCEPTS))  # coefficients, non-negative
DICTIONARY = jax.random.normal(jax.random.key(1), (CONCEPTS, WIDTH))
HEAD = jax.random.normal(jax.random.key(2), (WIDTH, 2))


def scores(u, dictionary, head):
    """Two classes from the activations that the coefficients stand for; not linear."""
    pooled = jnp.mean(u @ dictionary, axis=0)
    return (pooled @ head) + 0.5 * (pooled @ head)[::-1] ** 2


def exact_total_indices():
    """By Gauss-Legendre quadrature over all coefficients, which is exact for polynomials."""
    nodes, weights = np.polynomial.legendre.leggauss(4)
    nodes, weights = (nodes + 1) / 2, weights / 2
    grid = np.array(list(itertools.product(nodes, repeat=CONCEPTS)))
    arrays = [np.asarray(a, np.float64) for a in (U, DICTIONARY, HEAD)]
    pooled = np.einsum("nk,pk,kd->nd", grid, arrays[0], arrays[1]) / POSITIONS
    logits = pooled @ arrays[2]
    y = (logits + 0.5 * logits[:, ::-1] ** 2).reshape(*[4] * CONCEPTS, 2)
    mean = lambda array, axes: _mean(array, weights, axes)
    every = tuple(range(CONCEPTS))
    variance = mean(y**2, every) - mean(y, every) ** 2
    given_others = [mean(y**2, (k,)) - mean(y, (k,)) ** 2 for k in every]
    return np.array(
        [mean(g, tuple(range(CONCEPTS - 1))) / variance for g in given_others]
    )  # (concepts, classes)


def _mean(array, weights, axes):
    for axis in sorted(axes, reverse=True):
        array = np.tensordot(array, weights, axes=(axis, 0))
    return array


@pytest.mark.parametrize("estimator", [None, estimators.jansen])
def test_masks_of_whole_concepts(estimator):
    """A mask multiplies a concept at all positions; the class's map is over concepts."""
    explain = sobol.attribution(
        scores, masks=masks.tokens(axis=-1), samples=2**12, estimator=estimator
    )
    r = explain(jax.random.key(3), U, jnp.zeros_like(U), DICTIONARY, HEAD)
    assert r.cells.shape == (2, CONCEPTS)
    assert int(r.evaluations) == 2**12 * (CONCEPTS + 1)
    np.testing.assert_allclose(r.cells.T, exact_total_indices(), atol=5e-3)
    everywhere = np.broadcast_to(np.asarray(r.cells)[:, None], (2, POSITIONS, CONCEPTS))
    np.testing.assert_array_equal(r.values, everywhere)


def test_over_many_images_as_craft_averages():
    explain = sobol.attribution(scores, masks=masks.tokens(axis=-1), samples=32, chunk_size=4)
    many = jnp.stack([U, 0.5 * U, U[::-1]])
    keys = jax.random.split(jax.random.key(4), 3)
    over_images = jax.vmap(explain, (0, 0, None, None, None))
    r = over_images(keys, many, jnp.zeros_like(U), DICTIONARY, HEAD)
    assert r.cells.shape == (3, 2, CONCEPTS)
    alone = explain(keys[1], many[1], jnp.zeros_like(U), DICTIONARY, HEAD)
    np.testing.assert_allclose(r.cells[1], alone.cells, rtol=2e-4)
