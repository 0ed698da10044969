"""A run over a dataset against `vmap` in memory; kills, other batches, other devices."""

import errno
import itertools
import re
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxplain
from jaxplain import run, store

N = 50
X = np.random.default_rng(0).normal(size=(N, 6)).astype(np.float32)
LABELS = (np.arange(N) % 3).astype(np.int32)
W = jnp.asarray(np.random.default_rng(1).normal(size=(6, 3)), jnp.float32)


def explain(x, label, w):
    f = lambda x, label, w: jnp.tanh(x @ w)[label]
    return jaxplain.integrated_gradients(f, steps=4, chunk_size=2)(x, jnp.zeros_like(x), label, w)


def read(path, name="values"):
    return np.asarray(store.open(path).arrays[name])


def mapped(path, source=(X, LABELS), function=explain, shared=(W,), batch_size=16, **options):
    return run.map(
        function, source, path, shared=shared, batch_size=batch_size, progress=False, **options
    )


def test_the_store_holds_what_vmap_gives(tmp_path):
    summary = mapped(tmp_path / "s")
    assert (summary.examples, summary.computed, summary.not_finite) == (N, N, 0)
    expected = jax.vmap(explain, (0, 0, None))(X, LABELS, W)
    for name, leaf in expected._asdict().items():
        np.testing.assert_allclose(read(tmp_path / "s", name), leaf, rtol=1e-5, atol=1e-6)
    manifest = store.open(tmp_path / "s").manifest
    assert manifest["finished"] is True
    assert (manifest["examples"], manifest["computed_examples"]) == (N, N)
    assert manifest["devices"] == 8


@pytest.mark.parametrize("kind", ["memory-mapped", "zarr", "iterator", "jax"])
def test_sources(tmp_path, kind):
    """However the examples come, and of whatever batches, the same results."""
    mapped(tmp_path / "expected")
    if kind == "memory-mapped":
        np.save(tmp_path / "x.npy", X)
        source = (np.load(tmp_path / "x.npy", mmap_mode="r"), LABELS)
    elif kind == "zarr":
        types = jax.ShapeDtypeStruct((6,), jnp.float32)
        opened = store.create(tmp_path / "x", {"batch_size": N}, types, examples=N)
        for future in store.write(opened, 0, X):
            future.result()
        source = (store.open(tmp_path / "x").arrays["values"], LABELS)
    elif kind == "iterator":
        cuts = [0, 0, 3, 20, 50, 50]
        source = ((X[a:b], LABELS[a:b]) for a, b in itertools.pairwise(cuts))
    else:
        source = (jnp.asarray(X), jnp.asarray(LABELS))
    summary = mapped(tmp_path / "s", source)
    assert summary.examples == N
    assert store.open(tmp_path / "s").manifest["examples"] == N
    np.testing.assert_array_equal(read(tmp_path / "s"), read(tmp_path / "expected"))


def test_a_dict_is_one_argument_and_results_may_be_trees(tmp_path):
    f = lambda x: {"sum": x["a"].sum() + x["b"], "both": (x["a"] * 2, x["b"] > 0)}
    source = {"a": X, "b": X[:, 0]}
    run.map(f, source, tmp_path / "s", progress=False)
    np.testing.assert_allclose(read(tmp_path / "s", "sum"), X.sum(1) + X[:, 0], rtol=1e-5)
    np.testing.assert_array_equal(read(tmp_path / "s", "both/0"), 2 * X)
    np.testing.assert_array_equal(read(tmp_path / "s", "both/1"), X[:, 0] > 0)


class Killed(Exception):
    pass


