"""Sobol indices from data in hand, by regression on polynomials that are orthonormal.

    y = sum_a c_a Psi_a(x) + rest,    Psi_a(x) = prod_i psi_(a_i)(x_i),    E Psi_a Psi_b = 1 [a = b]

so that Var y = sum_(a != 0) c_a^2, and an index is the share of the terms that it is about: S_i of
those in x_i alone, T_i of those with x_i, S_ij of those in x_i and x_j alone.

psi are Legendre polynomials of a uniform input, Hermite polynomials of a normal one, and Legendre
polynomials of u = F(x) of any other.
"""

import functools
import itertools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxplain import checks, trees
from jaxplain.sobol._distributions import Distribution
from jaxplain.sobol._factors import Factors, factors
from jaxplain.sobol._rank_based import tables
from jaxplain.sobol.estimators import ratio

HIGHEST = jax.lax.Precision.HIGHEST


class PolynomialChaos(NamedTuple):
    """Sobol indices of a polynomial that was fitted to data.

    The first four are trees like the inputs, each leaf of the shape of one output followed by its
    own; the next two trees like the inputs of such trees.

    Attributes:
        first_order: S.
        total_order: T.
        first_order_error: the standard error of S from the sampling; not what the polynomial lacks,
            of which `q2` tells.
        total_order_error: that of T.
        second_order: S_ij, 0 for a factor with itself.
        second_order_error: that of S_ij.
        mean: shape of one output: the coefficient of the constant.
        variance: shape of one output: the variance of the polynomial.
        r2: shape of one output: the share of the variance of y that the polynomial explains of the
            rows it was fitted to.
        q2: the same of rows that were left out, one at a time: what it explains of new rows. Below
            0.9 or so the indices are those of another function.
        coefficients: shape of one output and (terms,).
        degrees: shape (terms, d), int32: the degree of each term in each factor.
        is_constant: shape of one output: whether y does not vary; its indices are then 0.
    """

    first_order: Any
    total_order: Any
    first_order_error: Any
    total_order_error: Any
    second_order: Any
    second_order_error: Any
    mean: jax.Array
    variance: jax.Array
    r2: jax.Array
    q2: jax.Array
    coefficients: jax.Array
    degrees: jax.Array
    is_constant: jax.Array


