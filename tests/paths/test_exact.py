"""Exact integration of piecewise linear networks.

Three oracles. A network of one hidden layer has a closed form, in numpy. For any network, a
quadrature rule of 4,096 points must differ by what it makes of the step function that the gradient
is: no more than the bound (jumps times weights at the breakpoints), and to rounding by exactly
that. And every network's values are complete.
"""

import gzip
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from jaxplain import adapters, models, paths, targets
from jaxplain.evaluate import batched

NODES, WEIGHTS = paths.gauss_legendre(4096)
SEGMENTS = 400


def rising(activation):
    """An MLP with biases, of hidden layers."""

    def f(x, params):
        for weight, bias in params[:-1]:
            x = activation(x @ weight + bias)
        weight, bias = params[-1]
        return (x @ weight + bias)[0]

    return f


def layers(rng, *sizes, bias=0.4):
    return [
        (rng.normal(size=(n, m)) * np.sqrt(2 / n), bias * rng.normal(size=m))
        for n, m in itertools.pairwise(sizes)
    ]


def residual(x, params):
    """Blocks of two layers beside an identity; the layers are scanned over."""

    def block(x, params):
        (first, bias), second = params
        return x + jax.nn.relu(x @ first + bias) @ second, None

    x, _ = lax.scan(block, x, params["blocks"])
    return jnp.dot(x, params["out"])


def residual_params(rng):
    blocks = [(layers(rng, 6, 10)[0], 0.4 * rng.normal(size=(10, 6))) for _ in range(3)]
    return {"blocks": jax.tree.map(lambda *a: np.stack(a), *blocks), "out": rng.normal(size=6)}


def convolution(x, kernel, strides=(1, 1)):
    numbers = ("NHWC", "HWIO", "NHWC")
    return lax.conv_general_dilated(x, kernel, strides, "SAME", dimension_numbers=numbers)


def small_cnn(x, params):
    """ReLU and max-pool without overlap, as for digits of 8 by 8 pixels."""
    for kernel, bias in params["convolutions"]:
        x = jax.nn.relu(convolution(x[None], kernel)[0] + bias[None, None])
        x = lax.reduce_window(x, -jnp.inf, lax.max, (2, 2, 1), (2, 2, 1), "VALID")
    return rising(jax.nn.relu)(x.reshape(-1), params["dense"])


def small_cnn_params(rng):
    kernels = [rng.normal(size=(3, 3, n, m)) / np.sqrt(4.5 * n) for n, m in ((1, 3), (3, 4))]
    return {
        "convolutions": [(k, 0.2 * rng.normal(size=k.shape[-1])) for k in kernels],
        "dense": layers(rng, 16, 8, 1),
    }


def pooling_cnn(x, params):
    """Channels first, an overlapping max-pool with padding, a shortcut, the largest at the end."""
    x = lax.conv(x.transpose(2, 0, 1)[None], params["first"], (1, 1), "SAME")
    pooled = lax.reduce_window(x, -jnp.inf, lax.max, (1, 1, 3, 3), (1, 1, 2, 2), "SAME")
    x = pooled + jax.nn.leaky_relu(lax.conv(pooled, params["second"], (1, 1), "SAME"))
    return jnp.dot(jnp.max(x[0], (1, 2)), params["out"])


def pooling_cnn_params(rng):
    scale = lambda *shape: rng.normal(size=shape) / np.sqrt(np.prod(shape[1:]))
    return {"first": scale(3, 1, 3, 3), "second": scale(3, 3, 3, 3), "out": rng.normal(size=3)}


def sorting(x, params):
    """Maxout, a sort in groups, the mean of the best three, a clip: of two modalities."""
    (first, bias), (second, other), out = params
    pieces = jnp.max((x["a"] @ first + bias).reshape(8, 3), 1)
    pieces = jnp.sort(pieces.reshape(4, 2), 1).reshape(-1)
    mixed = jnp.where(pieces > x["b"][0], pieces, 0.1 * pieces + 0.9 * x["b"][0])
    best, _ = lax.top_k(jnp.concatenate([mixed @ second + other, x["b"][1]]), 3)
    return jnp.dot(jnp.clip(best, -1.0, 2.0), out)


def sorting_params(rng):
    return (*layers(rng, 5, 24), *layers(rng, 8, 6), rng.normal(size=3))


