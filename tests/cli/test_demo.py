"""The command line says what is wrong in one line; the demo does its job on real digits."""

import re

import jax
import numpy as np
import pytest

from jaxplain import cli, store


@pytest.mark.slow
def test_the_demo_explains_every_digit(tmp_path, capsys):
    with jax.numpy_dtype_promotion("standard"):  # optax's Adam relies on it
        assert cli.main(["demo", "--out", str(tmp_path), "--steps", "16"]) == 0
    printed = capsys.readouterr().out
    for word in ("examples per second", "compile seconds", "completeness gap", "insertion area"):
        assert word in printed
    assert (tmp_path / "digits.png").stat().st_size > 10_000
    assert (tmp_path / "report.html").stat().st_size > 20_000
    for name in ("integrated_gradients", "input_x_gradient"):
        arrays = store.open(tmp_path / f"{name}.zarr").arrays
        assert arrays["values"].shape == (1797, 8, 8, 1)
        read = lambda name, arrays=arrays: np.asarray(arrays[name])
        if name == "integrated_gradients":
            gap = read("values").sum((1, 2, 3)) - (read("output") - read("baseline_output"))
            np.testing.assert_allclose(gap, read("completeness_gap"), atol=1e-4)
        quality = store.open(tmp_path / f"{name}.zarr" / "quality").arrays
        mean = lambda name, quality=quality: np.asarray(quality[name]).mean()
        # Right maps: what they delete first matters far more than chance.
        assert mean("deletion/area") < 0.3 < 0.7 < mean("insertion/area")
    unseen = re.search(r"([\d.]+)% of 450 unseen digits right", printed)
    assert float(unseen[1]) > 97
    with jax.numpy_dtype_promotion("standard"):  # once more: the earlier stores are replaced
        assert cli.main(["demo", "--out", str(tmp_path), "--steps", "2"]) == 0


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
