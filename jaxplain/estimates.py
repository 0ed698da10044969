"""Streaming estimates and how far they can be believed.

A sampling kernel sees its values chunk by chunk and keeps only a state of fixed size. For samples
y_i with weights w_i the state holds

    count          n  = sum_i w_i
    mean           m  = sum_i w_i y_i / n
    sum_of_squares M2 = sum_i w_i (y_i - m)^2

and two states a, b of disjoint samples merge (Chan, Golub and LeVeque) by

    d  = m_b - m_a          n  = n_a + n_b
    m  = m_a + d n_b / n    M2 = M2_a + M2_b + d^2 n_a n_b / n

`update` is the merge with the moments of one chunk, taken in two passes around the chunk's own
mean. Each of the three sums is kept as an unevaluated pair high + low (`compensation` holds the low
parts), so that a million float32 updates lose nothing that one would keep. Sums of products
(covariances) follow the same formulas with d^2 replaced by d_x d_y.

States are NamedTuples of arrays over any pytree: they pass through `jit`, `vmap`, `grad`, `scan`
and `shard_map`, and can be stored. Values narrower than float32, integers and booleans are
accumulated in float32, float64 in float64, and the statistics come in that dtype: a standard error
rounded to bfloat16 would be of no use. Too few samples give NaN, never an exception.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from scipy.special import stdtrit

__all__ = [
    "BatchMeans",
    "Compensation",
    "Covariance",
    "CovarianceMatrix",
    "Interval",
    "Moments",
    "batch_means",
    "bootstrap_interval",
    "correlation",
    "covariance",
    "init_covariance",
    "init_covariance_matrix",
    "init_moments",
    "mean",
    "merge",
    "merge_across",
    "normal_interval",
    "standard_error",
    "student_interval",
    "update",
    "variance",
]


class Compensation(NamedTuple):
    """The low parts of the sums in `Moments`: each true sum is the field plus its low part."""

    count: Any
    mean: Any
    sum_of_squares: Any


class Moments(NamedTuple):
    """Count, mean and centred sum of squares of the samples seen; trees shaped like one sample.

    `count` is the sum of the weights, a scalar. `mean` is 0 where nothing was seen: read it with
    `jaxplain.estimates.mean`, which says NaN then.
    """

    count: Any
    mean: Any
    sum_of_squares: Any
    compensation: Compensation


class Covariance(NamedTuple):
    """Moments of two trees and the centred sum of their elementwise products."""

    left: Moments
    right: Moments
    sum_of_products: Any
    compensation: Any


class CovarianceMatrix(NamedTuple):
    """Moments of a vector (d,) and the (d, d) matrix of centred sums of products.

    The sums of squares of the parts are the diagonal; they are not kept twice.
    """

    count: Any
    mean: Any
    sum_of_products: Any
    compensation: Compensation


class BatchMeans(NamedTuple):
    """A mean and its standard error from the spread of the means of consecutive batches."""

    mean: Any
    standard_error: Any


class Interval(NamedTuple):
    """The two ends of an interval; trees shaped like the estimate."""

    lower: Any
    upper: Any


State = TypeVar("State", Moments, Covariance, CovarianceMatrix)


# --------------------------------------------------------------------------------- pairs high + low


def _two_sum(a: Any, b: Any) -> tuple[Any, Any]:
    """The rounded sum and, exactly, what the rounding lost (Knuth)."""
    total = a + b
    part = total - a
    return total, (a - (total - part)) + (b - part)


def _add(high: Any, low: Any, term: Any, term_low: Any) -> tuple[Any, Any]:
    """(high + low) + (term + term_low), again as a pair whose high part is the rounded total."""
    total, lost = _two_sum(high, term)
    return _two_sum(total, lost + (low + term_low))


# ------------------------------------------------------------------------------------ dtypes, trees


def _accumulator(leaf: Any) -> Any:
    """The dtype a leaf is accumulated in: its own, but float32 at least."""
    dtype = jnp.result_type(leaf.dtype if hasattr(leaf, "dtype") else leaf)
    if jnp.issubdtype(dtype, jnp.floating):
        return dtype if jnp.finfo(dtype).bits >= 32 else jnp.dtype(jnp.float32)
    if jnp.issubdtype(dtype, jnp.integer) or dtype == jnp.bool_:
        return jnp.dtype(jnp.float32)
    raise TypeError(
        f"estimates need real numbers, but got dtype {dtype}. For complex values estimate the "
        f"real and the "
        "imaginary part, e.g. `{'real': z.real, 'imag': z.imag}`; keys and other types have no "
        "mean."
    )


def _widest(tree: Any) -> Any:
    bits = [jnp.finfo(_accumulator(leaf)).bits for leaf in jax.tree.leaves(tree)]
    return jnp.dtype(jnp.float64 if bits and max(bits) > 32 else jnp.float32)


def _zeros(tree: Any) -> Any:
    """Zeros like a tree; those like an array vary over the manual axes that it varies over."""

    def zeros(leaf: Any) -> Any:
        if isinstance(leaf, jax.ShapeDtypeStruct):
            return jnp.zeros(leaf.shape, _accumulator(leaf))
        return jnp.zeros_like(leaf, _accumulator(leaf))

    return jax.tree.map(zeros, tree)


def _zero_count(zeros: Any) -> Any:
    """A count of zero, likewise, which a scan inside `shard_map` can carry."""
    leaves = jax.tree.leaves(zeros)
    dtype = _widest(zeros)
    return leaves[0].sum().astype(dtype) if leaves else jnp.zeros((), dtype)


def _unzip(tree: Any, pairs: list[tuple[Any, ...]]) -> tuple[Any, ...]:
    """A list with one tuple for each leaf to one tree for each place in the tuples."""
    structure = jax.tree.structure(tree)
    return tuple(jax.tree.unflatten(structure, list(column)) for column in zip(*pairs, strict=True))


def _same_structure(expected: Any, got: Any, name: str) -> None:
    wanted: Any = jax.tree.structure(expected)
    came: Any = jax.tree.structure(got)
    if wanted != came:
        raise ValueError(f"{name} must be a tree {wanted}, but is {came}.")


def _share(part: Any, whole: Any) -> Any:
    """The quotient part / whole, and 0 where whole is 0."""
    empty = whole == 0
    return jnp.where(
        empty, jnp.zeros_like(whole), part / jnp.where(empty, jnp.ones_like(whole), whole)
    )


def _column(weights: Any, values: Any) -> Any:
    """Weights (c,) in the dtype of values (c, ...) and with their rank."""
    return weights.astype(values.dtype).reshape(weights.shape + (1,) * (values.ndim - 1))


def _matrix_product(left: Any, right: Any) -> Any:
    """left.T @ right for (c, d) and (c, e), in full precision on every platform."""
    return jnp.matmul(left.T, right, precision=jax.lax.Precision.HIGHEST)


# ----------------------------------------------------------------------------------- states at zero


def init_moments(value: Any) -> Moments:
    """The state of no samples at all.

    n = 0, m = 0, M2 = 0.

    Args:
        value: tree of arrays or `jax.ShapeDtypeStruct` shaped like ONE sample (no sample axis).
            Inside `shard_map` give an array of the device, so that a scan can carry the state.

    Returns:
        `Moments` for `update` and `merge`, accumulating in float32 or wider.

    Raises:
        TypeError: a leaf is complex or not a number.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from jaxplain import estimates
        >>> state = estimates.init_moments(jax.ShapeDtypeStruct((2,), jnp.bfloat16))
        >>> state.mean.shape, str(state.mean.dtype), float(state.count)
        ((2,), 'float32', 0.0)

    References:
        Welford 1962, "Note on a method for calculating corrected sums of squares and products".
    """
    zeros = _zeros(value)
    count = _zero_count(zeros)
    return Moments(count, zeros, zeros, Compensation(count, zeros, zeros))


def init_covariance(value: Any) -> Covariance:
    """The state of no pairs of samples, for covariances element by element.

    C = sum_i w_i (x_i - m_x)(y_i - m_y) = 0.

    Args:
        value: tree of arrays or `jax.ShapeDtypeStruct` shaped like ONE x; y has the same tree and
            shapes.

    Returns:
        `Covariance` for `update(state, (x, y))` and `merge`.

    Raises:
        TypeError: a leaf is complex or not a number.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxplain import estimates
        >>> x = jnp.array([0.0, 1.0, 2.0])
        >>> state = estimates.update(estimates.init_covariance(x[0]), (x, 3 * x))
        >>> float(estimates.covariance(state)), float(estimates.correlation(state))
        (3.0, 1.0)

    References:
        Chan, Golub, LeVeque 1983, "Algorithms for computing the sample variance"; Welford 1962 for
        the corrected sums of products.
    """
    empty = init_moments(value)
    return Covariance(empty, empty, empty.mean, empty.mean)


def init_covariance_matrix(value: Any) -> CovarianceMatrix:
    """The state of no samples of one vector, for its whole covariance matrix.

    C = sum_i w_i (x_i - m)(x_i - m)^T = 0, a (d, d) matrix.

    Args:
        value: one array or `jax.ShapeDtypeStruct` of shape (d,).

    Returns:
        `CovarianceMatrix` for `update` with values of shape (c, d), and `merge`.

    Raises:
        TypeError: the vector is complex or not a number.
        ValueError: `value` is not one array of rank 1.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxplain import estimates
        >>> x = jnp.array([[0.0, 0.0], [1.0, -1.0], [2.0, -2.0]])
        >>> state = estimates.update(estimates.init_covariance_matrix(x[0]), x)
        >>> estimates.covariance(state).tolist()
        [[1.0, -1.0], [-1.0, 1.0]]

    References:
        Chan, Golub, LeVeque 1983, "Algorithms for computing the sample variance"; Welford 1962 for
        the corrected sums of products.
    """
    if not hasattr(value, "shape") or len(value.shape) != 1:
        raise ValueError(
            "a covariance matrix is taken of one vector per sample, shape (d,), but value is "
            f"{jax.tree.map(np.shape, value)}. Flatten it, e.g. with "
            f"`jax.flatten_util.ravel_pytree`."
        )
    zeros = _zeros(value)
    count, square = _zero_count(zeros), zeros[:, None] * zeros[None, :]
    return CovarianceMatrix(count, zeros, square, Compensation(count, zeros, square))


# ------------------------------------------------------------------------------------------- update


def _check_samples(state_mean: Any, values: Any, name: str = "values") -> int:
    """That values are the tree of the state with one leading sample axis; its length."""
    _same_structure(state_mean, values, name)
    counts = set()
    for expected, got in zip(jax.tree.leaves(state_mean), jax.tree.leaves(values), strict=True):
        if jnp.ndim(got) == 0 or jnp.shape(got)[1:] != expected.shape:
            raise ValueError(
                f"{name} must have a leading sample axis: shape (c, "
                f"{', '.join(map(str, expected.shape))}) "
                f"was expected, but got {jnp.shape(got)}. Give one sample as `values[None]`."
            )
        if _accumulator(got) != expected.dtype:
            raise TypeError(
                f"{name} of dtype {got.dtype} accumulate in {_accumulator(got)}, but the state "
                f"was made for "
                f"{expected.dtype}. Make the state with `init_*` from a value of the same dtype."
            )
        counts.add(jnp.shape(got)[0])
    if len(counts) > 1:
        raise ValueError(
            f"the leaves of {name} have different numbers of samples: {sorted(counts)}."
        )
    return counts.pop() if counts else 0


def _check_weights(weights: Any, length: int, dtype: Any) -> Any:
    if weights is None:
        return None
    weights = jnp.asarray(weights)
    if weights.shape != (length,):
        raise ValueError(
            f"weights must have one number or boolean for each sample, shape ({length},), but "
            f"have shape {weights.shape}."
        )
    return weights.astype(dtype)


def _centred(values: Any, weights: Any, count: Any) -> tuple[Any, Any, Any]:
    """Mean of a chunk as a pair, and the deviations from it (0 where the weight is 0).

    The high part is one of the samples, the largest, and not a computed mean: XLA may compute a
    mean once rounded and once inside a fused multiply-add, and then the pair does not fit the
    deviations (on CPU with jax 0.10 that cost a mean of 1e6 its last two digits). What is rounded
    below is of the size of the deviations.
    """
    values = jnp.asarray(values).astype(_accumulator(values))
    count = jnp.broadcast_to(count.astype(values.dtype), values.shape[1:])
    if values.shape[0] == 0:
        nothing = jnp.zeros_like(count)
        return nothing, nothing, values
    column = None if weights is None else _column(weights, values)

    def kept(x: Any, otherwise: float = 0.0) -> Any:
        # a sample without weight may be anything, also NaN: it is taken out, not multiplied by 0
        return x if column is None else jnp.where(column == 0, jnp.full_like(x, otherwise), x)

    largest = kept(values, -jnp.inf).max(0)
    largest = jax.lax.stop_gradient(jnp.where(count > 0, largest, jnp.zeros_like(largest)))
    deviations = kept(values - largest[None])
    rest = _share((deviations if column is None else column * deviations).sum(0), count)
    return largest, rest, kept(deviations - rest[None])


def _weighted(deviations: Any, weights: Any) -> Any:
    return deviations if weights is None else _column(weights, deviations) * deviations


def _chunk_moments(values: Any, weights: Any, count: Any) -> tuple[Moments, Any]:
    """Moments of one chunk, and the deviations of its samples from their mean."""
    rows = []
    for leaf in jax.tree.leaves(values):
        high, low, deviations = _centred(leaf, weights, count)
        squares = (_weighted(deviations, weights) * deviations).sum(0)
        rows.append((high, squares, low, jnp.zeros_like(squares), deviations))
    if not rows:
        empty = jax.tree.map(jnp.asarray, values)
        return Moments(
            count, empty, empty, Compensation(jnp.zeros_like(count), empty, empty)
        ), empty
    high, squares, low, nothing, deviations = _unzip(values, rows)
    return Moments(
        count, high, squares, Compensation(jnp.zeros_like(count), low, nothing)
    ), deviations


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
    if isinstance(state, Covariance):
        if not isinstance(values, tuple | list) or len(values) != 2:
            raise ValueError(
                "a Covariance is updated with a pair of trees: `update(state, (x, y))`."
            )
        length = _check_samples(state.left.mean, values[0], "the first of the values")
        if length != _check_samples(state.right.mean, values[1], "the second of the values"):
            raise ValueError("the two values of a Covariance have different numbers of samples.")
        count_dtype = state.left.count.dtype
    elif isinstance(state, Moments | CovarianceMatrix):
        length = _check_samples(state.mean, values)
        count_dtype = state.count.dtype
    else:
        raise TypeError(_not_a_state(state))
    weights = _check_weights(weights, length, count_dtype)
    count = jnp.asarray(length, count_dtype) if weights is None else weights.sum()

    if isinstance(state, Moments):
        chunk, _ = _chunk_moments(values, weights, count)
        return merge(state, chunk)
    if isinstance(state, Covariance):
        left, left_deviations = _chunk_moments(values[0], weights, count)
        right, right_deviations = _chunk_moments(values[1], weights, count)
        products = jax.tree.map(
            lambda a, b: (_weighted(a, weights) * b).sum(0), left_deviations, right_deviations
        )
        return merge(
            state, Covariance(left, right, products, jax.tree.map(jnp.zeros_like, products))
        )
    high, low, deviations = _centred(values, weights, count)
    square = _matrix_product(_weighted(deviations, weights), deviations)
    chunk_low = Compensation(jnp.zeros_like(count), low, jnp.zeros_like(square))
    return merge(state, CovarianceMatrix(count, high, square, chunk_low))


def _not_a_state(state: Any) -> str:
    return (
        "state must be a Moments, Covariance or CovarianceMatrix (from init_moments, "
        "init_covariance, "
        f"init_covariance_matrix), but is a {type(state).__name__}."
    )


# -------------------------------------------------------------------------------------------- merge


def _merge_counts(a: Any, b: Any) -> tuple[Any, Any, Any]:
    """The count of both as a pair, and b's share of it."""
    high, low = _add(a.count, a.compensation.count, b.count, b.compensation.count)
    return high, low, _share(b.count, high)


