"""`jaxplain sae`: what is written is what the library gives; runs go on; mistakes are one line."""

import csv
import functools
import importlib.util
import io
import json
import pathlib
import shutil
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
import PIL.Image
import pytest

import jaxplain
from jaxplain import cli, demo, sae
from jaxplain.cli import _sae, _sae_figures

WIDTH, ROWS = 8, 96
OWN = ("--latents", "16", "--k", "2", "--batch-size", "32", "--activations", "h.npy")


@pytest.fixture(scope="module", autouse=True)
def usual_promotion():
    """As users have it: optax itself promotes dtypes."""
    with jax.numpy_dtype_promotion("standard"):
        yield


@pytest.fixture(scope="module", autouse=True)
def network():
    """The demo's network, trained for one epoch and once."""
    with pytest.MonkeyPatch.context() as patch:
        trained = functools.cache(lambda: demo_train(demo.digits(), epochs=1))
        demo_train = demo.train
        patch.setattr(demo, "train", lambda data: trained())
        yield


@pytest.fixture(scope="module")
def of_digits(tmp_path_factory, network):
    """What a run on the digits wrote; not to be changed."""
    out = tmp_path_factory.mktemp("digits") / "out"
    assert cli.main(["sae", "train", "--steps", "60", "--out", str(out)]) == 0
    return out


@pytest.fixture
def run(tmp_path, monkeypatch, capsys):
    """Runs `jaxplain sae` in a folder with h.npy; gives the status and what was printed."""
    monkeypatch.chdir(tmp_path)
    features = sae.synthetic.features(jax.random.key(9), 12, WIDTH)
    h = sae.synthetic.activations(features, 0.15)(jax.random.key(0), ROWS).activations
    np.save("h.npy", np.asarray(h))

    def call(*words):
        status = cli.main(["sae", *words])
        printed = capsys.readouterr()
        return status, printed.out, printed.err

    return call


def library(dictionary, source, seed=0, **options):
    """What `jaxplain sae train` is to give, by the library itself."""
    return sae.train(
        jax.random.key(seed), dictionary, source, optimizer=optax.adam(1e-3), **options
    )


def history(path):
    with pathlib.Path(path).open() as stream:
        return list(csv.DictReader(stream))


def picture(path):
    with PIL.Image.open(path) as image:
        assert image.format == "PNG"
        return np.asarray(image.convert("L"))


# ------------------------------------------------------------------------------------------ train


def test_of_the_digits(of_digits):
    assert sorted(path.name for path in of_digits.iterdir()) == sorted(_sae._FILES)
    dictionary, params = sae.formats.load_saelens(of_digits)
    assert (dictionary.about["architecture"], dictionary.about["k"]) == ("topk", 4)
    assert params["W_enc"].shape == (32, 64)
    rows = history(of_digits / "history.csv")
    assert [int(float(row["step"])) for row in rows] == list(range(1, 61))
    assert float(rows[-1]["fvu"]) < float(rows[0]["fvu"])
    told = json.loads((of_digits / "run.json").read_text())
    assert told["options"] == {"latents": 64, "k": 4}
    assert told["training"] | {"steps": 60, "batch_size": 512, "seed": 0} == told["training"]
    assert (told["activations"]["rows"], told["activations"]["width"]) == (1347, 32)
    assert told["last"]["fvu"] == pytest.approx(float(rows[-1]["fvu"]))
    # What is held out is the layer on the digits that the network has not seen.
    data, model = demo.digits(), demo.train(None)
    x = jnp.asarray(data.images[data.test])
    x = jax.nn.relu(model.second(jax.nn.relu(model.first(x))))
    x = x.reshape(-1, 4, 2, 4, 2, 32).max((2, 4)).reshape(len(x), -1)
    np.testing.assert_allclose(np.load(of_digits / "held_out.npy"), model.hidden(x), atol=1e-4)


def test_the_figures_are_pictures_with_ink(of_digits):
    for name in ("training.png", "latents.png"):
        grey = picture(of_digits / name)
        assert min(grey.shape) > 300
        assert 0.005 < np.mean(grey < 250) < 0.6


