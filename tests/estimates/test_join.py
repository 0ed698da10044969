"""States merged in pairs and over devices, against one pass in numpy float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxplain import estimates

HALF_UNIT = 2.0**-24  # relative error of a correctly rounded float32


def three_states(kind):
    rng = np.random.default_rng(8)
    pieces = [
        jnp.asarray(rng.standard_normal((n, 4)) * scale + centre, jnp.float32)
        for n, scale, centre in ((5, 1, 100), (1, 1, -50), (300, 10, 101))
    ]
    if kind == "moments":
        return [estimates.update(estimates.init_moments(p[0]), p) for p in pieces], pieces
    if kind == "covariance":
        return [
            estimates.update(estimates.init_covariance(p[0]), (p, jnp.sin(p))) for p in pieces
        ], pieces
    return [estimates.update(estimates.init_covariance_matrix(p[0]), p) for p in pieces], pieces


@pytest.mark.parametrize("kind", ["moments", "covariance", "matrix"])
def test_merge_is_commutative_associative_and_equals_one_pass(kind, assert_states_close):
    (a, b, c), pieces = three_states(kind)
    merged = estimates.merge(estimates.merge(a, b), c)
    tolerance = {"rtol": 2e-6, "atol": 1e-3}  # absolute: of sums of products that cancel, ~3e4
    assert_states_close(estimates.merge(a, b), estimates.merge(b, a), **tolerance)
    assert_states_close(estimates.merge(a, estimates.merge(b, c)), merged, **tolerance)
    whole = np.concatenate(pieces).astype(np.float64)
    if kind == "moments":
        np.testing.assert_allclose(merged.mean, whole.mean(0), rtol=2e-7)
        np.testing.assert_allclose(estimates.variance(merged), whole.var(0, ddof=1), rtol=2e-6)
    elif kind == "covariance":
        exact = np.mean((whole - whole.mean(0)) * (np.sin(whole) - np.sin(whole).mean(0)), 0)
        np.testing.assert_allclose(estimates.covariance(merged, ddof=0), exact, atol=2e-5)
    else:
        exact = np.cov(whole, rowvar=False)
        np.testing.assert_allclose(estimates.covariance(merged), exact, rtol=2e-6, atol=2e-5)


@pytest.mark.parametrize("kind", ["moments", "covariance", "matrix"])
def test_an_empty_state_is_neutral(kind, assert_states_close):
    (a, _, _), _ = three_states(kind)
    empty = jax.tree.map(jnp.zeros_like, a)
    for merged in (estimates.merge(a, empty), estimates.merge(empty, a)):
        assert_states_close(merged, a, 1e-7, 0)


@pytest.mark.parametrize("kind", ["moments", "covariance", "matrix"])
@pytest.mark.parametrize("mapped", ["shard_map", "vmap"])
def test_merge_over_eight_devices_equals_the_serial_result(kind, mapped, assert_states_close):
    rng = np.random.default_rng(9)
    values = jnp.asarray(rng.standard_normal((8 * 25, 3)) + 1e4, jnp.float32)
    mask = np.ones(8 * 25, bool)
    mask[25:50] = False  # one device has no sample
    mask[60:70] = False
    initial = {
        "moments": estimates.init_moments,
        "covariance": estimates.init_covariance,
        "matrix": estimates.init_covariance_matrix,
    }[kind](values[0])
    both = (lambda v: (v, v[:, ::-1])) if kind == "covariance" else (lambda v: v)

    def device(values, mask):
        return estimates.merge_across(estimates.update(initial, both(values), mask), "data")

    if mapped == "shard_map":
        mesh = jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
        split, everywhere = jax.P("data"), jax.P()
        across = jax.jit(
            jax.shard_map(device, mesh=mesh, in_specs=(split, split), out_specs=everywhere)
        )(values, mask)
    else:
        copies = jax.vmap(device, axis_name="data")(values.reshape(8, 25, 3), mask.reshape(8, 25))
        jax.tree.map(
            lambda leaf: np.testing.assert_array_equal(leaf, leaf[:1].repeat(8, 0)), copies
        )
        across = jax.tree.map(lambda leaf: leaf[0], copies)
    serial = initial
    for piece in range(8):
        rows = slice(25 * piece, 25 * piece + 25)
        serial = estimates.update(serial, both(values[rows]), mask[rows])
    assert_states_close(across, serial, 2e-6, 2e-4)
    kept = np.asarray(values, np.float64)[mask]
    if kind == "moments":
        np.testing.assert_allclose(across.mean, kept.mean(0), rtol=2 * HALF_UNIT)
        np.testing.assert_allclose(estimates.variance(across), kept.var(0, ddof=1), rtol=2e-6)
    if kind == "matrix":
        np.testing.assert_allclose(
            estimates.covariance(across), np.cov(kept, rowvar=False), atol=2e-6
        )


def test_a_loop_inside_shard_map_carries_the_state():
    """A state made from an array of the device varies as it does, so that scan accepts it."""
    values = np.random.default_rng(22).standard_normal((8 * 6, 2)).astype(np.float32)
    mask = np.arange(8 * 6) % 5 != 0
    mesh = jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))

    def device(values, mask):
        step = lambda state, piece: (estimates.update(state, piece[0][None], piece[1][None]), None)
        state = jax.lax.scan(step, estimates.init_moments(values[0]), (values, mask))[0]
        return estimates.merge_across(state, "data")

    specs = (jax.P("data"), jax.P("data"))
    state = jax.jit(jax.shard_map(device, mesh=mesh, in_specs=specs, out_specs=jax.P()))(
        values, mask
    )
    exact = values.astype(np.float64)[mask]
    np.testing.assert_allclose(state.mean, exact.mean(0), rtol=1e-6, atol=1e-7)
    np.testing.assert_allclose(estimates.variance(state), exact.var(0, ddof=1), rtol=1e-6)


def test_sharded_samples_on_an_explicit_mesh():
    mesh = jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Explicit,))
    values = np.random.default_rng(10).standard_normal((64, 3)).astype(np.float32)
    with jax.set_mesh(mesh):
        sharded = jax.device_put(values, jax.P("data"))
        update = jax.jit(
            lambda v, w: estimates.update(
                estimates.init_moments(jax.ShapeDtypeStruct((3,), v.dtype)), v, w
            )
        )
        mask = jax.device_put(np.arange(64) < 50, jax.P("data"))
        state = update(sharded, mask)
    np.testing.assert_allclose(estimates.variance(state), values[:50].var(0, ddof=1), rtol=2e-6)


def test_messages():
    state = estimates.init_moments(jnp.zeros(3))
    with pytest.raises(TypeError, match="one type merge"):
        estimates.merge(state, estimates.init_covariance(jnp.zeros(3)))