def _merge_mean(a: Any, a_low: Any, b: Any, b_low: Any, share: Any) -> tuple[Any, Any, Any]:
    """Mean of both as a pair, and the difference of the two means."""
    difference, lost = _two_sum(b, -a)
    lost = lost + (b_low - a_low)
    high, low = _add(a, a_low, difference * share, lost * share)
    return high, low, difference + lost


def _merge_means(a: Any, b: Any, share: Any) -> tuple[Any, Any, Any]:
    """`_merge_mean` over the trees of two states."""
    lows = jax.tree.leaves(a.compensation.mean), jax.tree.leaves(b.compensation.mean)
    rows = [
        _merge_mean(x, x_low, y, y_low, share.astype(x.dtype))
        for x, x_low, y, y_low in zip(
            jax.tree.leaves(a.mean), lows[0], jax.tree.leaves(b.mean), lows[1], strict=True
        )
    ]
    return _unzip(a.mean, rows) if rows else (a.mean, a.mean, a.mean)


def _merge_sums(a: Any, a_low: Any, b: Any, b_low: Any, between: Any) -> tuple[Any, Any]:
    """Sums of squares or products of both: those within, and the one between the two means."""
    rows = [
        _add(*_add(x, x_low, y, y_low), z, jnp.zeros_like(z))
        for x, x_low, y, y_low, z in zip(
            *(jax.tree.leaves(tree) for tree in (a, a_low, b, b_low, between)), strict=True
        )
    ]
    return _unzip(a, rows) if rows else (a, a)


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
    if not isinstance(a, Moments | Covariance | CovarianceMatrix):
        raise TypeError(_not_a_state(a))
    if type(a) is not type(b):
        raise TypeError(
            f"states of one type merge, but got {type(a).__name__} and {type(b).__name__}."
        )
    _same_structure(a, b, "the second state")

    if isinstance(a, Covariance):
        assert isinstance(b, Covariance)
        _, _, share = _merge_counts(a.left, b.left)
        left, left_difference = _merge_moments(a.left, b.left)
        right, right_difference = _merge_moments(a.right, b.right)
        effective = a.left.count * share
        between = jax.tree.map(
            lambda x, y: x * y * effective.astype(x.dtype), left_difference, right_difference
        )
        high, low = _merge_sums(
            a.sum_of_products, a.compensation, b.sum_of_products, b.compensation, between
        )
        return Covariance(left, right, high, low)
    if isinstance(a, CovarianceMatrix):
        assert isinstance(b, CovarianceMatrix)
        count, count_low, share = _merge_counts(a, b)
        average, average_low, difference = _merge_means(a, b, share)
        effective = (a.count * share).astype(difference.dtype)
        square, square_low = _merge_sums(
            a.sum_of_products,
            a.compensation.sum_of_squares,
            b.sum_of_products,
            b.compensation.sum_of_squares,
            difference[:, None] * (difference * effective)[None, :],
        )
        return CovarianceMatrix(
            count, average, square, Compensation(count_low, average_low, square_low)
        )
    assert isinstance(b, Moments)
    return _merge_moments(a, b)[0]


