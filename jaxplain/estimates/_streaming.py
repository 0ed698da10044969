"""The states in a stream: add a chunk, merge two, merge those of all devices.

    update(state, chunk) = merge(state, moments of the chunk)

Each kind of state has a module with `samples`, `chunk` and `join`; here is what is the same for
all.
"""

from types import ModuleType
from typing import Any, TypeVar

import jax.numpy as jnp

from jaxplain.estimates import _covariance, _covariance_matrix, _join, _moments
from jaxplain.estimates._chunks import checked_weights
from jaxplain.estimates._covariance import Covariance
from jaxplain.estimates._covariance_matrix import CovarianceMatrix
from jaxplain.estimates._leaves import same_structure, widest
from jaxplain.estimates._moments import Moments

State = TypeVar("State", Moments, Covariance, CovarianceMatrix)

_KINDS: dict[type, ModuleType] = {
    Moments: _moments,
    Covariance: _covariance,
    CovarianceMatrix: _covariance_matrix,
}


def update(state: State, values: Any, weights: Any = None) -> State:
    """Add a chunk of samples to a state.

    state = merge(state, moments of the chunk), with the chunk's moments in two passes:
    m = sum_i w_i y_i / n, M2 = sum_i w_i (y_i - m)^2.

    Args:
        state: from `init_moments`, `init_covariance` or `init_covariance_matrix`.
        values: tree like one sample with a leading sample axis (c, ...), c >= 0. For a `Covariance`
            the pair `(x, y)` of two such trees; for a `CovarianceMatrix` one array (c, d).
        weights: None (each sample counts once), or shape (c,): numbers >= 0 that say how often a
            sample counts, or a boolean mask. Samples of weight 0 are left out even where they are
            NaN.

    Returns:
        The state with the chunk in it, of the same type and shapes.

    Raises:
        ValueError: `values` do not have the state's tree, or its shapes behind a sample axis;
            `weights` are not (c,).
        TypeError: the state is none of the three, or the values accumulate in another dtype than
            the state.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxplain import estimates
        >>> state = estimates.init_moments(jnp.zeros(()))
        >>> state = estimates.update(state, jnp.array([1.0, 2.0, 3.0]))
        >>> state = estimates.update(state, jnp.array([4.0, jnp.nan]), jnp.array([True, False]))
        >>> float(state.count), float(state.mean), round(float(estimates.variance(state)), 6)
        (4.0, 2.5, 1.666667)

    References:
        Chan, Golub, LeVeque 1983, "Algorithms for computing the sample variance" (two-pass and
        pairwise forms); Ogita, Rump, Oishi 2005, "Accurate sum and dot product", Algorithm 3.1 (the
        compensation).
    """
    kind = _kind(state)
    length = kind.samples(state, values)
    dtype = widest(state)
    weights = checked_weights(weights, length, dtype)
    count = jnp.asarray(length, dtype) if weights is None else weights.sum()
    return merge(state, kind.chunk(values, weights, count))


def merge(a: State, b: State) -> State:
    """The state of two disjoint sets of samples.

    m = m_a + d n_b / n, M2 = M2_a + M2_b + d^2 n_a n_b / n, with d = m_b - m_a and n = n_a + n_b;
    for products d_x d_y in place of d^2. Commutative and associative up to rounding; an empty state
    is neutral.

    Args:
        a: a state.
        b: a state of the same type, tree and shapes.

    Returns:
        The state of all samples of both.

    Raises:
        TypeError: the two are not states of one type.
        ValueError: they have different trees.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxplain import estimates
        >>> empty = estimates.init_moments(jnp.zeros(()))
        >>> a = estimates.update(empty, jnp.array([0.0, 2.0]))
        >>> b = estimates.update(empty, jnp.array([4.0, 6.0]))
        >>> both = estimates.merge(a, b)
        >>> float(both.count), float(both.mean), float(both.sum_of_squares)
        (4.0, 3.0, 20.0)

    References:
        Chan, Golub, LeVeque 1983, "Algorithms for computing the sample variance", the pairwise
        combination.
    """
    kind = _kind(a)
    if type(a) is not type(b):
        raise TypeError(
            f"states of one type merge, but got {type(a).__name__} and {type(b).__name__}."
        )
    same_structure(a, b, "the second state")
    return kind.join(_join.pair(), a, b)


def merge_across(state: State, axis_name: Any) -> State:
    """Merge the states of all devices (or of a vmapped axis) into one that each of them holds.

    n = psum(n_j), m = psum(n_j m_j) / n in two passes, M2 = psum(M2_j + n_j (m_j - m)^2): the merge
    of all states at once, equal to merging them one by one up to rounding.

    Args:
        state: the state of this device's samples; a device without samples may take part.
        axis_name: name, or tuple of names, of the mapped axis: in `jax.shard_map` or
            `jax.vmap(axis_name=)`.

    Returns:
        The state of the samples of all devices, the same on each.

    Raises:
        TypeError: `state` is not a state.
        NameError: the axis is not mapped here.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from jaxplain import estimates
        >>> def device(values):
        ...     state = estimates.update(estimates.init_moments(values[0]), values)
        ...     return estimates.merge_across(state, "devices")
        >>> merged = jax.vmap(device, axis_name="devices")(jnp.arange(6.0).reshape(2, 3))
        >>> merged.mean.tolist(), merged.sum_of_squares.tolist()
        ([2.5, 2.5], [17.5, 17.5])

    References:
        Chan, Golub, LeVeque 1983, "Algorithms for computing the sample variance", the combination
        of many samples.
    """
    return _kind(state).join(_join.across(axis_name), state)


def _kind(state: Any) -> ModuleType:
    """The module of a state."""
    if type(state) not in _KINDS:
        raise TypeError(
            "state must be a Moments, Covariance or CovarianceMatrix (from init_moments, "
            f"init_covariance, init_covariance_matrix), but is a {type(state).__name__}."
        )
    return _KINDS[type(state)]
