"""The sparse products against their dense twins, with every derivative, in float64."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxplain.sae import _batch, _kernels
from jaxplain.sae._dictionary import Sparse

pytestmark = pytest.mark.pins
ROWS, WIDTH, LATENTS = 37, 5, 150
close = functools.partial(np.testing.assert_allclose, rtol=1e-10, atol=1e-10)


def arrays():
    """x, W_enc, bias, W_dec, target, in float64."""
    shapes = [(ROWS, WIDTH), (WIDTH, LATENTS), (LATENTS,), (LATENTS, WIDTH), (ROWS, WIDTH)]
    keys = jax.random.split(jax.random.key(0), len(shapes))
    return [jax.random.normal(k, s, jnp.float64) for k, s in zip(keys, shapes, strict=True)]


def dense_loss(x, W_enc, bias, W_dec, target, k):
    pre = x @ W_enc + bias[None]
    indices = jnp.argsort(-pre, axis=-1)[:, :k]
    mask = jnp.zeros(pre.shape, bool).at[jnp.arange(ROWS)[:, None], indices].set(True)
    return jnp.sum(jnp.square(jnp.where(mask, jax.nn.relu(pre), 0) @ W_dec - target))


def sparse_loss(x, W_enc, bias, W_dec, target, k, form):
    pre = jax.lax.stop_gradient(x @ W_enc + bias[None])
    found, rows = _kernels.top_k(pre, k), None
    if form == "packs of any rows":
        rows = jnp.broadcast_to(jnp.arange(ROWS, dtype=jnp.int32)[:, None], (ROWS, k))
        shuffle = lambda a: a.reshape(-1)[::-1].reshape(k, ROWS)
        found, rows = jax.tree.map(shuffle, found), shuffle(rows)
    (codes,) = _kernels.attach([found], x, W_enc, bias, [rows])
    (h_hat,) = _kernels.decode([_kernels.kept(codes)], W_dec, [rows], ROWS)
    return jnp.sum(jnp.square(h_hat - target))


@pytest.mark.parametrize("k", [1, 7, 64, 65, 150])  # a sum is written out up to 64 at a time
@pytest.mark.parametrize("form", ["packs of rows", "packs of any rows"])
def test_values_and_derivatives_are_those_of_the_dense_form(k, form):
    with jax.enable_x64(True):
        given = arrays()
        every = tuple(range(5))
        derivative = lambda f, *more: jax.jit(
            jax.value_and_grad(lambda *a: f(*a, k, *more), argnums=every)
        )
        expected = derivative(dense_loss)(*given)
        jax.tree.map(close, derivative(sparse_loss, form)(*given), expected)
        # Several at once, as a sweep has them.
        twice = [jnp.stack([a, a[::-1]]) for a in given]
        twice[1] = jnp.stack([given[1], -given[1]])
        jax.tree.map(
            close,
            jax.vmap(derivative(sparse_loss, form))(*twice),
            jax.vmap(derivative(dense_loss))(*twice),
        )


def test_what_is_below_zero_is_no_code_and_has_no_slope():
    found = Sparse(jnp.array([[2.0, 0.0, -1.0, -jnp.inf]]), jnp.array([[1, 2, 3, 0]]))
    weights = jnp.arange(8.0).reshape(4, 2)

    def f(x, W_enc):
        (codes,) = _kernels.attach([found], x, W_enc, jnp.zeros(4))
        return jnp.sum(_kernels.decode([_kernels.kept(codes)], weights)[0])

    x, W_enc = jnp.ones((1, 3)), jnp.ones((3, 4))
    assert f(x, W_enc) == 2 * 5
    of_x, of_W = jax.grad(f, (0, 1))(x, W_enc)
    close(of_x, 5 * jnp.ones((1, 3)))
    close(of_W, jnp.zeros((3, 4)).at[:, 1].set(5))


def test_an_index_that_comes_twice_counts_twice():
    codes = Sparse(jnp.array([[1.0, 2.0]]), jnp.array([[3, 3]]))
    weights = jnp.arange(8.0).reshape(4, 2)
    close(_kernels.decode([codes], weights)[0], 3 * weights[3:])
    close(_kernels.dense(codes, 4), jnp.array([[0.0, 0, 0, 3]]))
    gradient = jax.grad(lambda w: jnp.sum(_kernels.decode([codes], w)[0]))(weights)
    close(gradient, jnp.zeros((4, 2)).at[3].set(3))


def test_weights_in_bfloat16_are_summed_in_float32():
    codes = Sparse(jnp.full((3, 40), 1 + 2**-12), jnp.tile(jnp.arange(40), (3, 1)))
    weights = jnp.ones((40, 2), jnp.bfloat16)
    (found,) = _kernels.decode([codes], weights)
    assert found.dtype == jnp.float32
    np.testing.assert_allclose(found, 40 * (1 + 2**-12), rtol=1e-6)
    gradient = jax.grad(lambda w: jnp.sum(_kernels.decode([codes], w)[0]))(weights)
    assert gradient.dtype == jnp.bfloat16


def test_of_several_codes_the_derivatives_are_added():
    """As those of each by itself."""
    with jax.enable_x64(True):
        x, W_enc, bias, W_dec, target = arrays()

        def f(x, W_enc, bias, W_dec, is_together):
            pre = jax.lax.stop_gradient(x @ W_enc + bias[None])
            found = [_kernels.top_k(pre, 3), _kernels.top_k(-pre, 9)]
            groups = [found] if is_together else [[own] for own in found]
            codes = [c for group in groups for c in _kernels.attach(group, x, W_enc, bias)]
            groups = [codes] if is_together else [[own] for own in codes]
            parts = [h for group in groups for h in _kernels.decode(group, W_dec)]
            return jnp.sum(jnp.square(parts[0] - target)) + jnp.sum(jnp.sin(parts[1]))

        derivative = jax.jit(jax.value_and_grad(f, argnums=(0, 1, 2, 3)), static_argnums=4)
        jax.tree.map(
            close,
            derivative(x, W_enc, bias, W_dec, True),
            derivative(x, W_enc, bias, W_dec, False),
        )


# ---------------------------------------------------------------------------- of a whole batch


@pytest.mark.parametrize("dtype", ["float32", "float64", "bfloat16", "float16"])
def test_the_threshold_is_exact(dtype):
    """Of numbers of all sizes, with ties, zeros and the smallest there are."""
    with jax.enable_x64(dtype == "float64"):
        dtype = jnp.dtype(dtype)
        sizes = 10.0 ** np.random.default_rng(0).integers(-3, 4, 999)
        random = jnp.asarray(sizes * np.random.default_rng(1).normal(size=999), dtype)
        tiny = jnp.finfo(dtype).tiny
        some = [jnp.maximum(random, 0), jnp.full(40, 0.5), jnp.array([float(tiny), 3e4])]
        values = jnp.concatenate([part.astype(dtype) for part in some])
        ordered = np.sort(np.asarray(values, np.float64))[::-1]
        for k in (1, 2, 100, 200, 300, 530, len(ordered)):
            assert float(_batch.kth_largest(values, k)) == ordered[k - 1]
        assert float(_batch.kth_largest(jnp.zeros(5, dtype), 3)) == 0


def kept(chosen, batch, latents):
    """The chosen entries as an array, each of them once."""
    found = np.zeros((batch, latents))
    places = np.asarray(chosen.rows).ravel(), np.asarray(chosen.codes.indices).ravel()
    np.add.at(found, places, np.asarray(chosen.codes.values).ravel())
    return found


@pytest.mark.parametrize("case", ["even", "one row has nearly all", "few are positive", "none is"])
def test_the_sparse_choice_of_a_batch_is_the_dense_one(case):
    """Also where a row holds more than it offers, and where there are fewer than k B at all."""
    batch, latents, k = 12, 64, 3
    pre = jax.random.normal(jax.random.key(0), (batch, latents))
    if case == "one row has nearly all":
        pre = pre.at[4].add(10)
    elif case == "few are positive":
        pre = pre - 2.0
    elif case == "none is":
        pre = -jnp.abs(pre)
    dense, threshold = jax.jit(_batch.masked, static_argnums=1)(pre, k)
    chosen = jax.jit(_batch.chosen, static_argnums=1)(pre, k)
    np.testing.assert_array_equal(kept(chosen, batch, latents), dense)
    assert float(chosen.threshold) == float(threshold)
    largest = np.sort(np.maximum(np.asarray(pre), 0).ravel())[::-1][: k * batch]
    assert float(dense.sum()) == pytest.approx(largest.sum(), rel=1e-6)
    assert int((dense > 0).sum()) == (largest > 0).sum()
    assert np.isinf(threshold) == (case == "none is")


# ------------------------------------------------------------------------------ what is compiled


def test_no_row_is_sorted():
    """XLA on CPU sorts the rows of a `top_k` whose result is sliced, unless a barrier is there."""

    def f(pre):
        found = _kernels.top_k(pre, 8)
        return found.values[:, -1], found.indices[:, :2]

    text = jax.jit(f).lower(jnp.ones((64, 512))).compile().as_text()
    assert re.search(r"TopK|topk", text)
    assert not re.search(r"= \([^)]*\) sort\(| sort\(", text)