@pytest.mark.parametrize("kind", ["arrays", "iterator"])
def test_a_run_that_was_cut_short_goes_on(tmp_path, kind):
    """The same bits as without the cut, and no finished batch is computed again."""
    mapped(tmp_path / "whole")

    def batches(until):
        for number, start in enumerate(range(0, N, 10)):
            if number == until:
                raise Killed
            yield X[start : start + 10], LABELS[start : start + 10]

    class Failing:
        """An array that cannot be read beyond a row."""

        shape, dtype = X.shape, X.dtype

        def __init__(self, stop):
            self.stop = stop

        def __getitem__(self, rows):
            if isinstance(rows, slice) and rows.start >= self.stop and rows.stop - rows.start > 1:
                raise Killed
            return X[rows]

    source = lambda n: batches(n) if kind == "iterator" else (Failing(16 * n), LABELS)
    with pytest.raises(Killed):
        mapped(tmp_path / "s", source(3))
    done = store.finished_batches(store.open(tmp_path / "s"))
    assert store.open(tmp_path / "s").manifest["finished"] is False
    summary = mapped(tmp_path / "s", source(100), resume=True)
    # What was on its way to the disk when the run was cut may have arrived since.
    left = [N - 16 * number for number in range(len(done), 3)]
    assert summary.computed in left
    for name in store.open(tmp_path / "whole").arrays:
        np.testing.assert_array_equal(read(tmp_path / "s", name), read(tmp_path / "whole", name))
    assert mapped(tmp_path / "s", source(100), resume=True).computed == 0
    # What is lost later is computed again, and only that.
    shutil.rmtree(tmp_path / "s" / "values" / "c" / "3")
    assert mapped(tmp_path / "s", source(100), resume=True).computed == 2


def test_another_run_is_not_gone_on_with(tmp_path):
    path = tmp_path / "s"
    mapped(path, about={"method": "ig"})
    changed = lambda **new: mapped(path, resume=True, **{"about": {"method": "ig"}, **new})
    other = X.copy()
    other[0, 0] += 1
    half = jaxplain.saliency(lambda x, label, w: jnp.tanh(x @ w)[label] / 2)
    for new, line in (
        ({"shared": (2 * W,)}, "fingerprints.shared"),
        ({"source": (other, LABELS)}, "fingerprints.source"),
        ({"source": (X[:40], LABELS[:40])}, "examples: 50 in the store, 40 now"),
        ({"batch_size": 24}, "batch_size: 16 in the store, 24 now"),
        ({"about": {"method": "saliency"}}, "about.method: ig in the store, saliency now"),
        ({"function": half}, "program: "),
        ({"key": jax.random.key(0), "function": lambda key, *a: explain(*a)}, "key: nothing"),
    ):
        with pytest.raises(ValueError, match="store of another run") as refused:
            changed(**new)
        assert line in str(refused.value)
    with pytest.raises(FileExistsError, match=r"exists. Go on with it by resume=True"):
        mapped(path)
    assert changed().computed == 0


@pytest.mark.parametrize("length", [40, 49])
def test_an_iterator_that_has_become_another_is_noticed(tmp_path, length):
    """Its first batch is the same, its length is not: that is known at the end only."""
    source = lambda n: (
        (X[k : min(k + 10, n)], LABELS[k : min(k + 10, n)]) for k in range(0, n, 10)
    )
    mapped(tmp_path / "s", source(N))
    with pytest.raises(ValueError, match=f"50 examples of an earlier run.*has {length}: it is ano"):
        mapped(tmp_path / "s", source(length), resume=True)


def test_random_kernels_do_not_depend_on_batches_or_devices(tmp_path):
    """The key of an example is folded from its global index."""
    noisy = lambda key, x: x + jax.random.normal(key, x.shape)
    key = jax.random.key(7)
    one = jax.make_mesh(
        (1,), ("d",), (jax.sharding.AxisType.Auto,), devices=jax.local_devices()[:1]
    )
    for name, options in {
        "a": {"batch_size": 16},
        "b": {"batch_size": 48},
        "c": {"batch_size": 7, "mesh": one},
    }.items():
        run.map(noisy, X, tmp_path / name, key=key, progress=False, **options)
    expected = jax.vmap(lambda i, x: noisy(jax.random.fold_in(key, i), x))(jnp.arange(N), X)
    for name in "abc":
        np.testing.assert_allclose(read(tmp_path / name), expected, atol=1e-6)


