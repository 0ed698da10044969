"""The architectures: their formulas by hand, sparse against dense, and the defects of peers."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxplain import sae
from jaxplain.sae import _jumprelu

ROWS, WIDTH, LATENTS = 48, 6, 40
close = functools.partial(np.testing.assert_allclose, rtol=1e-10, atol=1e-10)
relu = lambda a: np.maximum(a, 0)

SPARSE = {
    "topk": functools.partial(sae.topk, LATENTS, 5),
    "multi_topk": functools.partial(sae.topk, LATENTS, 2, multi_topk=True),
    "batch_topk": functools.partial(sae.batch_topk, LATENTS, 3),
    "matryoshka": functools.partial(sae.matryoshka, LATENTS, 3, sizes=(8, 20, 40)),
}
ALL = {
    "relu": functools.partial(sae.relu, LATENTS, 0.1),
    "relu, unit norm": functools.partial(sae.relu, LATENTS, 0.1, has_unit_norm=True),
    "gated": functools.partial(sae.gated, LATENTS, 0.1),
    "jumprelu": functools.partial(sae.jumprelu, LATENTS, 0.01, threshold=0.05, bandwidth=0.1),
    "p_annealed": functools.partial(sae.p_annealed, LATENTS, 0.1),
    **SPARSE,
}
every = pytest.mark.parametrize("name", ALL)


@pytest.fixture
def double():
    with jax.enable_x64(True):
        yield


def activations(dtype=jnp.float64):
    return 0.3 + jax.random.normal(jax.random.key(0), (ROWS, WIDTH), dtype)


def params_of(dictionary, h=None):
    """Parameters that are not those of the start: biases, norms and decoders of their own."""
    params = dictionary.init(jax.random.key(1), activations() if h is None else h)
    keys = jax.random.split(jax.random.key(2), len(params))
    moved = {}
    for key, (name, leaf) in zip(keys, sorted(params.items()), strict=True):
        moved[name] = leaf + 0.1 * jax.random.normal(key, leaf.shape, leaf.dtype)
    if "threshold" in params:
        moved["threshold"] = jnp.abs(moved["threshold"])
    return moved


DEAD = np.arange(LATENTS) % 3 == 0


# ----------------------------------------------------------------------------------- by hand


def by_hand(name, params, h):
    """Codes and the two main parts of the loss, in numpy."""
    p = {key: np.asarray(leaf) for key, leaf in params.items()}
    h = np.asarray(h)
    centred = h if name == "jumprelu" else h - p["b_dec"]
    if name == "gated":
        pi = centred @ p["W_enc"] + p["b_gate"]
        codes = (pi > 0) * relu(centred @ p["W_enc"] * np.exp(p["r_mag"]) + p["b_mag"])
        return codes, 0.1 * relu(pi).sum(-1).mean()
    pre = centred @ p["W_enc"] + p["b_enc"]
    if name == "jumprelu":
        codes = pre * (pre > p["threshold"])
        return codes, 0.01 * (codes != 0).sum(-1).mean()
    if name in ("relu", "relu, unit norm", "p_annealed"):
        codes = relu(pre)
        norms = np.linalg.norm(p["W_dec"], axis=-1) if name == "relu" else 1
        powers = np.where(codes > 0, codes, 1) ** 0.2 * (codes > 0)
        return codes, 0.1 * (powers if name == "p_annealed" else codes * norms).sum(-1).mean()
    if name in ("topk", "multi_topk"):
        k = 5 if name == "topk" else 2
        least = np.sort(pre, axis=-1)[:, -k][:, None]
    else:
        least = np.sort(relu(pre).ravel())[-3 * ROWS]
    return relu(pre) * (pre >= least), None


@every
def test_codes_and_loss_are_the_formulas(name, double):
    dictionary, h = ALL[name](), activations()
    params = params_of(dictionary)
    codes, penalty = by_hand(name, params, h)
    loss, report = dictionary.loss(params, h)
    h_hat = codes @ np.asarray(params["W_dec"]) + np.asarray(params["b_dec"])
    close(report.squared_error, np.sum((np.asarray(h) - h_hat) ** 2, -1).mean())
    close(report.variance, np.var(np.asarray(h), axis=0).sum())
    close(report.l0, (codes > 0).sum(-1).mean())
    np.testing.assert_array_equal(report.fired, (codes > 0).any(0))
    close(loss, report.squared_error + report.penalty + report.auxiliary)
    if penalty is not None:
        close(report.penalty, penalty)
    if name in ("batch_topk", "matryoshka"):  # whose codes afterwards are by the threshold
        close(report.own["least_kept"], codes[codes > 0].min())
        pre = (np.asarray(h) - np.asarray(params["b_dec"])) @ np.asarray(params["W_enc"])
        pre = pre + np.asarray(params["b_enc"])
        codes = pre * (pre > np.asarray(params["threshold"]))
    close(dictionary.encode(params, h), codes)
    close(
        dictionary.decode(params, codes),
        codes @ np.asarray(params["W_dec"]) + params["b_dec"][None],
    )


def test_nested_and_multiple_errors_by_hand(double):
    h = activations()
    params = params_of(sae.batch_topk(LATENTS, 3))
    codes, _ = by_hand("batch_topk", params, h)
    W_dec, b_dec = np.asarray(params["W_dec"]), np.asarray(params["b_dec"])
    errors = [
        np.sum((np.asarray(h) - codes[:, :m] @ W_dec[:m] - b_dec) ** 2, -1).mean()
        for m in (8, 20, 40)
    ]
    close(sae.matryoshka(LATENTS, 3, sizes=(8, 20, 40)).loss(params, h)[0], np.mean(errors))
    weights = (0.5, 0.0, 2.0)
    weighted = sae.matryoshka(LATENTS, 3, sizes=(8, 20, 40), weights=weights)
    close(weighted.loss(params, h)[0], np.dot(weights, errors))
    del params["threshold"]
    more, fewer = sae.topk(LATENTS, 8).loss(params, h)[0], sae.topk(LATENTS, 2).loss(params, h)[0]
    close(sae.topk(LATENTS, 2, multi_topk=True).loss(params, h)[0], fewer + more / 8)


def test_the_auxiliary_loss_is_the_published_one(double):
    """Of the detached error, without b_dec, by the k largest dead latents, over its variance."""
    h, status = activations(), sae.Status(dead=jnp.asarray(DEAD))
    for make in (sae.topk, sae.batch_topk):
        dictionary = make(LATENTS, 3, auxiliary_k=4, auxiliary_coefficient=0.5)
        params = params_of(dictionary)
        p = {key: np.asarray(leaf) for key, leaf in params.items()}
        codes, _ = by_hand("batch_topk", params, h)
        pre = (np.asarray(h) - p["b_dec"]) @ p["W_enc"] + p["b_enc"]
        if make is sae.topk:
            codes = relu(pre) * (pre >= np.sort(pre, -1)[:, -3][:, None])
        error = np.asarray(h) - codes @ p["W_dec"] - p["b_dec"]
        pre = np.where(DEAD, pre, -np.inf)
        guess = (relu(pre) * (pre >= np.sort(pre, -1)[:, -4][:, None])) @ p["W_dec"]
        ratio = np.sum((error - guess) ** 2, -1).mean() / np.var(error, axis=0).sum()
        _, report = dictionary.loss(params, h, status)
        close(report.auxiliary, 0.5 * np.var(np.asarray(h), axis=0).sum() * ratio)

        # Its gradient is that of dead latents alone: b_dec and the living get none of it.
        auxiliary = lambda p, loss=dictionary.loss: loss(p, h, status)[1].auxiliary
        gradient = jax.grad(auxiliary)(params)
        assert not np.any(gradient["W_dec"][~DEAD])
        assert np.any(gradient["W_dec"][DEAD])
        assert not np.any(gradient["W_enc"][:, ~DEAD])
        assert np.any(gradient["W_enc"][:, DEAD])
        assert (
            float(dictionary.loss(params, h, sae.Status(dead=jnp.zeros(LATENTS, bool)))[1][3]) == 0
        )


# ------------------------------------------------------------------- sparse is dense, derivatives


@pytest.mark.parametrize("name", SPARSE)
@pytest.mark.parametrize("has_dead", [False, True])
def test_sparse_is_dense(name, has_dead, double):
    h = activations()
    status = sae.Status(dead=jnp.asarray(DEAD)) if has_dead else sae.Status()
    found = []
    for implementation in ("sparse", "dense"):
        dictionary = SPARSE[name](implementation=implementation)
        params = params_of(dictionary)
        value = jax.jit(jax.value_and_grad(dictionary.loss, argnums=(0, 1), has_aux=True))
        found.append((value(params, h, status), dictionary.encode(params, h)))
    jax.tree.map(close, *found)


@pytest.mark.parametrize("block_size", [1, 7, 16, 40, 100])
def test_latents_in_blocks_are_latents_at_once(block_size, double):
    h = activations()
    status = sae.Status(dead=jnp.asarray(DEAD))
    found = []
    for size in (block_size, None):
        dictionary = sae.topk(LATENTS, 5, implementation="sparse", block_size=size, multi_topk=True)
        params = params_of(dictionary)
        value = jax.jit(jax.value_and_grad(dictionary.loss, argnums=(0, 1), has_aux=True))
        codes = dictionary.encode(params, h, sparse=8)
        found.append((value(params, h, status), codes, dictionary.encode(params, h)))
    found = [(f, c.values, w) for f, c, w in found]  # where a value is 0 its index is any
    jax.tree.map(close, *found)


SMOOTH = [name for name in ALL if name != "jumprelu"]


@pytest.mark.parametrize("name", SMOOTH)
def test_gradients_equal_finite_differences(name, double):
    """All but the step's; where a loss detaches something, of what it does not detach."""
    dictionary, h = ALL[name](), activations()
    params = params_of(dictionary)
    fixed = {"W_dec": 0, "b_dec": 0} if name == "gated" else {}
    names = [key for key in params if key not in (*fixed, "threshold")]
    f = lambda part: dictionary.loss({**params, **part}, h)[0]
    start = {key: params[key] for key in names}
    gradient = jax.grad(f)(start)
    for seed in range(3):
        keys = jax.random.split(jax.random.key(seed), len(names))
        move = {
            key: jax.random.normal(k, params[key].shape, jnp.float64)
            for k, key in zip(keys, names, strict=True)
        }
        at = lambda t, move=move: f(jax.tree.map(lambda a, b: a + t * b, start, move))
        slope = sum(jnp.sum(gradient[key] * move[key]) for key in names)
        np.testing.assert_allclose(slope, (at(1e-7) - at(-1e-7)) / 2e-7, rtol=2e-5)


