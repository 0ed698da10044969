"""Settings of the whole suite: eight CPU devices and the strictest rules jax has.

They are set before any device is used. Double precision is switched on per test
(`jax.enable_x64(True)`), so that the default, float32, stays what is tested.
"""

import os
import pathlib

import jax
import pytest

jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")


@pytest.fixture(scope="session")
def data() -> pathlib.Path:
    """The folder of real models and data, or a skip with the reason."""
    folder = os.environ.get("JAXPLAIN_DATA")
    if not folder:
        pytest.skip("JAXPLAIN_DATA is not set: it names the folder of real models and data")
    return pathlib.Path(folder)


@pytest.fixture
def x64():
    """Double precision for one test."""
    with jax.enable_x64(True):
        yield
