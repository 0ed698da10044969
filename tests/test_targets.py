"""Targets against closed forms in numpy float64, values and gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxplain import targets

CLASSES, FEATURES, TOKENS = 7, 5, 4


def scores(params, batch):
    """z = x W + b for x (B, ..., features): its gradients are closed forms."""
    return jnp.matmul(batch, params["W"]) + params["b"].reshape((1,) * (batch.ndim - 1) + (-1,))


def problem(*shape, dtype=np.float32, scale=1.0):
    rng = np.random.default_rng(0)
    params = {
        "W": scale * rng.standard_normal((FEATURES, CLASSES)),
        "b": rng.standard_normal(CLASSES),
    }
    x = rng.standard_normal((*shape, FEATURES))
    cast = lambda a: jnp.asarray(a.astype(dtype))
    exact = {name: np.asarray(cast(a), np.float64) for name, a in params.items()}
    x, params = cast(x), jax.tree.map(cast, params)
    z = np.asarray(x, np.float64) @ exact["W"] + exact["b"]
    return x, params, z, exact["W"]


def softmax(z):
    e = np.exp(z - z.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def closed_forms(z, label, contrast):
    """Value and d value / d z of each target of class scores (..., C)."""
    p, one = softmax(z), np.eye(CLASSES)[label]
    log_p = np.log(p)
    pick = lambda a: (a * one).sum(-1)
    h = -(p * log_p).sum(-1)
    pc = pick(p)
    return {
        "logit": (pick(z), one),
        "log_probability": (pick(log_p), one - p),
        "probability": (pc, pc[..., None] * (one - p)),
        "margin": (
            pick(z) - (z * np.eye(CLASSES)[contrast]).sum(-1),
            one - np.eye(CLASSES)[contrast],
        ),
        "entropy": (h, -p * (log_p + h[..., None])),
    }


def labels_of(name, label, contrast):
    return {"margin": (label, contrast), "entropy": ()}.get(name, (label,))


NAMES = ["logit", "log_probability", "probability", "margin", "entropy"]


@pytest.mark.parametrize("name", NAMES)
def test_value_and_gradient_of_a_classifier(name):
    x, params, z, W = problem()
    f = getattr(targets, name)(scores)
    labels = labels_of(name, jnp.int32(2), jnp.int32(6))
    value, slope = jax.jit(jax.value_and_grad(f))(x, *labels, params)
    expected, dz = closed_forms(z, 2, 6)[name]
    assert value.shape == ()
    np.testing.assert_allclose(value, expected, rtol=3e-6, atol=1e-6)
    np.testing.assert_allclose(slope, W @ dz, rtol=2e-5, atol=2e-6)


@pytest.mark.parametrize("name", NAMES)
def test_float64(name, x64):
    x, params, z, W = problem(dtype=np.float64)
    f = getattr(targets, name)(scores)
    value, slope = jax.value_and_grad(f)(x, *labels_of(name, 2, 6), params)
    expected, dz = closed_forms(z, 2, 6)[name]
    assert value.dtype == jnp.float64
    np.testing.assert_allclose(value, expected, rtol=1e-13)
    np.testing.assert_allclose(slope, W @ dz, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("name", NAMES)
def test_a_bfloat16_model_is_read_in_float32(name):
    """The target adds no rounding to the rounded scores; the gradient has x's dtype."""
    x, params, _, W = problem(dtype=jnp.bfloat16)
    rounded = np.asarray(scores(params, x[None])[0].astype(jnp.float32), np.float64)
    f = getattr(targets, name)(scores)
    value, slope = jax.value_and_grad(f)(x, *labels_of(name, 2, 6), params)
    expected, dz = closed_forms(rounded, 2, 6)[name]
    assert (value.dtype, slope.dtype) == (jnp.float32, jnp.bfloat16)
    np.testing.assert_allclose(value, expected, rtol=3e-6, atol=1e-6)
    np.testing.assert_allclose(slope.astype(jnp.float32), W @ dz, rtol=0.03, atol=0.03)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("shape", [(TOKENS,), (2, 3)])
def test_masked_positions(name, shape):
    """A sum over positions of the closed form, with one label for all and one for each."""
    x, params, z, W = problem(*shape)
    rng = np.random.default_rng(1)
    label, contrast = rng.integers(0, CLASSES, (2, *shape))
    mask = rng.standard_normal(shape).astype(np.float32)
    f = jax.jit(jax.value_and_grad(getattr(targets, name)(scores, positions=True)))
    for first, second in ((label, contrast), (np.int32(2), np.int32(6))):
        labels = (jnp.asarray(a, jnp.int32) for a in labels_of(name, first, second))
        value, slope = f(x, *labels, mask, params)
        of_each, dz = closed_forms(
            z, np.broadcast_to(first, shape), np.broadcast_to(second, shape)
        )[name]
        np.testing.assert_allclose(value, (mask * of_each).sum(), rtol=1e-5, atol=1e-5)
        exact = np.einsum("...c,fc,...->...f", dz, W, mask.astype(np.float64))
        np.testing.assert_allclose(slope, exact, rtol=2e-5, atol=5e-6)