def polynomial_chaos(
    x: Any,
    y: Any,
    inputs: Any,
    *,
    degree: int = 3,
    interactions: int = 2,
    ridge: float | jax.Array = 0.0,
) -> PolynomialChaos:
    """First-order, second-order and total indices from inputs and outputs, by a polynomial.

        S_i = sum of c_a^2 over the terms in x_i alone / sum of c_a^2 over all terms

    Any points will do, quasi-random ones too. For a smooth function far better than any estimate
    that assumes nothing; for a rough one wrong, and `q2` says so.

    Args:
        x: a tree like `inputs` of arrays with a leading axis of n rows.
        y: shape (n, ...): the output of each row, a number or an array of any shape.
        inputs: the tree of distributions from which x was drawn, independently.
        degree: the highest total degree of a term.
        interactions: the most inputs in a term.
        ridge: the penalty r of  mean (y - fit)^2 + r sum c_a^2  over all terms but the constant;
            0 is least squares. May be traced.

    Returns:
        `PolynomialChaos`.

    Raises:
        TypeError: x or y are not real arrays, inputs not a tree of distributions, or an option is
            of another type than above.
        ValueError: x is not a tree like the inputs, or outside of their bounds; values are not
            finite; there are not more rows than terms, and no ridge; the rows do not determine the
            terms.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from jaxplain import sobol
        >>> x = jax.random.normal(jax.random.key(0), (200, 2))
        >>> y = x[:, 0] + x[:, 0] * x[:, 1]
        >>> s = sobol.polynomial_chaos(x, y, sobol.normal(jnp.zeros(2), 1.0))
        >>> [round(float(share), 2) for share in (*s.first_order, *s.total_order, s.q2)]
        [0.5, 0.0, 1.0, 0.5, 1.0]

    References:
        Sudret, "Global sensitivity analysis using polynomial chaos expansions", Reliab. Eng. Syst.
        Saf. 2008; Blatman and Sudret, Probab. Eng. Mech. 2010 (Q2 of rows left out). Deviations: 1.
        no sparse choice of terms: truncation by degree and by interactions, and a ridge. 2.
        Standard errors, by the delta method from the coefficients' covariance of rows left out.
    """
    layout = factors(inputs)
    degree = checks.integer(degree, "degree")
    interactions = checks.integer(interactions, "interactions")
    checks.number(ridge, "ridge", at_least=0)
    is_penalised = isinstance(ridge, jax.core.Tracer) or float(ridge) > 0
    _check_like_inputs(x, layout)
    table, values, _ = tables(x, y, minimum=2)
    terms = _count(layout.dimensions, degree, interactions)
    if len(table) <= terms and not is_penalised:
        raise ValueError(
            f"{terms:,} terms (degree {degree} in {layout.dimensions} inputs, up to "
            f"{interactions} in a term) need more rows than the {len(table):,} there are; twice as "
            "many are usual. Give more rows, a lower degree, interactions=1, or a ridge above 0."
        )
    places, degrees = _terms(layout.dimensions, degree, interactions)
    basis = _basis(layout, table, degree)
    key = (places.tobytes(), degrees.tobytes(), places.shape, is_penalised)
    found, determined = _fitted(key, basis, values, jnp.asarray(ridge, table.dtype))
    if not isinstance(determined, jax.core.Tracer) and not determined:
        raise ValueError(
            f"the rows do not determine the {terms:,} terms: some are repeated, or an input takes "
            "fewer values than the degree asks for. Give other rows, a lower degree or a ridge."
        )
    shape = np.shape(y)[1:]

    def put(array: jax.Array) -> Any:
        return layout.like_inputs(array.reshape(*shape, *array.shape[1:]))

    def pairs(array: jax.Array) -> Any:
        outer = layout.like_inputs(array.reshape(*shape, *array.shape[1:]), axis=len(shape))
        return jax.tree.map(layout.like_inputs, outer)

    whole = np.zeros((terms, layout.dimensions), np.int32)
    np.add.at(whole, (np.arange(terms)[:, None], places), degrees)
    return PolynomialChaos(
        put(found.first_order),
        put(found.total_order),
        put(found.first_order_error),
        put(found.total_order_error),
        pairs(found.second_order),
        pairs(found.second_order_error),
        found.mean.reshape(shape),
        found.variance.reshape(shape),
        found.r2.reshape(shape),
        found.q2.reshape(shape),
        found.coefficients.reshape(*shape, terms),
        jnp.asarray(whole),
        found.is_constant.reshape(shape),
    )


def _check_like_inputs(x: Any, layout: Factors) -> None:
    checks.arrays(x, "x")
    leaves, structure = jax.tree.flatten(x)
    if structure != layout.structure:
        raise ValueError(f"x must be the same tree as inputs, {layout.structure}, not {structure}.")
    for leaf, own in zip(leaves, layout.leaves, strict=True):
        if np.shape(leaf)[1:] != own.shape or np.ndim(leaf) == 0:
            raise ValueError(
                f"x must have the shapes of inputs after a first axis of rows, (n, *{own.shape}), "
                f"but a leaf has shape {np.shape(leaf)}."
            )


def _count(d: int, degree: int, interactions: int) -> int:
    most = min(d, degree, interactions)
    return sum(math.comb(d, k) * math.comb(degree, k) for k in range(most + 1))