def _merge_moments(a: Moments, b: Moments) -> tuple[Moments, Any]:
    """Moments of both, and the difference of the means."""
    count, count_low, share = _merge_counts(a, b)
    average, average_low, difference = _merge_means(a, b, share)
    effective = a.count * share
    between = jax.tree.map(lambda d: d * d * effective.astype(d.dtype), difference)
    squares, squares_low = _merge_sums(
        a.sum_of_squares,
        a.compensation.sum_of_squares,
        b.sum_of_squares,
        b.compensation.sum_of_squares,
        between,
    )
    low = Compensation(count_low, average_low, squares_low)
    return Moments(count, average, squares, low), difference


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
    total = functools.partial(jax.lax.psum, axis_name=axis_name)
    if isinstance(state, Covariance):
        left, left_deviation = _moments_across(state.left, total)
        right, right_deviation = _moments_across(state.right, total)
        products = jax.tree.map(
            lambda c, low, x, y: total(c + (x * y * state.left.count.astype(c.dtype) + low)),
            state.sum_of_products,
            state.compensation,
            left_deviation,
            right_deviation,
        )
        return Covariance(left, right, products, jax.tree.map(jnp.zeros_like, products))
    if isinstance(state, CovarianceMatrix):
        count, average, low, deviation = _means_across(state, total)
        weighted = deviation * state.count.astype(deviation.dtype)
        between = weighted[:, None] * deviation[None, :]
        square = total(state.sum_of_products + (between + state.compensation.sum_of_squares))
        zeros = Compensation(jnp.zeros_like(count), low, jnp.zeros_like(square))
        return CovarianceMatrix(count, average, square, zeros)
    if isinstance(state, Moments):
        return _moments_across(state, total)[0]
    raise TypeError(_not_a_state(state))