def test_what_gated_detaches(double):
    """The gates' own error moves neither the decoder nor b_dec: SAELens forgets this."""
    dictionary, h = sae.gated(LATENTS, 0.0), activations()
    params = params_of(dictionary)
    by_gates = lambda p: dictionary.loss(p, h)[1].auxiliary
    gradient = jax.grad(by_gates)(params)
    assert not np.any(gradient["W_dec"])
    # b_dec has a part in the gates as well, by what is taken from h, and that alone.
    pi = lambda b: (h - b[None]) @ params["W_enc"] + params["b_gate"][None]
    fixed = lambda b: jnp.mean(
        jnp.sum((h - jax.nn.relu(pi(b)) @ params["W_dec"] - params["b_dec"][None]) ** 2, -1)
    )
    close(gradient["b_dec"], jax.grad(fixed)(params["b_dec"]))


# -------------------------------------------------------------------------------------- jumprelu


def test_pseudo_derivatives_of_the_step(double):
    """The published ones: whole rectangles about theta, on both sides of it."""
    theta, eps = jnp.array([0.5, 1.0]), jnp.float64(0.2)
    pi = jnp.array([[0.41, 0.89], [0.59, 1.09], [0.39, 1.11], [2.0, -1.0]])
    near = np.array([[1, 0], [1, 1], [0, 0], [0, 0.0]])
    weights = jnp.arange(1.0, 9, dtype=jnp.float64).reshape(4, 2)
    of_step = jax.grad(lambda pi, t: jnp.sum(weights * _jumprelu.step(pi, t, eps)), (0, 1))
    by_pi, by_theta = of_step(pi, theta)
    close(by_pi, jnp.zeros((4, 2)))
    close(by_theta, -(weights * near).sum(0) / 0.2)
    of_jump = jax.grad(lambda pi, t: jnp.sum(weights * _jumprelu.jump(pi, t, eps)), (0, 1))
    by_pi, by_theta = of_jump(pi, theta)
    close(by_pi, jnp.where(pi > theta[None], weights, 0))
    close(by_theta, -np.asarray(theta) * (weights * near).sum(0) / 0.2)


