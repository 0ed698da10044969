"""Activations made when they are needed: those of a store of the same chunks, batch by batch."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxplain
from jaxplain import sae
from jaxplain.sae import _chunks

KEY = jax.random.key(0)
EXAMPLES, POSITIONS, WIDTH = 60, 5, 4
INPUTS = {
    "tokens": np.random.default_rng(0).integers(0, 9, (EXAMPLES, POSITIONS)),
    "shift": np.arange(EXAMPLES, dtype=np.float32),
}
TABLE = jax.random.normal(jax.random.key(1), (9, WIDTH))
MASK = np.random.default_rng(1).random((EXAMPLES, POSITIONS)) < 0.7


@pytest.fixture(autouse=True)
def usual_promotion():
    """As users have it: optax itself promotes dtypes."""
    with jax.numpy_dtype_promotion("standard"):
        yield


def layer(example, table):
    return (table[example["tokens"]] + example["shift"]).astype(jnp.bfloat16)


def source(**options):
    return sae.harvested(layer, INPUTS, shared=(TABLE,), batch_size=8, **options)


def taken(source, numbers, batch_size=16):
    _, at = _chunks.batches(source, KEY, batch_size, 100)
    return [np.asarray(at(t), np.float32) for t in numbers]


@pytest.mark.parametrize("mask", [None, MASK], ids=["whole", "masked"])
def test_batches_are_those_of_a_store(mask, tmp_path):
    def both(example, table):
        return {"h": layer(example, table), "mask": example["mask"]}

    inputs = {**INPUTS, "mask": MASK}
    jaxplain.run.map(
        both, inputs, tmp_path / "a", shared=(TABLE,), batch_size=8, progress=False, mesh=None
    )
    size = 3 * 8 * POSITIONS * WIDTH * 2
    stored = sae.stored(
        tmp_path / "a", "h", mask=None if mask is None else "mask", buffer_bytes=size
    )
    made = source(mask=mask, buffer_bytes=size)
    assert (made.group, made.width) == (stored.group, stored.width) == (3, WIDTH)
    np.testing.assert_array_equal(made.rows, stored.rows)
    for batch, other in zip(taken(made, range(30)), taken(stored, range(30)), strict=True):
        np.testing.assert_array_equal(batch, other)
    for block, other in zip(made.in_order(), stored.in_order(), strict=True):
        np.testing.assert_array_equal(block, other)
    # And found again, in any order.
    for t in (29, 3, 17):
        np.testing.assert_array_equal(taken(made, [t])[0], taken(stored, [t])[0])


def test_the_model_runs_once_for_each_chunk_of_a_pass():
    """A group is made once, the next one meanwhile, and no more than these two."""
    begun = []
    own = source(buffer_bytes=2 * 8 * POSITIONS * WIDTH * 2)
    watched = own._replace(begin=lambda number: begun.append(number) or own.begin(number))
    _, at = _chunks.batches(watched, KEY, 16, 100)
    assert len(begun) == 4
    for t in range(15):
        at(t)
    assert len(begun) == len(set(begun)) == 8


def test_going_on_is_the_run_that_was_not_interrupted():
    go = lambda steps, state=None: sae.train(
        KEY,
        sae.topk(12, 2),
        source(mask=MASK),
        optimizer=optax.adam(1e-2),
        steps=steps,
        batch_size=16,
        state=state,
    )
    whole, second = go(20), go(20, go(9).state)
    jax.tree.map(np.testing.assert_array_equal, second.params, whole.params)
    r = sae.evaluate(sae.topk(12, 2), whole.params, source(mask=MASK))
    assert r.examples == MASK.sum()


def test_what_is_refused():
    for call, error, words in (
        (lambda: source(mask=MASK[:, :2]), ValueError, r"mask has the shape \(60, 2\)"),
        (
            lambda: sae.harvested(layer, "tokens", batch_size=8),
            TypeError,
            "inputs must be an array",
        ),
        (lambda: sae.harvested(layer, 3, batch_size=8), ValueError, r"have the shapes \(\)"),
        (
            lambda: sae.harvested(lambda x: x, {"a": np.ones(3), "b": np.ones(4)}, batch_size=2),
            ValueError,
            r"have the shapes \(3,\), \(4,\)",
        ),
        (
            lambda: sae.harvested(lambda x: x, np.ones((0, 3)), batch_size=2),
            ValueError,
            r"have the shapes \(0, 3\)",
        ),
        (
            lambda: sae.harvested(lambda x: x.sum(), np.ones((4, 3)), batch_size=2),
            ValueError,
            r"returned \(\)",
        ),
        (
            lambda: sae.harvested(lambda x: {"h": x}, np.ones((4, 3)), batch_size=2),
            TypeError,
            "one array of floats",
        ),
        (
            lambda: sae.train(KEY, sae.topk(8, 1), source(), optimizer=optax.sgd(1.0), steps=1),
            ValueError,
            "a store or a model",
        ),
    ):
        with pytest.raises(error, match=words):
            call()
