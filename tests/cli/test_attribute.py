"""`jaxplain attribute`: what is on disk is what the library gives; mistakes are one line."""

import inspect
import os
import pathlib
import re
import signal
import subprocess
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxplain
from jaxplain import cli, store
from jaxplain.cli import _names


def read(name, path="out.zarr"):
    return np.asarray(store.open(path).arrays[name])


def expected(steps=4, **options):
    import my_module

    apply, params = my_module.load()
    x = np.load("x.npz")["x"]
    labels = options.get("labels", jnp.argmax(apply(params, x), axis=1))
    explain = jaxplain.integrated_gradients(jaxplain.targets.logit(apply), steps=steps)
    start = options.get("baseline", np.zeros_like(x[0]))
    return jax.vmap(explain, (0, None, 0, None))(x, start, labels, params), labels


def test_the_store_holds_the_explanations_and_how_good_they_are(attribute):
    pathlib.Path("names.txt").write_text("cat\ndog\nbird\n")
    words = ("--steps", "4", "--quality", "5", "--classes", "names.txt")
    status, printed, _ = attribute(*words)
    assert status == 0
    assert "20 examples in out.zarr: 20 computed" in printed
    result, labels = expected()
    np.testing.assert_allclose(read("values"), result.values, atol=1e-5)
    np.testing.assert_allclose(read("completeness_gap"), result.completeness_gap, atol=1e-5)
    np.testing.assert_array_equal(read("target"), labels)
    about = store.open("out.zarr").manifest["about"]
    assert about["method"] == "jaxplain.paths.integrated_gradients"
    assert about["options"] == {"steps": 4, "chunk_size": 1}
    assert about["model"] == "my_module:load"
    assert about["classes"] == ["cat", "dog", "bird"]
    quality = "out.zarr/quality"
    chosen = read("example", quality)
    assert chosen.tolist() == [0, 4, 9, 14, 19]
    np.testing.assert_array_equal(read("x", quality), np.load("x.npz")["x"][chosen])
    np.testing.assert_allclose(read("values", quality), result.values[chosen], atol=1e-5)
    scores = read("deletion/scores", quality)
    softmax = jax.nn.softmax(read("logits", quality))[np.arange(5), labels[chosen]]
    np.testing.assert_allclose(scores[:, 0], softmax, rtol=1e-4)
    np.testing.assert_allclose(read("insertion/scores", quality)[:, -1], softmax, rtol=1e-4)


@pytest.mark.parametrize(
    ("words", "data"),
    [
        (("--scale", "1/16"), "x.npy"),
        (("--scale", "1/16"), "my_module:batches"),
        (("--scale", "1"), "x.npz:x"),
    ],
    ids=["bytes", "iterator", "floats"],
)
def test_data_in_other_forms(attribute, words, data):
    status, _, error = attribute("--steps", "4", *words, data=data)
    assert status == 0, error
    np.testing.assert_allclose(read("values"), expected()[0].values, atol=1e-5)
    assert len(read("example", "out.zarr/quality")) == 20


def test_targets_and_baselines(attribute):
    start = np.full((8, 8, 1), 0.25, np.float32)
    labels = (np.arange(20) % 3).astype(np.int64)
    np.save("start.npy", start)
    np.save("labels.npy", labels)
    words = ("--steps", "4", "--quality", "2")
    assert attribute(*words, "--target", "labels.npy", "--baseline", "start.npy")[0] == 0
    wanted, _ = expected(baseline=start, labels=jnp.asarray(labels, jnp.int32))
    np.testing.assert_allclose(read("values"), wanted.values, atol=1e-5)
    assert attribute(*words, "--target", "2", "--baseline", "mean", out="two")[0] == 0
    mean = np.load("x.npz")["x"].mean(0)
    wanted, _ = expected(baseline=mean, labels=jnp.full(20, 2))
    np.testing.assert_allclose(read("values", "two"), wanted.values, atol=1e-5)