def test_the_digits_shown_are_those_on_which_a_latent_is_most_active():
    random = np.random.default_rng(0)
    images, labels = random.uniform(size=(30, 8, 8)), np.arange(30) % 10
    codes = np.zeros((30, 4))
    codes[:, 2] = random.permutation(30) + 1.0
    codes[[4, 14, 7], 1] = [3.0, 2.0, 0.5]  # active on three: two fours and a seven
    figure = _sae_figures.latents(codes, images, labels)
    axes = np.reshape(figure.axes, (4, -1))
    assert [row[0].texts[0].get_text() for row in axes[:2]] == [
        "latent 2\nactive on 100%",
        "latent 1\nactive on 10%",
    ]
    for place, example in enumerate(np.argsort(-codes[:, 2])[:8]):
        ax = axes[0, 1 + place]
        np.testing.assert_array_equal(ax.images[0].get_array(), images[example])
        assert float(ax.get_xlabel()) == codes[example, 2]
    assert [len(ax.images) for ax in axes[1, 1:-2]] == [1, 1, 1, 0, 0, 0, 0, 0]
    heights = [bar.get_height() for bar in axes[1, -1].patches]
    np.testing.assert_allclose(heights, [0, 0, 0, 0, 5 / 3, 0, 0, 0.5 / 3, 0, 0])


def test_of_a_file_it_is_what_the_library_gives(run):
    words = ("--steps", "20", "--seed", "3", "--record-every", "5", "--average", "0.9")
    status, printed, _ = run("train", *OWN, *words, "--out", "out")
    assert status == 0
    assert "topk with 16 latents, 20 steps of 32 activations" in printed
    dictionary = sae.topk(16, 2)
    expected = library(
        dictionary, np.load("h.npy"), 3, steps=20, batch_size=32, average=0.9, dead_after=10 * ROWS
    )
    found = sae.formats.load_saelens("out")[1]
    jax.tree.map(np.testing.assert_array_equal, found, expected.params)
    assert [int(float(row["step"])) for row in history("out/history.csv")] == [5, 10, 15, 20]
    assert not pathlib.Path("out/latents.png").exists()
    assert not pathlib.Path("out/held_out.npy").exists()


def test_of_a_store_it_is_what_the_library_gives(run):
    h, tokens = np.load("h.npy"), np.arange(ROWS) % 5
    save = lambda h, t: {"h": h, "is_text": t > 0}
    rows = lambda x: save(x["h"], x["tokens"])
    x = {"h": h, "tokens": tokens.astype(np.int32)}
    jaxplain.run.map(rows, x, "h.zarr", batch_size=16, progress=False)
    words = ("--activations", "h.zarr", "--leaf", "h", "--steps", "10", "--batch-size", "8")
    status, _, _ = run("train", "topk", "--latents", "16", "--k=2", *words, "--out", "out")
    assert status == 0
    stored = sae.stored("h.zarr", "h")
    expected = library(sae.topk(16, 2), stored, steps=10, batch_size=8, dead_after=10 * ROWS)
    found = sae.formats.load_saelens("out")[1]
    jax.tree.map(np.testing.assert_array_equal, found, expected.params)
    status, printed, _ = run("evaluate", "out", "--activations", "h.zarr", "--leaf", "h", "--json")
    assert json.loads(printed)["examples"] == ROWS
    status, printed, error = run(
        "evaluate", "out", "--activations", "h.zarr", "--leaf", "h", "--mask", "tokens"
    )
    assert "has no array 'tokens', only h, is_text" in error