@pytest.mark.parametrize("name", NAMES)
def test_one_hot_mask_is_one_position(name):
    x, params, _, _ = problem(TOKENS)
    labels = labels_of(name, jnp.int32(3), jnp.int32(0))
    there = getattr(targets, name)(scores, positions=True)(
        x, *labels, jnp.arange(TOKENS) == 2, params
    )
    alone = getattr(targets, name)(scores)(x[2], *labels, params)
    np.testing.assert_allclose(there, alone, rtol=1e-6)


def test_log_likelihood_of_a_sequence():
    """A mask of ones makes the log-likelihood of the tokens."""
    x, params, z, _ = problem(TOKENS)
    tokens = np.array([1, 0, 6, 3], np.int32)
    f = targets.log_probability(scores, positions=True)
    value = f(x, jnp.asarray(tokens), jnp.ones(TOKENS), params)
    exact = np.log(softmax(z)[np.arange(TOKENS), tokens]).sum()
    np.testing.assert_allclose(value, exact, rtol=1e-6)


# ------------------------------------------------------------------------------ stability, labels


def test_large_scores_do_not_overflow():
    z = jnp.array([2e4, 1e4, -3e4])
    model = lambda params, batch: batch
    assert float(targets.log_probability(model)(z, 1, None)) == -1e4
    assert float(targets.probability(model)(z, 0, None)) == 1
    assert float(targets.entropy(model)(z, None)) == 0
    for name in NAMES:
        slope = jax.grad(getattr(targets, name)(model))(z, *labels_of(name, 1, 0), None)
        assert np.isfinite(slope).all()


def test_impossible_classes():
    """Scores of -inf, as a mask over the vocabulary makes them."""
    model = lambda params, batch: batch
    z = jnp.array([0.0, -jnp.inf, jnp.log(3.0)])
    np.testing.assert_allclose(
        targets.entropy(model)(z, None), -(0.25 * np.log(0.25) + 0.75 * np.log(0.75)), rtol=1e-6
    )
    h = -(0.25 * np.log(0.25) + 0.75 * np.log(0.75))
    slope = jax.grad(targets.entropy(model))(z, None)
    np.testing.assert_allclose(
        slope, [-0.25 * (np.log(0.25) + h), 0, -0.75 * (np.log(0.75) + h)], atol=1e-6
    )
    assert float(targets.probability(model)(z, 1, None)) == 0
    assert float(targets.log_probability(model)(z, 1, None)) == -np.inf
    assert float(targets.logit(model)(z, 2, None)) == float(z[2])
    # NaN stays NaN and is not taken for an impossible class
    assert np.isnan(targets.entropy(model)(z.at[0].set(jnp.nan), None))


@pytest.mark.parametrize("label", [-1, -8, CLASSES, 2**20])
@pytest.mark.parametrize("name", ["logit", "log_probability", "probability", "margin"])
def test_a_label_of_no_class_is_nan_and_never_another_class(name, label):
    x, params, _, _ = problem()
    f = jax.jit(getattr(targets, name)(scores))
    assert np.isnan(f(x, *labels_of(name, jnp.int32(label), jnp.int32(0)), params))
    if name == "margin":
        assert np.isnan(f(x, jnp.int32(0), jnp.int32(label), params))
    with pytest.raises(ValueError, match=f"class from 0 to 6, but is {label}"):
        getattr(targets, name)(scores)(x, *labels_of(name, label, 0), params)


def test_padding_with_label_minus_100_is_left_out():
    x, params, z, W = problem(TOKENS)
    label, mask = jnp.array([1, 2, -100, -100]), jnp.array([True, True, False, False])
    f = targets.log_probability(scores, positions=True)
    value, slope = jax.value_and_grad(f)(x, label, mask, params)
    p = softmax(z)
    np.testing.assert_allclose(value, np.log(p[0, 1] * p[1, 2]), rtol=1e-6)
    exact = (np.eye(CLASSES)[[1, 2]] - p[:2]) @ W.T
    np.testing.assert_allclose(slope[:2], exact, rtol=1e-5, atol=1e-6)
    assert (slope[2:] == 0).all()
    assert np.isnan(f(x, label, jnp.ones(4), params))


@pytest.mark.parametrize("dtype", [jnp.int8, jnp.uint8, jnp.int16, jnp.uint32])
def test_narrow_labels_number_many_classes(dtype):
    """300 classes do not fit a byte: class 3 must not be mixed with 259."""
    z = jnp.arange(300.0)
    value = targets.logit(lambda params, batch: batch)(z, jnp.asarray(3, dtype), None)
    assert float(value) == 3


