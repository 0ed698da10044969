"""The command line says what is wrong in one line; the demo does its job on real digits."""

import jax
import numpy as np
import pytest

from jaxplain import cli


@pytest.mark.slow
def test_the_demo_explains_every_digit(tmp_path, capsys):
    with jax.numpy_dtype_promotion("standard"):  # optax's Adam relies on it
        assert cli.main(["demo", "--out", str(tmp_path), "--steps", "16"]) == 0
    printed = capsys.readouterr().out
    for word in ("examples per second", "compile seconds", "completeness gap", "insertion area"):
        assert word in printed
    assert (tmp_path / "digits.png").stat().st_size > 10_000
    arrays = np.load(tmp_path / "digits.npz")
    assert arrays["values"].shape == (1797, 8, 8, 1)
    held_out = arrays["held_out"]
    assert (arrays["predicted"] == arrays["labels"])[held_out].mean() > 0.97
    gap = arrays["values"].sum((1, 2, 3)) - (arrays["output"] - arrays["baseline_output"])
    np.testing.assert_allclose(gap, arrays["completeness_gap"], atol=1e-4)
    # Right maps: what they delete first matters far more than chance.
    assert arrays["deletion_area"].mean() < 0.3 < 0.7 < arrays["insertion_area"].mean()


def test_mistakes_are_one_line(tmp_path, capsys):
    taken = tmp_path / "file"
    taken.write_text("")
    for arguments, message in (
        (["demo", "--out", str(tmp_path), "--batch-size", "0"], "batch_size must be at least 1"),
        (["demo", "--out", str(tmp_path), "--steps", "-3"], "steps must be at least 1, but is -3"),
        (["demo", "--out", str(taken)], "file is a file: name another"),
    ):
        assert cli.main(arguments) == 1
        error = capsys.readouterr().err
        assert message in error
        assert error.count("\n") == 1
    with pytest.raises(SystemExit, match="2"):
        cli.main(["nothing"])


def test_version_and_help(capsys):
    assert cli.main([]) == 2
    assert "demo" in capsys.readouterr().out