def test_the_slope_by_theta_is_that_of_the_expectation(double):
    """Of the loss, over many pre-activations, whose density is known."""
    n, theta, eps = 2_000_000, 0.7, 0.02
    pi = jax.random.normal(jax.random.key(0), (n, 1), jnp.float64)
    f = lambda t: jnp.mean(_jumprelu.step(pi, t, jnp.float64(eps)))
    slope = float(jax.grad(f)(jnp.array([theta]))[0])
    density = np.exp(-(theta**2) / 2) / np.sqrt(2 * np.pi)
    error = np.sqrt(density / (eps * n))  # of a count of n density eps, over n eps
    assert abs(slope + density) < 4 * error + 1e-4


def test_thresholds_stay_in_float32_and_above_zero():
    """In bfloat16 a step of Adam would be lost in rounding: SAELens's issue 719."""
    dictionary = sae.jumprelu(LATENTS, 0.01)
    h = activations(jnp.float32)
    run = sae.training(dictionary, optax.sgd(1.0), compute_dtype=jnp.bfloat16)
    state = run.init(dictionary.init(jax.random.key(1), h))
    start = state.params["threshold"]
    for _ in range(3):
        state, metrics = run.step(state, h)
    moved = np.asarray(state.params["threshold"])
    assert moved.dtype == np.float32
    assert moved.min() >= 0
    assert np.any(moved != np.asarray(start))
    # Not rounded to the eight bits of bfloat16, in which most of the products are made.
    assert np.any(moved != np.asarray(jnp.asarray(moved).astype(jnp.bfloat16), np.float32))
    assert np.isfinite(float(metrics["loss"]))