@pytest.mark.parametrize(
    ("name", "words", "make"),
    [
        ("relu", ("--l1-coefficient", "0.1"), lambda: sae.relu(16, 0.1)),
        ("gated", ("--l1-coefficient", "0.1"), lambda: sae.gated(16, 0.1)),
        ("batch_topk", ("--k", "2"), lambda: sae.batch_topk(16, 2)),
        (
            "sae.matryoshka",
            ("--k", "2", "--sizes", "4,16"),
            lambda: sae.matryoshka(16, 2, sizes=(4, 16)),
        ),
        ("jumprelu", ("--l0-coefficient", "1e-3"), lambda: sae.jumprelu(16, 1e-3)),
        ("p_annealed", ("--sparsity-coefficient", "0.1"), lambda: sae.p_annealed(16, 0.1)),
    ],
)  # fmt: skip
def test_every_architecture_is_read_as_it_was_trained(run, name, words, make):
    own = ("--activations", "h.npy", "--latents", "16", "--batch-size", "32", "--steps", "2")
    status, _, error = run("train", name, *own, *words, "--out", "out")
    assert status == 0, error
    found, dictionary = _sae.read(pathlib.Path("out")), make()
    assert dict(found.dictionary.about) == dict(dictionary.about)
    expected = library(
        dictionary, np.load("h.npy"), steps=2, batch_size=32, dead_after=10 * ROWS
    ).params
    jax.tree.map(np.testing.assert_array_equal, found.params, expected)


# ------------------------------------------------------------------------ going on and replacing


def test_a_run_that_was_interrupted_ends_as_the_whole_one(run, monkeypatch):
    words = ("train", *OWN, "--steps", "20", "--checkpoint-every", "4")
    assert run(*words, "--out", "whole")[0] == 0
    shown = _sae._shown

    def interrupted(record):
        if record["step"] == 10:  # after the checkpoint at 8
            raise KeyboardInterrupt
        return shown(record)

    with monkeypatch.context() as patch:
        patch.setattr(_sae, "_shown", interrupted)
        status, _, error = run(*words, "--out", "cut")
    assert status == 130
    assert "go on from the newest checkpoint with --resume" in error
    assert "jaxplain sae train: interrupted" in error
    assert not pathlib.Path("cut/cfg.json").exists()
    status, _, error = run(*words, "--out", "cut")
    assert (status, "exists: give --resume, --overwrite, or another" in error) == (1, True)
    status, _, error = run(*words, "--learning-rate", "1e-2", "--out", "cut", "--resume")
    assert (status, "are of another run" in error) == (1, True)
    status, _, error = run(*words, "--out", "cut", "--resume")
    assert status == 0
    assert "step 8 of" not in error
    for name in ("sae_weights.safetensors", "history.csv"):
        assert (pathlib.Path("cut") / name).read_bytes() == (
            pathlib.Path("whole") / name
        ).read_bytes()
    # One that came to its end does so again, and computes nothing.
    before = pathlib.Path("cut/history.csv").read_bytes()
    status, _, error = run(*words, "--out", "cut", "--resume")
    assert (status, error) == (0, "")
    assert pathlib.Path("cut/history.csv").read_bytes() == before


def contents(folder):
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(pathlib.Path(folder).rglob("*"))
        if path.is_file()
    }


def test_nothing_is_replaced_unasked_nor_lost_by_a_failure(run, monkeypatch):
    words = ("train", *OWN, "--steps", "4", "--out", "out")
    assert run(*words, "--checkpoint-every", "2")[0] == 0
    before = contents("out")
    assert any(name.startswith("checkpoints") for name in before)
    assert run(*words)[0] == 1
    failing = {
        "_draw": ValueError("no ink"),
        "_shown": KeyboardInterrupt(),  # at the first record, before there is a checkpoint
    }
    for name, error in failing.items():

        def fail(*_, error=error):
            raise error

        with monkeypatch.context() as patch:
            patch.setattr(_sae, name, fail)
            assert run(*words, "--overwrite", "--seed", "1")[0] == (1 if name == "_draw" else 130)
        assert contents("out") == before
    assert run(*words, "--overwrite", "--seed", "1")[0] == 0
    after = contents("out")
    assert after["sae_weights.safetensors"] != before["sae_weights.safetensors"]
    # Checkpoints of the earlier run are gone with it, and so is what only it had.
    assert sorted(after) == sorted(set(_sae._FILES) - {"held_out.npy", "latents.png"})
    status, _, error = run(*words, "--resume")
    assert (status, "holds a run without checkpoints" in error) == (1, True)


