"""`indices` inside jit, vmap and shard_map, on sharded arrays, and what it takes of memory."""

import functools
import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxplain import qmc, sobol

KEY = jax.random.key(8)
PARAMS = {"first": jnp.array([[0.5, -1.0, 0.3], [0.9, 0.2, 0.7]]), "second": jnp.array([1.0, -2])}
INPUTS = sobol.normal(jnp.zeros(3), 1.0)


def f(x, params):
    hidden = jnp.tanh(jnp.sum(params["first"] * x[None, :], axis=1))
    return jnp.sum(params["second"] * hidden)


FORMS = {
    "delta": {"samples": 1024, "second_order": True},
    "scrambles": {"samples": 4096, "errors": "scrambles", "replicates": 4},
    "bootstrap": {"samples": 1024, "errors": "bootstrap", "chunk_size": 256},
    "tolerance": {"tolerance": 0.1, "max_samples": 4096, "chunk_size": 512},
}
forms = pytest.mark.parametrize("form", FORMS)


def make(form, f=f, **options):
    return sobol.indices(f, INPUTS, **{**FORMS[form], **options})


def assert_same(got, expected, atol=1e-5):
    for one, other in zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(np.asarray(one), np.asarray(other), atol=atol, rtol=1e-4)


def several(count):
    return jax.tree.map(
        lambda leaf: jnp.stack([leaf * (1 - 0.3 * k) for k in range(count)]), PARAMS
    )


def pick(tree, index):
    return jax.tree.map(lambda leaf: leaf[index], tree)


@forms
def test_jit_and_vmap(form):
    """Over keys, over arguments, over both, inside and outside of jit."""
    analyse = make(form)
    single = analyse(KEY, PARAMS)
    assert_same(jax.jit(analyse)(KEY, PARAMS), single)
    keys, params = jax.random.split(KEY, 3), several(3)
    over_keys = jax.vmap(analyse, (0, None))(keys, PARAMS)
    over_params = jax.jit(jax.vmap(analyse, (None, 0)))(KEY, params)
    over_both = jax.vmap(analyse)(keys, params)
    for i in range(2):
        assert_same(pick(over_keys, i), analyse(keys[i], PARAMS))
        assert_same(pick(over_params, i), analyse(KEY, pick(params, i)))
        assert_same(pick(over_both, i), analyse(keys[i], pick(params, i)))


@forms
def test_a_second_call_traces_nothing(form):
    traces = []

    def counted(x, params):
        traces.append(1)
        return f(x, params)

    analyse = make(form, counted)
    analyse(KEY, PARAMS)
    first = len(traces)
    # The shape, f(A), f(B), f(AB) and f(BA); to a tolerance three times more: before and in loops.
    assert first <= (13 if form == "tolerance" else 5)
    analyse(jax.random.key(1), several(2) | PARAMS)
    analyse(KEY, jax.tree.map(lambda leaf: 2 * leaf, PARAMS))
    assert len(traces) == first


