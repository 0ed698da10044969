"""The affine prefix: what is found, that f = rest(prefix), and that nothing is lost by it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import jaxplain
from bench import networks
from jaxplain import paths
from jaxplain.rewrite import _affine

KEY = jax.random.key(0)
W = jax.random.normal(KEY, (6, 4))
X = jax.random.normal(jax.random.key(1), (6,))


def inside(function, x, then):
    """`then(split)` inside a trace, as kernels call it."""
    return jax.jit(lambda x: then(_affine.split(function, x), x))(x)


def found(function, x=X):
    """FLOPs and the sizes of the cut, or None."""
    seen = []
    jax.eval_shape(lambda x: seen.append(_affine.split(function, x)) or x, x)
    return None if seen[0] is None else (seen[0].flops, seen[0].cut_elements)


FUNCTIONS = {
    "dense": (lambda x: jnp.tanh(x @ W + 1.0).sum(), 2 * 6 * 4, 4),
    "dense after a scaling": (lambda x: jnp.tanh((2 * x - 1) @ W / 3).sum(), 48, 4),
    "under jit": (lambda x: jax.jit(lambda v: jnp.tanh(v @ W))(x).sum(), 48, 4),
    "two layers without a kink": (lambda x: jnp.tanh((x @ W) @ W.T).sum(), 96, 6),
    "the input is read twice": (lambda x: jnp.tanh(x @ W).sum() + jnp.sum(x**2), 48, 10),
    "a broadcast stays with the rest": (
        lambda x: jnp.tanh((x @ W)[None] * jnp.ones((9, 1)) + jnp.ones((9, 4))).sum(),
        48,
        4,
    ),
    "all of it": (lambda x: (x @ W).sum(), 48, 1),
    "a mask and a concatenation": (
        lambda x: jnp.sin(
            jnp.concatenate([jnp.where(jnp.arange(4) > 1, x @ W, 0.0), jnp.ones(2)])
        ).sum(),
        48,
        4,
    ),
    "a gather": (lambda x: jnp.sin((x @ W)[jnp.array([1, 1, 3])]).sum(), 48, 3),
    "a convolution": (
        lambda x: jnp.tanh(
            jax.lax.conv(x.reshape(1, 1, 2, 3), jnp.ones((5, 1, 1, 2)), (1, 1), "VALID")
        ).sum(),
        2 * 2 * 5 * 2 * 2,
        20,
    ),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_what_is_found(name):
    function, flops, cut = FUNCTIONS[name]
    assert found(function) == (flops, cut)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_the_rest_of_the_prefix_is_f(name):
    function, _, _ = FUNCTIONS[name]
    got = inside(function, X, lambda split, x: split.rest(split.prefix(x)))
    np.testing.assert_allclose(got, function(X), rtol=1e-6)

    def halves(split, x):
        low, high = split.prefix(0 * x), split.prefix(x)
        return split.prefix(0.25 * x), jax.tree.map(lambda a, b: a + 0.25 * (b - a), low, high)

    for a, b in zip(*inside(function, X, halves), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)


@pytest.mark.parametrize(
    "function",
    [
        lambda x: jnp.tanh(x).sum(),
        lambda x: jnp.tanh((x - x.mean()) / jnp.sqrt(x.var() + 1e-3) @ W).sum(),  # LayerNorm first
        lambda x: jnp.sum(jnp.outer(x, x) @ jnp.ones((6, 2))),
        lambda x: jnp.sum((x @ W[:, :0]).sum() + jnp.sin(x)),
        lambda x: jnp.float32(1.0) + 0 * jnp.sum(W),
        lambda x: jnp.argmax(x).astype(jnp.float32),
        lambda x: jax.checkpoint(lambda v: jnp.tanh(v @ W))(x).sum(),  # kept whole, with its policy
    ],
)
def test_where_there_is_none(function):
    assert found(function) is None


def test_dead_code_does_not_cut():
    def function(x):
        jnp.exp(x)  # nothing depends on it
        return jnp.tanh(x @ W).sum()

    assert found(function) == (48, 4)


def test_the_derivatives_a_user_wrote_are_kept():
    @jax.custom_vjp
    def kink(v):
        return jnp.maximum(v, 0.0)

    kink.defvjp(lambda v: (kink(v), v), lambda v, g: (jnp.where(v > 0, 2 * g, 0.0),))
    f = lambda x: kink(x @ W).sum()
    on, off = (paths.integrated_gradients(f, steps=9, hoist=h)(X, 0 * X) for h in (True, False))
    np.testing.assert_allclose(on.values, off.values, rtol=1e-5)
    assert abs(float(on.completeness_gap)) > 0.1, "twice the gradient is not complete"


@pytest.mark.parametrize("name", ["mlp", "cnn", "resnet20", "transformer"])
def test_the_networks_of_the_bars(name):
    """Dense and convolutional stems are hoisted; a transformer (LayerNorm first) is not."""
    case = networks.CASES[name]
    apply, params = jaxplain.adapters.nnx(case.make(0))
    examples, _, labels = case.inputs(0)
    f = jaxplain.targets.logit(apply)
    result = found(lambda x: f(x, labels[0], params), examples[0])
    expected = {
        "mlp": (2 * 784 * 512, 512),
        "cnn": (2 * 27 * 32 * 32 * 32, 32 * 32 * 32),
        "resnet20": (2 * 27 * 16 * 32 * 32, 16 * 32 * 32),
        "transformer": None,
    }
    assert result == expected[name]


def test_hoisting_lowers_the_flops_of_the_program():
    """Counted by XLA on the loop unrolled (it counts the body of a loop once)."""
    model = networks.MLP(widths=(64, 32, 8, 3), rngs=nnx.Rngs(0))
    apply, params = jaxplain.adapters.nnx(model)
    f = jaxplain.targets.logit(apply)
    x = jnp.ones(64)

    def flops(hoist):
        explain = jaxplain.integrated_gradients(f, steps=16, chunk_size=16, hoist=hoist)
        compiled = jax.jit(explain).lower(x, 0 * x, jnp.int32(0), params).compile()
        return compiled.cost_analysis()["flops"]

    prefix = 2 * 64 * 32
    assert flops(False) - flops(True) > 0.8 * (2 * 16 - 3) * prefix


@pytest.mark.parametrize("options", [{"steps": 12}, {"tolerance": 1e-4}], ids=str)
def test_hoisting_changes_rounding_only(options, x64):
    model = networks.MLP(widths=(6, 9, 5, 3), rngs=nnx.Rngs(0))
    apply, params = jaxplain.adapters.nnx(model)
    params = jax.tree.map(lambda leaf: leaf.astype(jnp.float64), params)
    f = jaxplain.targets.logit(apply)
    keys = jax.random.split(KEY, 2)
    x, baseline = (jax.random.normal(key, (4, 6), jnp.float64) for key in keys)
    labels = jnp.arange(4) % 3

    def values(hoist):
        explain = jaxplain.integrated_gradients(f, hoist=hoist, **options)
        return jax.jit(jax.vmap(explain, (0, 0, 0, None)))(x, baseline, labels, params)

    on, off = values(True), values(False)
    np.testing.assert_allclose(on.values, off.values, atol=1e-13)
    np.testing.assert_allclose(on.completeness_gap, off.completeness_gap, atol=1e-13)
    np.testing.assert_array_equal(on.evaluations, off.evaluations)
    if "tolerance" in options:
        np.testing.assert_allclose(on.error, off.error, rtol=1e-8)


def test_derivatives_pass_a_hoisted_kernel(x64):
    model = networks.MLP(widths=(6, 9, 3), activation=nnx.gelu, rngs=nnx.Rngs(0))
    apply, params = jaxplain.adapters.nnx(model)
    params = jax.tree.map(lambda leaf: leaf.astype(jnp.float64), params)
    f = jaxplain.targets.logit(apply)
    x = jnp.asarray(np.asarray(X), jnp.float64)

    def loss(x, params, hoist):
        explain = jaxplain.integrated_gradients(f, steps=8, hoist=hoist)
        return jnp.sum(jnp.sin(explain(x, 0 * x, jnp.int32(1), params).values))

    on, off = (jax.grad(loss, (0, 1))(x, params, hoist) for hoist in (True, False))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-12), on, off)


@pytest.mark.parametrize("options", [{"steps": 32}, {"tolerance": 1e-3}], ids=str)
@pytest.mark.parametrize("pool", [lambda h: h.max(0), lambda h: jax.nn.softmax(h, 0)[0]])
def test_a_mask_of_infinities_in_the_prefix(options, pool):
    """Padded tokens: -inf at both ends stays -inf, and the numbers are those without hoisting."""
    keys = jax.random.split(KEY, 3)
    x, baseline = (jax.random.normal(key, (12, 64)) for key in keys[:2])
    weights = 0.1 * jax.random.normal(keys[2], (64, 32))
    valid = jnp.arange(12) < 7

    def f(x, weights, valid):
        hidden = jnp.where(valid[:, None], jnp.dot(x, weights), -jnp.inf)
        return jnp.sum(jnp.tanh(pool(hidden)))

    assert found(lambda x: f(x, weights, valid), x) is not None
    on, off = (
        paths.integrated_gradients(f, hoist=hoist, **options)(x, baseline, weights, valid)
        for hoist in (True, False)
    )
    largest = float(jnp.abs(off.values).max())
    np.testing.assert_allclose(on.values, off.values, atol=2e-3 * largest)
    assert bool(on.finite)
    gaps = float(on.completeness_gap), float(off.completeness_gap)
    np.testing.assert_allclose(*gaps, atol=1e-3)
    sampled = paths.expected_gradients(f, samples=256)(
        KEY, x, jnp.stack([baseline, baseline]), weights, valid
    )
    assert bool(sampled.finite)
    assert abs(float(sampled.completeness_gap)) < 5 * float(sampled.gap_error) + 1e-4