def sorting_input(rng):
    return {"a": rng.normal(size=5), "b": (rng.normal(), rng.normal(size=2))}


vector = lambda rng: rng.normal(size=6)
image = lambda rng: rng.normal(size=(8, 8, 1))

# name -> f, parameters, input
NETWORKS = {
    "relu, narrow": (rising(jax.nn.relu), lambda rng: layers(rng, 6, 5, 4, 1), vector),
    "relu, wide": (rising(jax.nn.relu), lambda rng: layers(rng, 6, 60, 1), vector),
    "relu, deep": (rising(jax.nn.relu), lambda rng: layers(rng, 6, *[8] * 6, 1), vector),
    "leaky relu": (rising(jax.nn.leaky_relu), lambda rng: layers(rng, 6, 16, 16, 1), vector),
    "abs": (rising(jnp.abs), lambda rng: layers(rng, 6, 12, 5, 1), vector),
    "hard tanh": (rising(jax.nn.hard_tanh), lambda rng: layers(rng, 6, 12, 12, 1), vector),
    "residual": (residual, residual_params, vector),
    "sorting, two modalities": (sorting, sorting_params, sorting_input),
    "small CNN": (small_cnn, small_cnn_params, image),
    "pooling CNN": (pooling_cnn, pooling_cnn_params, image),
}
COPIES = 12  # of each: 120 networks


def draws(name, dtype=None):
    """A batch of networks, inputs and baselines; every fourth baseline is zero."""
    _, params, point = NETWORKS[name]
    rng = np.random.default_rng(sorted(NETWORKS).index(name))
    several = lambda make: jax.tree.map(
        lambda *leaves: jnp.asarray(np.stack(leaves), dtype), *(make(rng) for _ in range(COPIES))
    )
    params, x, baseline = several(params), several(point), several(point)
    return x, jax.tree.map(lambda leaf: leaf.at[::4].set(0), baseline), params


def flat(tree):
    """(copies, elements)."""
    return np.concatenate([np.reshape(leaf, (COPIES, -1)) for leaf in jax.tree.leaves(tree)], 1)


@pytest.mark.pins
@pytest.mark.parametrize("name", NETWORKS)
def test_quadrature_differs_by_its_own_error(name, x64):
    f = NETWORKS[name][0]
    x, baseline, params = draws(name)
    exact = jax.vmap(paths.exact_integrated_gradients(f, max_segments=SEGMENTS))
    exact = exact(x, baseline, params)
    assert exact.complete.all()
    assert exact.finite.all()
    assert np.median(exact.segments) > 3
    size = np.abs(flat(exact.values)).max(1, initial=0.1, keepdims=True)
    assert np.all(np.abs(exact.completeness_gap) < 1e-12 * size[:, 0])

    rule = lambda steps: (NODES, WEIGHTS)
    quadrature = paths.integrated_gradients(f, steps=4096, rule=rule)
    quadrature = flat(jax.vmap(quadrature)(x, baseline, params).values)
    difference = np.abs(quadrature - flat(exact.values))

    @jax.jit
    @jax.vmap
    def pieces(x, baseline, params, breakpoints):
        """The gradient within each piece, times the velocity."""
        velocity = jax.tree.map(jnp.subtract, x, baseline)

        def at(t):
            point = jax.tree.map(lambda b, v: b + t * v, baseline, velocity)
            return jax.tree.map(jnp.multiply, jax.grad(f)(point, params), velocity)

        return jax.vmap(at)((breakpoints[1:] + breakpoints[:-1]) / 2)

    slopes = pieces(x, baseline, params, exact.breakpoints)
    slopes = np.stack([flat(jax.tree.map(lambda g, k=k: g[:, k], slopes)) for k in range(SEGMENTS)])
    covered = np.zeros(COPIES)
    for copy in range(COPIES):
        number = int(exact.segments[copy])
        ends, steps = np.asarray(exact.breakpoints[copy, : number + 1]), slopes[:number, copy]
        assert np.all(np.diff(ends) > 0)
        assert ends[0] == 0
        assert ends[-1] == 1
        # By Chebyshev, Markov and Stieltjes the weights of the nodes below t sum to t but for the
        # weight of the node before or after it.
        before = np.searchsorted(NODES, ends[1:-1])
        padded = np.concatenate([[0], WEIGHTS, [0]])
        weight = np.maximum(padded[before], padded[before + 1])
        bound = weight @ np.abs(np.diff(steps, axis=0))
        assert np.all(difference[copy] <= bound + 1e-11 * size[copy])
        covered[copy] = bound.max() / size[copy, 0]
        # And precisely: the rule applied to the pieces.
        share = np.histogram(NODES, ends, weights=WEIGHTS)[0]
        np.testing.assert_allclose(quadrature[copy], share @ steps, atol=1e-10 * size[copy, 0])
    assert np.median(covered) < 0.02, "a bound that allows anything"
    assert difference.max() > 1e-7, "the quadrature is not exact: there is something to see"


