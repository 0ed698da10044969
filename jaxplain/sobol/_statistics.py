"""Means of row statistics, streamed; indices from them, with their standard errors.

    index = g(E z),    z = (z_1, ..., z_k) the statistics of a row (`estimators`)
    standard error^2 = grad g^T Cov(z) grad g / rows            (the delta method)

Of all rows one matrix is kept for each group and output: the sum of (1, z) (1, z)^T, which holds
the number of rows, the means and the covariances. Second-order indices are of the same form, with
one z for each pair of groups, whose sums are matrix products over the rows:

    S_ij = E h_ij / V,    h_ij = ba_i ab_j - b ab_i - b ab_j + a b,    the mean of h_ij and h_ji

with each row around its own mean over a, b, ab and ba. That mean is the same with A and B the
other way round, so that nothing is lost on average; h does then not depend on where the outputs
lie, and its standard deviation is smaller, to a half where there is little interaction.

A row with an output that is not finite is left out whole, and counted.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxplain.evaluate import Reduction
from jaxplain.sobol.estimators import Formula, Rows, ratio, variance_of

HIGHEST = jax.lax.Precision.HIGHEST
PAIRS = "second_order"


class Known(NamedTuple):
    """What is known of a block's rows beside outputs, shape (G, 1, rows) each or None."""

    step: Any = None
    weight: Any = None


NOTHING = Known()


class Layout(NamedTuple):
    """How the outputs of a row lie along the first axis of a block (evaluations, outputs, rows).

    Attributes:
        needs: which of "b", "ab", "ba", "ac" there are, after a and in this order; and what else
            is needed, "step" and "weight", which are not evaluations.
        groups: G, how many evaluations "ab", "ba" and "ac" each are.
    """

    needs: frozenset[str]
    groups: int

    @property
    def evaluations(self) -> int:
        """How many evaluations a row takes."""
        many = len(self.needs & {"ab", "ba", "ac"})
        return 1 + ("b" in self.needs) + many * self.groups

    def rows(self, y: jax.Array, known: Known = NOTHING) -> Rows:
        """The outputs by name, the moments of each row, and what else is known of it."""
        parts: dict[str, Any] = {"a": y[:1]}
        start = 1
        for name, size in (("b", 1), ("ab", self.groups), ("ba", self.groups), ("ac", self.groups)):
            parts[name] = y[start : start + size] if name in self.needs else None
            start += size if name in self.needs else 0
        moments = [y, y**2]
        if known.weight is not None:
            # ab are not of the distribution of a: E w (g(ab) - g(a)) = E g(b) - E g(a).
            moments = [
                jnp.concatenate([g[:1], g[:1] + known.weight * (g[1:] - g[:1])]) for g in moments
            ]
        mean, square = (jnp.mean(g, axis=0, keepdims=True) for g in moments)
        return Rows(**parts, mean=mean, square=square, step=known.step, weight=known.weight)

    def scaled(self, y: jax.Array, shift: jax.Array, scale: jax.Array) -> jax.Array:
        """The block less about its mean, in units of about its range; both are (outputs,)."""
        return (y - shift[None, :, None]) * (1 / scale)[None, :, None]


class State(NamedTuple):
    """What the rows so far come to.

    Attributes:
        rows: how many rows are in, int32.
        omitted: how many were left out since an output is not finite, int32.
        not_finite: how many outputs are not finite, int32.
        shift: shape (outputs,), about the mean of the outputs; from the first block.
        scale: shape (outputs,), about their range.
        sums: the sums over rows; and what rounding took from them (Kahan).
    """

    rows: jax.Array
    omitted: jax.Array
    not_finite: jax.Array
    shift: jax.Array
    scale: jax.Array
    sums: Any