def test_devices_agree_and_nothing_is_gathered(tmp_path, monkeypatch):
    texts = []
    lower = jax.stages.Lowered.compile

    def compile_and_keep(self, *args, **keywords):
        compiled = lower(self, *args, **keywords)
        texts.append(compiled.as_text())
        return compiled

    monkeypatch.setattr(jax.stages.Lowered, "compile", compile_and_keep)
    mapped(tmp_path / "eight")
    assert texts
    assert not re.search("all-(gather|to-all|reduce)|collective-permute", texts[-1])
    auto = (jax.sharding.AxisType.Auto,)
    one = jax.make_mesh((1,), ("d",), auto, devices=jax.local_devices()[:1])
    grid = jax.make_mesh((4, 2), ("d", "m"), auto * 2)
    mapped(tmp_path / "one", mesh=one)
    split = jax.device_put(W, jax.NamedSharding(grid, jax.P("m", None)))
    mapped(tmp_path / "grid", mesh=grid, shared=(split,))
    for name in ("one", "grid"):
        np.testing.assert_allclose(read(tmp_path / name), read(tmp_path / "eight"), atol=1e-6)


def test_results_that_are_not_finite_are_counted(tmp_path):
    broken = X.copy()
    broken[[3, 20]] = np.nan
    assert mapped(tmp_path / "s", (broken, LABELS)).not_finite == 2
    np.testing.assert_array_equal(np.flatnonzero(~read(tmp_path / "s", "finite")), [3, 20])


def test_bad_calls(tmp_path):
    path = tmp_path / "s"
    for arguments, error, message in (
        ({"source": (X, LABELS[:9])}, ValueError, r"as many examples each, but have.*50.*9"),
        ({"source": (X, np.float32(1))}, ValueError, "is a scalar. What all examples share"),
        ({"source": X[:0]}, ValueError, "source has no examples"),
        ({"source": iter(())}, ValueError, "source has no examples: the iterator ended at once"),
        ({"source": iter([X[:0]])}, ValueError, "source has no examples"),
        ({"source": 3}, TypeError, "source must be an array.*but is a int"),
        ({"source": iter("ab")}, TypeError, "an iterator must give batches.*gave a str"),
        ({"source": iter([X[:3], X[3:6, :2]]), "shared": (), "function": jnp.sum}, ValueError,
         "must be of one kind"),
        ({"batch_size": 12}, ValueError, r"multiple of the 8 devices.*is 12\. Near it: 16"),
        ({"batch_size": 0}, ValueError, "batch_size must be at least 1"),
        ({"shared": W}, TypeError, "shared must be a tuple"),
        ({"shared": ("w",)}, TypeError, r"shared must be an array.*str \('w'\)"),
        ({"key": 0}, TypeError, "key must be a typed key"),
        ({"function": 3}, TypeError, "explain must be a function"),
    ):  # fmt: skip
        with pytest.raises(error, match=message):
            mapped(path, **arguments)
        assert not path.exists() or not (path / "values").exists() or "one kind" in message
        shutil.rmtree(path, ignore_errors=True)


# ------------------------------------------------------------------------------------ in rounds


def uneven(x, label, w):
    """Examples from nearly linear to full of waves: some take the first two rules, some all."""
    return jnp.sum(jnp.sin(x * (1 + 20 * label.astype(jnp.float32)))) + jnp.sum(jnp.tanh(x @ w))


def rounds(**options):
    steps = jaxplain.paths.rounds(uneven, tolerance=1e-4, chunk_size=4, **options)
    return steps.with_arguments(lambda x, label, w: (x, jnp.zeros_like(x), label, w))


@pytest.mark.parametrize("batch_size", [8, 16, 24])
@pytest.mark.parametrize("devices", [1, 8])
def test_rounds_give_what_one_program_gives(tmp_path, batch_size, devices):
    """The same values and, example by example, the same number of gradients."""
    mesh = jax.make_mesh((devices,), ("data",), (jax.sharding.AxisType.Auto,))
    mapped(tmp_path / "s", function=rounds(), batch_size=batch_size, mesh=mesh)
    whole = jaxplain.integrated_gradients(uneven, tolerance=1e-4, chunk_size=4)
    expected = jax.vmap(lambda x, label: whole(x, jnp.zeros_like(x), label, W))(X, LABELS)
    evaluations = read(tmp_path / "s", "evaluations")
    np.testing.assert_array_equal(evaluations, expected.evaluations)
    assert len(set(evaluations.tolist())) >= 3, "the examples should differ"
    for name, leaf in expected._asdict().items():
        np.testing.assert_allclose(read(tmp_path / "s", name), leaf, rtol=1e-4, atol=1e-5)


