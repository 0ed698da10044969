"""`jaxplain sobol`: the table, the files, and mistakes."""

import csv
import pathlib

import jax
import numpy as np
import pytest

from jaxplain import cli, sobol

MODEL = """\
import jax.numpy as jnp

def f(x):
    return jnp.sin(x["angle"]) + x["weights"] @ jnp.array([1.0, 2.0])

def outputs(x):
    return jnp.stack([f(x), x["angle"]])
"""
INPUTS = """\
[angle]
distribution = "uniform"
low = -3.0
high = 3.0

[weights]
distribution = "normal"
mean = [0.0, 1.0]
standard_deviation = 0.5
"""


@pytest.fixture
def run(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    pathlib.Path("my_functions.py").write_text(MODEL)
    pathlib.Path("inputs.toml").write_text(INPUTS)

    def call(*words):
        status = cli.main(["sobol", *words])
        printed = capsys.readouterr()
        return status, printed.out, printed.err

    return call


def saved(path="out/indices.csv"):
    with pathlib.Path(path).open() as stream:
        return list(csv.DictReader(stream))


def test_without_arguments_it_is_ishigami(run):
    status, printed, _ = run("--samples", "4096", "--out", "out")
    assert status == 0
    assert "from 20,480 evaluations (4,096 rows)" in printed
    rows = saved()
    assert [row["input"] for row in rows] == ["a", "b", "c"]
    for order, truth in (
        ("first_order", [0.313905, 0.442411, 0]),
        ("total_order", [0.557589, 0.442411, 0.243684]),
    ):
        found = np.array([float(row[order]) for row in rows])
        errors = np.array([float(row[f"{order}_error"]) for row in rows])
        assert np.all(np.abs(found - truth) < 3 * errors)
        lower, upper = (
            np.array([float(r[f"{order}_{end}"]) for r in rows]) for end in ("lower", "upper")
        )
        np.testing.assert_allclose((lower + upper) / 2, found, atol=1e-5)
    assert pathlib.Path("out/indices.png").stat().st_size > 1000
    assert sorted(path.name for path in pathlib.Path("out").iterdir()) == [
        "indices.csv",
        "indices.png",
    ]


def test_a_function_and_a_file_of_inputs(run):
    options = "--samples", "2048", "--first-order", "janon_monod", "--seed", "3", "--out", "out"
    status, _, _ = run("--model", "my_functions:f", "--inputs", "inputs.toml", *options)
    assert status == 0
    import my_functions

    inputs = {
        "angle": sobol.uniform(-3.0, 3.0),
        "weights": sobol.normal(np.array([0.0, 1.0], np.float32), 0.5),
    }
    expected = sobol.indices(
        my_functions.f, inputs, samples=2048, first_order=sobol.estimators.janon_monod
    )(jax.random.key(3))
    rows = saved()
    assert [row["input"] for row in rows] == ["angle", "weights[0]", "weights[1]"]
    first = [expected.first_order["angle"], *expected.first_order["weights"]]
    np.testing.assert_allclose([float(row["first_order"]) for row in rows], first, atol=1e-6)


def test_groups_and_several_outputs(run):
    words = "--model", "my_functions:outputs", "--inputs", "inputs.toml", "--group-inputs"
    status, printed, _ = run(*words, "--samples", "1024", "--out", "out")
    assert status == 0
    rows = saved()
    assert [row["output"] + row["input"] for row in rows] == [
        "[0]angle", "[0]weights", "[1]angle", "[1]weights"
    ]  # fmt: skip
    assert abs(float(rows[2]["total_order"]) - 1) < 1e-3  # the angle is all of the second output
    assert abs(float(rows[3]["total_order"])) < 1e-6
    assert "[1] weights" in printed


def test_nothing_is_replaced_unasked(run):
    assert run("--samples", "1024", "--out", "out")[0] == 0
    before = pathlib.Path("out/indices.csv").read_bytes()
    status, _, error = run("--samples", "2048", "--out", "out")
    assert status == 1
    assert "exists: give --overwrite" in error
    assert pathlib.Path("out/indices.csv").read_bytes() == before
    assert run("--samples", "2048", "--out", "out", "--overwrite")[0] == 0
    assert pathlib.Path("out/indices.csv").read_bytes() != before


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--model", "my_functions:f"), "--model and --inputs go together"),
        (("--sample", "3"), "there is no option --sample. Did you mean --samples"),
        (("--first-order", "jan"), "--first-order must be one of azzini"),
        (("--model", "my_functions:g", "--inputs", "inputs.toml"), "there is no name"),
        (("--model", "my_functions:f", "--inputs", "none.toml"), "none.toml"),
        (("--model", "my_functions:f", "--inputs", "my_functions.py"), "is not TOML"),
        (("--model", "my_functions:f", "--inputs", "bad.toml"), r"[angle] needs distribution ="),
        (("--model", "my_functions:f", "--inputs", "more.toml"), "needs ['distribution', 'high'"),
        (("--model", "my_functions:f", "--inputs", "order.toml"), "low must be below high"),
    ],
)
def test_mistakes_are_one_line(run, words, message):
    pathlib.Path("bad.toml").write_text('[angle]\ndistribution = "cauchy"\n')
    pathlib.Path("more.toml").write_text('[angle]\ndistribution = "uniform"\nlow = 1\n')
    pathlib.Path("order.toml").write_text('[a]\ndistribution = "uniform"\nlow = 1\nhigh = 0\n')
    status, printed, error = run(*words)
    assert status == 1
    assert not printed
    assert message in error
    assert error.count("\n") == 1


def test_help_names_the_options(run):
    status, printed, _ = run("--help")
    assert status == 0
    for option in ("--samples", "--tolerance", "--errors", "--group-inputs", "inputs.toml"):
        assert option in printed