class Estimates(NamedTuple):
    """Shapes (outputs, G), or (outputs, G, G) of pairs; and shapes (outputs,).

    Attributes:
        values: for each index ("first_order", ...) its estimates.
        errors: their standard errors.
        replicates: None, or for each index the bootstrap's estimates, with a leading axis.
        mean: the mean of all evaluations.
        variance: their variance.
        is_constant: whether the variance is 0 up to rounding.
        rows: the rows that went into them.
        variance_error: the standard error of the variance.
    """

    values: dict[str, jax.Array]
    errors: dict[str, jax.Array]
    replicates: Any
    mean: jax.Array
    variance: jax.Array
    is_constant: jax.Array
    rows: jax.Array
    variance_error: Any = None


def reduction(
    layout: Layout, formulas: dict[str, Formula], *, pairs: bool = False, bootstrap: Any = None
) -> Reduction:
    """The reduction of blocks (evaluations, outputs, rows) of wide outputs to `Estimates`.

    Where a formula needs more than outputs, a block is a pair: the outputs, and `Known`.
    `bootstrap` is None or `(key, replicates, rows of a block)`.
    """

    def statistics(
        y: jax.Array, known: Known, kept: jax.Array
    ) -> tuple[jax.Array, dict[str, list[int]]]:
        """(1, m, s, z ...) as (G, outputs, k, rows), and which of them each formula reads."""
        rows = layout.rows(y, known)
        columns = [rows.mean, rows.square]
        places: dict[str, list[int]] = {}
        for name, formula in formulas.items():
            places[name] = []
            for z in formula.statistics(rows):
                same = [place for place, column in enumerate(columns) if column is z]
                places[name].append(1 + (same[0] if same else len(columns)))
                columns += [] if same else [z]
        shape = (layout.groups, *y.shape[1:])
        columns = [kept.astype(y.dtype)[None, None], *columns]  # 0 for a row that is left out
        zero = 0 * y[:1]  # which is sharded as the outputs are, where steps are not
        return jnp.stack([jnp.broadcast_to(z + zero, shape) for z in columns], axis=2), places

    def places_of(dtype: Any) -> dict[str, list[int]]:
        found: dict[str, list[int]] = {}
        example = jax.ShapeDtypeStruct((layout.evaluations, 1, 1), dtype)
        step = jax.ShapeDtypeStruct((layout.groups, 1, 1), dtype)
        known = Known(step, step if "weight" in layout.needs else None)
        looked_at = lambda y, known: found.update(statistics(y, known, y[0, 0])[1])
        jax.eval_shape(looked_at, example, known)
        return found

    def sums_of(y: jax.Array, known: Known, number: jax.Array, kept: jax.Array) -> dict[str, Any]:
        z, _ = statistics(y, known, kept)
        found: dict[str, Any] = {"all": jnp.einsum("gqkr,gqlr->gqkl", z, z, precision=HIGHEST)}
        if bootstrap is not None:
            weights = _weights(bootstrap, number, y)
            found["resampled"] = jnp.einsum("br,gqkr->bgqk", weights, z, precision=HIGHEST)
        if pairs:
            found["pairs"] = _pair_sums(layout.rows(y))
        return found

    def init(value: Any) -> State:
        y, known = _outputs_and_known(value)
        zeros = jnp.zeros(y.shape[1:2], y.dtype)
        sums = jax.eval_shape(lambda y, known: sums_of(y, known, jnp.int32(0), y[0, 0]), y, known)
        empty = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), sums)
        # A sum, since a constant scalar knows of no mesh, and a batch that is sharded needs one.
        none = jnp.sum(jnp.zeros(y.shape[1:2], jnp.int32), dtype=jnp.int32)
        return State(none, none, none, zeros, jnp.ones_like(zeros), (empty, empty))

    def update(state: State, index: jax.Array, values: Any) -> State:
        for position in range(len(index)):  # blocks come one by one
            block = jax.tree.map(lambda leaf, at=position: leaf[at], values)
            state = _add(state, index[position], block)
        return state

    def _add(state: State, number: jax.Array, block: Any) -> State:
        y, known = _outputs_and_known(block)
        bad = jnp.sum(~jnp.isfinite(y), axis=(0, 1), dtype=jnp.int32)
        kept = bad == 0
        rows = jnp.sum(kept, dtype=jnp.int32)

        first = jnp.where(kept[None], y[0], 0)
        own = jnp.sum(first, axis=-1) / jnp.maximum(rows, 1).astype(y.dtype)
        spread = jnp.max(jnp.where(kept[None], jnp.abs(first - own[:, None]), 0), axis=-1)
        is_first = state.rows == 0
        shift = jnp.where(is_first, own, state.shift)
        spread = jnp.where(spread > 0, spread, jnp.abs(own))  # of one row there is none
        spread = jnp.where(spread >= jnp.finfo(y.dtype).tiny, spread, 1)
        scale = jnp.where(is_first, spread, state.scale)
        y = layout.scaled(y, shift, scale)
        # Rows that are left out: all statistics are products of outputs and steps, and 0 with them.
        known = jax.tree.map(lambda array: jnp.where(kept[None, None], array, 0), known)
        terms = sums_of(jnp.where(kept[None, None], y, 0), known, number, kept)

        sums, lost = state.sums
        terms = jax.tree.map(jnp.subtract, terms, lost)
        new = jax.tree.map(jnp.add, sums, terms)
        lost = jax.tree.map(lambda n, s, t: (n - s) - t, new, sums, terms)
        return State(
            state.rows + rows,
            state.omitted + len(kept) - rows,
            state.not_finite + jnp.sum(bad, dtype=jnp.int32),
            shift,
            scale,
            (new, lost),
        )

    def finish(state: State) -> Estimates:
        dtype = state.shift.dtype
        n = state.rows.astype(dtype)
        sums, _ = state.sums
        means = jnp.moveaxis(sums["all"], (2, 3), (0, 1)) / n  # (k, k, G, outputs)
        mean = means[0, 1, 0]
        of_row = means[1:3, 1:3, :1]
        variance, variance_error = _delta(variance_of, means[0, 1:3, :1], of_row, n)
        deviation = state.scale * _root(variance[0])
        variance, variance_error = deviation**2, variance_error[0] * state.scale**2
        mean = state.shift + state.scale * mean
        # Outputs that differ by their rounding only are one output.
        is_constant = deviation <= 4 * jnp.finfo(dtype).eps * jnp.abs(mean)

        places = places_of(dtype)
        values, errors, replicates = {}, {}, {}
        for name, formula in formulas.items():
            at = jnp.asarray(places[name])
            own = means[at][:, at]
            value, error = _delta(formula.estimate, means[0, at], own, n)
            values[name] = jnp.where(is_constant[:, None], 0, value.T)
            errors[name] = jnp.where(is_constant[:, None], 0, error.T)
            if bootstrap is not None:
                again = jnp.moveaxis(sums["resampled"], -1, 0)  # (k, replicates, G, outputs)
                again = formula.estimate(*(again[at] / again[:1]))
                again = jnp.where(is_constant[None, :, None], 0, jnp.swapaxes(again, 1, 2))
                replicates[name], errors[name] = again, jnp.std(again, axis=0, ddof=1)
        if pairs:
            value, error = _pair_delta([part / n for part in sums["pairs"]], n)
            symmetric = lambda array: (array + jnp.swapaxes(array, 0, 1)) / 2
            shown = ~jnp.eye(layout.groups, dtype=bool)[:, :, None] & ~is_constant[None, None]
            for kind, array in ((values, value), (errors, error)):
                kind[PAIRS] = jnp.moveaxis(jnp.where(shown, symmetric(array), 0), -1, 0)
        many = replicates if bootstrap is not None else None
        return Estimates(
            values, errors, many, mean, variance, is_constant, state.rows, variance_error
        )

    return Reduction(init, update, finish)