def test_what_is_of_the_digits_goes_with_them(run, of_digits):
    shutil.copytree(of_digits, "out")
    assert run("train", *OWN, "--steps", "2", "--out", "out", "--overwrite")[0] == 0
    assert not pathlib.Path("out/held_out.npy").exists()
    assert not pathlib.Path("out/latents.png").exists()
    assert run("evaluate", "out")[0] == 1


# ------------------------------------------------------------------------ evaluate, export, info


def test_evaluate_prints_what_the_library_measures(run, of_digits):
    dictionary, params = sae.formats.load_saelens(of_digits)
    expected = sae.evaluate(dictionary, params, np.load(of_digits / "held_out.npy"))
    status, printed, _ = run("evaluate", str(of_digits), "--json")
    assert status == 0
    found = json.loads(printed)
    assert found["fvu"]["value"] == pytest.approx(expected.fvu.value)
    assert found["fvu"]["standard_error"] == pytest.approx(expected.fvu.standard_error)
    assert found["dead"] == expected.dead
    np.testing.assert_allclose(found["density"], expected.density)
    status, printed, _ = run("evaluate", str(of_digits))
    assert status == 0
    table = {line[:20].strip(): line[20:].split() for line in printed.splitlines()[3:]}
    assert table["fvu"] == [f"{expected.fvu.value:.5g}", f"{expected.fvu.standard_error:.2g}"]
    assert table["l0"] == ["4", "0"]
    assert table["dead"] == [f"{expected.dead:.1%}"]
    rows = ("--activations", str(of_digits / "held_out.npy"), "--sequence-length", "450")
    status, printed, _ = run("evaluate", str(of_digits), *rows, "--json")
    assert json.loads(printed)["l0"] == {"value": 4, "standard_error": None}  # of one sequence


def test_export_keeps_the_codes(run, of_digits):
    h = np.load(of_digits / "held_out.npy")
    dictionary, params = sae.formats.load_saelens(of_digits)
    for name in ("saelens", "sparsify", "dictionary_learning"):
        status, printed, _ = run("export", str(of_digits), "--format", name, "--out", name)
        assert status == 0
        other, same = getattr(sae.formats, f"load_{name}")(name)
        np.testing.assert_allclose(
            other.encode(same, h), dictionary.encode(params, h), rtol=1e-4, atol=1e-4
        )
        status, printed, _ = run("info", name)
        assert f"files of       {name}\narchitecture   topk (k=4" in printed
        assert "parameters     4,192\n" in printed
    status, _, error = run("export", str(of_digits), "--format", "sparsify", "--out", "saelens")
    assert (status, error.strip()) == (1, "jaxplain sae export: saelens exists: name a new folder.")


def test_export_of_what_the_files_of_saelens_do_not_tell(run):
    """A batch_topk is a jumprelu there, which dictionary_learning has only without a centre."""
    own = ("--activations", "h.npy", "--latents", "16", "--k", "2", "--steps", "2")
    assert run("train", "batch_topk", *own, "--out", "out")[0] == 0
    assert run("export", "out", "--format", "dictionary_learning", "--out", "theirs")[0] == 0
    dictionary, _ = sae.formats.load_dictionary_learning("theirs")
    assert dictionary.about["architecture"] == "batch_topk"
    status, _, error = run("export", "out", "--format", "sparsify", "--out", "no")
    assert (status, "sparsify has topk alone, and no batch_topk" in error) == (1, True)
    assert not pathlib.Path("no").exists()
    # Without the record of the run, or with that of another, it is what the files say.
    pathlib.Path("out/run.json").write_text("{}")
    assert _sae.read(pathlib.Path("out")).dictionary.about["architecture"] == "jumprelu"


