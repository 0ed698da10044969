"""Checkpoints: going on is the run that was not interrupted, also after kills at any moment."""

import os
import pathlib
import subprocess
import sys
import time

import jax
import numpy as np
import optax
import pytest

from jaxplain import sae

pytest.importorskip("orbax.checkpoint", reason="orbax is not installed")
KEY = jax.random.key(0)
H = np.random.default_rng(0).normal(size=(64, 6)).astype(np.float32)


@pytest.fixture(autouse=True)
def usual_promotion():
    """As users have it: optax itself promotes dtypes."""
    with jax.numpy_dtype_promotion("standard"):
        yield


def train(steps=12, dictionary=None, key=KEY, source=H, **options):
    return sae.train(
        key,
        dictionary or sae.jumprelu(24, 0.01, target_l0=3),
        source,
        **{
            "optimizer": optax.adam(1e-3),
            "steps": steps,
            "batch_size": 16,
            "record_every": 3,
            "average": 0.9,
            **options,
        },
    )


def equal(a, b):
    jax.tree.map(np.testing.assert_array_equal, a, b)


class Stop(Exception):
    pass


def stop_at(step):
    def on_record(record):
        if record["step"] == step:
            raise Stop

    return on_record


@pytest.mark.parametrize(
    "dictionary",
    [
        sae.jumprelu(24, 0.01, target_l0=3),
        sae.batch_topk(24, 3),
        sae.p_annealed(24, 0.1, start=0.3),
    ],
    ids=["jumprelu", "batch_topk", "p_annealed"],
)
def test_going_on_is_the_run_that_was_not_interrupted(dictionary, tmp_path):
    whole = train(dictionary=dictionary)
    with pytest.raises(Stop):
        train(dictionary=dictionary, checkpoint=tmp_path, checkpoint_every=4, on_record=stop_at(9))
    again = train(dictionary=dictionary, checkpoint=tmp_path, checkpoint_every=4, resume=True)
    equal(again.params, whole.params)
    equal(again.state, whole.state)
    for name, values in whole.history.items():
        np.testing.assert_array_equal(again.history[name], values)
    finished = train(dictionary=dictionary, checkpoint=tmp_path, resume=True)  # nothing is left
    equal(finished.state, whole.state)


def test_going_on_from_a_state_with_checkpoints_and_an_iterable(tmp_path):
    """Which has no sample to start from: its next batch tells what program a step is."""
    options = {"optimizer": optax.adam(1e-3), "record_every": 3}
    go = lambda steps, batches, **more: sae.train(
        KEY, sae.topk(24, 3), iter(batches), steps=steps, **options, **more
    )
    batches = [H[k * 8 : (k + 1) * 8] for k in range(8)]
    whole, first = go(8, batches), go(3, batches)
    more = go(8, batches[3:], state=first.state, checkpoint=tmp_path)
    equal(more.params, whole.params)


def test_nothing_is_overwritten_and_another_run_is_told(tmp_path):
    train(checkpoint=tmp_path, checkpoint_every=4)
    before = sorted(path.name for path in tmp_path.iterdir())
    with pytest.raises(FileExistsError, match=r"up to step 12: go on with it by resume=True"):
        train(checkpoint=tmp_path)
    for change, message in (
        (
            {"dictionary": sae.topk(24, 3)},
            "another run: architecture of the dictionary was jumprelu, but is now",
        ),
        ({"dictionary": sae.jumprelu(25, 0.01, target_l0=3)}, "another run: state was"),
        ({"key": jax.random.key(1)}, "another run: key was"),
        ({"source": 2 * H}, "another run: the activations are others"),
        ({"steps": 20}, "another run: steps was 12, but is now 20"),
        ({"optimizer": optax.sgd(0.1)}, "another run: state was"),
        ({"batch_size": 8}, "another run: batch_size was 16, but is now 8"),
        ({"resample_every": 5}, "another run: resample_every was None, but is now 5"),
        ({"dictionary": sae.jumprelu(24, 0.02, target_l0=3)}, "a step is another program"),
        ({"dictionary": sae.jumprelu(24, 0.01, target_l0=4)}, "a step is another program"),
        ({"optimizer": optax.adam(2e-3)}, "a step is another program"),
        ({"dead_after": 7}, "a step is another program"),
        ({"average": 0.8}, "a step is another program"),
    ):
        with pytest.raises(ValueError, match=message):
            train(checkpoint=tmp_path, resume=True, **change)
    assert sorted(path.name for path in tmp_path.iterdir()) == before
    assert {"8", "12"} <= set(before)
    assert "4" not in before


SCRIPT = """
import sys
import jax, numpy as np, optax
from jaxplain import sae
h = np.random.default_rng(0).normal(size=(64, 6)).astype(np.float32)
result = sae.train(
    jax.random.key(0), sae.batch_topk(24, 3), h, optimizer=optax.adam(1e-3), steps=120,
    batch_size=16, checkpoint=sys.argv[1] if sys.argv[1] else None, checkpoint_every=5, resume=True,
    resample_every=20, dead_after=100,
)
np.savez(sys.argv[2], **result.params)
"""


@pytest.mark.slow
def test_twenty_kills_change_no_bit(tmp_path):
    """At random moments, in steps and in saves; each time the run goes on."""
    environment = {**os.environ, "JAX_PLATFORMS": "cpu"}
    command = lambda folder, out: [sys.executable, "-c", SCRIPT, folder, str(out)]
    whole, out = tmp_path / "whole.npz", tmp_path / "out.npz"
    subprocess.run(command("", whole), env=environment, check=True, timeout=300)
    random, kills, folder = np.random.default_rng(0), 0, tmp_path / "run"
    began = None
    while kills < 20 and not out.exists():
        process = subprocess.Popen(command(str(folder), out), env=environment)
        start = time.monotonic()
        # Within the loop: the time to start is measured by the first checkpoint of this process.
        known = _steps(folder)
        while _steps(folder) == known and process.poll() is None:
            assert time.monotonic() - start < 120
            time.sleep(0.005)
        began = began or time.monotonic() - start
        time.sleep(random.uniform(0, 0.08))
        process.kill()
        process.wait(timeout=60)
        kills += 1
    subprocess.run(command(str(folder), out), env=environment, check=True, timeout=300)
    assert kills >= 10
    with np.load(whole) as expected, np.load(out) as found:
        for name in expected.files:
            np.testing.assert_array_equal(found[name], expected[name])


def _steps(folder: pathlib.Path) -> set[str]:
    return {path.name for path in folder.iterdir()} if folder.exists() else set()
