"""What the steps of the sparse forms are compiled to: no row is sorted, nothing is there whole.

Each check is also made of a step that must not pass it.
"""

import math
import re

import chex
import jax
import jax.numpy as jnp
import optax
import pytest

from jaxplain import sae

# No other array, of weights or of what is kept, has as many elements as batch x latents.
BATCH, WIDTH, LATENTS, K = 56, 24, 640, 5
SPARSE = {
    "topk": lambda: sae.topk(LATENTS, K, implementation="sparse"),
    "topk, in blocks": lambda: sae.topk(LATENTS, K, implementation="sparse", block_size=96),
    "batch_topk": lambda: sae.batch_topk(LATENTS, K, implementation="sparse"),
}


@pytest.fixture(autouse=True)
def usual_promotion():
    """As users have it: optax itself promotes dtypes."""
    with jax.numpy_dtype_promotion("standard"):
        yield


def compiled(dictionary, batch=BATCH, width=WIDTH, change=lambda step: step):
    """A donated step, of shapes alone."""
    run = sae.training(dictionary, optax.adam(1e-3))
    sample = jax.ShapeDtypeStruct((batch, width), jnp.float32)
    start = lambda sample: run.init(dictionary.init(jax.random.key(0), sample))
    state = jax.eval_shape(start, sample)
    return jax.jit(change(run.step), donate_argnums=0).lower(state, sample).compile()


def elements(shapes):
    """The sizes of all arrays in a text such as `(f32[56,640]{1,0}, s32[5])`."""
    found = re.findall(r"\b[a-z]+[0-9a-z]*\[([0-9,]+)\]", shapes)
    return [math.prod(map(int, shape.split(","))) for shape in found]


def sorted_whole(text):
    """Sorts of arrays in which there is room for all latents of an example."""
    every = re.findall(r" = ([^=]*) sort\(", text)
    return [shapes for shapes in every if max(elements(shapes)) >= LATENTS]


def largest(text):
    return max(elements(text))


def with_sorted_rows(step):
    def changed(state, batch):
        state, metrics = step(state, batch)
        middle = jnp.sort(batch @ state.params["W_enc"], axis=-1)[:, LATENTS // 2]
        return state, {**metrics, "middle": jnp.mean(middle)}

    return changed


@pytest.mark.parametrize("name", SPARSE)
def test_no_row_is_sorted(name):
    text = compiled(SPARSE[name]()).as_text()
    assert re.search(r"TopK|topk", text)
    assert not sorted_whole(text)


def test_a_sort_of_rows_would_be_seen():
    assert sorted_whole(compiled(SPARSE["topk"](), change=with_sorted_rows).as_text())


def test_in_blocks_there_is_no_array_of_all_pre_activations():
    """Of no dtype, and of no shape that has as many elements."""
    text = compiled(SPARSE["topk, in blocks"]()).as_text()
    assert WIDTH * LATENTS <= largest(text) < BATCH * LATENTS
    for implementation in ("sparse", "dense"):  # at once there is
        text = compiled(sae.topk(LATENTS, K, implementation=implementation)).as_text()
        assert largest(text) >= BATCH * LATENTS


@pytest.mark.parametrize("name", SPARSE)
def test_a_thousand_steps_are_one_trace(name):
    """Also where latents die on the way, and come back."""
    dictionary = SPARSE[name]()
    h = jax.random.normal(jax.random.key(0), (16, WIDTH))
    run = sae.training(dictionary, optax.adam(1e-3), dead_after=100)
    chex.clear_trace_counter()
    step = jax.jit(chex.assert_max_traces(run.step, n=1), donate_argnums=0)
    state, dead = run.init(dictionary.init(jax.random.key(1), h)), []
    for _ in range(1000):
        state, metrics = step(state, h)
        dead.append(metrics["dead"])
    assert int(state.step) == 1000
    assert dead[0] == 0
    assert max(map(float, dead)) > 0
    with pytest.raises(AssertionError, match="traced > 1 times"):
        step(state, h[:8])


def test_latents_by_the_hundred_thousand_fit():
    """2^17 latents of width 512, batches of 1,024: what a step needs beside its state and batch.

    Pre-activations alone take 0.5 GiB, a state of Adam with its parameters 1.5 GiB.
    """
    most = 1.25 * 2**30
    temporary = lambda d: compiled(d, 1024, 512).memory_analysis().temp_size_in_bytes
    chooses_its_blocks = sae.topk(2**17, 32, implementation="sparse")
    assert temporary(chooses_its_blocks) < most
    assert temporary(sae.topk(2**17, 32, implementation="dense")) > most