def test_other_methods_and_options(attribute):
    assert attribute("--method", "gradients.saliency", "--absolute", "False", out="a")[0] == 0
    assert (read("values", "a") < 0).any()
    rule = ("--steps", "3", "--rule", "paths.midpoint")
    assert attribute(*rule, "--quality", "0", out="b")[0] == 0
    assert (
        store.open("b").manifest["about"]["options"]["rule"] == "jaxplain.paths.quadrature.midpoint"
    )
    assert not pathlib.Path("b/quality").exists()
    score = ("--score", "output", "--tolerance", "0.01")
    assert attribute(*score, model="my_module:number", out="c")[0] == 0
    assert set(read("evaluations", "c")) <= {33, 65, 129, 257}
    assert "deletion/area" in store.open("c/quality").arrays


def test_options_that_are_objects_of_the_library(attribute):
    """Masks by a call with literals, an estimator by its name in a module of a room."""
    words = ("--method", "sobol.attribution", "--quality", "0", "--samples", "4")
    status, _, error = attribute(
        *words, "--masks", "masks.grid(4, 2)", "--estimator", "sobol.estimators.jansen"
    )
    assert status == 0, error
    assert read("cells").shape == (20, 4, 2)
    assert set(read("evaluations")) == {4 * 9}
    options = store.open("out.zarr").manifest["about"]["options"]
    assert options["masks"] == "jaxplain.masks.Masks"
    for masks, message in (
        ("masks.grid(n, 2)", "must be Python literals"),
        ("masks.gird(4, 2)", "Did you mean masks.grid"),
        ("masks.grid(4, 0)", "each size of the grid must be at least 1"),
        ("grid(4, 2)", "masks must be parts of an example"),
    ):
        status, _, error = attribute(*words, "--masks", masks, out="no.zarr")
        assert status != 0
        assert message in error


def test_dry_run_and_info(attribute, capsys):
    status, printed, _ = attribute("--dry-run", "--steps", "4", "--batch-size", "8")
    assert status == 0
    assert not pathlib.Path("out.zarr").exists()
    assert re.search(r"examples +20\n", printed)
    assert re.search(r"batches +3 of 8", printed)
    assert re.search(r"values +float32 \(8, 8, 1\)", printed)
    assert attribute("--steps", "4", "--quality", "0")[0] == 0
    assert cli.main(["info", "out.zarr"]) == 0
    printed = capsys.readouterr().out
    assert '"jaxplain.paths.integrated_gradients"' in printed
    assert "finished batches: 2" in printed


def test_resume(attribute):
    assert attribute("--steps", "4")[0] == 0
    status, _, error = attribute("--steps", "4")
    assert (status, "out.zarr exists" in error) == (1, True)
    pathlib.Path("out.zarr/values/c/1/0/0/0").unlink()
    status, printed, _ = attribute("--steps", "4", "--resume")
    assert "20 examples in out.zarr: 4 computed" in printed
    status, _, error = attribute("--steps", "5", "--resume")
    assert status == 1
    assert "about.options.steps: 4 in the store, 5 now" in error
    status, _, error = attribute("--method", "saliency", "--resume")
    assert "about.method" in error


