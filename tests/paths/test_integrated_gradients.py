"""Integrated Gradients: closed forms and axioms, both forms, speed of a call, memory, bad options.

Agreement with numpy, with verified figures of real models and with Captum is in test_numpy_twin.py,
test_real_models.py and tests/peers.
"""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import jaxplain
from jaxplain import paths, rewrite
from jaxplain.paths import _nested

KEY = jax.random.key(0)


def polynomial(x, weights):
    """Of degree 3 with interactions: its path integral has a closed form."""
    return weights[0] * x[0] ** 3 + weights[1] * x[0] * x[1] + weights[2] * x[2]


def closed_form(x, b, w):
    """The integral of the polynomial's gradient over b + t (x - b), times x - b, by hand."""
    d = x - b
    cross = (b[0] + d[0] / 2) * d[1], (b[1] + d[1] / 2) * d[0]  # means of x0, x1 over the line
    return np.array(
        [w[0] * (x[0] ** 3 - b[0] ** 3) + w[1] * cross[1], w[1] * cross[0], w[2] * d[2]]
    )


ARGUMENTS = np.array([1.5, -2.0, 0.3]), np.array([0.2, 1.0, -0.4]), np.array([2.0, -1.0, 3.0])


@pytest.mark.pins
@pytest.mark.parametrize("options", [{"steps": 2}, {"steps": 5}, {"tolerance": 1e-3}], ids=str)
def test_closed_form(options, x64):
    result = jaxplain.integrated_gradients(polynomial, **options)(*ARGUMENTS)
    np.testing.assert_allclose(result.values, closed_form(*ARGUMENTS), rtol=1e-13)
    assert abs(float(result.completeness_gap)) < 1e-13
    np.testing.assert_allclose(result.output, polynomial(ARGUMENTS[0], ARGUMENTS[2]), rtol=1e-14)
    np.testing.assert_allclose(result.baseline_output, polynomial(*ARGUMENTS[1:]), rtol=1e-14)
    assert int(result.evaluations) == options.get("steps", 33)
    assert np.isnan(result.error) if "steps" in options else float(result.error) < 1e-13


def network(x, params):
    return jnp.sum(jnp.tanh(x @ params["w"]) * params["v"])


def random_network(key):
    keys = jax.random.split(key, 4)
    params = {"w": jax.random.normal(keys[0], (5, 7)), "v": jax.random.normal(keys[1], (7,))}
    return jax.random.normal(keys[2], (5,)), jax.random.normal(keys[3], (5,)), params


@pytest.mark.parametrize("seed", range(4))
def test_axioms(seed, x64):
    """Completeness, sensitivity, linearity, implementation invariance and symmetry."""
    x, baseline, params = random_network(jax.random.key(seed))
    explain = lambda f: jaxplain.integrated_gradients(f, steps=48)(x, baseline, params).values
    values = explain(network)
    output = network(x, params) - network(baseline, params)
    np.testing.assert_allclose(values.sum(), output, atol=1e-9)
    # An input that the function ignores, or that does not move, gets nothing.
    dead = lambda x, params: network(x.at[1].set(0.0), params)
    assert explain(dead)[1] == 0
    still = jaxplain.integrated_gradients(network)(x, baseline.at[2].set(x[2]), params).values
    assert still[2] == 0
    other = lambda x, params: jnp.sum(x**3) + x[0] * x[1]
    both = lambda x, params: 2 * network(x, params) - 3 * other(x, params)
    np.testing.assert_allclose(explain(both), 2 * values - 3 * explain(other), atol=1e-11)
    # The same function written otherwise.
    written = lambda x, params: jnp.dot(params["v"], 2 / (1 + jnp.exp(-2 * (x @ params["w"]))) - 1)
    np.testing.assert_allclose(explain(written), values, atol=1e-12)
    symmetric = lambda x, params: jnp.sin(x[0] + x[1]) + x[2]
    equal = jaxplain.integrated_gradients(symmetric)(x.at[1].set(x[0]), jnp.zeros(5), params).values
    assert equal[0] == equal[1]