@forms
def test_inside_shard_map(form):
    """Keys and parameters differ between devices, or the parameters alone."""
    mesh = jax.make_mesh((4,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    keys, params = jax.random.split(KEY, 4), several(4)
    analyse = make(form)
    for axes in ((0, 0), (None, 0)) if form in ("delta", "tolerance") else ((0, 0),):
        mapped = jax.vmap(analyse, axes)
        arguments = [KEY if axes[0] is None else keys, PARAMS if axes[1] is None else params]
        specs = tuple(jax.P() if axis is None else jax.P("data") for axis in axes)
        inside = jax.jit(jax.shard_map(mapped, mesh=mesh, in_specs=specs, out_specs=jax.P("data")))
        assert_same(jax.device_get(inside(*arguments)), jax.device_get(mapped(*arguments)))


@pytest.mark.pins
@pytest.mark.parametrize("axis_type", ["Auto", "Explicit"])
@pytest.mark.parametrize("form", ["delta", "tolerance"])
def test_sharded_parameters(axis_type, form):
    """A model whose weights lie on two devices; and a batch of models, each on its own."""
    mesh = jax.make_mesh((2,), ("model",), axis_types=(getattr(jax.sharding.AxisType, axis_type),))
    analyse = make(form)
    expected = jax.device_get(analyse(KEY, PARAMS))
    many = jax.device_get(jax.vmap(analyse, (None, 0))(KEY, several(4)))
    with jax.set_mesh(mesh):
        params = jax.device_put(PARAMS, jax.P("model"))
        assert_same(jax.device_get(analyse(KEY, params)), expected)
        batch = jax.device_put(several(4), jax.P("model"))
        got = jax.jit(jax.vmap(analyse, (None, 0)))(KEY, batch)
        assert not got.first_order.sharding.is_fully_replicated
        assert_same(jax.device_get(got), many)


def test_samplers_with_options():
    """All samplers, and each with an option: within 5 standard errors of a long run."""
    exact = sobol.indices(f, INPUTS, samples=2**15)(KEY, PARAMS)
    for sampler in (
        qmc.monte_carlo,
        qmc.latin_hypercube,
        qmc.halton,
        functools.partial(qmc.sobol, scramble="owen"),
        functools.partial(qmc.sobol, scramble="shift", order="gray"),
    ):
        s = sobol.indices(f, INPUTS, samples=2048, sampler=sampler)(KEY, PARAMS)
        bound = 5 * s.total_order_error
        np.testing.assert_array_less(jnp.abs(s.total_order - exact.total_order), bound)


# -------------------------------------------------------------------------------------- memory


def temporary_bytes(inputs, samples, f=lambda x: jnp.sum(x**2), **options):
    analyse = jax.jit(sobol.indices(f, inputs, samples=samples, **options))
    return analyse.lower(KEY).compile().memory_analysis().temp_size_in_bytes


def test_memory_does_not_grow_with_samples():
    inputs = sobol.uniform(jnp.zeros(20), 1.0)
    for sampler in (qmc.sobol, qmc.monte_carlo):
        few = temporary_bytes(inputs, 2**13, sampler=sampler)
        many = temporary_bytes(inputs, 2**20, sampler=sampler)
        assert many <= 1.01 * few < 2**20 * 20 * 4, (few, many)
    few = temporary_bytes(inputs, 2**20, chunk_size=256)
    assert few < 0.3 * many


def test_memory_of_many_outputs():
    """A hundred outputs of a hundred inputs: blocks are of fewer rows."""
    f = lambda x: jnp.outer(x, x)[:10].ravel()[:100]
    inputs = sobol.uniform(jnp.zeros(100), 1.0)
    assert temporary_bytes(inputs, 2**16, f) < 300 * 2**20


PROGRAM = """
import sys
import jax, jax.numpy as jnp, numpy as np
from jaxplain import sobol
d, groups = int(sys.argv[1]), int(sys.argv[2])
weights = jnp.arange(1.0, d + 1) / d
f = lambda x: jnp.sum(weights * x)
inputs = sobol.uniform(jnp.zeros(d), 1.0)
numbers = np.arange(d) * groups // d if groups else None
s = sobol.indices(f, inputs, samples=2**13, groups=numbers)(jax.random.key(0))
exact = np.arange(1.0, d + 1) ** 2
exact /= exact.sum()
exact = exact if not groups else np.bincount(numbers, exact)
assert s.first_order_interval.lower.shape == exact.shape
print(np.max(np.abs(s.total_order - exact) / s.total_order_error))
# Not ru_maxrss: it starts at the size of the process that started this one.
print(next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM")))
"""


@pytest.mark.slow
@pytest.mark.parametrize(("dimensions", "groups"), [(1000, 0), (10_000, 50)])
def test_a_thousand_inputs_in_a_gibibyte(dimensions, groups):
    """With intervals, N = 2^13; the whole process, jax included."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(dimensions), str(groups)],
        capture_output=True,
        text=True,
        timeout=600,
        env={**os.environ, "JAX_PLATFORMS": "cpu"},
    )
    assert done.returncode == 0, done.stderr
    errors, kibibytes = map(float, done.stdout.split())
    assert kibibytes < 2**20
    assert errors < 6  # of a thousand indices; one of 10^6 keys has more under Monte Carlo