# ---------------------------------------------------------------------------- one hidden layer


def closed_form(x, b, weight, bias, out):
    """Values and breakpoints of out . relu(x weight + bias): each unit is on for one stretch."""
    start, slope = b @ weight + bias, (x - b) @ weight
    with np.errstate(divide="ignore", invalid="ignore"):
        crossing = np.clip(-start / slope, 0, 1)
    crossing = np.where(slope == 0, 0.0, crossing)
    share = np.where(slope > 0, 1 - crossing, crossing)
    share = np.where(slope == 0, start > 0, share)
    values = (x - b) * (weight @ (out * share))
    return values, np.unique(np.concatenate([[0, 1], crossing]))


def hidden(x, weight, bias, out):
    return jnp.dot(jax.nn.relu(x @ weight + bias), out)


@pytest.mark.pins
@pytest.mark.parametrize(("dtype", "tolerance"), [("float64", 1e-13), ("float32", 2e-6)])
def test_one_hidden_layer_in_closed_form(dtype, tolerance):
    with jax.enable_x64(dtype == "float64"):
        explain = paths.exact_integrated_gradients(hidden, max_segments=128)
        for seed in range(12):
            rng = np.random.default_rng(seed)
            x, b = rng.normal(size=(2, 7)).astype(dtype)
            weight = rng.normal(size=(7, 60)).astype(dtype)
            bias, out = rng.normal(size=(2, 60)).astype(dtype)
            double = [np.asarray(a, np.float64) for a in (x, b, weight, bias, out)]
            expected, places = closed_form(*double)
            got = explain(x, b, weight, bias, out)
            size = np.abs(expected).max()
            np.testing.assert_allclose(got.values, expected, atol=tolerance * size)
            assert abs(float(got.completeness_gap)) < tolerance * size
            found = np.asarray(got.breakpoints[: int(got.segments) + 1])
            if dtype == "float64":
                np.testing.assert_allclose(found, places, atol=1e-12)
            else:  # none is missing; slivers may come in between
                np.testing.assert_allclose(abs(places[:, None] - found).min(1), 0, atol=3e-5)


def test_many_units_break_at_once(x64):
    """Small integers: crossings coincide, at 1/2 by design, and fall on the ends too."""
    rng = np.random.default_rng(3)
    x, b = np.array([2.0, -1.0, 3.0]), np.array([0.0, 1.0, -1.0])
    weight = rng.integers(-2, 3, size=(3, 40)).astype(float)
    bias = -(((x + b) / 2) @ weight)
    bias[20:30] = -(b @ weight)[20:30]  # on the kink at the start
    bias[30:] = -(x @ weight)[30:]  # and at the end
    out = rng.integers(-3, 4, size=40).astype(float)
    expected, places = closed_form(x, b, weight, bias, out)
    got = paths.exact_integrated_gradients(hidden)(x, b, weight, bias, out)
    assert places.tolist() == [0, 0.5, 1]
    assert int(got.segments) <= 4
    np.testing.assert_allclose(got.values, expected, atol=1e-12)
    assert abs(float(got.completeness_gap)) < 1e-12


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_without_biases_from_zero_there_is_one_piece(dtype):
    """All units stand on their kink at the start. Then values are x times the gradient at x."""
    with jax.enable_x64(dtype == "float64"):
        f = rising(jax.nn.relu)
        explain = paths.exact_integrated_gradients(f)
        for seed in range(5):
            rng = np.random.default_rng(seed)
            params = [(jnp.asarray(w, dtype), jnp.asarray(0 * b, dtype))
                      for w, b in layers(rng, 6, 20, 20, 20, 1)]  # fmt: skip
            x = jnp.asarray(rng.normal(size=6), dtype)
            got = explain(x, jnp.zeros_like(x), params)
            assert int(got.segments) == 1
            expected = x * jax.grad(f)(x, params)
            tolerance = {"float32": 2e-6, "float64": 1e-14}[dtype]
            np.testing.assert_allclose(
                got.values, expected, atol=tolerance * float(jnp.abs(expected).max())
            )