def test_rounds_are_spent_on_unfinished_examples_alone(tmp_path):
    """What is evaluated, counted on the host in the loop itself, against what was needed."""
    points = []
    count = lambda x: points.append(1)

    def counted(x, label, w):
        jax.debug.callback(count, x[0])
        return uneven(x, label, w)

    steps = jaxplain.paths.rounds(counted, tolerance=1e-4, chunk_size=4)
    steps = steps.with_arguments(lambda x, label, w: (x, jnp.zeros_like(x), label, w))
    mesh = jax.make_mesh((1,), ("data",), (jax.sharding.AxisType.Auto,))
    mapped(tmp_path / "s", function=steps, batch_size=32, mesh=mesh)
    jax.effects_barrier()
    evaluations = read(tmp_path / "s", "evaluations").astype(int)
    assert len(points) >= evaluations.sum()
    padded = 64 / N  # the last batch is filled up
    assert len(points) < 1.7 * padded * evaluations.sum()
    assert len(points) < 0.8 * 64 * evaluations.max(), "what one program for the batch takes"


def test_rounds_go_on_after_a_cut(tmp_path):
    mapped(tmp_path / "whole", function=rounds(), batch_size=8)
    mapped(tmp_path / "cut", function=rounds(), batch_size=8)
    for array in ("values", "evaluations"):
        chunks = sorted((tmp_path / "cut" / array / "c").iterdir(), key=lambda p: int(p.name))
        path = chunks[3]
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    summary = mapped(tmp_path / "cut", function=rounds(), batch_size=8, resume=True)
    assert summary.computed == 8
    for name in ("values", "error", "evaluations"):
        np.testing.assert_array_equal(read(tmp_path / "cut", name), read(tmp_path / "whole", name))
    with pytest.raises(ValueError, match="program"):
        mapped(tmp_path / "cut", function=rounds(max_steps=65), batch_size=8, resume=True)


def test_rounds_with_a_key(tmp_path):
    """The key of an example reaches each of the four functions, the same at any batch size."""
    draws = jaxplain.evaluate.Rounds(
        init=lambda key, x: (jax.random.uniform(key), jnp.int32(0)),
        advance=lambda state, key, x: (state[0] + jax.random.uniform(key), state[1] + 1),
        done=lambda state, key, x: state[0] > 2,
        finish=lambda state, key, x: {"sum": state[0], "rounds": state[1]},
    )
    for size in (8, 24):
        mapped(tmp_path / str(size), X, draws, (), size, key=jax.random.key(3))
    keys = jax.vmap(jax.random.fold_in, (None, 0))(
        jax.random.key(3), jnp.arange(N, dtype=jnp.uint32)
    )
    each = np.asarray(jax.vmap(jax.random.uniform)(keys))
    needed = np.array([next(k for k in itertools.count(1) if u * (k + 1) > 2) for u in each])
    for size in (8, 24):
        np.testing.assert_array_equal(read(tmp_path / str(size), "rounds"), needed)


def test_plan_of_rounds():
    plan = run.plan(rounds(), (X, LABELS), shared=(W,), batch_size=8)
    assert plan.batches == 7
    assert plan.fields["values"].shape == (6,)


def test_a_full_disk_is_said(tmp_path, monkeypatch):
    """By the error of tensorstore for it; what is finished stays, and the run can go on."""
    x = np.arange(32.0, dtype=np.float32)
    write, out = store.write, tmp_path / "out"

    class Full:
        def result(self):
            raise ValueError(
                "RESOURCE_EXHAUSTED: Error writing local file: Failed to write 120621 bytes to "
                "file 3: No space left on device [os_error_code='28']"
            )

    monkeypatch.setattr(store, "write", lambda *args: [Full()] if args[1] == 2 else write(*args))
    with pytest.raises(OSError, match=r"the disk is full\. What is finished stays") as caught:
        jaxplain.run.map(jnp.sin, x, out, batch_size=8, progress=False)
    assert (caught.value.errno, caught.value.filename) == (errno.ENOSPC, str(out))
    monkeypatch.undo()
    jaxplain.run.map(jnp.sin, x, out, batch_size=8, progress=False, resume=True)
    np.testing.assert_allclose(read(out), np.sin(x), rtol=1e-6)