def _terms(d: int, degree: int, interactions: int) -> tuple[np.ndarray, np.ndarray]:
    """For each term the inputs in it and their degrees, (terms, most); absent ones of degree 0."""
    most = min(d, degree, interactions)
    places, degrees = [], []
    for k in range(most + 1):
        powers = [p for p in itertools.product(range(1, degree + 1), repeat=k) if sum(p) <= degree]
        for inputs in itertools.combinations(range(d), k):
            for power in powers:
                places.append(inputs + (0,) * (most - k))
                degrees.append(power + (0,) * (most - k))
    return np.array(places, np.int32), np.array(degrees, np.int32)


def _basis(layout: Factors, table: jax.Array, degree: int) -> jax.Array:
    """The orthonormal polynomials of each input, (n, d, degree + 1)."""
    parts, start = [], 0
    for leaf, size in zip(layout.leaves, layout.sizes, strict=True):
        own = table[:, start : start + size].reshape(len(table), *leaf.shape)
        start += size
        if leaf.family == "normal":
            z = (own - leaf.location[None].astype(own.dtype)) / leaf.scale[None].astype(own.dtype)
            parts.append(_hermite(z.reshape(len(table), size), degree))
            continue
        if leaf.family == "uniform":
            u = (own - leaf.location[None].astype(own.dtype)) / leaf.scale[None].astype(own.dtype)
            slack = 1e-3
            if not isinstance(u, jax.core.Tracer) and bool(jnp.any(jnp.abs(u - 0.5) > 0.5 + slack)):
                raise ValueError(
                    f"x lies outside of the bounds of its uniform input: {leaf.location} to "
                    f"{leaf.location + leaf.scale}."
                )
        else:
            u = _probability(leaf, own)
        parts.append(_legendre(2 * u.reshape(len(table), size) - 1, degree))
    return jnp.concatenate(parts, axis=1)


