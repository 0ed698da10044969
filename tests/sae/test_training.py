"""The step and the loop: norms, counters, skipped steps, sweeps, going on, and what is refused."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxplain import sae

LATENTS, WIDTH = 32, 8
KEY = jax.random.key(0)


@pytest.fixture(autouse=True)
def usual_promotion():
    """As users have it: optax itself promotes dtypes."""
    with jax.numpy_dtype_promotion("standard"):
        yield


def data(n=256, seed=0):
    features = sae.synthetic.features(jax.random.key(9), 16, WIDTH)
    return sae.synthetic.activations(features, 0.15)(jax.random.key(seed), n).activations


def leaves_equal(a, b):
    jax.tree.map(np.testing.assert_array_equal, a, b)


MAKES = {
    "topk": lambda: sae.topk(LATENTS, 3),
    "batch_topk": lambda: sae.batch_topk(LATENTS, 3),
    "matryoshka": lambda: sae.matryoshka(LATENTS, 3, sizes=(8, 32)),
    "relu": lambda: sae.relu(LATENTS, 0.05),
    "relu, unit norm": lambda: sae.relu(LATENTS, 0.05, has_unit_norm=True),
    "gated": lambda: sae.gated(LATENTS, 0.05),
    "jumprelu": lambda: sae.jumprelu(LATENTS, 0.01, target_l0=3),
    "p_annealed": lambda: sae.p_annealed(LATENTS, 0.05),
}
every = pytest.mark.parametrize("name", MAKES)


@every
def test_the_loss_falls_in_one_trace_and_norms_stay(name):
    dictionary, h = MAKES[name](), data()
    run = sae.training(dictionary, optax.adam(3e-3), steps=200, sparsity_warm_up=20)
    traces = []

    def traced(state, batch):
        traces.append(1)
        return run.step(state, batch)

    step = jax.jit(traced, donate_argnums=0)
    state, errors = run.init(dictionary.init(KEY, h)), []
    for _ in range(200):
        state, metrics = step(state, h)
        errors.append(float(metrics["fvu"]))
    assert len(traces) == 1
    assert errors[-1] < 0.5 * errors[0]
    assert int(state.step) == 200
    assert int(state.skipped) == 0
    norms = np.linalg.norm(state.params["W_dec"], axis=-1)
    if name == "relu":
        assert np.ptp(norms) > 0.01
    else:
        np.testing.assert_allclose(norms, 1, rtol=1e-5)
    assert all(np.isfinite(float(value)) for value in metrics.values())


def test_the_gradient_has_nothing_that_would_change_a_norm():
    dictionary, h = sae.topk(LATENTS, 3), data()
    params = dictionary.init(KEY, h)
    gradient = dictionary.before(params, jax.grad(lambda p: dictionary.loss(p, h)[0])(params))
    along = jnp.sum(gradient["W_dec"] * params["W_dec"], axis=-1)
    np.testing.assert_allclose(along, 0, atol=1e-5)


def test_the_parameters_of_the_caller_are_left_alone():
    dictionary, h = sae.topk(LATENTS, 3), data()
    params = dictionary.init(KEY, h)
    run = sae.training(dictionary, optax.adam(1e-2), average=0.9)
    state, _ = jax.jit(run.step, donate_argnums=0)(run.init(params), h)
    assert np.isfinite(np.asarray(params["W_enc"])).all()  # not deleted
    for name, leaf in state.params.items():  # the mean of one
        np.testing.assert_allclose(state.average[name], leaf, rtol=1e-5, atol=1e-7)
    first = state.params["W_enc"].copy()
    state, _ = run.step(state, h)
    mean = (first + state.params["W_enc"]) / 2
    np.testing.assert_allclose(state.average["W_enc"], mean, rtol=1e-5, atol=1e-7)
    for _ in range(20):
        state, _ = run.step(state, h)
    before = state.average["W_enc"]
    state, _ = run.step(state, h)
    moved = before + 0.1 * (state.params["W_enc"] - before)
    np.testing.assert_allclose(state.average["W_enc"], moved, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("bad", [jnp.nan, jnp.inf])
def test_a_step_that_is_not_finite_changes_nothing_and_is_counted(bad):
    dictionary, h = sae.topk(LATENTS, 3), data()
    run = sae.training(dictionary, optax.adam(1e-2))
    state, _ = run.step(run.init(dictionary.init(KEY, h)), h)
    after, metrics = run.step(state, h.at[3, 2].set(bad))
    assert int(metrics["skipped"]) == int(after.skipped) == 1
    assert int(after.step) == 2
    leaves_equal(after._replace(step=0, skipped=0), state._replace(step=0, skipped=0))
    again, metrics = run.step(after, h)
    assert int(metrics["skipped"]) == 1
    assert np.isfinite(float(metrics["loss"]))
    assert np.any(np.asarray(again.params["W_enc"]) != np.asarray(state.params["W_enc"]))


@pytest.mark.parametrize("implementation", ["sparse", "dense"])
def test_what_is_not_finite_is_seen_on_every_path(implementation):
    """Also where a NaN would not be among the entries that are kept."""
    x = data()
    for plain in (
        sae.batch_topk(LATENTS, 3, implementation=implementation),
        sae.matryoshka(LATENTS, 3, sizes=(8, 32), implementation=implementation),
        sae.topk(LATENTS, 3, implementation=implementation),
    ):
        dictionary = sae.transcoder(plain)
        run = sae.training(dictionary, optax.sgd(0.1))
        state = run.init(dictionary.init(KEY, (x, x)))
        after, metrics = run.step(state, (x.at[3, 2].set(jnp.nan), x))
        assert int(metrics["skipped"]) == 1
        leaves_equal(after.params, state.params)


def test_the_threshold_is_the_mean_of_batches_that_counted():
    """One that was skipped before the first does not halve it."""
    dictionary, h = sae.batch_topk(LATENTS, 3), data()
    run = sae.training(dictionary, optax.sgd(0.0))
    state = run.init(dictionary.init(KEY, h))
    least = dictionary.loss(state.params, h)[1].own["least_kept"]
    for batch in (h * jnp.nan, h, h):
        state, _ = run.step(state, batch)
    np.testing.assert_allclose(state.params["threshold"], least, rtol=1e-6)


def test_averages_of_parameters_are_a_dictionary_too():
    """Of the threshold there is one; directions have norm 1; the start does not linger."""
    result = sae.train(
        KEY,
        sae.batch_topk(LATENTS, 3),
        data(),
        optimizer=optax.adam(1e-2),
        steps=60,
        batch_size=64,
        average=0.999,
    )
    np.testing.assert_allclose(np.linalg.norm(result.params["W_dec"], axis=-1), 1, rtol=1e-5)
    assert float(result.params["threshold"]) == float(result.state.params["threshold"]) > 0
    r = sae.evaluate(sae.batch_topk(LATENTS, 3), result.params, data(2000, seed=5))
    assert abs(r.l0.value - 3) < 1


def test_arrays_of_the_caller_are_not_used_up():
    h, coefficient = data(), jnp.float32(0.01)
    rate = jnp.float32(1e-3)
    for _ in range(2):
        result = sae.train(
            KEY,
            sae.jumprelu(LATENTS, coefficient, target_l0=3),
            h,
            optimizer=optax.inject_hyperparams(optax.adam)(learning_rate=rate),
            steps=2,
            batch_size=64,
        )
    more = sae.train(
        KEY,
        sae.jumprelu(LATENTS, coefficient, target_l0=3),
        h,
        optimizer=optax.inject_hyperparams(optax.adam)(learning_rate=rate),
        steps=4,
        batch_size=64,
        state=result.state,
    )
    assert float(coefficient) == pytest.approx(0.01)
    assert np.isfinite(np.asarray(result.params["W_enc"])).all()
    assert int(more.state.step) == 4


def test_dead_latents_are_counted_in_examples_and_get_the_auxiliary_loss():
    dictionary, h = sae.topk(LATENTS, 1), data(64)
    run = sae.training(dictionary, optax.sgd(0.0), dead_after=128)
    params = dictionary.init(KEY, h)
    params["b_enc"] = params["b_enc"].at[5].set(-100.0).at[6].set(100.0)
    state = run.init(params)
    for count in (64, 128):
        state, metrics = run.step(state, h)
        assert int(state.silent[5]) == count
        assert int(state.silent[6]) == 0
        assert float(metrics["auxiliary"]) == 0
        assert float(metrics["dead"]) == 0
    state, metrics = run.step(state, h)
    assert float(metrics["auxiliary"]) > 0
    assert float(metrics["dead"]) == pytest.approx((np.asarray(state.silent) >= 128).mean())
    full = state._replace(silent=jnp.full(LATENTS, 2**30, jnp.int32))
    assert int(run.step(full, h)[0].silent.max()) == 2**30  # far from overflow


def test_sparsity_warms_up():
    dictionary, h = sae.relu(LATENTS, 0.5, has_unit_norm=True), data()
    run = sae.training(dictionary, optax.sgd(0.0), sparsity_warm_up=4)
    state, penalties = run.init(dictionary.init(KEY, h)), []
    for _ in range(6):
        state, metrics = run.step(state, h)
        penalties.append(float(metrics["penalty"]))
    whole = penalties[-1]
    np.testing.assert_allclose(penalties, whole * np.array([0.25, 0.5, 0.75, 1, 1, 1]), rtol=1e-5)


def test_products_in_bfloat16():
    dictionary, h = sae.topk(LATENTS, 3), data()
    params = dictionary.init(KEY, h)
    metrics = [
        sae.training(dictionary, optax.adam(1e-3), compute_dtype=dtype).step(
            sae.training(dictionary, optax.adam(1e-3)).init(params), h
        )[1]
        for dtype in (None, jnp.bfloat16)
    ]
    np.testing.assert_allclose(metrics[1]["loss"], metrics[0]["loss"], rtol=0.05)
    assert float(metrics[1]["loss"]) != float(metrics[0]["loss"])
    assert metrics[1]["loss"].dtype == jnp.float32


@every
def test_a_scan_and_a_sweep_are_the_steps_one_by_one(name):
    """Yours to scan, and to map over seeds: what each run gets is what it gets alone."""
    dictionary = MAKES[name]()
    run = sae.training(dictionary, optax.adam(1e-3), steps=5)
    batches = jnp.stack([data(seed=k) for k in range(5)])
    start = lambda key: run.init(dictionary.init(key, batches[0]))
    keys = jax.random.split(KEY, 2)
    sweep = jax.jit(jax.vmap(lambda key: jax.lax.scan(run.step, start(key), batches)))
    states, metrics = sweep(keys)
    state, step = start(keys[1]), jax.jit(run.step)
    for batch in batches:
        state, last = step(state, batch)
    for name, leaf in state.params.items():
        np.testing.assert_allclose(states.params[name][1], leaf, rtol=2e-4, atol=2e-5)
    np.testing.assert_allclose(metrics["loss"][1, -1], last["loss"], rtol=1e-4)


def test_a_sweep_over_coefficients_compiles_once():
    h, traces = data(), []

    @jax.jit
    def run(coefficient):
        traces.append(1)
        dictionary = sae.relu(LATENTS, coefficient)
        training = sae.training(dictionary, optax.adam(3e-3))
        state = training.init(dictionary.init(KEY, h))
        body = lambda state, _: training.step(state, h)
        return jax.lax.scan(body, state, None, length=100)[1]["l0"][-1]

    few = [float(run(jnp.float32(c))) for c in (0.01, 0.1, 1.0)]
    assert few[0] > few[1] > few[2]
    assert len(traces) == 1
    together = jax.lax.map(run, jnp.array([0.01, 0.1, 1.0]))
    np.testing.assert_allclose(together, few, rtol=1e-3)


@pytest.mark.parametrize("mapping", ["map", "vmap"])
def test_a_sweep_is_each_member_by_itself(mapping):
    """Over coefficients and rates, in one trace, from the same batches."""
    h, traces = data(), []

    def make(settings):
        traces.append(1)
        return sae.topk(LATENTS, 3, auxiliary_coefficient=settings["aux"]), optax.adam(
            settings["rate"]
        )

    settings = {"aux": jnp.array([0.0, 1.0, 0.1]), "rate": jnp.array([1e-3, 1e-2, 1e-3])}
    options = {"steps": 12, "batch_size": 32, "record_every": 5, "dead_after": 64}
    found = sae.sweep(KEY, make, settings, h, mapping=mapping, **options)
    assert len(traces) == 2  # the start and the step
    assert found.history["loss"].shape == (3, 3)
    assert found.history["step"].tolist() == [5, 10, 12]
    for_start, for_data = jax.random.split(KEY)
    for m in range(3):
        dictionary, optimizer = make({name: value[m] for name, value in settings.items()})
        run = sae.training(dictionary, optimizer, steps=12, dead_after=64)
        state = run.init(dictionary.init(jax.random.fold_in(for_start, m), h))
        step = jax.jit(run.step)
        for t in range(12):
            number, place = divmod(t, 8)
            order = jax.random.permutation(jax.random.fold_in(for_data, number), 256)
            state, metrics = step(state, h[order[place * 32 : (place + 1) * 32]])
        for name, leaf in found.member(m).items():
            np.testing.assert_allclose(leaf, state.params[name], rtol=2e-4, atol=2e-5)
        np.testing.assert_allclose(found.table()[m]["loss"], metrics["loss"], rtol=1e-4)
        assert found.table()[m]["rate"] == pytest.approx(float(settings["rate"][m]))


def test_what_a_sweep_refuses():
    make = lambda s: (sae.relu(LATENTS, s["l1"]), optax.adam(1e-3))
    run = lambda settings, **more: sae.sweep(KEY, make, settings, data(), steps=2, **more)
    for call, error, message in (
        (lambda: run({}, batch_size=4), TypeError, "settings must be a dict of arrays"),
        (lambda: run({"l1": 0.1}, batch_size=4), ValueError, "arrays of one length"),
        (
            lambda: run({"l1": jnp.ones(2), "rate": jnp.ones(3)}, batch_size=4),
            ValueError,
            "arrays of one length",
        ),
        (lambda: run({"l1": jnp.ones(2)}), ValueError, "batch_size must be given"),
        (
            lambda: run({"l1": jnp.ones(2), "l0": jnp.ones(2)}, batch_size=4),
            ValueError,
            "names that metrics have: l0",
        ),
        (lambda: run({"l1": jnp.ones(2)}, batch_size=4, mapping="p"), ValueError, "mapping must"),
    ):
        with pytest.raises(error, match=message):
            call()


# --------------------------------------------------------------------------------- resampling


def test_resampling():
    """Dead latents alone, towards the example that is explained worst; their moments are zeros."""
    dictionary, h = sae.relu(LATENTS, 0.01, has_unit_norm=True), data()
    run = sae.training(dictionary, optax.adam(1e-2), dead_after=100)
    state, _ = run.step(run.init(dictionary.init(KEY, h)), h)
    worst = h.at[7].set(jnp.arange(WIDTH) * 30.0)
    dead = np.arange(LATENTS) < 4
    state = state._replace(silent=jnp.where(dead, 500, 0).astype(jnp.int32))
    after = jax.jit(run.resample)(jax.random.key(5), state, worst)
    direction = worst[7] / jnp.linalg.norm(worst[7])
    np.testing.assert_allclose(after.params["W_dec"][:4], np.tile(direction, (4, 1)), rtol=1e-5)
    mean = np.linalg.norm(np.asarray(state.params["W_enc"])[:, ~dead], axis=0).mean()
    np.testing.assert_allclose(
        after.params["W_enc"][:, :4].T, np.tile(0.2 * mean * direction, (4, 1)), rtol=1e-5
    )
    assert not np.any(after.params["b_enc"][:4])
    assert not np.any(after.silent[:4])
    for name, axis in (("W_dec", 0), ("W_enc", 1), ("b_enc", 0)):
        living = lambda a, axis=axis: np.compress(~dead, np.asarray(a), axis)
        np.testing.assert_array_equal(living(after.params[name]), living(state.params[name]))
        for moment in ("mu", "nu"):
            old = getattr(state.optimizer[0], moment)[name]
            new = getattr(after.optimizer[0], moment)[name]
            np.testing.assert_array_equal(living(new), living(old))
            assert not np.any(np.compress(dead, np.asarray(new), axis))
    np.testing.assert_array_equal(after.params["b_dec"], state.params["b_dec"])
    with pytest.raises(ValueError, match="for dictionaries of one value"):
        run.resample(KEY, state, (h, h))
    # Rows that are not finite are never drawn; where all are, nothing starts anew.
    bad = h.at[1:].set(jnp.nan)
    after = run.resample(jax.random.key(5), state, bad)
    direction = h[0] / jnp.linalg.norm(h[0])
    np.testing.assert_allclose(after.params["W_dec"][:4], np.tile(direction, (4, 1)), rtol=1e-5)
    leaves_equal(
        run.resample(KEY, state, h * jnp.nan).params["W_dec"][4:], after.params["W_dec"][4:]
    )
    assert np.isfinite(np.asarray(run.resample(KEY, state, h * jnp.nan).params["W_dec"])).all()


NAMES = ("W_enc", "b_enc", "W_dec", "b_dec")


@pytest.mark.parametrize(
    "optimizer",
    [
        optax.contrib.schedule_free_adamw(1e-3),
        optax.adafactor(1e-3),
        optax.masked(optax.adam(1e-3), {name: name != "b_dec" for name in NAMES}),
    ],
    ids=["schedule_free", "adafactor", "masked"],
)
def test_resampling_with_a_state_of_no_moments_is_refused(optimizer):
    with pytest.raises(ValueError, match=r"state of the optimiser|state of this optimiser|moments"):
        sae.train(
            KEY,
            sae.relu(LATENTS, 0.1),
            data(),
            optimizer=optimizer,
            steps=10,
            batch_size=64,
            resample_every=2,
            dead_after=64,
        )


# ----------------------------------------------------------------------------------- the loop


def test_going_on_is_the_run_that_was_not_interrupted():
    """From arrays on the host, on the device and from a function, to the last bit."""
    features = sae.synthetic.features(jax.random.key(9), 16, WIDTH)
    draw = sae.synthetic.activations(features, 0.15)
    sources = {
        "device": data(100),
        "host": np.asarray(data(100)),
        "function": lambda key: draw(key, 32).activations,
    }
    results = {}
    for name, source in sources.items():

        def go(steps, state=None, source=source, size=None if name == "function" else 32):
            return sae.train(
                KEY,
                sae.batch_topk(LATENTS, 3),
                source,
                optimizer=optax.adam(1e-3),
                steps=steps,
                batch_size=size,
                state=state,
                dead_after=40,
                resample_every=3,
            )

        whole, second = go(9), go(9, go(4).state)
        leaves_equal(second.params, whole.params)
        assert int(second.state.step) == 9
        results[name] = whole
    np.testing.assert_allclose(
        results["device"].params["W_enc"], results["host"].params["W_enc"], rtol=1e-3, atol=1e-4
    )


def test_each_pass_has_each_example_once():
    seen = []
    h = np.arange(12.0, dtype=np.float32)[:, None] + np.zeros((1, WIDTH), np.float32)
    dictionary = sae.relu(LATENTS, 0.1)

    def watched(params, batch, *more):
        jax.debug.callback(lambda b: seen.append(np.sort(b[:, 0])), batch)
        return dictionary.loss(params, batch, *more)

    sae.train(
        KEY,
        dictionary._replace(loss=watched),
        h,
        optimizer=optax.sgd(0.0),
        steps=6,
        batch_size=4,
    )
    jax.effects_barrier()
    for k in (0, 3):
        assert sorted(np.concatenate(seen[k : k + 3])) == list(range(12))
    assert any(np.any(a != b) for a, b in zip(seen[:3], seen[3:], strict=True))


def test_what_is_not_finite_is_no_place_to_start_from():
    """A few bad rows in the sample, and batches of bad rows before any good one."""
    h = np.array(data())
    h[7:10] = np.nan
    start = sae.topk(LATENTS, 3).init(KEY, jnp.asarray(np.delete(h, [7, 8, 9], axis=0)))
    batches = [h[7:10], h[7:10], *[h[k : k + 50] for k in range(10, 210, 50)]]
    result = sae.train(
        KEY, sae.topk(LATENTS, 3), h, optimizer=optax.adam(1e-2), steps=5, batch_size=50
    )
    assert np.isfinite(np.asarray(result.params["b_dec"])).all()
    assert 1 <= result.history["skipped"][-1] <= 3
    state = sae.training(sae.topk(LATENTS, 3), optax.adam(1e-2)).init(start)
    result = sae.train(
        KEY,
        sae.topk(LATENTS, 3),
        batches,
        optimizer=optax.adam(1e-2),
        steps=6,
        state=state,
        record_every=1,
    )
    assert result.history["skipped"].tolist() == [1, 2, 2, 2, 2, 2]
    assert result.history["fvu"][-1] < result.history["fvu"][2]


def test_history_average_and_pairs():
    x = data()
    records = []
    result = sae.train(
        KEY,
        sae.transcoder(sae.topk(LATENTS, 3)),
        (x, jnp.tanh(x)),
        optimizer=optax.adam(1e-2),
        steps=25,
        batch_size=64,
        average=0.5,
        record_every=10,
        on_record=records.append,
    )
    assert result.history["step"].tolist() == [10, 20, 25]
    assert [record["step"] for record in records] == [10, 20, 25]
    assert result.history["fvu"][-1] < result.history["fvu"][0]
    leaves_equal(result.params["W_enc"], result.state.average["W_enc"])
    np.testing.assert_allclose(np.linalg.norm(result.params["W_dec"], axis=-1), 1, rtol=1e-5)


def test_iterables_and_what_is_refused():
    dictionary, h = sae.topk(LATENTS, 3), data()
    train = lambda source, **more: sae.train(
        KEY, dictionary, source, **{"optimizer": optax.adam(1e-3), "steps": 3, **more}
    )
    assert int(train(iter([h, h, h])).state.step) == 3
    fresh = sae.training(dictionary, optax.adam(1e-3)).init(dictionary.init(KEY, h))
    for call, error, message in (
        (lambda: train(iter([h])), ValueError, "ended after 1 batches"),
        (lambda: train(h), ValueError, "batch_size must be given"),
        (lambda: train(h, batch_size=1000), ValueError, "but there are 256 activations"),
        (lambda: train((h, h[:3]), batch_size=2), ValueError, "different lengths"),
        (lambda: train(3), TypeError, "source must be activations"),
        (lambda: train((iter([h]), iter([h]))), TypeError, "source must be activations"),
        (
            lambda: train(h, batch_size=4, average=0.9, state=train(h, batch_size=4).state),
            ValueError,
            "state is of a run without an average",
        ),
        (
            lambda: sae.training(sae.p_annealed(LATENTS, 0.1), optax.sgd(1.0)),
            ValueError,
            "needs steps=",
        ),
        (
            lambda: sae.train(
                KEY,
                sae.crosscoder(dictionary),
                jnp.stack([h, h], 1),
                steps=2,
                batch_size=4,
                optimizer=optax.sgd(1.0),
                resample_every=1,
            ),
            ValueError,
            "resample_every is for dictionaries of one value",
        ),
        (lambda: train(h * jnp.nan, batch_size=64), ValueError, "none of the activations to start"),
        (lambda: train(iter([h * jnp.nan] * 3), state=fresh), ValueError, "none of 3 steps"),
        (lambda: train(h, batch_size=4, steps=0), ValueError, "steps must be at least 1"),
        (lambda: train(h, batch_size=4, optimizer=3), TypeError, "optimizer must be optax's"),
        (lambda: sae.training(3, optax.adam(1e-3)), TypeError, "dictionary must be one of"),
        (lambda: sae.training(dictionary, optax.sgd(1.0), average=1.5), ValueError, "average must"),
        (lambda: sae.training(dictionary, optax.sgd(1.0), dead_after=0), ValueError, "dead_after"),
    ):
        with pytest.raises(error, match=message):
            call()


def test_the_average_counts_steps_that_were_taken():
    """After steps that changed nothing the first one that does is the average."""
    h = data()
    run = sae.training(sae.topk(LATENTS, 3), optax.adam(1e-2), average=0.999)
    state = run.init(sae.topk(LATENTS, 3).init(KEY, h))
    step = jax.jit(run.step)
    for batch in (h * jnp.nan, h * jnp.nan, h):
        state, _ = step(state, batch)
    for name, leaf in state.params.items():
        np.testing.assert_allclose(state.average[name], leaf, rtol=1e-5, atol=1e-6)


def test_a_sweep_starts_from_finite_rows_and_says_where_nothing_was():
    h = data()
    make = lambda s: (sae.relu(LATENTS, s["l1"]), optax.adam(1e-3))
    run = lambda source: sae.sweep(
        KEY, make, {"l1": jnp.array([0.1, 1.0])}, source, steps=8, batch_size=32
    )
    assert 0 < run(h.at[3, 0].set(jnp.nan)).history["skipped"][0, -1] < 8
    with pytest.raises(ValueError, match="no member had a finite loss"):
        run(h.at[:, 0].set(jnp.inf).at[0].set(0.0))


def test_compute_dtype_is_a_dtype():
    with pytest.raises(TypeError, match="compute_dtype must be a dtype such as"):
        sae.training(sae.topk(LATENTS, 3), optax.adam(1e-3), compute_dtype="foo")