@pytest.mark.parametrize("l0", [200.0, 0.01])
def test_the_controller_says_when_it_can_do_no_more(l0):
    dictionary = sae.jumprelu(LATENTS, 0.01, target_l0=4)
    memory = dictionary.memory({"b_enc": jnp.zeros(LATENTS)})
    move = jax.jit(lambda memory: _jumprelu._controlled(memory, jnp.float32(l0), 0.01, 4))
    for _ in range(int(_jumprelu.LIMIT / _jumprelu.INTEGRAL / _jumprelu.MOST_IN_SUM) - 5):
        memory = move(memory)
    assert not memory["is_saturated"]
    for _ in range(10):
        memory = move(memory)
    assert memory["is_saturated"]
    assert float(memory["coefficient"]) == pytest.approx(100 if l0 > 4 else 1e-6, rel=1e-3)
    memory = _jumprelu._controlled(memory, jnp.float32(1.0 if l0 > 4 else 20.0), 0.01, 4)
    assert not memory["is_saturated"]


# ------------------------------------------------------------------- thresholds of whole batches


def test_a_batch_without_a_positive_latent_leaves_the_threshold():
    """In dictionary_learning one such row made it infinite, and the dictionary silent for good."""
    dictionary = sae.batch_topk(LATENTS, 3)
    h = activations(jnp.float32)
    run = sae.training(dictionary, optax.sgd(0.0))
    state = run.init(dictionary.init(jax.random.key(1), h))
    state, _ = run.step(state, h)
    first = float(state.params["threshold"])
    assert 0 < first < np.inf
    state = state._replace(params={**state.params, "b_enc": jnp.full(LATENTS, -1e3)})
    state, metrics = run.step(state, h)
    assert float(state.params["threshold"]) == first
    assert float(metrics["l0"]) == 0