@pytest.mark.parametrize(
    ("words", "changed", "message"),
    [
        (("--method", "integrated_gradient"), {}, "no method integrated_gradient. Did you"),
        (("--stepz", "4"), {}, "no option --stepz. Did you mean --steps"),
        (("--steps",), {}, "--steps needs a value"),
        (("--steps", "4", "--steps", "5"), {}, "--steps is given twice"),
        (("stray",), {}, "'stray' stands alone"),
        (("--steps", "0"), {}, "steps must be at least 1, but is 0"),
        (("--rule", "paths.midpiont"), {}, "no function paths.midpiont. Did you mean paths.mid"),
        (("--score", "logits"), {}, "--score must be one of logit"),
        (("--target", "cat"), {}, "--target must be predicted, a class number"),
        (("--target", "no.npy"), {}, "--target: there is no file no.npy"),
        (("--baseline", "black"), {}, "--baseline must be zeros, mean or file.npy"),
        (("--scale", "1/0"), {}, "--scale must be a number such as"),
        (("--quality", "-1"), {}, "--quality must be at least 0"),
        (("--batch-size", "0"), {}, "batch_size must be at least 1"),
        ((), {"model": "my_module"}, "--model must be `package.module:name`"),
        ((), {"model": "no_module:load"}, "importing 'no_module' failed: ModuleNotFoundError"),
        ((), {"model": "my_module:laod"}, "no name in module my_module laod. Did you mean load"),
        ((), {"model": "my_module:constant"}, "must be a function that returns (apply, params)"),
        ((), {"model": "my_module:fails"}, "failed: RuntimeError: no weights here"),
        ((), {"model": "my_module:other"}, "must return (apply, params)"),
        ((), {"data": "no.npy"}, "there is no file no.npy"),
        (("--classes", "no.txt"), {}, "No such file or directory: 'no.txt'"),
        ((), {"data": "x.npz:z"}, "x.npz holds x, y: name one"),
        ((), {"data": "x.txt"}, "--data must be file.npy"),
        ((), {"data": "my_module:constant"}, "must be an array or a function that returns"),
        ((), {"data": "my_module:fails"}, "--data: my_module:fails() failed: RuntimeError"),
        ((), {"data": "x.npy"}, "the data has dtype uint8, but must be float"),
        ((), {"data": "x.npz:y"}, "the data has dtype int64"),
        ((), {"model": "my_module:number"}, "For one number per example: --score output"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)  # fmt: skip
def test_mistakes_are_one_line(attribute, words, changed, message):
    status, _, error = attribute(*words, **changed)
    assert status == 1
    assert message in error
    assert error.count("\n") == 1
    assert error.startswith("jaxplain attribute: ")
    assert not pathlib.Path("out.zarr/values").exists()


def test_shapes_that_do_not_fit(attribute):
    np.save("empty.npy", np.zeros((0, 64), np.float32))
    np.save("wide.npy", np.zeros((4, 65), np.float32))
    np.save("labels.npy", np.arange(3))
    for words, data, message in (
        ((), "empty.npy", "source has no examples"),
        ((), "wide.npy", "dot_general"),
        (("--target", "labels.npy"), "x.npz:x", "as many examples each"),
        (("--baseline", "wide.npy"), "x.npz:x", "baseline must have the shape of one example"),
    ):
        status, _, error = attribute(*words, data=data)
        assert status == 1, message
        assert message in error
        assert error.count("\n") == 1


def test_examples_that_are_not_finite_are_counted(attribute):
    x = np.load("x.npz")["x"]
    x[[2, 7], 0, 0] = np.nan
    np.save("nan.npy", x)
    status, printed, _ = attribute("--steps", "2", "--quality", "3", data="nan.npy")
    assert status == 0
    assert "2 of them are not finite" in printed
    np.testing.assert_array_equal(np.flatnonzero(~read("finite")), [2, 7])
    assert cli.main(["report", "out.zarr"]) == 0
    page = pathlib.Path("out.zarr/report.html").read_text()
    assert re.search(r"Not finite.*\b2\b.*\b7\b", page, flags=re.S)


@pytest.mark.skipif(os.geteuid() == 0, reason="nothing is read-only to root")
def test_a_folder_that_is_read_only(attribute):
    pathlib.Path("closed").mkdir(mode=0o500)
    status, _, error = attribute(out="closed/out.zarr")
    assert status == 1
    assert "Permission denied" in error


def test_a_folder_that_cannot_be_written(attribute):
    pathlib.Path("taken").write_text("")
    status, _, error = attribute(out="taken/out.zarr")
    assert status == 1
    assert "taken" in error


def test_help_and_what_is_missing(folder, capsys):
    assert cli.main(["attribute", "--method", "integrated_gradients", "--help"]) == 0
    printed = capsys.readouterr().out
    said = ("gradients.saliency", "the relative error of the vector of values")
    for word in ("--tolerance", "--max-steps", "examples:", "--resume", *said):
        assert word in printed
    assert cli.main(["attribute", "--data", "x.npy"]) == 1
    assert "needs --model and --out" in capsys.readouterr().err
    with pytest.raises(SystemExit, match="2"):
        cli.main(["info", "out.zarr", "--nothing"])
    assert cli.main(["info", "nowhere"]) == 1
    assert "there is no store at nowhere" in capsys.readouterr().err


@pytest.mark.slow
def test_kill_and_resume(folder):
    """`kill -9` in the middle; the store ends as that of a run without it, bit for bit."""
    (folder / "slow.py").write_text(
        "import os, time, numpy as np\n"
        "def batches():\n"
        "    x = np.load('x.npz')['x']\n"
        "    for k in range(10):\n"
        "        time.sleep(float(os.environ.get('PAUSE', 0)))\n"
        "        yield x[2 * k : 2 * k + 2]\n"
    )
    words = [sys.executable, "-m", "jaxplain", "attribute", "--model", "my_module:load"]
    words += ["--data", "slow:batches", "--steps", "4", "--batch-size", "2", "--quality", "3"]
    root = str(pathlib.Path(jaxplain.__file__).parent.parent)
    environment = {**os.environ, "PYTHONPATH": root}
    run = lambda *more: subprocess.run(
        [*words, *more], env=environment, capture_output=True, text=True, check=True, timeout=120
    )
    run("--out", "whole.zarr")
    slow = {**environment, "PAUSE": "0.5"}
    process = subprocess.Popen([*words, "--out", "cut.zarr"], env=slow)
    try:
        deadline = time.monotonic() + 100
        while time.monotonic() < deadline and process.poll() is None:
            try:
                finished = store.finished_batches(store.open("cut.zarr"))
            except (OSError, ValueError):
                finished = set()
            if len(finished) >= 3:
                break
            time.sleep(0.05)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert process.returncode == -signal.SIGKILL
    done = len(store.finished_batches(store.open("cut.zarr")))
    assert 3 <= done < 10
    printed = run("--out", "cut.zarr", "--resume").stdout
    assert f"{20 - 2 * done} computed" in printed
    for part in ("", "/quality"):
        whole, cut = store.open(f"whole.zarr{part}"), store.open(f"cut.zarr{part}")
        assert whole.arrays.keys() == cut.arrays.keys()
        for name in whole.arrays:
            a, b = np.asarray(whole.arrays[name]), np.asarray(cut.arrays[name])
            assert a.tobytes() == b.tobytes(), name


# --------------------------------------------------------------------------- every method there is

# What a method takes on the command line beyond its defaults; kept small.
OPTIONS = {
    "guided_integrated_gradients": {"steps": 20},
    "integrated_gradients": {"steps": 4},
}
METHODS = sorted(name for name in _names.methods() if "." not in name)


@pytest.mark.parametrize("name", METHODS)
def test_every_method(attribute, name):
    """The store holds what the method gives in memory, called by hand, example by example."""
    import my_module

    options = OPTIONS.get(name, {})
    words = [word for key, value in options.items() for word in (f"--{key}", str(value))]
    load = "piecewise_linear" if name == "exact_integrated_gradients" else "load"
    status, _, error = attribute(
        "--model",
        f"my_module:{load}",
        "--method",
        name,
        "--quality",
        "2",
        "--baselines",
        "5",
        "--seed",
        "3",
        *words,
    )
    assert status == 0, error
    apply, params = getattr(my_module, load)()
    factory = _names.methods()[name]
    if "classes" in inspect.signature(factory).parameters:
        options = options | {"classes": 3}
    if "chunk_size" in inspect.signature(factory).parameters:
        options = options | {"chunk_size": 1}
    explain = factory(jaxplain.targets.logit(apply), **options)
    x = np.load("x.npz")["x"]
    labels = jnp.argmax(apply(params, x), axis=1).astype(jnp.int32)
    numbers = jnp.arange(20, dtype=jnp.uint32)
    keys = jax.vmap(jax.random.fold_in, (None, 0))(jax.random.key(3), numbers)
    rows = jnp.asarray(x[np.linspace(0, 19, 5).astype(int)])
    given = {"key": keys, "baseline": jnp.zeros_like(x), "baselines": rows, "references": rows}
    names = [n for n in inspect.signature(explain).parameters if n in (*given, "x")]
    arguments = [x if n == "x" else given[n] for n in names]
    axes = [None if n in ("baselines", "references") else 0 for n in names]
    result = jax.vmap(explain, (*axes, 0, None))(*arguments, labels, params)
    scale = float(np.abs(result.values).max())
    np.testing.assert_allclose(read("values"), result.values, atol=1e-4 * scale)
    assert scale > 0
    np.testing.assert_array_equal(read("target"), labels)