# -------------------------------------------------------------------------------- other outputs


def test_output_of_a_regressor():
    x, params, z, W = problem()
    for model in (
        lambda params, batch: scores(params, batch)[:, 1],
        lambda params, batch: scores(params, batch)[:, 1:2],
    ):
        value, slope = jax.value_and_grad(targets.output(model))(x, params)
        np.testing.assert_allclose(value, z[1], rtol=1e-6)
        np.testing.assert_allclose(slope, W[:, 1], rtol=1e-6)


def test_masked_sum_of_one_array_and_of_a_tree():
    x, params, z, W = problem(2, 3)
    mask = np.random.default_rng(2).standard_normal((2, 3, CLASSES)).astype(np.float32)
    value, slope = jax.value_and_grad(targets.masked_sum(scores))(x, mask, params)
    np.testing.assert_allclose(value, (mask * z).sum(), rtol=1e-5)
    np.testing.assert_allclose(slope, mask.astype(np.float64) @ W.T, rtol=1e-5, atol=1e-5)
    tree = lambda params, batch: {"z": scores(params, batch), "n": (batch[..., 0, 0, 0],)}
    both = targets.masked_sum(tree)(x, {"z": mask, "n": (jnp.float32(10),)}, params)
    np.testing.assert_allclose(both, (mask * z).sum() + 10 * float(x[0, 0, 0]), rtol=1e-5)


def test_masked_sum_leaves_out_what_is_not_finite_and_differentiates_by_the_mask():
    y = jnp.array([1.0, jnp.nan, 3.0])
    f = targets.masked_sum(lambda params, batch: batch)
    assert float(f(y, jnp.array([1.0, 0.0, 2.0]), None)) == 7
    assert np.isnan(f(y, jnp.ones(3), None))
    of_mask = jax.grad(f, argnums=1)(jnp.array([1.0, 2.0, 3.0]), jnp.array([0.0, 0.0, 1.0]), None)
    np.testing.assert_array_equal(of_mask, [1.0, 2.0, 3.0])


def test_x_may_be_a_tree():
    model = lambda params, batch: jnp.matmul(batch["a"], params) + batch["b"][0][:, None]
    x = {"a": jnp.array([1.0, 2.0]), "b": (jnp.float32(3),)}
    params = jnp.array([[1.0, 0.0], [0.0, 1.0]])
    value, slope = jax.value_and_grad(targets.logit(model))(x, 1, params)
    assert float(value) == 5
    assert (slope["a"].tolist(), float(slope["b"][0])) == ([0.0, 1.0], 1.0)


# -------------------------------------------------------------------------------- transformations


@pytest.mark.parametrize("name", NAMES)
def test_vmap_equals_a_loop(name):
    x, params, _, _ = problem(6)
    labels = labels_of(name, jnp.arange(6), jnp.arange(6)[::-1])
    f = jax.value_and_grad(getattr(targets, name)(scores))
    axes = (0,) * (1 + len(labels)) + (None,)
    together = jax.jit(jax.vmap(f, in_axes=axes))(x, *labels, params)
    for i in range(6):
        alone = f(x[i], *(label[i] for label in labels), params)
        jax.tree.map(
            lambda a, b, i=i: np.testing.assert_allclose(a[i], b, rtol=2e-5, atol=1e-6),
            together,
            alone,
        )


@pytest.mark.parametrize("name", ["logit", "log_probability", "probability", "margin"])
@pytest.mark.parametrize("over", ["examples", "classes"])
def test_explicit_mesh(name, over):
    """Sharded over the examples, or over the classes: values, gradients, sharding."""
    x, params, _, _ = problem(8, scale=0.5)
    # eight classes, to divide them
    params = {"W": jnp.pad(params["W"], ((0, 0), (0, 1))), "b": jnp.pad(params["b"], (0, 1))}
    labels = labels_of(name, jnp.arange(8) % 7, (jnp.arange(8) + 3) % 7)
    axes = (0,) * (1 + len(labels)) + (None,)
    gradient = jax.vmap(jax.value_and_grad(getattr(targets, name)(scores)), in_axes=axes)
    expected = gradient(x, *labels, params)
    mesh = jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Explicit,))
    with jax.set_mesh(mesh):
        if over == "examples":
            put = lambda a: jax.device_put(a, jax.P("data"))
            x, labels = put(x), tuple(put(label) for label in labels)
            params = jax.device_put(params, jax.P())
        else:
            whole = lambda a: jax.device_put(a, jax.P())
            x, labels = whole(x), tuple(whole(label) for label in labels)
            params = {
                "W": jax.device_put(params["W"], jax.P(None, "data")),
                "b": jax.device_put(params["b"], jax.P("data")),
            }
        result = jax.jit(gradient)(x, *labels, params)
        if over == "examples":
            assert jax.typeof(result[0]).sharding.spec == jax.P("data")
            text = jax.jit(gradient).lower(x, *labels, params).compile().as_text()
            assert "all-gather" not in text
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-5, atol=2e-6), result, expected
    )