def test_the_threshold_is_the_mean_over_batches():
    dictionary = sae.batch_topk(LATENTS, 3)
    h = activations(jnp.float32)
    decay = optax.chain(
        optax.masked(
            optax.add_decayed_weights(0.5), lambda p: {name: name == "threshold" for name in p}
        ),
        optax.sgd(1.0),
    )
    run = sae.training(dictionary, optax.chain(optax.scale(0.0), decay))  # which leaves it alone
    state = run.init(dictionary.init(jax.random.key(1), h))
    least = []
    for k in range(4):
        least.append(dictionary.loss(state.params, h * (k + 1))[1].own["least_kept"])
        state, _ = run.step(state, h * (k + 1))
    np.testing.assert_allclose(state.params["threshold"], np.mean(least), rtol=1e-6)


def test_codes_afterwards_depend_on_no_other_example():
    dictionary = sae.batch_topk(LATENTS, 3)
    h = activations(jnp.float32)
    params = {**dictionary.init(jax.random.key(1), h), "threshold": jnp.float32(0.8)}
    np.testing.assert_allclose(
        dictionary.encode(params, h)[:1], dictionary.encode(params, h[:1]), rtol=1e-6
    )


# ------------------------------------------------------------------ p-annealing, ghosts, wrappers


def test_the_penalty_stays_what_it_was_when_p_falls():
    dictionary = sae.p_annealed(LATENTS, 0.1, stages=4, start=0.5, end=1.0)
    h = activations(jnp.float32)
    run = sae.training(dictionary, optax.sgd(0.0), steps=80)
    state, penalties, powers = run.init(dictionary.init(jax.random.key(1), h)), [], []
    for _ in range(80):
        powers.append(int(state.memory["stage"]))
        state, metrics = run.step(state, h)
        penalties.append(float(metrics["penalty"]))
    assert powers == sorted(powers)
    assert powers[39] == 0
    assert powers[-1] == 3
    assert [powers.index(stage) for stage in (1, 2, 3)] == [50, 60, 70]
    np.testing.assert_allclose(penalties, penalties[0], rtol=1e-5)
    assert float(state.memory["coefficient"]) != pytest.approx(0.1)


def test_ghost_gradients(double):
    """As large as the squared error, of dead latents only."""
    dictionary = sae.relu(LATENTS, 0.1, has_ghost_gradients=True)
    h, status = activations(), sae.Status(dead=jnp.asarray(DEAD))
    params = params_of(dictionary)
    _, report = dictionary.loss(params, h, status)
    close(report.auxiliary, report.squared_error)
    ghosts = lambda p: dictionary.loss(p, h, status)[1].auxiliary
    gradient = jax.grad(ghosts)(params)
    assert not np.any(gradient["W_dec"][~DEAD])
    assert np.any(gradient["W_dec"][DEAD])
    codes = np.exp((h - params["b_dec"][None]) @ params["W_enc"] + params["b_enc"][None]) * DEAD
    guess = codes @ np.asarray(params["W_dec"])
    error = np.asarray(h - dictionary.decode(params, dictionary.encode(params, h)))
    scale = np.linalg.norm(error, axis=-1) / np.linalg.norm(guess, axis=-1) / 2
    loss = lambda W: jnp.mean(jnp.sum((error - scale[:, None] * (codes @ W)) ** 2, -1))
    factor = report.squared_error / loss(params["W_dec"])
    close(gradient["W_dec"][DEAD], factor * jax.grad(loss)(params["W_dec"])[DEAD])
    assert float(dictionary.loss(params, h)[1].auxiliary) == 0


@every
def test_transcoders(name, double):
    """x to y: codes of x without b_dec, and a map that goes by the codes or not."""
    x = activations()
    y = jnp.concatenate([jnp.tanh(x), x[:, :2] ** 2], axis=-1)
    inner = ALL[name]()
    plain, skipping = sae.transcoder(inner), sae.transcoder(inner, has_skip=True)
    params = plain.init(jax.random.key(1), (x, y))
    assert params["W_dec"].shape == (LATENTS, WIDTH + 2)
    loss, report = plain.loss(params, (x, y))
    if name not in ("batch_topk", "matryoshka"):
        guess = plain.decode(params, plain.encode(params, x))
        close(report.squared_error, jnp.mean(jnp.sum((y - guess) ** 2, -1)))
    # What is taken from x is nothing, so that b_dec may have any width.
    shifted = {**params, "b_dec": params["b_dec"] + 1}
    close(plain.encode(shifted, x), plain.encode(params, x))
    first = skipping.init(jax.random.key(1), (x, y))
    close(skipping.loss(first, (x, y))[0], loss)
    first["W_skip"] = jax.random.normal(jax.random.key(3), (WIDTH + 2, WIDTH), jnp.float64)
    other = skipping.loss(first, (x, y))[1]
    close(other.squared_error, plain.loss(params, (x, y - x @ first["W_skip"].T))[1].squared_error)
    with pytest.raises(ValueError, match="needs the inputs too"):
        skipping.decode(first, skipping.encode(first, x))