def test_info(run, of_digits):
    status, printed, _ = run("info", str(of_digits))
    assert status == 0
    for line in (
        "files of       saelens",
        "width          32",
        "latents        64",
        "  W_enc        float32 (32, 64)",
        "norms of W_dec 1 to 1, mean 1",
        "1,347 of width 32",
        "steps=60, batch_size=512",
    ):
        assert line in printed
    random = np.random.default_rng(0)
    shapes = {"W_enc": (4, 6), "W_dec": (6, 4), "b_enc": 6, "b_dec": 4, "threshold": 6}
    tensors = {n: random.uniform(size=s).astype(np.float32) for n, s in shapes.items()}
    np.savez("params.npz", **tensors)
    status, printed, _ = run("info", "params.npz")
    assert "files of       gemma_scope\narchitecture   jumprelu" in printed
    assert run("info", ".")[1] == printed


# --------------------------------------------------------------------------------------- mistakes


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("train", "tpk"), "there is no architecture tpk. There are: batch_topk, gated, jumprelu,"),
        (("train", "relu"), "relu needs --l1-coefficient; see `sae train relu --help`"),
        (("train", "--activations", "h.npy"), "topk needs --latents and --k"),
        (("train", "--latents", "16", "topk"), "'topk' stands alone"),
        (("train", "--kk", "3"), "there is no option --kk. Did you mean --k"),
        (("train", *OWN, "--sizes", "4"), "there is no option --sizes"),
        (("train", "--latents", "4", "--k", "5"), "k is 5, but there are 4 latents"),
        (("train", "--latents", "many"), "latents must be"),
        (("train", "--steps", "0"), "--steps must be at least 1, but is 0"),
        (("train", "--batch-size", "0"), "--batch-size must be at least 1"),
        (("train", "--checkpoint-every", "0"), "--checkpoint-every must be at least 1"),
        (("train", "--learning-rate", "nan"), "--learning-rate must be finite"),
        (("train", "--resume", "--overwrite"), "give one"),
        (("train", "--out", "h.npy"), "h.npy is a file: name another"),
        (("train", *OWN, "--batch-size", "97"), "batch_size is 97, but there are 96 activations"),
        (("train", *OWN[:-1], "no.npy"), "--activations: there is no file no.npy"),
        (("train", *OWN[:-1], "nothing"), "must be file.npy or the folder of a store"),
        (("train", *OWN[:-1], "."), ". is not a jaxplain store"),
        (("train", *OWN[:-1], "cube.npy"), "must hold floats of shape (n, d), but holds shape (2,"),
        (("train", *OWN[:-1], "int.npy"), "of dtype int64"),
        (("train", *OWN[:-1], "nan.npy"), "nan.npy: row 70,001 is not finite"),
        (("train", *OWN[:-1], "large.npy"), "large.npy: row 1 is not finite"),
        (("train", *OWN, "--leaf", "h"), "--leaf and --mask are for the arrays of a store"),
        (("evaluate", "nowhere"), "there is no folder nowhere"),
        (("evaluate", "."), "holds no dictionary that is known: cfg.json and sae_weights"),
        (("export", ".", "--format", "torch", "--out", "x"), "--format must be"),
        (("info", "nowhere/params.npz"), "there is no file nowhere/params.npz"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_mistakes_are_one_line(run, words, message):
    np.save("cube.npy", np.zeros((2, 3, 4), np.float32))
    np.save("int.npy", np.zeros((4, 3), int))
    rows = np.zeros((70_010, 2), np.float32)
    rows[70_001, 1] = np.nan
    np.save("nan.npy", rows)
    np.save("large.npy", np.array([[1.0, 1.0], [1e300, 1.0]]))
    status, printed, error = run(*words)
    assert status == 1
    assert not printed
    assert message in error
    assert error.count("\n") == 1
    assert error.startswith(f"jaxplain sae {words[0]}: ")
    assert not pathlib.Path("sae_output/cfg.json").exists()


def test_mistakes_in_what_is_measured(run, of_digits):
    status, _, error = run("evaluate", str(of_digits), "--activations", "h.npy")
    assert (status, "for activations of width 32, but h.npy holds some of width 8" in error) == (
        1,
        True,
    )
    transcoder = sae.transcoder(sae.relu(16, 0.1))
    h = np.load("h.npy")
    sae.formats.save_saelens("t", transcoder, transcoder.init(jax.random.key(0), (h, h)))
    status, _, error = run("evaluate", "t", "--activations", "h.npy")
    assert (status, "measured on pairs" in error) == (1, True)


def test_stores_with_rows_that_are_not_finite(run):
    h = np.load("h.npy")
    h[3] = np.inf
    jaxplain.run.map(lambda x: x, h, "h.zarr", batch_size=16, progress=False)
    assert run("train", *OWN, "--steps", "2", "--out", "out")[0] == 0
    status, _, error = run("evaluate", "out", "--activations", "h.zarr")
    assert (status, "h.zarr: row 3 is not finite" in error) == (1, True)
    words = ("train", *OWN[:-1], "h.zarr", "--steps", "3", "--record-every", "3")
    status, printed, _ = run(*words, "--out", "lame")
    assert (status, "steps left out, since something was not finite: 1\n" in printed) == (0, True)


def test_help_and_usage(run, capsys):
    status, printed, _ = run("train", "jumprelu", "--help")
    assert status == 0
    for word in ("--target-l0", "--dead-after", "--checkpoint-every", "architectures: batch_topk"):
        assert word in printed
    assert run()[0] == 2
    for words in (["sae", "nothing"], ["sae", "info"], ["sae", "info", "x", "--latents", "3"]):
        with pytest.raises(SystemExit, match="2"):
            cli.main(words)


# --------------------------------------------------------------------------------------- progress


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_progress_is_a_bar_on_a_terminal_and_lines_elsewhere(monkeypatch):
    records = [{"step": float(t), "fvu": 1 / t, "l0": 2.0, "dead": 0.25} for t in range(1, 41)]

    def shown(stream):
        monkeypatch.setattr(sys, "stderr", stream)
        with _sae._progress(40) as on_record:
            for record in records:
                on_record(record)
        return stream.getvalue()

    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "120")
    bar = shown(Terminal())
    assert "40/40" in bar
    assert "fvu 0.0250, l0 2.0, 25% dead" in bar
    assert "steps/s" in bar
    lines = shown(io.StringIO()).splitlines()
    assert len(lines) == 10
    assert lines[-1] == "step 40 of 40: fvu 0.0250, l0 2.0, 25% dead"
    find = importlib.util.find_spec
    hidden = lambda name, *rest: None if name == "rich" else find(name, *rest)
    monkeypatch.setattr(importlib.util, "find_spec", hidden)
    assert shown(Terminal()).splitlines() == lines


