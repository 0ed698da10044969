"""The cases that a mechanism of sites must pass, on models of four libraries in two forms each.

Three blocks, written out or scanned and rematerialised. The oracle is the model by hand on the same
weights, which returns what every block returns.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen, nnx

import jaxplain
from jaxplain import sites

eqx = pytest.importorskip("equinox", reason="equinox is not installed")
hk = pytest.importorskip("haiku", reason="dm-haiku is not installed")

pytestmark = pytest.mark.pins
LAYERS, WIDTH = 3, 4
KEY = jax.random.key(0)
X = jax.random.normal(KEY, (2, WIDTH))
WEIGHTS = 0.7 * jax.random.normal(jax.random.key(1), (LAYERS, WIDTH, WIDTH))
close = functools.partial(np.testing.assert_allclose, rtol=2e-5, atol=5e-6)


def by_hand(x, replaced=None):
    """What each block returns; `replaced` is a number and the value in its place."""
    stream = []
    for k, w in enumerate(WEIGHTS):
        x = replaced[1] if replaced and k == replaced[0] else x + jnp.tanh(x @ w)
        stream.append(x)
    return jnp.stack(stream)


# ------------------------------------------------------- (apply, params), and the name of a block


class NnxBlock(nnx.Module):
    def __init__(self, w):
        self.w = nnx.Param(w)

    def __call__(self, x):
        return x + jnp.tanh(x @ self.w[...])


class NnxModel(nnx.Module):
    def __init__(self, scanned):
        self.scanned = scanned
        make = nnx.vmap(NnxBlock, in_axes=0, out_axes=0)
        self.blocks = make(WEIGHTS) if scanned else nnx.List(map(NnxBlock, WEIGHTS))

    def __call__(self, x):
        if self.scanned:
            step = nnx.remat(lambda x, block: block(x))
            return nnx.scan(step, in_axes=(nnx.Carry, 0), out_axes=nnx.Carry)(x, self.blocks)
        for block in self.blocks:
            x = block(x)
        return x


class LinenBlock(linen.Module):
    @linen.compact
    def __call__(self, x, _=None):
        w = self.param("w", jax.nn.initializers.zeros, (WIDTH, WIDTH))
        return x + jnp.tanh(x @ w), None


class LinenModel(linen.Module):
    scanned: bool

    @linen.compact
    def __call__(self, x):
        if self.scanned:
            stacked = linen.scan(
                linen.remat(LinenBlock), variable_axes={"params": 0}, length=LAYERS
            )
            return stacked(name="blocks")(x, None)[0]
        for k in range(LAYERS):
            x, _ = LinenBlock(name=f"block{k}")(x)
        return x


class EquinoxBlock(eqx.Module):
    w: jax.Array

    def __call__(self, x):
        return x + jnp.tanh(x @ self.w)


class EquinoxModel(eqx.Module):
    blocks: object
    scanned: bool

    def __call__(self, x):
        if self.scanned:
            step = jax.checkpoint(lambda x, block: (block(x), None))
            return jax.lax.scan(step, x, self.blocks)[0]
        for block in self.blocks:
            x = block(x)
        return x


class HaikuBlock(hk.Module):
    def __call__(self, x):
        w = hk.get_parameter("w", (WIDTH, WIDTH), init=jnp.zeros)
        return x + jnp.tanh(x @ w)


def of_nnx(scanned):
    model = NnxModel(scanned)
    return *jaxplain.adapters.nnx(model), "blocks[{}]" if scanned else "blocks.{}"


def of_linen(scanned):
    own = {"blocks": {"w": WEIGHTS}} if scanned else {}
    own |= {} if scanned else {f"block{k}": {"w": w} for k, w in enumerate(WEIGHTS)}
    name = "blocks.0[{}]" if scanned else "block{}.0"  # of the pair (carry, nothing)
    return *jaxplain.adapters.linen(LinenModel(scanned), {"params": own}), name


def of_equinox(scanned):
    blocks = EquinoxBlock(WEIGHTS) if scanned else list(map(EquinoxBlock, WEIGHTS))
    name = "blocks[{}]" if scanned else "blocks.{}"
    return *jaxplain.adapters.equinox(EquinoxModel(blocks, scanned)), name


def of_haiku(scanned):
    def f(x):
        if scanned:
            layer = lambda x: HaikuBlock(name="block")(x)
            return hk.experimental.layer_stack(LAYERS)(hk.remat(layer))(x)
        for k in range(LAYERS):
            x = HaikuBlock(name=f"block{k}")(x)
        return x

    transformed = hk.transform(f)
    params = transformed.init(KEY, X)
    if scanned:
        (place,) = params
        params = {place: {"w": WEIGHTS}}
    else:
        params = {f"block{k}": {"w": w} for k, w in enumerate(WEIGHTS)}
    name = f"{place}[{{}}]" if scanned else "block{}"
    return *jaxplain.adapters.haiku(transformed, params), name


forms = pytest.mark.parametrize("scanned", [False, True], ids=["written out", "scanned, remat"])
libraries = pytest.mark.parametrize("make", [of_nnx, of_linen, of_equinox, of_haiku])


@libraries
@forms
def test_reading(make, scanned):
    """Alone, compiled, mapped in both orders, and of a gradient."""
    apply, params, name = make(scanned)
    names = [name.format(k) for k in range(LAYERS)]
    traces = []

    def loss(params, x):
        traces.append(1)
        return jnp.sum(apply(params, x) ** 2)

    together = lambda values: jnp.stack([values[name] for name in names])
    stream = by_hand(X)
    read = sites.read(loss, names)
    for x in (X, 2 * X):
        output, values = read(params, x)
        close(output, jnp.sum(by_hand(x)[-1] ** 2))
        close(together(values), by_hand(x))
    assert len(traces) == 1
    batch = jnp.stack([X, 0.5 * X, -X])
    expected = jnp.stack([by_hand(x) for x in batch], axis=1)
    mapped = jax.jit(jax.vmap(read, in_axes=(None, 0)))(params, batch)[1]
    close(together(mapped), expected)
    close(together(sites.read(jax.vmap(loss, (None, 0)), names)(params, batch)[1]), expected)
    plain = jax.jit(jax.grad(loss))(params, X)
    gradient, values = sites.read(jax.grad(loss), names)(params, X)
    close(together(values), stream)
    of_reading = jax.jit(jax.grad(lambda params, x: read(params, x)[0]))(params, X)
    for leaf, a, b in zip(*map(jax.tree.leaves, (plain, gradient, of_reading)), strict=True):
        close(a, leaf)
        close(b, leaf)


@libraries
@forms
def test_writing(make, scanned):
    """Back what was read, to the bit; one block, differentiated, and mapped over values alone."""
    apply, params, name = make(scanned)
    names = [name.format(k) for k in range(LAYERS)]
    plain = jax.jit(apply)(params, X)
    _, values = sites.read(apply, names)(params, X)
    np.testing.assert_array_equal(sites.write(apply, names)(values, params, X), plain)
    several = jnp.stack([X, jnp.ones_like(X)])
    at = sites.at(apply, names[1])
    got = jax.jit(jax.vmap(at, in_axes=(0, None, None)))(several, params, X)
    close(got, jnp.stack([by_hand(X, (1, value))[-1] for value in several]))
    gradient = jax.jit(jax.grad(lambda value: jnp.sum(at(value, params, X) ** 2)))(several[1])
    by_the_hand = jax.grad(lambda value: jnp.sum(by_hand(X, (1, value))[-1] ** 2))
    close(gradient, by_the_hand(several[1]))
    edited = sites.edit(apply, {names[0]: lambda h: h.at[:, 2].set(0)})(params, X)
    first = by_hand(X)[0].at[:, 2].set(0)
    close(edited, by_hand(X, (0, first))[-1])