@every
def test_crosscoders(name, double):
    """Of one value it is the dictionary itself; of several the values side by side."""
    inner = ALL[name]()
    outer = sae.crosscoder(inner)
    h = jnp.stack([activations(), 2 * activations()[::-1]], axis=1)
    params = outer.init(jax.random.key(1), h)
    shapes = {key: leaf.shape for key, leaf in params.items() if key[0] == "W" or key == "b_dec"}
    assert shapes == {
        "W_enc": (2, WIDTH, LATENTS),
        "W_dec": (LATENTS, 2, WIDTH),
        "b_dec": (2, WIDTH),
    }
    flat = {
        **params,
        "W_enc": params["W_enc"].reshape(-1, LATENTS),
        "W_dec": params["W_dec"].reshape(LATENTS, -1),
        "b_dec": params["b_dec"].reshape(-1),
    }
    codes = outer.encode(params, h)
    close(codes, inner.encode(flat, h.reshape(ROWS, -1)))
    close(outer.decode(params, codes).reshape(ROWS, -1), inner.decode(flat, codes))
    _loss, report = outer.loss(params, h)
    expected = inner.loss(flat, h.reshape(ROWS, -1))[1]
    close(report.squared_error, expected.squared_error)
    if name == "relu":
        norms = np.linalg.norm(np.asarray(params["W_dec"]), axis=-1).sum(-1)
        close(report.penalty, 0.1 * (np.asarray(codes) * norms).sum(-1).mean())
    one = h[:, :1]
    params = outer.init(jax.random.key(1), one)
    alone = inner.init(jax.random.key(1), one[:, 0])
    close(outer.loss(params, one)[0], inner.loss(alone, one[:, 0])[0])


# --------------------------------------------------------------------------------- odd shapes