def _means_across(state: Any, total: Callable[[Any], Any]) -> tuple[Any, Any, Any, Any]:
    """Count, mean as a pair, and this device's deviation from that mean."""
    own = state.count + state.compensation.count
    count = total(own)
    rows = []
    for high, low in zip(
        jax.tree.leaves(state.mean), jax.tree.leaves(state.compensation.mean), strict=True
    ):
        share = _share(own, count).astype(high.dtype)
        first = total(share * high)
        near = (high - first) + low
        second = total(share * near)
        rows.append((*_two_sum(first, second), near - second))
    average, average_low, deviation = (
        _unzip(state.mean, rows) if rows else (state.mean, state.mean, state.mean)
    )
    return count, average, average_low, deviation


def _moments_across(state: Moments, total: Callable[[Any], Any]) -> tuple[Moments, Any]:
    count, average, low, deviation = _means_across(state, total)
    squares = jax.tree.map(
        lambda s, s_low, d: total(s + (d * d * state.count.astype(d.dtype) + s_low)),
        state.sum_of_squares,
        state.compensation.sum_of_squares,
        deviation,
    )
    zeros = jax.tree.map(jnp.zeros_like, squares)
    return Moments(
        count, average, squares, Compensation(jnp.zeros_like(count), low, zeros)
    ), deviation


