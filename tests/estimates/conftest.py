"""What the tests of the states share."""

import jax
import numpy as np
import pytest

from jaxplain import estimates


@pytest.fixture
def assert_states_close():
    return states_close


def states_close(got, expected, rtol, atol):
    assert type(got) is type(expected)
    # only the sums: what is in the low parts is the rounding itself
    for name in got._fields:
        if name == "compensation":
            continue
        left, right = getattr(got, name), getattr(expected, name)
        if isinstance(left, estimates.Moments):
            states_close(left, right, rtol, atol)
        else:
            jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol, atol), left, right)