@every
def test_shapes_dtypes_and_sparse_codes(name):
    dictionary = ALL[name]()
    h = activations(jnp.float32)
    params = dictionary.init(jax.random.key(1), h)
    whole = dictionary.encode(params, h)
    deep = dictionary.encode(params, h.reshape(4, 3, 4, WIDTH))
    np.testing.assert_allclose(deep.reshape(ROWS, LATENTS), whole, rtol=1e-5, atol=1e-6)
    assert dictionary.encode(params, h[0]).shape == (LATENTS,)
    assert dictionary.encode(params, h[:0]).shape == (0, LATENTS)
    count = int(jnp.max(jnp.sum(whole > 0, axis=-1)))
    codes = dictionary.encode(params, h, sparse=count)
    assert codes.values.shape == codes.indices.shape == (ROWS, count)
    rows = np.zeros((ROWS, LATENTS), np.float32)
    np.put_along_axis(rows, np.asarray(codes.indices), np.asarray(codes.values), axis=1)
    np.testing.assert_allclose(rows, whole, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(
        dictionary.decode(params, codes), dictionary.decode(params, whole), rtol=1e-4, atol=1e-5
    )
    assert dictionary.decode(params, whole[0]).shape == (WIDTH,)
    half = dictionary.loss(params, h.astype(jnp.bfloat16))[0]
    assert half.dtype == jnp.float32
    np.testing.assert_allclose(half, dictionary.loss(params, h)[0], rtol=0.05)
    with pytest.raises(ValueError, match=r"must have the shape \(\.\.\., 6\)"):
        dictionary.encode(params, h[:, :4])
    with pytest.raises(ValueError, match=r"codes must have the shape \(\.\.\., 40\)"):
        dictionary.decode(params, h)


@every
def test_a_batch_of_sequences_is_told_to_be_rows(name):
    dictionary, h = ALL[name](), activations(jnp.float32)
    params = dictionary.init(jax.random.key(1), h)
    with pytest.raises(ValueError, match=r"rows of shape \(n, d\), but has the shape \(4, 12, 6\)"):
        dictionary.loss(params, h.reshape(4, 12, WIDTH))
    with pytest.raises(ValueError, match=r"rows of shape \(n, d\)"):
        sae.evaluate(dictionary, params, h.reshape(4, 12, WIDTH))


@every
def test_zeros_are_explained_without_nan(name):
    """Rows of zeros, all of one value, and a variance of 0."""
    dictionary = ALL[name]()
    h = activations(jnp.float32)
    params = dictionary.init(jax.random.key(1), h)
    status = sae.Status(dead=jnp.ones(LATENTS, bool))
    for batch in (jnp.zeros((4, WIDTH)), jnp.ones((4, WIDTH)), h[:1], h.at[3].set(0)):
        (loss, report), gradient = jax.value_and_grad(dictionary.loss, has_aux=True)(
            params, batch, status
        )
        assert np.isfinite(loss)
        assert np.isfinite(report.auxiliary)
        assert all(np.all(np.isfinite(leaf)) for leaf in gradient.values())


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: sae.topk(4, 5), ValueError, "k is 5, but there are 4 latents"),
        (lambda: sae.topk(4, 0), ValueError, "k must be at least 1"),
        (lambda: sae.topk(4.0, 1), TypeError, "latents must be a Python integer"),
        (lambda: sae.topk(4, 1, auxiliary_k=9), ValueError, "auxiliary_k is 9"),
        (lambda: sae.topk(4, 1, implementation="fast"), ValueError, "implementation must be"),
        (
            lambda: sae.topk(4, 1, implementation="dense", block_size=2),
            ValueError,
            'for implementation="sparse"',
        ),
        (lambda: sae.batch_topk(4, 8), ValueError, "k is 8"),
        (lambda: sae.matryoshka(8, 2, sizes=(4, 2)), ValueError, "sizes must ascend to latents, 8"),
        (lambda: sae.matryoshka(8, 2, sizes=(4, 8), weights=(1,)), ValueError, "but 1 weights"),
        (lambda: sae.jumprelu(8, 0.1, bandwidth=0), ValueError, "bandwidth must be finite and abo"),
        (lambda: sae.jumprelu(8, 0.1, target_l0=-1), ValueError, "target_l0 must be"),
        (lambda: sae.p_annealed(8, 0.1, last_p=0), ValueError, "last_p must be"),
        (lambda: sae.p_annealed(8, 0.1, start=0.5, end=0.4), ValueError, "end must be"),
        (lambda: sae.transcoder(3), TypeError, "dictionary must be one of jaxplain.sae"),
        (lambda: sae.crosscoder(3), TypeError, "dictionary must be one of jaxplain.sae"),
        (
            lambda: sae.transcoder(sae.topk(4, 1)).init(jax.random.key(0), jnp.ones((3, 2))),
            ValueError,
            "takes pairs",
        ),
        (
            lambda: sae.crosscoder(sae.topk(4, 1)).init(jax.random.key(0), jnp.ones((3, 2))),
            ValueError,
            r"of shape \(\.\.\., values, width\)",
        ),
        (lambda: sae.topk(4, 1).init(0, jnp.ones((3, 2))), TypeError, "key must be a typed key"),
        (
            lambda: sae.topk(4, 1).init(jax.random.key(0), jnp.ones((0, 2))),
            ValueError,
            "at least one",
        ),
        (
            lambda: sae.topk(4, 1).init(jax.random.key(0), jnp.ones((3, 2), int)),
            TypeError,
            "sample must be float",
        ),
    ],
    ids=lambda value: None if callable(value) else str(value)[:20],
)
def test_errors(make, error, message):
    with pytest.raises(error, match=message):
        make()


def test_the_geometric_median():
    points = jax.random.normal(jax.random.key(0), (200, 3)).at[:20].add(50.0)
    median = sae.geometric_median(points)
    distances = lambda m: jnp.sum(jnp.linalg.norm(points - m[None], axis=-1))
    slope = jax.grad(distances)(median)
    assert float(jnp.linalg.norm(slope)) < 1e-2
    assert float(distances(median)) < float(distances(points.mean(0)))
    np.testing.assert_allclose(sae.geometric_median(jnp.ones((1, 3))), jnp.ones(3), rtol=1e-6)
    np.testing.assert_array_equal(sae.geometric_median(jnp.zeros((4, 3))), jnp.zeros(3))