# --------------------------------------------------------------------------------------- statistics


def _divide(total: Any, low: Any, divisor: Any) -> Any:
    """(total + low) / divisor, NaN where the divisor is not positive."""
    divisor = divisor.astype(total.dtype)
    enough = divisor > 0
    # two selects, so that the branch not taken cannot put a NaN into a gradient
    quotient = (total + low) / jnp.where(enough, divisor, jnp.ones_like(divisor))
    return jnp.where(enough, quotient, jnp.full_like(quotient, jnp.nan))


def mean(state: State) -> Any:
    """The mean of the samples seen.

    m = sum_i w_i y_i / n; NaN where n = 0.

    Args:
        state: a `Moments` or `CovarianceMatrix`; for a `Covariance` read `state.left` and
            `state.right`.

    Returns:
        Tree shaped like one sample, in the accumulator's dtype.

    Raises:
        TypeError: `state` has no single mean.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxplain import estimates
        >>> empty = estimates.init_moments(jnp.zeros(()))
        >>> (
        ...     float(estimates.mean(empty)),
        ...     float(estimates.mean(estimates.update(empty, jnp.array([1.0, 2.0])))),
        ... )
        (nan, 1.5)

    References:
        Welford 1962, "Note on a method for calculating corrected sums of squares and products".
    """
    if not isinstance(state, Moments | CovarianceMatrix):
        raise TypeError(
            f"mean needs a Moments or CovarianceMatrix, but got {type(state).__name__}. The means "
            f"of a Covariance "
            "are `mean(state.left)` and `mean(state.right)`."
        )
    seen = state.count > 0
    return jax.tree.map(
        lambda m: jnp.where(jnp.broadcast_to(seen, m.shape), m, jnp.full_like(m, jnp.nan)),
        state.mean,
    )


def variance(state: State, ddof: float = 1) -> Any:
    """The variance of one sample.

    s^2 = M2 / (n - ddof); NaN where n <= ddof.

    Args:
        state: a `Moments` or `CovarianceMatrix`; for a `Covariance` read `state.left` and
            `state.right`.
        ddof: degrees of freedom used up: 1 is unbiased, 0 is the mean square. It presumes weights
            that are counts.

    Returns:
        Tree shaped like one sample, in the accumulator's dtype and the square of the samples' unit.

    Raises:
        TypeError: `state` has no single variance.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxplain import estimates
        >>> state = estimates.update(estimates.init_moments(jnp.zeros(())), jnp.array([1.0, 3.0]))
        >>> float(estimates.variance(state)), float(estimates.variance(state, ddof=0))
        (2.0, 1.0)

    References:
        Welford 1962, "Note on a method for calculating corrected sums of squares and products".
    """
    if isinstance(state, CovarianceMatrix):
        return jnp.diagonal(covariance(state, ddof))
    if not isinstance(state, Moments):
        raise TypeError(
            f"variance needs a Moments or CovarianceMatrix, but got {type(state).__name__}. The "
            f"variances of a "
            "Covariance are `variance(state.left)` and `variance(state.right)`."
        )
    degrees = state.count - jnp.asarray(ddof, state.count.dtype)
    return jax.tree.map(
        lambda total, low: _divide(total, low, jnp.broadcast_to(degrees, total.shape)),
        state.sum_of_squares,
        state.compensation.sum_of_squares,
    )


def standard_error(state: State) -> Any:
    """The standard error of the mean of independent samples.

    se = sqrt(s^2 / n) with s^2 = M2 / (n - 1); NaN where n <= 1.

    Args:
        state: a `Moments` or `CovarianceMatrix`, with weights that are counts or a mask.

    Returns:
        Tree shaped like one sample, in the accumulator's dtype and the samples' unit.

    Raises:
        TypeError: `state` has no single mean.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxplain import estimates
        >>> state = estimates.update(estimates.init_moments(jnp.zeros(())), jnp.array([1.0, 3.0]))
        >>> float(estimates.standard_error(state))
        1.0

    References:
        Owen 2013, "Monte Carlo theory, methods and examples", chapter 2.
    """
    spread = variance(state)  # refuses a Covariance, which has no count of its own
    count: Any = state.count

    def error(s: Any) -> Any:
        return jnp.sqrt(_divide(s, jnp.zeros_like(s), jnp.broadcast_to(count, s.shape)))

    return jax.tree.map(error, spread)


