"""The layout on disk, against plain numpy and against what may lie in the way."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxplain import store

TYPES = {
    "values": {
        "a": jax.ShapeDtypeStruct((2, 3), jnp.float32),
        "b": jax.ShapeDtypeStruct((), jnp.bfloat16),
    },
    "finite": jax.ShapeDtypeStruct((), jnp.bool_),
    "count": jax.ShapeDtypeStruct((), jnp.int32),
}


def examples(number):
    random = np.random.default_rng(0)
    return {
        "values": {
            "a": random.normal(size=(number, 2, 3)).astype(np.float32),
            "b": random.normal(size=number).astype(jnp.bfloat16),
        },
        "finite": np.zeros(number, bool),
        "count": np.zeros(number, np.int32),
    }


def put(opened, batch, values):
    for future in store.write(opened, batch, values):
        future.result()


def test_what_is_written_is_read(tmp_path):
    written = examples(7)
    opened = store.create(tmp_path / "s", {"batch_size": 3, "note": "x"}, TYPES, examples=7)
    for batch in (2, 0, 1):
        rows = jax.tree.map(lambda leaf, k=batch: leaf[3 * k : 3 * k + 3], written)
        assert batch not in store.finished_batches(opened)
        put(opened, batch, rows)
        assert batch in store.finished_batches(opened), "zeros are data too"
    read = store.open(tmp_path / "s")
    assert read.manifest["note"] == "x"
    assert read.manifest["fields"]["values/b"] == {"shape": [], "dtype": "bfloat16"}
    for name, leaf in (
        ("values/a", written["values"]["a"]),
        ("values/b", written["values"]["b"]),
        ("finite", written["finite"]),
        ("count", written["count"]),
    ):
        np.testing.assert_array_equal(np.asarray(read.arrays[name]), leaf)
        np.testing.assert_array_equal(np.asarray(read.arrays[name][4:6]), leaf[4:6])


def test_a_batch_is_done_when_all_its_arrays_are(tmp_path):
    opened = store.create(tmp_path / "s", {"batch_size": 3}, TYPES, examples=6)
    put(opened, 0, examples(3))
    put(opened, 1, examples(3))
    (tmp_path / "s" / "count" / "c" / "1").unlink()
    assert store.finished_batches(store.open(tmp_path / "s")) == {0}


def test_a_store_grows_where_the_end_is_not_known(tmp_path):
    opened = store.create(tmp_path / "s", {"batch_size": 3}, TYPES, examples=0)
    put(opened, 0, examples(3))
    put(opened, 1, jax.tree.map(lambda leaf: leaf[:2], examples(3)))
    read = store.open(tmp_path / "s")
    assert {array.shape[0] for array in read.arrays.values()} == {5}


def test_the_folder_is_a_zarr_group(tmp_path):
    store.create(tmp_path / "s", {"batch_size": 3}, TYPES, examples=6)
    group = json.loads((tmp_path / "s" / "zarr.json").read_text())
    assert (group["zarr_format"], group["node_type"]) == (3, "group")
    array = json.loads((tmp_path / "s" / "values" / "a" / "zarr.json").read_text())
    assert array["shape"] == [6, 2, 3]
    assert array["chunk_grid"]["configuration"]["chunk_shape"] == [3, 2, 3]


def test_going_on_makes_what_a_kill_has_left_out(tmp_path):
    manifest = {"batch_size": 3, "versions": {"jax": "1", "numpy": "2"}, "about": {"a": [1, 2]}}
    opened = store.create(tmp_path / "s", manifest, TYPES, examples=6)
    put(opened, 0, examples(3))
    (tmp_path / "s" / "count" / "c" / "0").unlink()
    (tmp_path / "s" / "count" / "zarr.json").unlink()
    with pytest.raises(ValueError, match="lacks the array 'count'"):
        store.open(tmp_path / "s")
    again = store.reopen(tmp_path / "s", manifest, TYPES, ["batch_size", "versions.jax", "about"])
    assert store.finished_batches(again) == set()
    put(again, 0, examples(3))
    np.testing.assert_array_equal(
        np.asarray(store.open(tmp_path / "s").arrays["values/a"])[:3], examples(3)["values"]["a"]
    )


@pytest.mark.parametrize(
    ("changed", "line"),
    [
        ({"batch_size": 4}, "batch_size: 3 in the store, 4 now"),
        ({"about": {"steps": 64}}, "about.steps: 32 in the store, 64 now"),
        (
            {"about": {"steps": 32, "rule": "midpoint"}},
            "about.rule: nothing in the store, midpoint now",
        ),
        ({"versions": {"jax": "2", "numpy": "2"}}, "versions.jax: 1 in the store, 2 now"),
    ],
    ids=["number", "entry", "new entry", "version"],
)
def test_another_run_is_refused_and_says_what_differs(tmp_path, changed, line):
    manifest = {"batch_size": 3, "versions": {"jax": "1", "numpy": "1"}, "about": {"steps": 32}}
    store.create(tmp_path / "s", manifest, TYPES, examples=6)
    keys = ["batch_size", "versions.jax", "about", "fields"]
    with pytest.raises(ValueError, match="store of another run") as refused:
        store.reopen(tmp_path / "s", {**manifest, **changed}, TYPES, keys)
    assert str(refused.value).splitlines()[1:] == [f"- {line}"]
    wider = {**TYPES, "count": jax.ShapeDtypeStruct((2,), jnp.int32)}
    with pytest.raises(ValueError, match=r"fields.count.shape: \[\] in the store, \[2\] now"):
        store.reopen(tmp_path / "s", manifest, wider, keys)


def test_what_is_no_store_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="there is no store at"):
        store.open(tmp_path / "nothing")
    with pytest.raises(ValueError, match=r"not a jaxplain store: it has no zarr\.json"):
        store.open(tmp_path)
    for text, message in (
        ("{", "manifest of .* cannot be read"),
        ("[]", "manifest of .* cannot be read"),
        ('{"zarr_format": 3, "node_type": "group"}', "a zarr group, but not a jaxplain store"),
        (
            '{"attributes": {"jaxplain": {"format_version": 99, "versions": {"jaxplain": "7.0"}}}}',
            r"format version 99, and this jaxplain reads version 1 only.*by jaxplain 7\.0",
        ),
    ):
        (tmp_path / "zarr.json").write_text(text)
        with pytest.raises(ValueError, match=message):
            store.open(tmp_path)


def test_bad_calls(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(FileExistsError, match="exists: name another folder"):
        store.create(tmp_path / "file", {"batch_size": 3}, TYPES, examples=6)
    with pytest.raises(FileExistsError, match="exists: name another folder"):
        store.create(tmp_path, {"batch_size": 3}, TYPES, examples=6)
    with pytest.raises(ValueError, match="nothing to store"):
        store.create(tmp_path / "s", {"batch_size": 3}, (), examples=6)
    opened = store.create(tmp_path / "s", {"batch_size": 3}, TYPES, examples=6)
    with pytest.raises(ValueError, match=r"store has \['count'.*but came \['values'\]"):
        store.write(opened, 0, np.ones(3))


def test_fingerprints():
    random = np.random.default_rng(0)
    big = random.normal(size=(1000, 3)).astype(np.float32)
    tree = {"a": big, "b": (jnp.arange(3), 2.0)}
    one = store.fingerprint(tree)
    assert one == store.fingerprint(
        {"a": jnp.asarray(big), "b": (np.arange(3, dtype=np.int32), 2.0)}
    )
    other = big.copy()
    other[500, 1] += 1e-3
    changed = [
        {**tree, "a": other},
        {"c": tree["a"], "b": tree["b"]},
        {**tree, "a": big.reshape(3, 1000)},
        {**tree, "a": big.astype(np.float64)},
        {**tree, "b": (jnp.arange(3), 3.0)},
    ]
    assert len({one, *map(store.fingerprint, changed)}) == 1 + len(changed)
    # By a sample of the rows: the ends are always in it.
    sample = store.fingerprint(big, rows=10)
    assert store.fingerprint(big[:999], rows=10) != sample
    ends = big.copy()
    ends[-1] += 1
    assert store.fingerprint(ends, rows=10) != sample
    assert store.fingerprint(jax.random.key(0)) != store.fingerprint(jax.random.key(1))
    with pytest.raises(TypeError, match=r"leaf at \['a'\] must be an array, but is a str"):
        store.fingerprint({"a": "b"})
