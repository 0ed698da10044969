"""Activations on disk: each row once in a pass, well mixed, in bounded memory, found again."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxplain
from jaxplain import sae
from jaxplain.sae import _chunks

KEY = jax.random.key(0)
EXAMPLES, POSITIONS, WIDTH = 60, 5, 4


@pytest.fixture(autouse=True)
def usual_promotion():
    """As users have it: optax itself promotes dtypes."""
    with jax.numpy_dtype_promotion("standard"):
        yield


def written(path, chunk=8, dtype=jnp.float32, examples=EXAMPLES):
    """Each row says which it is: its example and its position, and whether it counts."""

    def function(example):
        positions = jnp.arange(POSITIONS, dtype=jnp.float32)
        rows = jnp.stack([jnp.full(POSITIONS, example), positions, positions, positions], axis=1)
        return {"h": rows.astype(dtype), "counts": positions < 1 + example % POSITIONS}

    numbers = np.arange(examples, dtype=np.float32)
    jaxplain.run.map(function, numbers, path, batch_size=chunk, progress=False, mesh=None)
    return path


def taken(source, steps, batch_size, start=0):
    _, at = _chunks.batches(source, KEY, batch_size, 100)
    return [np.asarray(at(t)) for t in range(start, start + steps)]


def test_each_row_once_in_a_pass_in_another_order_each_time(tmp_path):
    source = sae.stored(written(tmp_path / "a", examples=64), "h", buffer_bytes=2 * 8 * 5 * 4 * 4)
    assert source.group == 2
    assert source.rows.tolist() == [40] * 8
    batches = taken(source, 32, 20)  # two passes of 320 rows
    for part in (batches[:16], batches[16:]):
        rows = np.concatenate(part)
        assert sorted(map(tuple, rows[:, :2])) == [(e, p) for e in range(64) for p in range(5)]
    assert any(np.any(a != b) for a, b in zip(batches[:16], batches[16:], strict=True))
    # What is left over in a pass is no more than a batch for each group, and one group.
    source = sae.stored(tmp_path / "a", "h", buffer_bytes=3 * 8 * 5 * 4 * 4)
    seen = [set(map(tuple, np.concatenate(taken(source, 16, 30, s))[:, :2])) for s in (0, 8, 16)]
    assert all(len(rows) <= 320 for rows in seen)
    assert len(set.union(*seen)) == 320


def test_batches_are_mixed(tmp_path):
    """A batch has rows of as many examples as a random choice of rows of its group would."""
    source = sae.stored(written(tmp_path / "a", examples=64), "h", buffer_bytes=4 * 8 * 5 * 4 * 4)
    assert source.group == 4
    counts = [len(set(batch[:, 0])) for batch in taken(source, 64, 40)]
    random = np.random.default_rng(0)
    group = np.repeat(np.arange(32), POSITIONS)
    expected = [len(set(random.permutation(group)[:40])) for _ in range(2000)]
    error = np.std(expected) * np.sqrt(1 / 64 + 1 / 2000)
    assert abs(np.mean(counts) - np.mean(expected)) < 4 * error
    # And of chunks that do not follow each other on disk.
    chunks = [sorted(set(batch[:, 0] // 8)) for batch in taken(source, 8, 40)]
    assert any(np.any(np.diff(numbers) > 1) for numbers in chunks)


def test_the_batch_of_any_step_is_found_again(tmp_path):
    source = sae.stored(written(tmp_path / "a"), "h", mask="counts", buffer_bytes=2 * 8 * 5 * 4 * 4)
    whole = taken(source, 60, 16)
    for start in (0, 7, 13, 31, 59):
        np.testing.assert_array_equal(taken(source, 1, 16, start)[0], whole[start])


def test_masked_rows_and_a_short_last_chunk(tmp_path):
    source = sae.stored(written(tmp_path / "a"), "h", mask="counts")
    assert source.rows.sum() == sum(1 + e % POSITIONS for e in range(EXAMPLES))
    assert len(source.rows) == 8
    rows = np.concatenate(list(source.in_order()))
    assert [tuple(row) for row in rows[:, :2]] == [
        (e, p) for e in range(EXAMPLES) for p in range(1 + e % POSITIONS)
    ]
    for batch in taken(source, 12, 16):
        assert np.all(batch[:, 1] < 1 + batch[:, 0] % POSITIONS)


def test_training_and_evaluating_from_disk_in_bfloat16(tmp_path):
    """Going on is the run that was not interrupted, from disk too."""
    path = written(tmp_path / "a", dtype=jnp.bfloat16)
    source = sae.stored(path, "h", buffer_bytes=3 * 8 * 5 * 4 * 2)
    assert source.group == 3
    dictionary = sae.topk(12, 2)
    go = lambda steps, state=None: sae.train(
        KEY,
        dictionary,
        source,
        optimizer=optax.adam(1e-2),
        steps=steps,
        batch_size=16,
        state=state,
    )
    whole, second = go(20), go(20, go(9).state)
    jax.tree.map(np.testing.assert_array_equal, second.params, whole.params)
    r = sae.evaluate(dictionary, whole.params, source, sequence_length=POSITIONS)
    assert r.examples == EXAMPLES * POSITIONS
    assert np.isfinite(r.fvu.value)


def test_what_is_refused(tmp_path):
    path = written(tmp_path / "a")
    with pytest.raises(FileNotFoundError, match="there is no store"):
        sae.stored(tmp_path / "b")
    with pytest.raises(ValueError, match=r"has no array 'values', only counts, h"):
        sae.stored(path)
    with pytest.raises(ValueError, match="must have that of h without its width"):
        sae.stored(path, "h", mask="h")
    with pytest.raises(ValueError, match=r"batch_size is 100, but a group of 1 chunks .* 20 rows"):
        taken(sae.stored(path, "h", buffer_bytes=1), 1, 100)
    with pytest.raises(ValueError, match="batch_size must be given"):
        sae.train(KEY, sae.topk(8, 1), sae.stored(path, "h"), optimizer=optax.sgd(1.0), steps=1)
    part = next((path / "h" / "c").iterdir())
    for file in sorted(part.rglob("*")) if part.is_dir() else [part]:
        file.unlink() if file.is_file() else None
    with pytest.raises(ValueError, match="is not finished: 1 of 8 batches are missing"):
        sae.stored(path, "h")