def test_without_matplotlib_there_are_no_figures(run, monkeypatch):
    find = importlib.util.find_spec
    hidden = lambda name, *rest: None if name == "matplotlib" else find(name, *rest)
    monkeypatch.setattr(importlib.util, "find_spec", hidden)
    status, printed, error = run("train", *OWN, "--steps", "2", "--out", "out")
    assert status == 0
    assert "pip install 'jaxplain[plot]'" in error
    assert "history.csv\n" in printed
    assert not list(pathlib.Path("out").glob("*.png"))


def test_the_command_line_loads_nothing_heavy():
    code = (
        "import sys\nfrom jaxplain import cli\ncli.main(['sae'])\n"
        "print(*{'optax', 'flax', 'matplotlib', 'rich', 'tensorstore'} & set(sys.modules))"
    )
    words = [sys.executable, "-c", code]
    printed = subprocess.run(words, capture_output=True, text=True, check=True).stdout
    assert printed.splitlines()[-1] == ""


@pytest.mark.slow
def test_without_arguments_it_explains_the_digits(tmp_path, monkeypatch, capsys):
    """As a user meets it: the whole network, the default run; what is found is worth a look."""
    monkeypatch.chdir(tmp_path)
    code = "import sys\nfrom jaxplain import cli\nsys.exit(cli.main(['sae', 'train']))"
    environment = {"PYTHONPATH": str(pathlib.Path(jaxplain.__file__).parent.parent)}
    subprocess.run(
        [sys.executable, "-c", code], check=True, timeout=300, env={"PATH": "", **environment}
    )
    assert cli.main(["sae", "evaluate", "sae_output", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["fvu"]["value"] < 0.08
    assert found["l0"]["value"] == pytest.approx(4, abs=0.01)
    assert found["dead"] < 0.2
    # The strongest latents are of one digit each, most of them.
    data = demo.digits()
    dictionary, params = sae.formats.load_saelens("sae_output")
    codes = np.asarray(dictionary.encode(params, np.load("sae_output/held_out.npy")))
    strongest = np.argsort(-np.sum(codes**2, axis=0))[:10]
    purity = [
        np.bincount(data.labels[data.test][np.argsort(-codes[:, latent])[:8]]).max() / 8
        for latent in strongest
    ]
    assert np.mean(purity) > 0.8


# ----------------------------------------------------------------- what a reviewer came upon


def test_only_what_makes_a_dictionary_of_latents_is_an_architecture(run):
    assert "sharded" not in _sae.architectures()
    assert "topk" in _sae.architectures()
    status, _, error = run("train", "sharded", "--latents", "4")
    assert (status, "there is no architecture sharded" in error) == (1, True)


def test_a_run_goes_on_with_its_own_activations_only(run):
    h = np.load("h.npy")
    words = ("train", *OWN, "--steps", "6", "--checkpoint-every", "3", "--out", "out")
    assert run(*words)[0] == 0
    np.save("h.npy", 2 * h)
    status, _, error = run(*words, "--resume")
    assert (status, "the activations are others" in error) == (1, True)
    np.save("h.npy", h)
    assert run(*words, "--resume")[0] == 0


def test_checkpoints_that_a_kill_left_aside_come_back(run):
    """Of a run with --overwrite that was killed before its own first checkpoint."""
    words = ("train", *OWN, "--steps", "6", "--checkpoint-every", "3", "--out", "out")
    assert run(*words)[0] == 0
    pathlib.Path("out/checkpoints").rename("out/checkpoints.earlier")
    pathlib.Path("out/checkpoints").mkdir()
    assert run(*words, "--resume")[0] == 0
    assert not pathlib.Path("out/checkpoints.earlier").exists()
    assert pathlib.Path("out/checkpoints/6").is_dir()


def test_numbers_of_the_other_byte_order(run):
    np.save("big.npy", np.load("h.npy").astype(">f4"))
    status, _, error = run("train", *OWN[:-1], "big.npy", "--steps", "2", "--out", "out")
    assert (status, "big.npy holds >f4, floats of the other byte order" in error) == (1, True)
    assert not pathlib.Path("out").exists()


def test_run_json_is_json_and_of_this_version(run):
    """Of activations that are all equal the FVU is no number."""
    np.save("h.npy", np.ones((64, WIDTH), np.float32))
    assert run("train", *OWN, "--steps", "2", "--out", "out")[0] == 0
    path = pathlib.Path("out/run.json")
    refuse = lambda name: pytest.fail(f"{name} is not JSON")
    told = json.loads(path.read_text(), parse_constant=refuse)
    assert told["last"]["fvu"] is None
    assert "fvu nan" in run("info", "out")[1]
    told["options"]["kk"] = 3
    path.write_text(json.dumps(told))
    status, _, error = run("info", "out")
    assert (status, "run.json names kk, which topk does not have" in error) == (1, True)


def test_what_is_no_numpy_file(run):
    pathlib.Path("junk.npy").write_bytes(b"junk" * 100)
    status, _, error = run("train", *OWN[:-1], "junk.npy", "--out", "out")
    assert (status, "junk.npy cannot be read as numpy: it holds objects" in error) == (1, True)
    assert "pickle" not in error