def test_nowhere_to_go():
    x = jnp.array([1.0, -2.0])
    got = paths.exact_integrated_gradients(lambda x: jnp.sum(jnp.abs(x)))(x, x)
    assert got.values.tolist() == [0, 0]
    assert int(got.segments) == 1
    assert bool(got.complete)


# -------------------------------------------------------------------------- rounding, narrowness


@pytest.mark.parametrize(
    "name", ["relu, wide", "relu, deep", "sorting, two modalities", "small CNN"]
)
def test_single_precision_is_near_double(name):
    f = NETWORKS[name][0]
    explain = jax.vmap(paths.exact_integrated_gradients(f, max_segments=SEGMENTS))
    with jax.enable_x64(True):  # the same numbers: single precision, widened
        wide = jax.tree.map(lambda a: a.astype(jnp.float64), draws(name, jnp.float32))
        wide = jax.device_get(explain(*wide))
    got = explain(*draws(name, jnp.float32))
    assert got.complete.all()
    size = np.abs(flat(wide.values)).max(1, initial=0.1)
    error = np.abs(flat(got.values) - flat(wide.values)).max(1) / size
    assert error.max() < 2e-5, error
    assert np.median(error) < 2e-6
    assert np.all(np.abs(got.completeness_gap) < 1e-5 * size)
    # Slivers cost gradients; there are few.
    assert int(got.segments.sum()) < 1.2 * int(wide.segments.sum())


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_far_from_zero_rounding_makes_slivers_and_no_error(dtype):
    """x and baseline 10,000 away, the biases with them: the units' values are mostly rounding."""
    with jax.enable_x64(dtype == "float64"):
        rng = np.random.default_rng(0)
        x, b = rng.normal(size=(2, 6)) + 1e4
        (weight, bias), (out, _) = layers(rng, 6, 40, 1)
        data = [a.astype(dtype) for a in (x, b, weight, bias - 1e4 * weight.sum(0), out[:, 0])]
        expected, places = closed_form(*(a.astype(np.float64) for a in data))
        got = paths.exact_integrated_gradients(hidden)(*data)
        assert bool(got.complete)
        assert len(places) - 1 <= int(got.segments) < 10 * len(places)
        noise = 1e4 * float(jnp.finfo(dtype).eps)
        np.testing.assert_allclose(got.values, expected, atol=10 * noise * np.abs(expected).max())


def test_narrow_floats_are_computed_wide():
    """bfloat16 in, the same numbers as from float32, rounded once at the end."""
    rng = np.random.default_rng(1)
    narrow = [jnp.asarray(a, jnp.bfloat16) for a in (*rng.normal(size=(2, 7)),)]
    weights = [jnp.asarray(rng.normal(size=s), jnp.bfloat16) for s in ((7, 30), (30,), (30,))]
    explain = paths.exact_integrated_gradients(hidden)
    got = explain(*narrow, *weights)
    wide = explain(*(a.astype(jnp.float32) for a in (*narrow, *weights)))
    assert got.values.dtype == jnp.bfloat16
    assert int(wide.segments) > 10
    np.testing.assert_allclose(
        np.asarray(got.values, np.float32), wide.values, rtol=2**-8, atol=1e-5
    )
    for field in ("output", "completeness_gap", "breakpoints", "segments"):
        np.testing.assert_allclose(getattr(got, field), getattr(wide, field), atol=1e-5)


def test_a_function_that_computes_narrowly_still_ends():
    f = lambda x, *weights: hidden(x.astype(jnp.bfloat16), *weights).astype(jnp.float32)
    rng = np.random.default_rng(1)
    x, b = rng.normal(size=(2, 7)).astype(np.float32)
    weights = [jnp.asarray(rng.normal(size=s), jnp.bfloat16) for s in ((7, 30), (30,), (30,))]
    got = paths.exact_integrated_gradients(f)(x, b, *weights)
    expected, _ = closed_form(*(np.asarray(a, np.float64) for a in (x, b, *weights)))
    assert bool(got.complete)
    np.testing.assert_allclose(got.values, expected, atol=0.03 * np.abs(expected).max())