ENCODERS = {
    "topk, dense": lambda: sae.topk(16, 3, implementation="dense"),
    "topk, sparse": lambda: sae.topk(16, 3, implementation="sparse"),
    "topk, in blocks": lambda: sae.topk(16, 3, implementation="sparse", block_size=5),
    "batch_topk": lambda: sae.batch_topk(16, 3),
    "relu": lambda: sae.relu(16, 0.1),
    "gated": lambda: sae.gated(16, 0.1),
    "jumprelu": lambda: sae.jumprelu(16, 0.1),
    "normalised": lambda: sae.normalised(sae.topk(16, 3), has_centre=True),
}


@pytest.mark.parametrize("name", ENCODERS)
@pytest.mark.parametrize("sparse", [None, 3])
def test_codes_have_derivatives(name, sparse, x64):
    """Through what is kept, by the activations and by the parameters: central differences."""
    dictionary = ENCODERS[name]()
    h = jax.random.normal(jax.random.key(0), (9, 6), float)
    params = dictionary.init(jax.random.key(1), h)
    moved = jax.random.normal(jax.random.key(2), params["b_dec"].shape, float)
    params["b_dec"] = params["b_dec"] + 0.1 * moved

    def f(W_enc, h):
        own = {**params, "W_enc": W_enc}
        return jnp.sum(jnp.sin(dictionary.decode(own, dictionary.encode(own, h, sparse))))

    # A step so small that no other latent is chosen.
    keys = jax.random.split(jax.random.key(3))
    at = (params["W_enc"], h)
    to = [jax.random.normal(key, own.shape, float) for key, own in zip(keys, at, strict=True)]
    moved = lambda t: [own + t * direction for own, direction in zip(at, to, strict=True)]
    expected = (f(*moved(1e-6)) - f(*moved(-1e-6))) / 2e-6
    found = jax.jit(jax.grad(f, argnums=(0, 1)))(*at)
    products = [float(jnp.vdot(own, direction)) for own, direction in zip(found, to, strict=True)]
    assert min(map(abs, products)) > 1e-3
    np.testing.assert_allclose(sum(products), expected, rtol=1e-6, atol=1e-7)


def test_rows_that_are_equal_leave_nothing_to_dead_latents():
    """What is left of them is rounding, over whose variance the auxiliary loss would be noise."""
    dictionary = sae.topk(16, 3)
    h = jnp.tile(jax.random.normal(jax.random.key(0), (1, 6)), (32, 1))
    params = dictionary.init(jax.random.key(1), jax.random.normal(jax.random.key(2), (50, 6)))
    dead = jnp.arange(16) < 8
    _, report = dictionary.loss(params, h, sae.Status(dead=dead))
    assert report.auxiliary == 0
    _, report = dictionary.loss(params, h.at[0].multiply(2), sae.Status(dead=dead))
    assert report.auxiliary > 0


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"l0_coefficient": 0.0, "target_l0": 4}, "l0_coefficient, which target_l0 starts from"),
        ({"l0_coefficient": -1.0, "target_l0": 4}, "l0_coefficient, which target_l0 starts from"),
        ({"l0_coefficient": -1.0}, "l0_coefficient"),
        ({"l0_coefficient": 0.1, "target_l0": 17}, "target_l0 must be"),
    ],
    ids=["zero", "negative", "no target", "beyond"],
)
def test_a_controller_that_cannot_work_is_refused(options, words):
    with pytest.raises(ValueError, match=words):
        sae.jumprelu(16, **options)


def test_a_crosscoder_takes_a_single_example():
    dictionary = sae.crosscoder(sae.topk(16, 3))
    h = jax.random.normal(jax.random.key(0), (9, 2, 5))
    params = dictionary.init(jax.random.key(1), h)
    np.testing.assert_allclose(
        dictionary.encode(params, h[0]), dictionary.encode(params, h)[0], rtol=1e-6
    )