def _probability(distribution: Distribution, x: jax.Array) -> jax.Array:
    """F(x), by bisection of the quantile function, which is taken to increase."""
    quantile = jax.vmap(distribution.inverse_cdf)

    def halve(_: jax.Array, ends: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        low, high = ends
        middle = (low + high) / 2
        is_below = trees.widen(quantile(middle)).astype(x.dtype) < x
        return jnp.where(is_below, middle, low), jnp.where(is_below, high, middle)

    bits = jnp.finfo(x.dtype).nmant
    low, high = jax.lax.fori_loop(0, bits, halve, (jnp.zeros_like(x), jnp.ones_like(x)))
    return (low + high) / 2


def _legendre(t: jax.Array, degree: int) -> jax.Array:
    """Orthonormal for t uniform in (-1, 1), along a last axis."""
    rows = [jnp.ones_like(t), t]
    for k in range(1, degree):
        rows.append(((2 * k + 1) * t * rows[k] - k * rows[k - 1]) / (k + 1))
    return jnp.stack([row * (2 * k + 1) ** 0.5 for k, row in enumerate(rows)], axis=-1)


def _hermite(z: jax.Array, degree: int) -> jax.Array:
    """Orthonormal for z standard normal, along a last axis."""
    rows = [jnp.ones_like(z), z]
    for k in range(1, degree):
        rows.append((z * rows[k] - k**0.5 * rows[k - 1]) / (k + 1) ** 0.5)
    return jnp.stack(rows, axis=-1)


@functools.partial(jax.jit, static_argnums=0)
def _fitted(
    key: Any, basis: jax.Array, y: jax.Array, ridge: jax.Array
) -> tuple[PolynomialChaos, jax.Array]:
    """The indices in arrays (q, d) and (q, d, d), and whether the rows determine the terms."""
    *texts, shape, is_penalised = key
    places, degrees = (np.frombuffer(text, np.int32).reshape(shape) for text in texts)
    n, d, _ = basis.shape
    design = jnp.prod(basis[:, places, degrees], axis=2)  # (n, terms)
    offset = jnp.mean(y, axis=0)
    y = y - offset[None]
    if is_penalised:
        penalties = jnp.sqrt(n * ridge) * jnp.asarray(degrees.any(axis=1), y.dtype)
        stacked = jnp.concatenate([design, jnp.diag(penalties)])
    else:
        stacked = design
    q, r = jnp.linalg.qr(stacked)
    own = q[:n]
    product = functools.partial(jnp.matmul, precision=HIGHEST)
    solve = functools.partial(jax.scipy.linalg.solve_triangular, r, lower=False)
    coefficients = solve(product(own.T, y))  # (terms, q)
    residual = y - product(design, coefficients)
    left_out = residual / jnp.maximum(1 - jnp.sum(own**2, axis=1), 1e-6)[:, None]
    around = jnp.maximum(jnp.mean(y**2, axis=0), 0)
    slack = 4 * jnp.finfo(y.dtype).eps * jnp.abs(offset)
    is_constant = around <= slack**2
    quality = lambda errors: jnp.where(
        is_constant, 1, 1 - ratio(jnp.mean(errors**2, axis=0), around)
    )

    # Which terms an index is about.
    has = np.zeros((len(places), d), bool)
    np.logical_or.at(has, (np.arange(len(places))[:, None], places), degrees > 0)
    order = has.sum(axis=1)
    alone = jnp.asarray(has & (order == 1)[:, None], y.dtype)
    part = jnp.asarray(has, y.dtype)
    of_two = np.flatnonzero(order == 2)
    first, second = np.nonzero(has[of_two])[1].reshape(-1, 2).T
    to_rows = solve(own.T)  # (terms, n): how each row moves the coefficients

    def indices(c: jax.Array, left_out: jax.Array) -> tuple[jax.Array, ...]:
        c = jnp.where(jnp.asarray(order > 0), c, 0)
        variance = jnp.sum(c**2)
        moved = to_rows * left_out[None]
        spread = product(moved, moved.T) * c[:, None] * c[None, :]
        everything = jnp.sum(spread)

        def shares(member: jax.Array) -> tuple[jax.Array, jax.Array]:
            share = ratio(product(member.T, c**2), variance)
            within = jnp.sum(product(spread, member) * member, axis=0)
            across = product(member.T, jnp.sum(spread, axis=1))
            return share, error_of(share, within, across)

        def error_of(share: jax.Array, within: jax.Array, across: jax.Array) -> jax.Array:
            square = within - 2 * share * across + share**2 * everything
            return 2 * jnp.sqrt(jnp.maximum(ratio(square, variance**2), 0))

        pair = lambda z: jnp.zeros((d, d), z.dtype).at[first, second].add(z)
        name = first * d + second
        same = jnp.asarray(name[:, None] == name[None, :])
        own_spread = spread[of_two][:, of_two]
        within = pair(jnp.sum(jnp.where(same, own_spread, 0), axis=1))
        share = ratio(pair(c[of_two] ** 2), variance)
        error = error_of(share, within, pair(jnp.sum(spread, axis=1)[of_two]))
        error = jnp.where(jnp.triu(jnp.ones((d, d), bool), 1), error, 0)
        (one, one_error), (all_of, all_error) = shares(alone), shares(part)
        return one, all_of, one_error, all_error, share + share.T, error + error.T, variance

    found = jax.lax.map(lambda pair: indices(*pair), (coefficients.T, left_out.T))
    shown = lambda array: jnp.where(is_constant.reshape((-1,) + (1,) * (array.ndim - 1)), 0, array)
    first_order, total, first_error, total_error, both, both_error, variance = map(shown, found)
    diagonal = jnp.abs(jnp.diagonal(r))
    eps = jnp.finfo(y.dtype).eps
    result = PolynomialChaos(
        first_order,
        total,
        first_error,
        total_error,
        both,
        both_error,
        offset + coefficients[0],
        variance,
        quality(residual),
        quality(left_out),
        coefficients.at[0].add(offset).T,
        jnp.zeros(()),
        is_constant,
    )
    return result, jnp.min(diagonal) > 10 * eps * jnp.max(diagonal)
