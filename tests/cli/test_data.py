"""Datasets by name."""

import numpy as np
import pytest

from jaxplain import store
from jaxplain.cli import _data


def test_files(folder):
    import jax

    x = np.load("x.npy")
    np.testing.assert_array_equal(np.asarray(_data.open_data("x.npy").array[2:4]), x[2:4])
    assert _data.open_data(str(folder / "x.npy")).name == "x.npy"
    opened = store.create(
        "x.zarr", {"batch_size": 20}, jax.ShapeDtypeStruct((8, 8, 1), x.dtype), examples=20
    )
    for future in store.write(opened, 0, x):
        future.result()
    for name in ("x.zarr", "x.zarr:values"):
        np.testing.assert_array_equal(np.asarray(_data.open_data(name).array), x)
    # A zarr array by itself, as another library writes it.
    (folder / "x.zarr" / "values").rename(folder / "plain.zarr")
    np.testing.assert_array_equal(np.asarray(_data.open_data("plain.zarr").array), x)
    (folder / "no.zarr").mkdir()
    with pytest.raises(ValueError, match="cannot be read as a zarr array"):
        _data.open_data("no.zarr")


def test_an_iterator_is_made_anew_at_each_call(folder):
    data = _data.open_data("my_module:batches")
    for _ in range(3):
        np.testing.assert_array_equal(np.concatenate(list(data.batches())), np.load("x.npy"))
    assert _data.open_data("my_module:tables").array.shape == (20, 64)


def test_parquet_without_pyarrow_names_the_extra(folder, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    (folder / "x.parquet").write_bytes(b"")
    with pytest.raises(ImportError, match=r"pip install 'jaxplain\[parquet\]'"):
        _data.open_data("x.parquet")


def test_parquet(folder):
    pyarrow = pytest.importorskip("pyarrow", reason="pyarrow (extra parquet) is not installed")
    parquet = pytest.importorskip("pyarrow.parquet")
    table = pyarrow.table({"age": [1, 2, 3], "height": [1.5, 2.5, 3.5]})
    parquet.write_table(table, "t.parquet")
    data = _data.open_data("t.parquet")
    assert data.feature_names == ["age", "height"]
    np.testing.assert_array_equal(data.array, np.float32([[1, 1.5], [2, 2.5], [3, 3.5]]))
    parquet.write_table(pyarrow.table({"name": ["a", "b"]}), "s.parquet")
    with pytest.raises(ValueError, match=r"column 'name' of s\.parquet is not numeric"):
        _data.open_data("s.parquet")
