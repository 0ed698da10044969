"""The examples that train show the published effect, through an attribution beyond its error."""

import importlib

import jax
import numpy as np
import pytest

pytestmark = pytest.mark.slow


@pytest.fixture
def example(data):
    """An example by name, under the rules of a user's program: optax and these models promote."""
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield lambda name: importlib.import_module(f"docs.examples.{name}")


def assert_above(gains, threshold=0.0, errors=2):
    """The mean over seeds is above the threshold by that many standard errors."""
    gains = np.asarray(gains)
    error = gains.std(ddof=1) / np.sqrt(len(gains))
    assert gains.mean() - errors * error > threshold, (gains.mean(), error)


def test_sparsity_generalises_from_few_rows(example):
    """A better AUC than without, and few features that make it."""
    figures = example("train_with_sparsity").run(seeds=32, terms=("none", "sparsity prior"))
    (none, dense), (sparse, few) = figures.values()
    assert_above(sparse - none, errors=3)
    assert_above(few - dense, 0.1)


def test_smoothness_withstands_noise(example):
    module = example("train_with_smoothness")
    figures = module.run(seeds=3, steps=400)
    gain = figures["with"] - figures["without"]
    assert_above(gain[:, module.NOISE.index(0.5)])
    assert_above(gain[:, 0], -0.01)  # and costs no accuracy where there is none


def test_cosine_holds_attributions_still(example):
    figures = example("train_with_cosine").run(seeds=3, steps=400)
    gain = {key: figures["with"][key] - figures["without"][key] for key in figures["with"]}
    for change in ("noise", "attack"):
        assert_above(gain[f"cosine, {change}"])
        assert_above(gain[f"Kendall, {change}"])
    assert_above(gain["accuracy"], -0.02)


def test_toy_models_are_drawn_from_orthogonal_to_a_pentagon(example):
    """The figure of docs/sae.md; its geometry is tested in sae/test_synthetic.py."""
    superposition = example("superposition")
    several = superposition.train(500)
    lengths = [np.linalg.norm(W, axis=1) for W in several]
    assert [int(np.sum(own > 0.5)) for own in (lengths[0], lengths[-1])] == [2, 5]
    assert len(superposition.draw(several).axes) == len(superposition.PROBABILITIES)