def covariance(state: Covariance | CovarianceMatrix, ddof: float = 1) -> Any:
    """The covariance of two quantities, or the covariance matrix of a vector.

    c = sum_i w_i (x_i - m_x)(y_i - m_y) / (n - ddof); NaN where n <= ddof.

    Args:
        state: a `Covariance` or `CovarianceMatrix`.
        ddof: degrees of freedom used up.

    Returns:
        For a `Covariance` a tree shaped like one x, element with element; for a `CovarianceMatrix`
        the (d, d) matrix.

    Raises:
        TypeError: `state` holds no products.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxplain import estimates
        >>> x = jnp.array([1.0, 2.0, 3.0])
        >>> state = estimates.update(estimates.init_covariance(x[0]), (x, -x))
        >>> float(estimates.covariance(state))
        -1.0

    References:
        Welford 1962, "Note on a method for calculating corrected sums of squares and products".
    """
    if isinstance(state, Covariance):
        count, low = state.left.count, state.compensation
    elif isinstance(state, CovarianceMatrix):
        count, low = state.count, state.compensation.sum_of_squares
    else:
        raise TypeError(
            f"covariance needs a Covariance or CovarianceMatrix, but got {type(state).__name__}."
        )
    degrees = count - jnp.asarray(ddof, count.dtype)
    return jax.tree.map(
        lambda total, rest: _divide(total, rest, jnp.broadcast_to(degrees, total.shape)),
        state.sum_of_products,
        low,
    )


def correlation(state: Covariance | CovarianceMatrix) -> Any:
    """Pearson's correlation.

    r = C_xy / sqrt(M2_x M2_y), in [-1, 1] up to rounding; NaN where one of the two never varied or
    n <= 1.

    Args:
        state: a `Covariance` or `CovarianceMatrix`.

    Returns:
        For a `Covariance` a tree shaped like one x, element with element; for a `CovarianceMatrix`
        the (d, d) matrix.

    Raises:
        TypeError: `state` holds no products.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxplain import estimates
        >>> x = jnp.array([1.0, 2.0, 3.0])
        >>> state = estimates.update(estimates.init_covariance(x[0]), (x, 7 - 2 * x))
        >>> float(estimates.correlation(state))
        -1.0

    References:
        Pearson 1895, "Note on regression and inheritance in the case of two parents".
    """

    def ratio(products: Any, left: Any, right: Any) -> Any:
        # the roots apart: the product of two small variances underflows before their roots do
        scale = jnp.sqrt(left) * jnp.sqrt(right)
        return _divide(products, jnp.zeros_like(products), scale)

    if isinstance(state, CovarianceMatrix):
        matrix = covariance(state)
        own = jnp.diagonal(matrix)
        rows = jnp.broadcast_to(own[:, None], matrix.shape)
        return ratio(matrix, rows, rows.T)
    if isinstance(state, Covariance):
        return jax.tree.map(ratio, covariance(state), variance(state.left), variance(state.right))
    raise TypeError(
        f"correlation needs a Covariance or CovarianceMatrix, but got {type(state).__name__}."
    )


# ---------------------------------------------------------------------------- batches and intervals


def _samples_axis(values: Any, name: str) -> int:
    """The common length of the leading axis of a tree of real arrays."""
    shapes = [jnp.shape(leaf) for leaf in jax.tree.leaves(values)]
    if not shapes:
        raise ValueError(f"{name} has no arrays.")
    if any(len(shape) == 0 for shape in shapes):
        raise ValueError(
            f"{name} must have a leading sample axis, but a leaf is a scalar. Give `values[None]`."
        )
    if len({shape[0] for shape in shapes}) > 1:
        raise ValueError(
            f"the leaves of {name} have different numbers of samples: {[s[0] for s in shapes]}."
        )
    for leaf in jax.tree.leaves(values):
        _accumulator(leaf)
    return int(shapes[0][0])