def test_a_rule_of_ones_own():
    """Any function of steps: here one node, and as many nodes as it likes."""
    single = lambda steps: ([0.25], [1.0])
    x = jnp.array([2.0, 4.0])
    result = jaxplain.integrated_gradients(lambda x: jnp.sum(x**2), steps=9, rule=single)(
        x, jnp.zeros(2)
    )
    np.testing.assert_allclose(result.values, x * 2 * (0.25 * x))
    assert int(result.evaluations) == 1


# --------------------------------------------------------------------------- the tolerance form


def test_the_schedule_is_clenshaw_curtis_at_every_level():
    plan = _nested.schedule(257)
    assert plan.nodes.shape == (256,)
    for level, steps in enumerate((17, 33, 65, 129, 257)):
        nodes, weights = paths.clenshaw_curtis(steps)
        used = np.flatnonzero(plan.weights[level])
        assert used.max() < _nested.FIRST * 2**level, "a level needs only what came before"
        order = used[np.argsort(plan.nodes[used])]
        np.testing.assert_allclose(plan.nodes[order], nodes[1:-1], atol=1e-15)
        np.testing.assert_allclose(plan.weights[level, order], weights[1:-1], atol=1e-15)
        assert plan.end_weights[level] == weights[0]


@pytest.mark.parametrize("chunk_size", [1, 3, 4, 16])
def test_a_level_is_the_rule_itself(chunk_size, x64):
    """Stopped at each level in turn, the result is the fixed Clenshaw-Curtis rule's."""
    x, baseline, params = random_network(KEY)
    kink = lambda x, params: jnp.sum(jax.nn.relu(x @ params["w"]) * params["v"])
    for max_steps in (33, 65, 129):
        options = {"tolerance": 1e-15, "max_steps": max_steps, "chunk_size": chunk_size}
        got = jaxplain.integrated_gradients(kink, **options)(x, baseline, params)
        fixed = lambda n: (
            jaxplain.integrated_gradients(kink, steps=n, rule=paths.clenshaw_curtis, chunk_size=4)(
                x, baseline, params
            ).values
        )
        expected, before = fixed(max_steps), fixed((max_steps + 1) // 2)
        np.testing.assert_allclose(got.values, expected, rtol=1e-12)
        assert int(got.evaluations) == max_steps
        gap = jnp.abs(got.completeness_gap) / np.sqrt(5)
        moved = np.sqrt(2) * jnp.linalg.norm(expected - before)
        estimate = jnp.maximum(moved, gap) / jnp.linalg.norm(expected)
        np.testing.assert_allclose(got.error, estimate, rtol=1e-10)


def test_each_example_stops_by_itself_and_the_tolerance_can_be_traced():
    """In one batch, and in one trace for all tolerances."""
    traces = []

    def f(x, sharpness):
        traces.append(1)
        return jax.nn.sigmoid(sharpness * (jnp.sum(x) - 0.4))

    x, sharpness = jnp.ones(2), jnp.array([1.0, 28.0, 300.0])

    @jax.jit
    def explain(tolerance):
        one = jaxplain.integrated_gradients(f, tolerance=tolerance, chunk_size=4)
        return jax.vmap(one, (None, None, 0))(x, jnp.zeros(2), sharpness)

    result = explain(1e-2)
    assert result.evaluations.tolist() == [33, 65, 257]
    assert (result.error[:2] <= 1e-2).all()
    first = len(traces)
    tight = explain(1e-4)
    assert len(traces) == first
    assert (tight.evaluations >= result.evaluations).all()
    assert tight.evaluations.tolist() != result.evaluations.tolist()
    # Alone, each is what it was in the batch.
    alone = jaxplain.integrated_gradients(f, tolerance=1e-2, chunk_size=4)
    for k in range(3):
        single = alone(x, jnp.zeros(2), sharpness[k])
        np.testing.assert_allclose(single.values, result.values[k], rtol=1e-5)
        assert int(single.evaluations) == int(result.evaluations[k])


def test_an_unmet_tolerance_is_data():
    """Here no node sees the rise at all: all rules agree on zero, and the gap gives it away."""
    step = lambda x: jax.nn.sigmoid(1e4 * (x[0] - 0.3))
    result = jaxplain.integrated_gradients(step, tolerance=1e-6)(jnp.ones(1), jnp.zeros(1))
    assert float(result.error) > 1e-6
    assert int(result.evaluations) == 257
    assert bool(result.finite)


@pytest.mark.parametrize("scale", [1e-30, 1e-20, 1e20, 1e30])
def test_the_estimate_has_no_units(scale):
    """Where squares are out of the range of float32 too."""
    wave = lambda x, s: s * jnp.sum(jnp.abs(jnp.sin(20 * x)))
    explain = jaxplain.integrated_gradients(wave, tolerance=1e-2, max_steps=65)
    x = jnp.linspace(0.3, 2.0, 5)
    one, scaled = (explain(x, 0 * x, jnp.float32(s)) for s in (1.0, scale))
    np.testing.assert_allclose(scaled.error, one.error, rtol=1e-5)
    assert one.error > 1e-2


def test_tolerances_of_any_real_dtype():
    for tolerance in (jnp.bfloat16(1e-2), np.float16(1e-2), np.float64(1e-2), 1):
        explain = jaxplain.integrated_gradients(lambda x: jnp.sum(x**3), tolerance=tolerance)
        assert explain(jnp.ones(3), jnp.zeros(3)).error < 1e-2


@pytest.mark.parametrize("options", [{"steps": 4}, {"tolerance": 1e-3}], ids=str)
def test_one_explanation_under_both_precisions(options):
    """Float32 with and without x64, one after the other: nothing of the first is kept."""
    explain = jaxplain.integrated_gradients(lambda x: jnp.sum(jnp.sin(x)), **options)
    x = jnp.arange(1.0, 4.0)
    tangent = lambda: jax.jvp(lambda x: explain(x, 0 * x).values, (x,), (jnp.ones_like(x),))
    with jax.enable_x64(True):
        inside = tangent()
        assert explain(np.ones(3), np.zeros(3)).values.dtype == jnp.float64
    for a, b in zip(inside, tangent(), strict=True):
        assert a.dtype == b.dtype == jnp.float32
        np.testing.assert_allclose(a, b, rtol=1e-6)


def test_x_at_the_baseline_and_nan_stop_at_once():
    explain = jaxplain.integrated_gradients(lambda x: jnp.sum(x**2), tolerance=1e-6)
    same = explain(jnp.ones(3), jnp.ones(3))
    assert same.values.tolist() == [0.0, 0.0, 0.0]
    assert float(same.error) == 0
    broken = explain(jnp.array([1.0, jnp.nan, 2.0]), jnp.zeros(3))
    assert int(broken.evaluations) == 33
    assert np.isnan(broken.error)
    assert not bool(broken.finite)


# --------------------------------------------------------------------------------- the program


def test_many_params_do_not_enter_the_program():
    """512 MB of weights: arguments, so nothing of them is in the text, and it compiles at once."""
    shape = jax.ShapeDtypeStruct((8192, 16384), jnp.float32)
    f = lambda x, w: jnp.sum(jnp.tanh(x @ w))
    explain = jax.jit(jaxplain.integrated_gradients(f, steps=32))
    lowered = explain.lower(jnp.ones(8192), jnp.zeros(8192), shape)
    assert len(lowered.as_text()) < 100_000
    compiled = lowered.compile()
    constants = re.findall(r"f32\[([\d,]*)\][^ ]* constant\(", compiled.as_text())
    sizes = [np.prod([int(n) for n in dims.split(",") if n] or [1]) for dims in constants]
    assert max(sizes, default=0) <= 64


def test_memory_does_not_depend_on_steps():
    params = {"w": jnp.ones((5, 7)), "v": jnp.ones(7)}
    batch = jnp.ones((64, 5))

    def temporary_bytes(steps):
        explain = jaxplain.integrated_gradients(network, steps=steps, chunk_size=4)
        program = jax.jit(jax.vmap(explain, (0, None, None)))
        memory = program.lower(batch, jnp.zeros(5), params).compile().memory_analysis()
        return memory.temp_size_in_bytes + memory.output_size_in_bytes

    few, many = temporary_bytes(32), temporary_bytes(4096)
    nodes = 2 * 4 * (4096 - 32)  # the rule itself: two numbers for each step
    assert abs(many - few) <= 0.01 * few + nodes


@pytest.mark.pins
def test_no_slow_convolution_in_resnet20():
    """No kernel layout 01oi is left in the compiled text of the network of the bar."""
    from bench.networks import CASES

    # Shapes are enough: to draw the weights takes longer than to compile.
    apply, params = jaxplain.adapters.nnx(nnx.eval_shape(CASES["resnet20"].make))
    explain = jaxplain.integrated_gradients(jaxplain.targets.logit(apply), steps=8, chunk_size=1)
    program = jax.jit(jax.vmap(explain, (0, None, 0, None)))
    image = jnp.zeros((32, 32, 3))
    text = program.lower(jnp.zeros((2, *image.shape)), image, jnp.zeros(2, int), params)
    layouts = set(re.findall(r"dim_labels=\w+?_(\w+)->", text.compile().as_text()))
    assert layouts == {"01io"}


def test_training_through_an_attribution_stays_fast():
    """The gradient of a loss on an attribution, with the pass outermost."""
    w = 0.3 * jax.random.normal(KEY, (3, 3, 2, 4))
    x = jax.random.normal(KEY, (6, 6, 2))

    def f(x, w):
        y = jax.lax.conv_general_dilated(
            x[None], w, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )
        return jnp.sum(jax.nn.gelu(y) ** 2)

    explain = jaxplain.integrated_gradients(f, steps=4, chunk_size=2)
    loss = lambda w: jnp.sum(jnp.abs(explain(x, jnp.zeros_like(x), w).values))
    program = jax.jit(rewrite.fast(jax.grad(loss)))
    text = program.lower(w).compile().as_text()
    assert set(re.findall(r"dim_labels=\w+?_(\w+)->", text)) == {"01io"}
    plain = jax.grad(loss)(w)
    np.testing.assert_allclose(program(w), plain, atol=1e-5 * float(jnp.abs(plain).max()))


# --------------------------------------------------------------------------------- bad options


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"steps": 0}, ValueError, "steps must be at least 1, but is 0"),
        ({"steps": 2.5}, TypeError, r"steps must be a Python integer.*a float \(2.5\)"),
        ({"rule": "gauss"}, TypeError, r"rule must be a function.*a str \('gauss'\)"),
        ({"rule": lambda n: 3}, TypeError, r"rule must return \(nodes, weights\).*a int \(3\)"),
        ({"rule": lambda n: ([0.5], [1.0, 2.0])}, ValueError, r"shapes \(1,\) and \(2,\)"),
        ({"rule": lambda n: ([1.5], [1.0])}, ValueError, r"within \[0, 1\].*\[1.5, 1.5\]"),
        ({"rule": lambda n: ([np.nan], [1.0])}, ValueError, "not finite"),
        ({"tolerance": 0.0}, ValueError, "tolerance must be finite and above 0, but is 0.0"),
        ({"tolerance": "small"}, TypeError, "tolerance must be one real number"),
        ({"tolerance": True}, TypeError, "tolerance must be one real number, but is a bool"),
        ({"tolerance": 1j}, TypeError, "tolerance must be one real number, but is a complex"),
        ({"rule": lambda n: (["a"], [1.0])}, TypeError, "real nodes and weights"),
        ({"tolerance": jnp.ones(2)}, TypeError, r"tolerance must be one real number.*shape \(2,\)"),
        ({"tolerance": 0.1, "max_steps": 100}, ValueError, "but is 100. Near it: 65 and 129"),
        ({"tolerance": 0.1, "max_steps": 17}, ValueError, "but is 17. Near it: 33 and 65"),
        ({"tolerance": 0.1, "steps": 10}, ValueError, "give one or the other"),
        ({"tolerance": 0.1, "rule": paths.midpoint}, ValueError, "give one or the other"),
        ({"max_steps": 257}, ValueError, "max_steps belongs to the tolerance form"),
        ({"steps": 4, "rule": paths.trapezoid, "chunk_size": -1}, ValueError, "chunk_size must be"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_bad_options(options, error, message):
    with pytest.raises(error, match=message):
        jaxplain.integrated_gradients(network, **options)


def test_closed_over_params_are_documented():
    assert "never closed over" in jaxplain.integrated_gradients.__doc__
