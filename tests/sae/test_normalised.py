"""Dictionaries of normalised activations: the same in other units, and folded back."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxplain import sae

WIDTH, LATENTS, ROWS = 6, 16, 48
MAKES = {
    "topk": lambda: sae.topk(LATENTS, 3),
    "batch_topk": lambda: sae.batch_topk(LATENTS, 3),
    "relu": lambda: sae.relu(LATENTS, 0.1),
    "gated": lambda: sae.gated(LATENTS, 0.1),
    "gated, not centred": lambda: sae.gated(LATENTS, 0.1, is_centred=False),
    "jumprelu": lambda: sae.jumprelu(LATENTS, 0.1),
    "p_annealed": lambda: sae.p_annealed(LATENTS, 0.1),
    "transcoder": lambda: sae.transcoder(sae.topk(LATENTS, 3), has_skip=True),
    "transcoder of gated": lambda: sae.transcoder(sae.gated(LATENTS, 0.1)),
    "crosscoder": lambda: sae.crosscoder(sae.jumprelu(LATENTS, 0.1)),
}


@pytest.fixture(autouse=True)
def usual_promotion():
    with jax.numpy_dtype_promotion("standard"):
        yield


def data_of(name, seed=0):
    """Large, and far from 0."""
    h = 50 * jax.random.normal(jax.random.key(seed), (ROWS, WIDTH), float) + 400
    if name.startswith("transcoder"):
        return h, jnp.sin(h @ jnp.ones((WIDTH, 5), h.dtype) / 90) * 7 - 20
    return jnp.stack([h, 3 * h - 9], axis=1) if name == "crosscoder" else h


def inputs_of(name, batch):
    return (batch[0], [batch[0]]) if name.startswith("transcoder") else (batch, [])


def anywhere(params):
    """Parameters that no start has."""
    names = [name for name in sorted(params) if name not in ("scale", "centre")]
    names = [name for name in names if not name.endswith("_out")]
    keys = dict(zip(names, jax.random.split(jax.random.key(7), len(names)), strict=True))
    move = lambda name: 0.3 * jax.random.normal(keys[name], params[name].shape, float)
    moved = {name: params[name] + move(name) for name in names}
    if "threshold" in moved:
        moved["threshold"] = jnp.abs(moved["threshold"])
    return {**params, **moved}


@pytest.mark.parametrize("has_centre", [True, False])
@pytest.mark.parametrize("name", MAKES)
def test_folded_parameters_say_the_same(name, has_centre, x64):
    inner = MAKES[name]()
    dictionary = sae.normalised(inner, norm=2.0, has_centre=has_centre)
    batch = data_of(name)
    params = anywhere(dictionary.init(jax.random.key(1), batch))
    h, more = inputs_of(name, batch)
    codes = dictionary.encode(params, h)
    raw = sae.folded(dictionary, params)
    assert set(raw) == set(inner.init(jax.random.key(1), batch))
    theirs = inner.encode(raw, h)
    unit = 1 if name == "crosscoder" else params["scale"]
    np.testing.assert_allclose(theirs * unit, codes, rtol=0, atol=1e-9)
    assert 0 < jnp.mean(codes > 0) < 1
    there, here = inner.decode(raw, theirs, *more), dictionary.decode(params, codes, *more)
    np.testing.assert_allclose(there, here, rtol=0, atol=1e-9 * 400)
    # Of the norm that was asked for.
    scaled = (np.asarray(h) - np.asarray(params["centre"])) * np.asarray(params["scale"])
    size = np.sqrt(np.mean(np.sum(np.square(scaled), axis=-1), axis=0))
    np.testing.assert_allclose(size, 2.0, rtol=1e-9)
    assert jnp.any(params["centre"] != 0) == has_centre


def steps_of(dictionary, batch, optimizer, params=None):
    training = sae.training(dictionary, optimizer, steps=10)
    state = training.init(dictionary.init(jax.random.key(1), batch) if params is None else params)
    step = jax.jit(training.step)
    losses = []
    for _ in range(5):
        state, metrics = step(state, batch)
        losses.append(float(metrics["loss"]))
    return state.params, losses


@pytest.mark.parametrize("name", ["topk", "jumprelu", "transcoder"])
def test_training_is_that_of_the_scaled_activations(name, x64):
    """And weight decay leaves what was estimated alone."""
    inner = MAKES[name]()
    dictionary = sae.normalised(inner, has_centre=True)
    batch = data_of(name)
    start = dictionary.init(jax.random.key(1), batch)
    pairs = [("scale", "centre"), ("scale_out", "centre_out")]
    parts = batch if isinstance(batch, tuple) else (batch,)
    scaled = tuple(
        (part - start[centre][None]) * start[scale]
        for part, (scale, centre) in zip(parts, pairs, strict=False)
    )
    scaled = scaled if isinstance(batch, tuple) else scaled[0]
    optimizer = optax.adamw(1e-2, weight_decay=0.1)
    params, losses = steps_of(dictionary, batch, optimizer)
    theirs, expected = steps_of(inner, scaled, optimizer)
    np.testing.assert_allclose(losses, expected, rtol=1e-9)
    for leaf, other in theirs.items():
        np.testing.assert_allclose(params[leaf], other, rtol=0, atol=1e-9)
    for leaf in set(params) - set(theirs):
        np.testing.assert_array_equal(params[leaf], start[leaf])


def test_the_size_of_activations_does_not_matter():
    """Coefficients and bandwidths mean the same for any."""
    h = data_of("jumprelu").astype(jnp.float32)
    one = steps_of(sae.normalised(sae.jumprelu(LATENTS, 0.1)), h, optax.adam(1e-2))[1]
    other = steps_of(sae.normalised(sae.jumprelu(LATENTS, 0.1)), 1024 * h, optax.adam(1e-2))[1]
    assert one == other  # a power of two rounds as 1 does


def test_files_hold_the_folded_parameters(tmp_path):
    dictionary = sae.normalised(sae.batch_topk(LATENTS, 3), has_centre=True)
    h = data_of("batch_topk").astype(jnp.float32)
    params = dictionary.init(jax.random.key(1), h)
    params["threshold"] = params["threshold"] + 0.2
    sae.formats.save_saelens(tmp_path, dictionary, params)
    again, raw = sae.formats.load_saelens(tmp_path)
    there = again.decode(raw, again.encode(raw, h))
    here = dictionary.decode(params, dictionary.encode(params, h))
    np.testing.assert_allclose(there, here, rtol=1e-4)
    found = sae.evaluate(again, raw, h).fvu.value
    assert found == pytest.approx(sae.evaluate(dictionary, params, h).fvu.value, rel=1e-3)


@pytest.mark.slow
def test_on_many_devices(x64):
    auto = (jax.sharding.AxisType.Auto,) * 2
    mesh = jax.make_mesh((2, 4), ("data", "latents"), auto)
    dictionary = sae.normalised(MAKES["topk"](), has_centre=True)
    many = sae.sharded(dictionary, mesh, rows="data", latents="latents")
    h = data_of("topk")
    one, expected = steps_of(dictionary, h, optax.adam(1e-2))
    params, losses = steps_of(many, h, optax.adam(1e-2))
    np.testing.assert_allclose(losses, expected, rtol=1e-9)
    for name, leaf in one.items():
        np.testing.assert_allclose(params[name], leaf, rtol=0, atol=1e-9)


def test_resampled_latents_point_from_the_centre():
    dictionary = sae.normalised(sae.relu(LATENTS, 0.1), has_centre=True)
    h = data_of("relu").astype(jnp.float32)
    training = sae.training(dictionary, optax.adam(1e-2), dead_after=1)
    state = training.init(dictionary.init(jax.random.key(1), h))
    state = state._replace(silent=jnp.full(LATENTS, 5, jnp.int32))
    rows = training.resample(jax.random.key(0), state, h).params["W_dec"]
    unit = h - state.params["centre"][None]
    unit = unit / jnp.linalg.norm(unit, axis=1, keepdims=True)
    rows = rows / jnp.linalg.norm(rows, axis=1, keepdims=True)
    np.testing.assert_allclose(jnp.max(rows @ unit.T, axis=1), 1, rtol=1e-5)


def test_what_is_made_in_another_order():
    dictionary = sae.normalised(sae.topk(LATENTS, 3))
    mesh = jax.make_mesh((2,), ("data",), (jax.sharding.AxisType.Auto,))
    sharded = sae.sharded(dictionary, mesh, rows="data")
    for call, words in (
        (lambda: sae.transcoder(dictionary), "normalised already: make it first"),
        (lambda: sae.crosscoder(dictionary), "normalised already: make it first"),
        (lambda: sae.normalised(dictionary), "normalised already"),
        (lambda: sae.normalised(sharded), "sharded already"),
        (lambda: sae.sharded(sharded, mesh, rows="data"), "sharded already"),
        (lambda: sae.normalised(sae.topk(4, 2), norm=0.0), "norm must be"),
        (lambda: sae.folded(sae.topk(4, 2), {}), "nothing is to fold"),
        (
            lambda: dictionary.encode(
                dictionary.init(jax.random.key(0), jnp.ones((3, 5))), jnp.ones((3, 6))
            ),
            r"must have the shape \(..., 5\)",
        ),
    ):
        with pytest.raises(ValueError, match=words):
            call()
    with pytest.raises(TypeError, match=r"one of jaxplain\.sae"):
        sae.normalised(3)


def test_absorption_is_measured_in_the_units_of_the_activations():
    parents = [-1, 0, 0, -1, 3]
    features = sae.synthetic.features(jax.random.key(0), 5, 8)
    batch = sae.synthetic.activations(features, 0.4, parents=parents)(jax.random.key(3), 2000)
    h = 100 * batch.activations
    inner = sae.topk(10, 2)
    dictionary = sae.normalised(inner)
    params = sae.train(
        jax.random.key(1), dictionary, h, optimizer=optax.adam(1e-2), steps=300, batch_size=256
    ).params
    found = sae.absorption(dictionary, params, h, features, batch.codes, parents)
    raw = sae.folded(dictionary, params)
    expected = sae.absorption(inner, raw, h, features, batch.codes, parents)
    assert np.any(expected.rate > 0.01)
    np.testing.assert_allclose(found.rate, expected.rate, atol=2e-3)


def test_an_average_has_decoder_rows_of_norm_one():
    h = data_of("topk").astype(jnp.float32)
    params = sae.train(
        jax.random.key(1),
        sae.normalised(sae.topk(LATENTS, 3)),
        h,
        optimizer=optax.adam(3e-2),
        steps=40,
        batch_size=16,
        average=0.95,
    ).params
    np.testing.assert_allclose(jnp.linalg.norm(params["W_dec"], axis=1), 1, rtol=1e-5)


@pytest.mark.parametrize("value", [0.0, 0.1, 1000.1])
def test_activations_that_are_all_equal_are_not_scaled(value):
    dictionary = sae.normalised(sae.topk(LATENTS, 3), has_centre=True)
    params = dictionary.init(jax.random.key(0), jnp.full((77, WIDTH), value))
    assert params["scale"] == 1