# ----------------------------------------------------------------------------- data in the result


def test_too_few_segments_are_reported(x64):
    """The values are those of the part that was reached, and the gap is what is left."""
    f = rising(jax.nn.relu)
    rng = np.random.default_rng(0)
    params, (x, b) = layers(rng, 6, 30, 20, 1), rng.normal(size=(2, 6))
    explain = paths.exact_integrated_gradients(f)
    whole = explain(x, b, params)
    assert bool(whole.complete)
    assert int(whole.segments) > 12
    part = paths.exact_integrated_gradients(f, max_segments=7)(x, b, params)
    assert not bool(part.complete)
    assert int(part.segments) == int(part.evaluations) == 7
    np.testing.assert_array_equal(part.breakpoints, whole.breakpoints[:8])
    reached = b + float(part.breakpoints[-1]) * (x - b)
    np.testing.assert_allclose(part.values, explain(reached, b, params).values, atol=1e-12)
    left = f(reached, params) - f(x, params)
    np.testing.assert_allclose(part.completeness_gap, left, atol=1e-12)
    assert abs(left) > 0.01
    enough = int(whole.segments)
    just = paths.exact_integrated_gradients(f, max_segments=enough)(x, b, params)
    assert bool(just.complete)
    one_less = paths.exact_integrated_gradients(f, max_segments=enough - 1)(x, b, params)
    assert not bool(one_less.complete)


def test_a_jump_and_a_foreign_gradient_are_in_the_gap(x64):
    x, b = jnp.array([1.0, 3.0]), jnp.zeros(2)
    step = lambda x: jnp.where(x[0] > 0.25, 5.0, 0.0) + abs(x[1] - 1)
    got = paths.exact_integrated_gradients(step)(x, b)
    np.testing.assert_allclose(got.values, [0, 1], atol=1e-13)
    np.testing.assert_allclose(got.completeness_gap, -5, atol=1e-13)
    np.testing.assert_allclose(got.breakpoints[:4], [0, 0.25, 1 / 3, 1], atol=1e-13)
    # Where the gradient is stopped the breakpoints are still those of the values.
    stopped = lambda x: (
        lax.stop_gradient(2 * x[0]) + jax.nn.relu(x[1] - lax.stop_gradient(x[0]) - 1)
    )
    got = paths.exact_integrated_gradients(stopped)(x, b)
    np.testing.assert_allclose(got.values, [0, 1.5], atol=1e-13)
    np.testing.assert_allclose(got.breakpoints[:3], [0, 0.5, 1], atol=1e-13)
    np.testing.assert_allclose(got.completeness_gap, 1.5 - 3, atol=1e-13)


def test_the_gradient_is_the_functions_own():
    """Units that stay on their kink: JAX's ReLU has gradient 0 there, its maximum 1/2."""
    x, b = jnp.array([1.0, 2.0]), jnp.zeros(2)
    for unit, expected in ((jax.nn.relu, 0.0), (lambda z: jnp.maximum(z, 0), 0.5)):
        f = lambda x, unit=unit: unit(x[0] - x[0] * 1.0) + unit(2 * x[0] - x[1])
        got = paths.exact_integrated_gradients(f)(x, b)
        np.testing.assert_allclose(got.values, expected * np.array([2.0, -2.0]))


def test_axioms(x64):
    """Sensitivity, dummy, linearity, symmetry, implementation invariance."""
    f, explain = rising(jax.nn.relu), paths.exact_integrated_gradients
    other = lambda x, p: jnp.max(x) + jnp.sort(jnp.abs(x))[2]
    of = {
        "f": explain(f),
        "dead": explain(lambda x, p: f(x.at[1].set(0.0), p)),
        "other": explain(other),
        "both": explain(lambda x, p: 2 * f(x, p) - 3 * other(x, p)),
        "written": explain(rising(lambda z: (z + jnp.abs(z)) / 2)),
        "symmetric": explain(lambda x, p: jax.nn.relu(x[0] + x[1] - 0.3) + jnp.maximum(x[0], x[1])),
    }
    for seed in range(5):
        rng = np.random.default_rng(seed)
        params, (x, b) = layers(rng, 6, 20, 12, 1), jnp.asarray(rng.normal(size=(2, 6)))
        values = {name: explain(x, b, params).values for name, explain in of.items()}
        assert values["dead"][1] == 0
        assert of["f"](x, b.at[2].set(x[2]), params).values[2] == 0
        expected = 2 * values["f"] - 3 * values["other"]
        np.testing.assert_allclose(values["both"], expected, atol=1e-12)
        np.testing.assert_allclose(values["written"], values["f"], atol=1e-12)
        equal = of["symmetric"](x.at[1].set(x[0]), jnp.zeros(6), params).values
        assert equal[0] == equal[1]