def batch_means(values: Any, batches: int) -> BatchMeans:
    """The mean of a sequence and its standard error from the means of consecutive batches.

    se = sqrt(sum_b (m_b - m)^2 / (B (B - 1))), where m_b are the means of B batches of equal
    length.

    For a correlated sequence (a Markov chain, overlapping windows) the batches have to be longer
    than the correlation. For randomised quasi-Monte Carlo let each batch be one independent
    randomisation, one behind the other: consecutive pieces of a single scrambled sequence balance
    each other, and their spread says too much.

    Args:
        values: tree of arrays (n, ...), the sequence on the leading axis.
        batches: how many batches, static, at least 2; it must divide n. Ten to thirty are usual:
            the error has `batches - 1` degrees of freedom, for `student_interval`.

    Returns:
        `BatchMeans(mean, standard_error)`, trees shaped like one sample. NaN for an empty sequence.

    Raises:
        ValueError: fewer than 2 batches, or their number does not divide n.
        TypeError: `batches` is not an integer; a leaf is complex or not a number.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxplain import estimates
        >>> r = estimates.batch_means(jnp.array([0.0, 2.0, 4.0, 6.0]), batches=2)
        >>> float(r.mean), float(r.standard_error)
        (3.0, 2.0)

    References:
        Flegal, Jones 2010, "Batch means and spectral variance estimators in Markov chain Monte
        Carlo"; L'Ecuyer, Lemieux 2002, "Recent advances in randomized quasi-Monte Carlo methods"
        (replicates as batches).
    """
    if isinstance(batches, bool) or not isinstance(batches, int | np.integer):
        raise TypeError(f"batches must be a static integer, but is {batches!r}.")
    if batches < 2:
        raise ValueError(f"a spread needs at least 2 batches, but batches is {batches}.")
    length = _samples_axis(values, "values")
    if length % batches:
        raise ValueError(
            f"{batches} batches do not divide {length} samples. Leave out the first "
            f"{length % batches}, "
            f"`values[{length % batches}:]`, or choose another number."
        )

    def spread(leaf: Any) -> tuple[Any, Any]:
        leaf = jnp.asarray(leaf).astype(_accumulator(leaf))
        grouped = leaf.reshape((batches, length // batches, *leaf.shape[1:]))
        if length == 0:
            nothing = jnp.full(leaf.shape[1:], jnp.nan, leaf.dtype)
            return nothing, nothing
        # around the first sample, which costs nothing and keeps what a large mean would round away
        origin = leaf[0]
        state = update(init_moments(origin), (grouped - origin[None, None]).mean(1))
        return origin + mean(state), standard_error(state)

    rows = [spread(leaf) for leaf in jax.tree.leaves(values)]
    return BatchMeans(*_unzip(values, rows))


def _check_level(level: Any) -> None:
    if isinstance(level, int | float | np.number) and not 0 < level < 1:
        raise ValueError(f"level must be between 0 and 1, e.g. 0.95, but is {level}.")


def _tail(level: Any) -> Any:
    """(1 - level) / 2; on the host for a Python number, where a level near 1 keeps its digits."""
    _check_level(level)
    return (1 - level) / 2


def _around(centre: Any, error: Any, quantile: Any) -> Interval:
    _same_structure(centre, error, "standard_error")

    def ends(m: Any, s: Any) -> tuple[Any, Any]:
        m, s = jnp.asarray(m), jnp.asarray(s)
        if m.shape != s.shape:
            raise ValueError(
                f"mean has shape {m.shape} but standard_error has shape {s.shape}; they must agree."
            )
        wide = _accumulator(m)
        half = s.astype(wide) * jnp.asarray(quantile).astype(wide)
        return (m.astype(wide) - half).astype(m.dtype), (m.astype(wide) + half).astype(m.dtype)

    rows = [
        ends(m, s) for m, s in zip(jax.tree.leaves(centre), jax.tree.leaves(error), strict=True)
    ]
    return Interval(*_unzip(centre, rows)) if rows else Interval(centre, centre)


def normal_interval(mean: Any, standard_error: Any, level: Any = 0.95) -> Interval:
    """The interval of a normally distributed estimate.

    [m - z se, m + z se] with z the (1 + level) / 2 quantile of the standard normal distribution.

    Args:
        mean: tree of estimates.
        standard_error: tree of their standard errors, same shapes.
        level: probability that the interval covers, between 0 and 1; may be a traced scalar.

    Returns:
        `Interval(lower, upper)`, trees like `mean` and in its dtype. A NaN error gives NaN ends.

    Raises:
        ValueError: trees or shapes differ, or a concrete `level` is not between 0 and 1.

    Example:
        >>> from jaxplain import estimates
        >>> r = estimates.normal_interval(1.0, 0.5)
        >>> round(float(r.lower), 3), round(float(r.upper), 3)
        (0.02, 1.98)

    References:
        Owen 2013, "Monte Carlo theory, methods and examples", chapter 2 (central limit intervals).
    """
    tail = jnp.asarray(_tail(level), _widest((mean, standard_error)))
    return _around(mean, standard_error, -jax.scipy.special.ndtri(tail))


def student_interval(
    mean: Any, standard_error: Any, degrees_of_freedom: float, level: float = 0.95
) -> Interval:
    """The interval of an estimate whose standard error comes from few samples.

    [m - t se, m + t se] with t the (1 + level) / 2 quantile of Student's distribution. The quantile
    is taken on the host (scipy), so the degrees of freedom and the level are static numbers: those
    of `batch_means` always are.

    Args:
        mean: tree of estimates.
        standard_error: tree of their standard errors, same shapes.
        degrees_of_freedom: Python number > 0: samples - 1, or batches - 1.
        level: probability that the interval covers, Python number between 0 and 1.

    Returns:
        `Interval(lower, upper)`, trees like `mean` and in its dtype. A NaN error gives NaN ends.

    Raises:
        ValueError: trees or shapes differ, or a number is out of its range.
        TypeError: a number is an array: only `normal_interval` takes traced ones.

    Example:
        >>> from jaxplain import estimates
        >>> r = estimates.student_interval(0.0, 1.0, degrees_of_freedom=9)
        >>> round(float(r.upper), 3)
        2.262

    References:
        Student 1908, "The probable error of a mean".
    """
    for name, number in (("degrees_of_freedom", degrees_of_freedom), ("level", level)):
        if not isinstance(number, int | float | np.number):
            raise TypeError(
                f"{name} must be a Python number, for the quantile is taken on the host, but is a "
                f"{type(number).__name__}. With many samples use normal_interval."
            )
    if degrees_of_freedom <= 0:
        raise ValueError(f"degrees_of_freedom must be positive, but is {degrees_of_freedom}.")
    return _around(mean, standard_error, -float(stdtrit(degrees_of_freedom, _tail(level))))


def bootstrap_interval(
    key: Any,
    values: Any,
    level: Any = 0.95,
    resamples: int = 1000,
    statistic: Callable[[Any], Any] | None = None,
    chunk_size: int = 20,
) -> Interval:
    """The bootstrap percentile interval of a statistic of independent samples.

    [q_a, q_(1 - a)] with a = (1 - level) / 2: quantiles over resamples r of statistic(y_(i_r1),
    ..., y_(i_rn)), where i_rk are drawn from 1..n with replacement, jointly for all leaves. For the
    mean a resample is a row of counts c_ri and the statistic is the matrix product m + sum_i c_ri
    (y_i - m) / n; samples are never copied.

    Percentile intervals of few samples are short: by about sqrt((n - 1) / n) for a mean, and more
    where the distribution is skewed. They need n of some tens.

    Args:
        key: typed key.
        values: tree of arrays (n, ...), the samples on the leading axis.
        level: probability that the interval covers, between 0 and 1; may be a traced scalar.
        resamples: how many, static; the ends of a 95 % interval want 1,000 or more.
        statistic: None for the mean, or a function of the tree of n resampled values to a tree; a
            named function rather than a lambda made anew for each call, which would compile anew.
        chunk_size: resamples made at once. Memory grows by chunk_size * n numbers for the mean and
            by chunk_size copies of the values for another statistic; the result does not depend on
            it.

    Returns:
        `Interval(lower, upper)`, trees like the statistic. For the mean in the accumulator's dtype.
        NaN where there are no samples; a single sample gives an interval of no length.

    Raises:
        ValueError: a static number out of its range, or leaves with different numbers of samples.
        TypeError: the key is not typed, a static number is not an integer, a leaf is not a real
            number.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from jaxplain import estimates
        >>> r = estimates.bootstrap_interval(jax.random.key(0), jnp.arange(101.0), resamples=200)
        >>> bool((40 < r.lower) & (r.lower < 50) & (50 < r.upper) & (r.upper < 60))
        True

    References:
        Efron, Tibshirani 1993, "An introduction to the bootstrap", section 13.3 (percentile
        intervals).
    """
    if not (hasattr(key, "dtype") and jnp.issubdtype(key.dtype, jax.dtypes.prng_key)):
        raise TypeError("key must be a typed key, `jax.random.key(seed)`, and comes first.")
    for name, number in (("resamples", resamples), ("chunk_size", chunk_size)):
        if isinstance(number, bool) or not isinstance(number, int | np.integer):
            raise TypeError(f"{name} must be a static integer, but is {number!r}.")
        if number < 1:
            raise ValueError(f"{name} must be at least 1, but is {number}.")
    if statistic is not None and not callable(statistic):
        raise TypeError(
            f"statistic must be None (the mean) or a function of the values, but is {statistic!r}."
        )
    _check_level(level)
    _samples_axis(values, "values")
    return _bootstrap(key, values, level, int(resamples), statistic, int(chunk_size))


@functools.partial(jax.jit, static_argnums=(3, 4, 5))
def _bootstrap(
    key: Any,
    values: Any,
    level: Any,
    resamples: int,
    statistic: Callable[[Any], Any] | None,
    chunk_size: int,
) -> Interval:
    length = _samples_axis(values, "values")
    keys = jax.random.split(key, resamples)

    if statistic is None:
        state = update(
            init_moments(jax.tree.map(lambda v: v[0] if length else v.sum(0), values)), values
        )
        centre = mean(state)
        centred = jax.tree.map(lambda v, m: v.astype(m.dtype) - m[None], values, centre)

        def one(key: Any) -> Any:
            chosen = jax.random.randint(key, (length,), 0, max(length, 1))

            def shifted(m: Any, c: Any) -> Any:
                # under the map this is the product of counts (chunk, n) and values (n, d)
                counts = jnp.zeros((length,), c.dtype).at[chosen].add(1)
                flat = c.reshape(length, math.prod(c.shape[1:]))
                moved = jnp.matmul(counts, flat, precision=jax.lax.Precision.HIGHEST)
                return m + moved.reshape(m.shape) / max(length, 1)

            return jax.tree.map(shifted, centre, centred)
    else:

        def one(key: Any) -> Any:
            chosen = jax.random.randint(key, (length,), 0, max(length, 1))
            return statistic(jax.tree.map(lambda v: v[chosen], values))

    results = jax.lax.map(one, keys, batch_size=min(chunk_size, resamples))

    def ends(leaf: Any) -> tuple[Any, Any]:
        wide = leaf.astype(_accumulator(leaf))
        tail = (1 - jnp.asarray(level, wide.dtype)) / 2
        lower, upper = jnp.quantile(wide, jnp.stack([tail, 1 - tail]), axis=0)
        if length == 0:
            lower, upper = jnp.full_like(lower, jnp.nan), jnp.full_like(upper, jnp.nan)
        return lower, upper

    rows = [ends(leaf) for leaf in jax.tree.leaves(results)]
    return Interval(*_unzip(results, rows))
