"""A user's folder: a model, a dataset in several forms, and the command line in it."""

import numpy as np
import pytest

from jaxplain import cli

MODULE = """
import jax, jax.numpy as jnp, numpy as np

def load():
    first, second = jax.random.split(jax.random.key(0))
    params = {"a": 0.2 * jax.random.normal(first, (64, 8)), "b": jax.random.normal(second, (8, 3))}
    apply = lambda p, x: jnp.tanh(x.reshape(x.shape[0], -1) @ p["a"]) @ p["b"]
    return apply, params

def piecewise_linear():
    _, params = load()
    apply = lambda p, x: jax.nn.relu(x.reshape(x.shape[0], -1) @ p["a"]) @ p["b"]
    return apply, params

def number():
    apply, params = load()
    return (lambda p, x: apply(p, x)[:, 0]), params

def batches():
    x = np.load("x.npy")
    for start in range(0, len(x), 7):
        yield x[start : start + 7]

def tables():
    return np.float32(np.load("x.npy").reshape(-1, 64))

def fails():
    raise RuntimeError("no weights here")

def other():
    return load()[1]

constant = 3
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The current folder, holding my_module.py, x.npy (bytes) and x.npz (floats)."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend("")
    (tmp_path / "my_module.py").write_text(MODULE)
    pixels = np.random.default_rng(0).integers(0, 17, size=(20, 8, 8, 1)).astype(np.uint8)
    np.save("x.npy", pixels)
    np.savez("x.npz", x=pixels.astype(np.float32) / 16, y=np.arange(20))
    yield tmp_path
    import sys

    sys.modules.pop("my_module", None)


@pytest.fixture
def attribute(folder, capsys):
    """Runs `jaxplain attribute` with the model; gives the status and what was printed."""

    def run(*words, model="my_module:load", data="x.npz:x", out="out.zarr"):
        arguments = ["attribute", "--model", model, "--data", data, "--out", out, *words]
        status = cli.main(
            [*arguments, "--batch-size", "16"] if "--batch-size" not in words else arguments
        )
        printed = capsys.readouterr()
        return status, printed.out, printed.err

    return run