def test_models_that_see_their_batch_and_custom_derivatives(x64):
    """Programs behind `custom_vmap` and `custom_vjp` are entered for the breakpoints."""
    rng = np.random.default_rng(2)
    weights = [jnp.asarray(rng.normal(size=s)) for s in ((7, 20), (20,), (20,))]
    x, b = jnp.asarray(rng.normal(size=(2, 3, 7)))
    axes = (0, 0, None, None, None)
    expected = jax.vmap(paths.exact_integrated_gradients(hidden), axes)(x, b, *weights)
    assert int(expected.segments.min()) > 5

    def model(x, weight, bias, out):
        return jax.nn.relu(x @ weight + bias[None]) @ out

    seen = batched(model, (0, None, None, None))
    custom = jax.custom_vjp(hidden)
    custom.defvjp(
        lambda *inputs: jax.vjp(hidden, *inputs),
        lambda pull, cotangent: pull(cotangent),
    )
    for f in (seen, custom):
        got = jax.vmap(paths.exact_integrated_gradients(f), axes)(x, b, *weights)
        np.testing.assert_allclose(got.values, expected.values, atol=1e-12)
        np.testing.assert_allclose(got.breakpoints, expected.breakpoints, atol=1e-12)


@pytest.mark.parametrize(
    ("name", "f"),
    [
        ("tanh", lambda x: jnp.sum(jnp.tanh(x))),
        ("mul", lambda x: x[0] * x[1]),
        ("logistic", lambda x: jnp.sum(jax.nn.silu(x))),
        ("dot_general", lambda x: jnp.dot(x, x)),
    ],
)
def test_what_is_not_piecewise_linear_is_refused_by_name(name, f):
    message = rf"piecewise linear in x.*`{name}` of.*integrated_gradients\(f, tolerance=\.\.\.\)"
    with pytest.raises(ValueError, match=message):
        paths.exact_integrated_gradients(f)(jnp.ones(3), jnp.zeros(3))
    with pytest.raises(ValueError, match="max_segments must be at least 1, but is 0"):
        paths.exact_integrated_gradients(f, max_segments=0)


# ------------------------------------------------------------------------------- a real network


@pytest.mark.slow
def test_lenet(data, x64):
    """Max-pools and a black background: 1,300 pieces, and quadrature converges to their sum."""
    folder = data / "mnist_lenet"
    model = models.LeNet.from_safetensors(folder / "lenet_mnist.safetensors")
    with gzip.open(folder / "t10k-images-idx3-ubyte.gz") as file:
        images = np.frombuffer(file.read(16 + 2 * 784), np.uint8, offset=16)
    x = jnp.asarray(images.reshape(2, 28, 28, 1)[1] / 255)
    apply, params = adapters.nnx(model)
    params = jax.tree.map(lambda array: jnp.asarray(np.asarray(array), jnp.float64), params)
    arguments = x, jnp.zeros_like(x), jnp.int32(2), params
    f = targets.logit(apply)
    exact = paths.exact_integrated_gradients(f, max_segments=2048)(*arguments)
    assert bool(exact.complete)
    assert int(exact.segments) > 500
    assert abs(float(exact.completeness_gap)) < 1e-12
    errors = []
    for steps in (32, 256, 2048):
        coarse = paths.integrated_gradients(f, steps=steps)(*arguments).values
        errors.append(float(jnp.linalg.norm(coarse - exact.values) / jnp.linalg.norm(exact.values)))
    assert errors[2] < 2e-3
    assert errors[0] > 5 * errors[1] > 25 * errors[2]