def _outputs_and_known(block: Any) -> tuple[Any, Known]:
    return block if isinstance(block, tuple) else (block, NOTHING)


def _weights(bootstrap: Any, number: jax.Array, y: jax.Array) -> jax.Array:
    """Shape (replicates, rows): 0 or 2, from one random bit each, mean and variance 1."""
    key, replicates, of_block = bootstrap
    rows = number * of_block + jnp.arange(y.shape[-1], dtype=jnp.int32)

    def words(row: jax.Array) -> jax.Array:
        return jax.random.bits(jax.random.fold_in(key, row), (-(-replicates // 32),), jnp.uint32)

    place = jnp.arange(32, dtype=jnp.uint32)[None, :, None]
    bits = (jax.vmap(words, out_axes=1)(rows)[:, None] >> place) & 1
    return 2 * bits.reshape(-1, len(rows))[:replicates].astype(y.dtype)


def _delta(
    estimate: Callable[..., jax.Array], means: jax.Array, products: jax.Array, n: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """The estimate from the means (k, G, outputs), and its standard error."""
    value, pull = jax.vjp(lambda means: estimate(*means), means)
    # Ones, which under `vmap` are batched as the value is: on a mesh of Explicit axes jax 0.12 does
    # not add a cotangent that is sharded over the batch to one that is not batched.
    ones = jnp.logical_or(jnp.isfinite(value), True).astype(value.dtype)
    (slopes,) = pull(ones)
    covariance = products - means[:, None] * means[None, :]
    variance = jnp.einsum("k...,kl...,l...->...", slopes, covariance, slopes, precision=HIGHEST)
    return value, _root(variance / (n - 1))


def _root(variance: jax.Array) -> jax.Array:
    return jnp.sqrt(jnp.maximum(variance, 0))  # NaN stays: one row says nothing of its error


def _pair_sums(rows: Rows) -> list[jax.Array]:
    """Of h, m, s, h^2, h m, h s, m^2, m s, s^2; those with h are (G, G, outputs)."""
    m, s = rows.mean, rows.square
    all_four = jnp.concatenate([rows.a, rows.b, rows.ab, rows.ba])
    middle = jnp.mean(all_four, axis=0, keepdims=True)
    a, b, ab, ba = (y - middle for y in (rows.a, rows.b, rows.ab, rows.ba))
    u, w = b * ab, a * b
    product = lambda x, y: jnp.einsum("iqr,jqr->ijq", x, y, precision=HIGHEST)
    total = lambda z: jnp.sum(z, axis=-1)[None]

    def of(weight: jax.Array) -> jax.Array:
        """The sum of h times a weight of the row."""
        one = total(weight * u)
        return product(weight * ba, ab) - jnp.swapaxes(one, 0, 1) - one + total(weight * w)

    alone = total(u**2 - 2 * w * u)
    squared = (
        product(ba**2, ab**2)
        - 2 * (product(ba * u, ab) + product(ba, ab * u) - product(ba * w, ab))
        + 2 * product(u, u)
        + jnp.swapaxes(alone, 0, 1)
        + alone
        + total(w**2)
    )
    rest = [total(z) for z in (m * m, m * s, s * s)]
    return [of(jnp.ones_like(m)), total(m), total(s), squared, of(m), of(s), *rest]


def _pair_delta(means: list[jax.Array], n: jax.Array) -> tuple[jax.Array, jax.Array]:
    """S_ij and its standard error: of h / V, in its few terms."""
    h, m, s, hh, hm, hs, mm, ms, ss = means
    variance = variance_of(m, s)
    value = ratio(h, variance)
    # The influence of a row is (h - value (s - 2 m' m)) / V around its mean, m' the mean.
    twice = 2 * m
    v, hv = s - twice * m, hs - twice * hm
    vv = ss - 2 * twice * ms + twice**2 * mm
    spread = (hh - h**2) - 2 * value * (hv - h * v) + value**2 * (vv - v**2)
    return value, _root(ratio(spread, variance**2) / (n - 1))