@pytest.mark.parametrize("name", ["logit", "entropy", "masked_sum"])
def test_explicit_mesh_with_one_mask_for_all_examples(name):
    x, params, _, _ = problem(8, TOKENS, scale=0.5)
    shape = (TOKENS, CLASSES) if name == "masked_sum" else (TOKENS,)
    mask = np.random.default_rng(3).standard_normal(shape).astype(np.float32)
    if name == "masked_sum":
        f = targets.masked_sum(scores)
    else:
        f = getattr(targets, name)(scores, positions=True)
    arguments = (np.int32(2), mask, params) if name == "logit" else (mask, params)
    axes = (0,) + (None,) * len(arguments)
    gradient = jax.jit(jax.vmap(jax.value_and_grad(f), in_axes=axes))
    expected = gradient(x, *arguments)
    mesh = jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Explicit,))
    with jax.set_mesh(mesh):
        x, arguments = jax.device_put(x, jax.P("data")), jax.device_put(arguments, jax.P())
        result = gradient(x, *arguments)
        assert jax.typeof(result[1]).sharding.spec[0] == "data"
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-5, atol=2e-6), result, expected
    )


def test_a_factory_compiles_and_runs_nothing_itself():
    calls = []
    f = targets.logit(lambda params, batch: calls.append(batch.shape) or batch)
    assert calls == []
    f(jnp.arange(3.0), 1, None)
    assert calls == [(1, 3)]


# --------------------------------------------------------------------------------------- messages


def test_messages_about_the_model():
    one = jnp.ones(3)
    with pytest.raises(TypeError, match=r"apply.*adapters.* must be a function, but is a dict"):
        targets.logit({"not": "a function"})
    with pytest.raises(TypeError, match="positions must be True or False"):
        targets.entropy(scores, positions=3)
    sequence = lambda params, batch: jnp.zeros((batch.shape[0], 5, 3))
    for factory, arguments in (
        (targets.logit, (0,)),
        (targets.entropy, ()),
        (targets.margin, (0, 1)),
    ):
        with pytest.raises(ValueError, match="positions=True"):
            factory(sequence)(one, *arguments, None)
    with pytest.raises(ValueError, match="leave positions out"):
        targets.logit(lambda params, batch: batch, positions=True)(one, 0, jnp.ones(()), None)
    with pytest.raises(ValueError, match=r"targets\.output\(apply\)"):
        targets.logit(lambda params, batch: batch.sum(1))(one, 0, None)
    with pytest.raises(ValueError, match="ONE example without batch axis"):
        targets.logit(lambda params, batch: batch[0])(jnp.ones((4, 3)), 0, None)
    with pytest.raises(TypeError, match="must return one array, but returned a tuple"):
        targets.logit(lambda params, batch: (batch, None))(one, 0, None)
    with pytest.raises(TypeError, match="not the predicted class"):
        targets.output(lambda params, batch: jnp.argmax(batch, -1))(one, None)
    with pytest.raises(ValueError, match=r"one number per example.* \(1, 3\)"):
        targets.output(lambda params, batch: batch)(one, None)
    with pytest.raises(ValueError, match="keep the batch axis"):
        targets.masked_sum(lambda params, batch: batch[0])(one, one, None)


def test_messages_about_labels_and_masks():
    model = lambda params, batch: batch
    f, dense = targets.logit(model), targets.logit(model, positions=True)
    one, tokens = jnp.ones(3), jnp.ones((4, 3))
    with pytest.raises(TypeError, match=r"label must be an integer.*dtype float32"):
        f(one, jnp.float32(1), None)
    with pytest.raises(TypeError, match=r"label must be an integer.*a bool"):
        f(one, True, None)
    with pytest.raises(ValueError, match=r"label must be a scalar, but has shape \(2,\).*vmap"):
        f(one, jnp.array([0, 1]), None)
    with pytest.raises(ValueError, match="contrast must be a class from 0 to 2, but is 3"):
        targets.margin(model)(one, 0, 3, None)
    with pytest.raises(ValueError, match=r"scalar or of shape \(4,\)"):
        dense(tokens, jnp.array([0, 1]), jnp.ones(4), None)
    with pytest.raises(ValueError, match=r"mask must have shape \(4,\).* but has shape \(3,\)"):
        dense(tokens, 0, jnp.ones(3), None)
    with pytest.raises(TypeError, match="mask must be an array"):
        dense(tokens, 0, "all", None)
    with pytest.raises(ValueError, match="mask must be a tree like the outputs"):
        targets.masked_sum(model)(one, {"a": one}, None)
