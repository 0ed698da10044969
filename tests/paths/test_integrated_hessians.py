"""Integrated Hessians: closed forms, numpy over two integrals, axioms, rows, cost and memory."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxplain
from jaxplain import paths
from jaxplain.paths._log_rule import log_rule

# ------------------------------------------------------------------------------------- the rule


@pytest.mark.pins
@pytest.mark.parametrize("steps", [1, 2, 3, 7, 32, 129])
def test_the_rule_is_gauss_and_its_plain_weights_interpolate(steps):
    """Moments under -log s are 1 / (k + 1)^2, and under 1 they are 1 / (k + 1)."""
    nodes, weights, plain = log_rule(steps)
    assert 0 < nodes.min() <= nodes.max() < 1
    assert weights.min() > 0
    assert plain.min() > 0
    power = np.arange(2 * steps)[:, None]
    np.testing.assert_allclose(nodes**power @ weights, 1 / (power[:, 0] + 1) ** 2, rtol=1e-12)
    power = power[:steps]
    np.testing.assert_allclose(nodes**power @ plain, 1 / (power[:, 0] + 1), rtol=1e-11)


def test_the_rule_replaces_a_double_integral():
    """Of g(u v), which is not a polynomial, against a product of two Gauss rules."""
    nodes, weights, _ = log_rule(8)
    g = lambda s: np.exp(s) / (2 + s)
    u, w = paths.gauss_legendre(20)
    double = w @ g(np.outer(u, u)) @ w
    np.testing.assert_allclose(weights @ g(nodes), double, rtol=1e-13)


# --------------------------------------------------------------------------------- closed forms


@pytest.mark.pins
@pytest.mark.parametrize(
    "powers", [(1, 1, 0), (0, 2, 0), (3, 0, 0), (1, 2, 3), (0, 1, 0), (4, 0, 3)]
)
def test_monomials_at_the_fewest_nodes(powers, x64):
    """f = prod x^a of degree d from zero: H = a a^T f / d^2. Exact as soon as 2 n - 1 >= d - 1."""
    powers = np.array(powers)
    degree = powers.sum()
    x = np.array([1.3, -0.7, 2.1])
    f = lambda x: x[0] ** int(powers[0]) * x[1] ** int(powers[1]) * x[2] ** int(powers[2])
    result = paths.integrated_hessians(f, steps=int(-(-degree // 2)))(x, np.zeros(3))
    value = np.prod(x**powers)
    expected = np.outer(powers, powers) * value / degree**2
    np.testing.assert_allclose(result.values, expected, rtol=1e-13, atol=1e-14)
    np.testing.assert_allclose(result.output, value, rtol=1e-14)
    assert abs(float(result.completeness_gap)) < 1e-13 * abs(value)


def test_from_a_baseline_by_hand(x64):
    """f = x0 x1 + x0^3 from b: the cross term by symmetry, the cube by its own two integrals."""
    x, b = np.array([1.5, -2.0]), np.array([0.5, 1.0])
    d = x - b
    result = paths.integrated_hessians(lambda x: x[0] * x[1] + x[0] ** 3, steps=3)(x, b)
    off = d[0] * d[1] / 4  # u v integrates to 1/4 over the square, and f_01 = 1
    first = d[0] * (b[1] + d[1] / 4) + d[0] * 3 * (b[0] ** 2 + b[0] * d[0] / 2 + d[0] ** 2 / 9)
    second = d[0] ** 2 * 6 * (b[0] / 4 + d[0] / 9)
    expected = [[first + second, off], [off, d[1] * (b[0] + d[0] / 4)]]
    np.testing.assert_allclose(result.values, expected, rtol=1e-13)
    np.testing.assert_allclose(np.sum(expected), x.prod() + x[0] ** 3 - b.prod() - b[0] ** 3)


# ---------------------------------------------------------------- brute force in numpy, float64


def network(x, params):
    return jnp.dot(params["v"], jnp.tanh(x @ params["w"]))


def draw(seed, size=5):
    random = np.random.default_rng(seed)
    params = {"w": random.normal(size=(size, 7)), "v": random.normal(size=7)}
    return random.normal(size=size), random.normal(size=size), params


def by_two_integrals(x, b, params, steps):
    """The published formula, node by node over u and v; derivatives of the network by hand."""
    nodes, weights = np.polynomial.legendre.leggauss(steps)
    nodes, weights = (nodes + 1) / 2, weights / 2
    d, w, v = x - b, params["w"], params["v"]
    matrix = np.zeros((len(x), len(x)))
    for u, a in zip(nodes, weights, strict=True):
        for t, c in zip(nodes, weights, strict=True):
            h = np.tanh((b + u * t * d) @ w)
            gradient = w @ (v * (1 - h**2))
            hessian = (w * (v * -2 * h * (1 - h**2))) @ w.T
            matrix += a * c * (u * t * np.outer(d, d) * hessian + np.diag(d * gradient))
    return matrix


@pytest.mark.parametrize("seed", range(2))
def test_numpy_twin(seed, x64):
    x, b, params = draw(seed)
    result = paths.integrated_hessians(network, steps=40, chunk_size=2)(x, b, params)
    expected = by_two_integrals(x, b, params, 48)
    np.testing.assert_allclose(result.values, expected, atol=1e-9 * np.abs(expected).max())


# ------------------------------------------------------------------------------------- axioms


@pytest.mark.parametrize("seed", range(3))
def test_axioms(seed, x64):
    x, b, params = draw(seed)
    explain = lambda f: paths.integrated_hessians(f, steps=48)(x, b, params)
    result = explain(network)
    values = np.asarray(result.values)
    ig = jaxplain.integrated_gradients(network, steps=64)(x, b, params)
    # Symmetric; rows sum to Integrated Gradients, all of them to the rise of f.
    np.testing.assert_allclose(values, values.T, atol=1e-13)
    np.testing.assert_allclose(values.sum(1), ig.values, atol=1e-8)
    np.testing.assert_allclose(result.attributions, ig.values, atol=1e-7)
    rise = network(x, params) - network(b, params)
    np.testing.assert_allclose(result.completeness_gap, values.sum() - rise, atol=1e-12)
    assert abs(float(result.completeness_gap)) < 1e-8
    # An element that f ignores, or that does not move, has no interactions.
    dead = explain(lambda x, params: network(x.at[1].set(0.0), params)).values
    still = paths.integrated_hessians(network)(x, np.where(np.arange(5) == 2, x, b), params).values
    for matrix, element in ((dead, 1), (still, 2)):
        assert (matrix[element] == 0).all()
        assert (matrix[:, element] == 0).all()
    # A sum of functions of single elements has none across, and Integrated Gradients within.
    alone = lambda x, params: jnp.sum(jnp.sin(x) * params["v"][:5])
    separate = np.asarray(explain(alone).values)
    expected = np.diag((np.sin(x) - np.sin(b)) * params["v"][:5])
    np.testing.assert_allclose(separate, expected, atol=1e-13)
    # Linear in f, and the same for the same function written otherwise.
    both = explain(lambda x, params: 2 * network(x, params) - 3 * alone(x, params)).values
    np.testing.assert_allclose(both, 2 * values - 3 * separate, atol=1e-11)
    written = lambda x, params: params["v"] @ (2 / (1 + jnp.exp(-2 * (x @ params["w"]))) - 1)
    np.testing.assert_allclose(explain(written).values, values, atol=1e-12)


# --------------------------------------------------------------------------------------- rows


@pytest.mark.pins
def test_rows_blocks_and_groups_are_of_the_matrix(x64):
    x, b, params = draw(0)
    matrix = paths.integrated_hessians(network, steps=20, chunk_size=3)(x, b, params)
    explain = paths.integrated_hessian_row(network, steps=20, chunk_size=7)
    block = jax.vmap(explain, (None, None, 0, None))(x, b, np.eye(5)[[3, 0]], params)
    np.testing.assert_allclose(block.values, matrix.values[np.array([3, 0])], atol=1e-13)
    direction = np.array([0.0, 1.0, 0.0, 1.0, -2.5])
    group = explain(x, b, direction, params)
    np.testing.assert_allclose(group.values, direction @ matrix.values, atol=1e-12)
    np.testing.assert_allclose(group.attribution, direction @ matrix.attributions, atol=1e-12)
    gap = group.values.sum() - group.attribution
    np.testing.assert_allclose(group.completeness_gap, gap, atol=1e-14)
    whole = explain(x, b, np.ones(5), params)
    ig = jaxplain.integrated_gradients(network, steps=64)(x, b, params).values
    np.testing.assert_allclose(whole.values, ig, atol=1e-5)
    assert int(group.evaluations) == 20
    assert int(matrix.evaluations) == 100


def test_two_modalities_in_the_layout_of_jax_hessian(x64):
    """Two monomials, a^2 b and a b, from zero: p p^T f / d^2 for each, p its powers."""
    f = lambda x: jnp.sum(x["a"] ** 2) * x["b"] + jnp.sum(x["a"]) * x["b"]
    x = {"a": np.array([[1.0, 2.0], [-0.5, 0.3]]), "b": np.float64(1.7)}
    got = paths.integrated_hessians(f, steps=2)(x, jax.tree.map(np.zeros_like, x)).values
    reference = jax.hessian(f)(jax.tree.map(jnp.asarray, x))
    assert jax.tree.structure(got) == jax.tree.structure(reference)
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(reference), strict=True):
        assert a.shape == b.shape
    a, b = x["a"], x["b"]
    np.testing.assert_allclose(got["a"]["b"], 2 * a**2 * b / 9 + a * b / 4, rtol=1e-13)
    np.testing.assert_allclose(got["b"]["a"], got["a"]["b"], rtol=1e-13)
    np.testing.assert_allclose(got["b"]["b"], (a**2 * b).sum() / 9 + (a * b).sum() / 4, rtol=1e-13)
    diagonal = (4 * a**2 * b / 9 + a * b / 4).ravel()
    np.testing.assert_allclose(got["a"]["a"].reshape(4, 4), np.diag(diagonal), atol=1e-14)


def test_relus_have_no_second_derivatives_and_the_gap_says_so(x64):
    """With softplus in their place the rows are whole."""
    x, b, params = draw(2)
    of = lambda act: lambda x, params: jnp.dot(params["v"], act(x @ params["w"]))
    relu = paths.integrated_hessians(of(jax.nn.relu), steps=64)(x, b, params)
    values = np.asarray(relu.values)
    assert (values[~np.eye(5, dtype=bool)] == 0).all()
    assert abs(float(relu.completeness_gap)) > 0.05 * abs(relu.output - relu.baseline_output)
    smooth = paths.integrated_hessians(of(jax.nn.softplus), steps=64)(x, b, params)
    assert abs(float(smooth.completeness_gap)) < 1e-10
    assert np.abs(smooth.values[~np.eye(5, dtype=bool)]).min() > 1e-4


# ----------------------------------------------------------------------------- cost and memory


def test_a_block_computes_its_gradient_once():
    """Sixteen directions cost less than sixteen rows: the points do not depend on them."""
    x = jnp.ones(64)
    params = {"w": jnp.ones((64, 128)), "v": jnp.ones(128)}
    explain = paths.integrated_hessian_row(network, steps=1)
    block = jax.vmap(explain, (None, None, 0, None))

    def flops(function, direction):
        program = jax.jit(function).lower(x, 0 * x, direction, params).compile()
        return program.cost_analysis()["flops"]

    one, sixteen = flops(explain, x), flops(block, jnp.ones((16, 64)))
    # A product takes two matrix products more than the gradient's own two.
    assert sixteen < 0.6 * 16 * one


def test_no_matrix_is_formed_for_a_row():
    f = lambda x: jnp.sum(jnp.tanh(x[:-1] * x[1:]))
    x = jax.ShapeDtypeStruct((20_000,), jnp.float32)
    program = jax.jit(paths.integrated_hessian_row(f, steps=32, chunk_size=1)).lower(x, x, x)
    assert program.compile().memory_analysis().temp_size_in_bytes < 40 * 4 * 20_000


@pytest.mark.slow
def test_a_row_of_a_photo_fits_in_memory(data):
    """3 x 224 x 224 through SqueezeNet: everything the program needs, under 1.5 GiB."""
    from jaxplain import adapters, models, targets

    file = data / "squeezenet1_0_imagenet" / "squeezenet1_0_dc.safetensors"
    apply, params = adapters.nnx(models.SqueezeNet.from_safetensors(file))
    explain = paths.integrated_hessian_row(targets.logit(apply), steps=32, chunk_size=1)
    image = jax.ShapeDtypeStruct((224, 224, 3), jnp.float32)
    program = jax.jit(explain).lower(image, image, image, jnp.int32(0), params).compile()
    memory = program.memory_analysis()
    outside = memory.argument_size_in_bytes + memory.output_size_in_bytes
    assert memory.temp_size_in_bytes + outside < 1.5 * 2**30


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: paths.integrated_hessians(network, steps=0), ValueError, "steps must be at least"),
        (lambda: paths.integrated_hessian_row(network, steps=2.5), TypeError, "steps must be a"),
        (lambda: paths.integrated_hessian_row(3), TypeError, "f must be a function"),
    ],
)
def test_bad_options(make, error, message):
    with pytest.raises(error, match=message):
        make()


def test_the_direction_is_checked():
    explain = paths.integrated_hessian_row(lambda x: jnp.sum(x**2))
    with pytest.raises(ValueError, match=r"direction must have the shape of x, \(3,\)"):
        explain(jnp.ones(3), jnp.zeros(3), jnp.ones(2))
