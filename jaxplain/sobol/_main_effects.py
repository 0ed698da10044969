"""Main effects of masked parts by regression: as many masks as one likes, whatever their cells.

y = c + sum_i sum_k b_ik phi_k(u_i) + rest,    S_i = sum_k b_ik^2 / Var y

with phi_k the Legendre polynomials on [0, 1], orthonormal for u uniform, and b by ridge regression.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxplain import checks, qmc, trees
from jaxplain import masks as masks_
from jaxplain.evaluate import evaluate, stack
from jaxplain.evaluate._moments import root
from jaxplain.masked import Example, explanation
from jaxplain.qmc._sampler import Sampler

HIGHEST = jax.lax.Precision.HIGHEST
GRID = masks_.grid(8, 8)
# Penalties that are tried where none is given, for each mask: the functions have variance one.
PENALTIES = tuple(10.0 ** (k / 2) for k in range(-8, 5))


class MainEffects(NamedTuple):
    """The share of the variance that each part explains by itself, from a regression.

    Attributes:
        values: tree of x, leaves (*output, *leaf of x), dtype of x (float32 where x is not float):
            `cells`, at each element of its cell.
        standard_error: as values, in float32 or wider: that of `cells_error`.
        cells: shape (*output, *cells): the first-order indices.
        cells_error: shape of `cells`: their standard errors, by the delta method; of masks from a
            quasi-random sampler an upper bound.
        slopes: shape of `cells`: by how much the output rises, along the fitted line, from where
            the cell is 0 to where it is 1; in the units of the output.
        r_squared: shape of the output: the share of the variance that all main effects together
            predict, each mask left out in turn. Where it is low, interactions decide, and a method
            that sees them is called for; it can be negative.
        penalty: shape of the output: the ridge penalty for each mask.
        variance: shape of the output: what the main effects explain and what they leave, together.
        output: f at x.
        baseline_output: f where all cells are 0.
        evaluations: the number of masks, int32.
        is_constant: shape of the output: whether it does not vary; its values are then 0.
        finite: whether x, the baseline, the outputs and the values are free of NaN and infinity.
    """

    values: Any
    standard_error: Any
    cells: jax.Array
    cells_error: jax.Array
    slopes: jax.Array
    r_squared: jax.Array
    penalty: jax.Array
    variance: jax.Array
    output: jax.Array
    baseline_output: jax.Array
    evaluations: jax.Array
    is_constant: jax.Array
    finite: jax.Array


def main_effects(
    f: Callable[..., Any],
    *,
    masks: masks_.Masks = GRID,
    samples: int = 512,
    degree: int = 2,
    penalty: float | jax.Array | None = None,
    perturbation: masks_.Perturbation = masks_.replace,
    sampler: Sampler = qmc.sobol,
    chunk_size: int = 16,
) -> Callable[..., MainEffects]:
    """First-order indices of masked parts, from one regression on all of them: few masks.

        y = c + sum_i sum_k b_ik phi_k(u_i) + rest,    S_i = sum_k b_ik^2 / Var y

    The number of masks does not depend on the number of cells, as it does in the designs of Sobol
    indices: it finds the parts that matter from a fourth of the masks. It sees main effects only;
    `r_squared` says how much that is.

    Args:
        f: `f(x, *args) -> output`, a float array of any shape, such as the scores of all classes:
            a map for each. Parameters belong among `args`, never closed over.
        masks: the parts of the example, from `jaxplain.masks`; each cell is uniform on [0, 1].
        samples: n, the number of masks, at least 4; a power of two for a Sobol' sampler. The
            regression takes min(n, cells * degree)^3 operations. Static.
        degree: of the polynomials, at least 1. Static.
        penalty: of the squares of the coefficients, for each mask. None: for each output the one of
            10^-4, ..., 10^2 that predicts best, each mask left out in turn. May be a traced array.
        perturbation: what becomes of what is masked, from `jaxplain.masks`.
        sampler: of the cells, from `jaxplain.qmc`.
        chunk_size: masks evaluated at once. It changes memory and speed, and the result only by
            rounding. Under `vmap` the masks in flight are `chunk_size` times the batch.

    Returns:
        `explain(key, x, baseline, *args) -> MainEffects`, a pure function, jitted inside. `key` is
        a typed key; give each example of a batch its own. `x` is any tree of arrays, `baseline` the
        same tree; `*args` are arrays or trees of arrays. Beside the masks f is evaluated at x and
        where all cells are 0.

    Raises:
        TypeError: f, perturbation or sampler is not a function; masks are not `Masks`; the key is
            not typed; f does not return one float array; a number is not one.
        ValueError: the baseline does not match x; samples is below 4 or degree below 1; the penalty
            is not above 0; the masks do not fit x.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from jaxplain import masks, sobol
        >>> f = lambda x: 2 * x[0] - x[1] + 0 * x[2]  # variances 4 to 1
        >>> explain = sobol.main_effects(f, masks=masks.elements())
        >>> result = explain(jax.random.key(0), jnp.ones(3), jnp.zeros(3))
        >>> [round(float(share), 2) for share in result.values], round(float(result.r_squared), 2)
        ([0.8, 0.2, 0.0], 1.0)

    References:
        Sudret, "Global sensitivity analysis using polynomial chaos expansions", Reliab. Eng. Syst.
        Saf. 2008 (indices from coefficients; here without products); Hoerl and Kennard,
        Technometrics 1970 (ridge); Allen, Technometrics 1974 (the error with each left out).
        Deviations: 1. the variance is that of the fit, plus that of what it leaves. 2. Standard
        errors by the delta method, from what each mask moves (MacKinnon and White, J. Econom. 1985,
        HC3).
    """
    checks.function(sampler, "sampler")
    samples = checks.integer(samples, "samples", 4)
    degree = checks.integer(degree, "degree")
    chunk_size = checks.integer(chunk_size, "chunk_size")
    if penalty is not None:
        checks.number(penalty, "penalty", above=0)

    def compute(key: jax.Array, example: Example) -> MainEffects:
        block = sampler(key, example.dimensions, samples, 1)

        def point(index: jax.Array) -> tuple[jax.Array, jax.Array]:
            u = block(index)[0]
            return example.outputs(u), u

        y, cells = evaluate(point, samples, stack(samples), chunk_size=chunk_size)
        fit = _fit(y, legendre(cells.astype(y.dtype), degree), degree, penalty)
        shape = example.output.shape
        values = example.spread(fit.shares)
        return MainEffects(
            values,
            example.spread(fit.errors, as_x=False),
            example.like_cells(fit.shares),
            example.like_cells(fit.errors),
            example.like_cells(12**0.5 * fit.coefficients[:, : example.dimensions]),
            fit.r_squared.reshape(shape),
            fit.penalty.reshape(shape),
            fit.variance.reshape(shape),
            example.output,
            example.baseline_output,
            jnp.int32(samples),
            fit.is_constant.reshape(shape),
            trees.finite(
                example.x, example.baseline, example.output, example.baseline_output, values
            ),
        )

    return explanation(f, masks, perturbation, compute)


class _Fit(NamedTuple):
    """Of each output: shapes (outputs, degree * d), (outputs, d) twice, and (outputs,)."""

    coefficients: jax.Array
    shares: jax.Array
    errors: jax.Array
    r_squared: jax.Array
    penalty: jax.Array
    variance: jax.Array
    is_constant: jax.Array


def legendre(u: jax.Array, degree: int) -> jax.Array:
    """The polynomials of degrees 1 to `degree` of each column, (n, degree * d), degrees outermost.

    P_k(2 u - 1) sqrt(2 k + 1): mean 0 and variance 1 for u uniform on [0, 1].
    """
    x = 2 * u - 1
    last, this = jnp.ones_like(x), x
    found = [3**0.5 * this]
    for k in range(1, degree):
        last, this = this, ((2 * k + 1) * x * this - k * last) / (k + 1)
        found.append((2 * k + 3) ** 0.5 * this)
    return jnp.concatenate(found, axis=1)


def _fit(y: jax.Array, features: jax.Array, degree: int, penalty: Any) -> _Fit:
    """Ridge regression of each output (n, outputs) on the features (n, degree * d)."""
    n = len(y)
    dtype = y.dtype
    dot = lambda a, b: jnp.matmul(a, b, precision=HIGHEST)
    spread = jnp.max(y, axis=0) - jnp.min(y, axis=0)
    is_constant = spread <= 4 * jnp.finfo(dtype).eps * jnp.max(jnp.abs(y), axis=0)
    y = y - y[:1]  # before the mean: equal numbers have no rest at all
    y = y - jnp.mean(y, axis=0, keepdims=True)
    features = features - jnp.mean(features, axis=0, keepdims=True)

    # features = left * s * right^T, from the smaller of the two Gram matrices, over n.
    is_tall = n >= features.shape[1]
    gram = dot(features.T, features) if is_tall else dot(features, features.T)
    squares, vectors = jnp.linalg.eigh(gram / n)
    is_seen = squares > jnp.finfo(dtype).eps * max(features.shape) * squares[-1]
    inverse = jnp.where(is_seen, jax.lax.rsqrt(jnp.where(is_seen, squares, 1) * n), 0)
    vectors = jnp.where(is_seen[None, :], vectors, 0)
    other = dot(features if is_tall else features.T, vectors) * inverse[None, :]
    left, right = (other, vectors) if is_tall else (vectors, other)
    squares = jnp.where(is_seen, squares, 0)
    tried = jnp.asarray(PENALTIES if penalty is None else [penalty], dtype)

    def of_output(own: jax.Array, is_still: jax.Array) -> _Fit:
        projected = dot(left.T, own)

        def fitted(penalty: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
            kept = squares / (squares + penalty)
            room = jnp.maximum(1 - 1 / n - dot(left**2, kept), jnp.finfo(dtype).eps ** 0.5)
            return kept, own - dot(left, kept * projected), room

        def left_out(number: jax.Array) -> jax.Array:
            """The mean square of the errors at each mask of the fit to all others."""
            _, rest, room = fitted(tried[number])
            return jnp.mean((rest / room) ** 2)

        errors = evaluate(left_out, len(tried), stack(len(tried)), chunk_size=len(tried))
        is_best = jnp.arange(len(tried), dtype=jnp.int32) == jnp.argmin(errors).astype(jnp.int32)
        chosen = jnp.sum(jnp.where(is_best, tried, 0))  # on a mesh an index may not be sharded
        kept, rest, room = fitted(chosen)
        b = dot(right, inverse * kept * projected)
        # What each mask has moved the coefficients by: their variances, whatever the noise of each.
        moved = dot(right, (inverse * kept)[:, None] * left.T) * (rest / room)[None, :]
        variances = jnp.sum(moved**2, axis=1)
        freedom = jnp.maximum(n - 1 - jnp.sum(kept), 1)
        noise = jnp.sum(rest**2) / freedom
        # The squares of coefficients hold those of their noise. The variance is not the sample's,
        # so that what the features explain is a share that does not vary with the masks drawn.
        variance = jnp.maximum(jnp.sum(b**2 - variances), 0) + noise
        unit = jnp.where(is_still, 1, variance)

        def by_cell(array: jax.Array) -> jax.Array:
            return jnp.sum(array.reshape(degree, -1, *array.shape[1:]), axis=0)

        shares = by_cell(b**2) / unit
        parts = by_cell(2 * b[:, None] * moved)  # (d, n)
        whole = jnp.sum(parts, axis=0) + (rest**2 - jnp.mean(rest**2)) / n
        apart = (parts - shares[:, None] * whole[None, :]) / unit
        square = jnp.sum(apart**2, axis=1) + by_cell(2 * variances**2) / unit**2
        of_mean = jnp.sum(own**2) * n / (n - 1) ** 2  # the same error, of no features at all
        r_squared = 1 - jnp.min(errors) / jnp.where(is_still, 1, of_mean)
        shown = lambda array: jnp.where(is_still, 0, array)
        return _Fit(
            shown(b),
            shown(shares),
            shown(root(square)),
            shown(r_squared),
            chosen,
            shown(variance),
            is_still,
        )

    # Not a loop: of two outputs XLA on CPU has failed to compile it (jax 0.10.2: "operands to ICmp
    # instruction are not of the same type").
    return jax.vmap(of_output, in_axes=(1, 0))(y, is_constant)
