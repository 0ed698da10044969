"""First-order indices from data in hand: a random sample of inputs, and what came of it.

Rows sorted by one input, y_k and y_(k+1) the outputs of two neighbours:

    S_i = sum y_k y_(k+1) / sum (y_k^2 + y_(k+1)^2) / 2,    y centred

since neighbours have about the same x_i, and all else independent of each other.

The standard error. Given the inputs x_i, sorted, the outputs are independent, with a law that
changes slowly along the order. With psi_k = ((y_k y_(k+1)) - S y_k^2) / V, y centred, and mu its
mean given x_i, the variance of sum psi is that given the x_i, of lags 0 and 1, and that of the
means,

    n (E psi_k^2 + 2 E psi_k psi_(k+1) - 3 E mu^2)  +  n E mu^2,    E mu^2 = E psi_k psi_(k+2)

Whether neighbours are independent can be seen in the other inputs x_j. Along the order by x_i, each
in one of four boxes of equal count: pairs of boxes (k, k + 1) are as frequent as pairs (k, k + 2)
where rows are independent, be x_j dependent on x_i or not. Of quasi-random points they are not:
the two neighbours in x_1 of a Sobol' point lie in other halves of x_2 than the point itself.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxplain import checks, trees
from jaxplain.sobol.estimators import ratio

BOXES = 4
ALARM = 1e-6  # p-values below are no chance


class RankBased(NamedTuple):
    """First-order indices of data.

    Attributes:
        first_order: a tree like one row of x, each leaf of the shape of one output followed by that
            of the leaf: S.
        first_order_error: its standard error.
        mean: shape of one output.
        variance: shape of one output: V.
        is_constant: shape of one output: whether it does not vary; its indices are then 0.
        p_value: scalar: how probable rows as regular as these are, were they drawn at random.
    """

    first_order: Any
    first_order_error: Any
    mean: jax.Array
    variance: jax.Array
    is_constant: jax.Array
    p_value: jax.Array


def rank_based(x: Any, y: Any) -> RankBased:
    """First-order indices from a random sample of inputs and outputs, however many inputs.

        S_i = sum_k y_k y_(k+1) / sum_k (y_k^2 + y_(k+1)^2) / 2,    y centred, rows sorted by x_i

    The inputs may depend on each other, and y may be noisy. Rows must be drawn independently, or be
    a Latin hypercube sample (for which the errors are too wide). Of quasi-random points and of
    grids the estimate is wrong, by as much as 0.3: these are refused where x has two columns or
    more (Sobol' and Halton points from 128 rows on in all cases tried, grids from some 500).

    Args:
        x: a tree of arrays with a leading axis of n rows, at least 16; each other element is one
            input.
        y: shape (n, ...): the output of each row, a number or an array of any shape.

    Returns:
        `RankBased`. The errors are those of the sampling, and hold from some 200 rows on; a bias of
        the order of 1 / n is not in them. Rows of equal x_i keep the order of the data, which must
        be random then.

    Raises:
        TypeError: x or y are not real arrays.
        ValueError: there are fewer than 16 rows, not the same number in all arrays, values that are
            not finite, or the rows are too regular for a random sample (p below 1e-6); the latter
            two where values are known, outside of `jit`: inside, look at `p_value`.

    Example:
        >>> import jax
        >>> from jaxplain import sobol
        >>> x = jax.random.uniform(jax.random.key(0), (4000, 2))
        >>> s = sobol.rank_based(x, x[:, 0] + 2 * x[:, 1])
        >>> [round(float(share), 1) for share in s.first_order]
        [0.2, 0.8]

    References:
        Gamboa, Gremaud, Klein and Lagnoux, "Global sensitivity analysis: a novel generation of
        mighty estimators based on rank statistics", Bernoulli 2022 (arXiv 2020); Chatterjee, J. Am.
        Stat. Assoc. 2021. Deviations: 1. outputs are centred. 2. The last row has no neighbour,
        where the paper joins it to the first, whose output is often its opposite: of x in x's order
        the bias is 3 / n there, and none here. 3. The standard error, from products of neighbours'
        terms (derived in the source). 4. The test of the rows.
    """
    columns, values, like_row = tables(x, y)
    found = _rank_based(columns, values)
    if not isinstance(found.p_value, jax.core.Tracer) and found.p_value < ALARM:
        raise ValueError(
            "rank_based takes rows that were drawn at random (or a Latin hypercube sample), but "
            f"these are too regular (p = {float(found.p_value):.0e}): of quasi-random points "
            "(Sobol', Halton) and grids, neighbours in one input are not independent in the "
            "others, and the estimate is wrong. Draw with `jaxplain.qmc.monte_carlo` or "
            "`latin_hypercube`; or use `polynomial_chaos`, which takes any points, or `indices`."
        )
    shape = jnp.shape(y)[1:]
    put = lambda array: like_row(array.reshape(*shape, -1))
    return RankBased(
        put(found.first_order),
        put(found.first_order_error),
        found.mean.reshape(shape),
        found.variance.reshape(shape),
        found.is_constant.reshape(shape),
        found.p_value,
    )


@jax.jit
def _rank_based(x: jax.Array, y: jax.Array) -> RankBased:
    """Of x (n, d) and y (n, q): arrays (q, d) and (q,)."""
    n = len(x)
    mean = jnp.mean(y, axis=0)
    y = y - mean[None]
    variance = jnp.mean(y**2, axis=0)
    slack = 4 * jnp.finfo(y.dtype).eps * jnp.abs(mean)
    is_constant = variance <= slack**2
    order = jnp.argsort(x, axis=0)  # (n, d)

    def one(order: jax.Array) -> tuple[jax.Array, jax.Array]:
        here, after = y[order[:-1]], y[order[1:]]
        square = (here**2 + after**2) / 2
        share = ratio(jnp.mean(here * after, axis=0), jnp.mean(square, axis=0))
        term = here * after - share[None] * square
        beside = term + 2 * (jnp.roll(term, -1, axis=0) - jnp.roll(term, -2, axis=0))
        # Never below what the lags 1 and 2 can take away by chance.
        spread = jnp.maximum(jnp.mean(term * beside, axis=0), jnp.mean(term**2, axis=0) / 8)
        return share, jnp.sqrt(ratio(spread, variance**2) / n)

    share, error = jax.lax.map(one, order.T)
    shown = ~is_constant[:, None]
    share, error = jnp.where(shown, share.T, 0), jnp.where(shown, error.T, 0)
    return RankBased(share, error, mean, variance, is_constant, _p_value(order))


def _p_value(order: jax.Array) -> jax.Array:
    """Of the order of the rows by each column (n, d): the test of neighbours' independence."""
    n, d = order.shape
    place = jnp.argsort(order, axis=0)
    box = (place * BOXES) // n
    if d == 1:
        return jnp.ones(())

    def frequency(first: jax.Array, second: jax.Array) -> jax.Array:
        pair = first * BOXES + second
        return jnp.zeros(BOXES**2).at[pair].add(1.0)

    def one(order: jax.Array, box: jax.Array) -> jax.Array:
        here = box[order]
        near, far = (frequency(here[:-lag], here[lag:]) for lag in (1, 2))
        return jnp.sum((near - far) ** 2 / jnp.maximum(near + far, 1))

    others = range(1, min(d, 3))
    each = [jax.lax.map(lambda pair: one(*pair), (order.T, jnp.roll(box, -s, 1).T)) for s in others]
    largest = jnp.max(jnp.concatenate(each))
    p = jax.scipy.special.gammaincc((BOXES - 1) ** 2 / 2, largest / 2)
    return jnp.minimum(p * (len(each) * d), 1.0)


def tables(x: Any, y: Any, minimum: int = 16) -> tuple[jax.Array, jax.Array, Any]:
    """The columns of x (n, d) and of y (n, q), in a wide dtype; and how a row of x is put back."""
    for tree, name in ((x, "x"), (y, "y")):
        checks.arrays(tree, name)
        for leaf in jax.tree.leaves(tree):
            if jnp.iscomplexobj(leaf):
                raise TypeError(f"{name} must be real, but is complex.")
    if len(jax.tree.leaves(y)) != 1 or not hasattr(y, "shape"):
        raise TypeError("y must be one array: stack several outputs along its last axis.")
    leaves, structure = jax.tree.flatten(x)
    if not leaves:
        raise ValueError("x must hold at least one array, but is an empty tree.")
    n = len(y) if y.ndim else 0
    for leaf in leaves:
        if jnp.ndim(leaf) == 0 or len(leaf) != n:
            raise ValueError(
                "x and y must have the same rows, along their first axis, but a leaf of x has "
                f"shape {jnp.shape(leaf)} and y has shape {y.shape}."
            )
    if n < minimum:
        raise ValueError(f"at least {minimum} rows are needed, but there are {n}.")
    arrays = [jnp.asarray(leaf) for leaf in leaves]
    y = jnp.asarray(y)
    dtype = trees.widest(*(trees.wide_dtype(array.dtype) for array in (*arrays, y)))
    table = jnp.concatenate([array.astype(dtype).reshape(n, -1) for array in arrays], axis=1)
    values = y.astype(dtype).reshape(n, -1)
    for array, name in ((table, "x"), (values, "y")):
        if not isinstance(array, jax.core.Tracer):
            bad = int(jnp.sum(~jnp.isfinite(array)))
            if bad:
                raise ValueError(f"{name} must be finite, but {bad:,} of its numbers are not.")

    def like_row(array: jax.Array, axis: int = -1) -> Any:
        """An axis over inputs as a tree like a row of x."""
        axis = axis % array.ndim
        parts, start = [], 0
        for leaf in arrays:
            size = int(np.prod(leaf.shape[1:]))
            own = jax.lax.slice_in_dim(array, start, start + size, axis=axis)
            parts.append(
                own.reshape(*array.shape[:axis], *leaf.shape[1:], *array.shape[axis + 1 :])
            )
            start += size
        return jax.tree.unflatten(structure, parts)

    return table, values, like_row
