"""Bounds of total indices from derivatives: one gradient for each point, whatever the inputs.

T_i <= C_i E (df/dx_i)^2 / V        (Poincare's inequality; C_i a constant of the distribution)

uniform in (a, b): C = (b - a)^2 / pi^2;    normal: C = its variance;    any other: x_i is taken
as a function of a standard normal z_i, whose C is 1: E (df/dx_i dx_i/dz_i)^2
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.scipy.special import ndtri

from jaxplain import checks, estimates, qmc, trees
from jaxplain.qmc._sampler import Sampler
from jaxplain.sobol import _design, _indices
from jaxplain.sobol._factors import Factors, factors
from jaxplain.sobol._statistics import NOTHING, Estimates, Known, Layout, State
from jaxplain.sobol.estimators import Estimator, Formula, Rows, ratio, variance_of


class Bounds(NamedTuple):
    """Upper bounds of total indices.

    The first three are trees like the inputs, each leaf of the shape of the outputs followed by
    its own.

    Attributes:
        bounds: at least T of each factor. Above 1 it says nothing.
        bounds_error: its standard error.
        bounds_interval: two trees, the ends of an interval at the level asked for.
        mean: shape of the outputs: the mean.
        variance: shape of the outputs: V.
        rows: the points that went into the estimates, int32.
        evaluations: evaluations of f, each with its derivatives, int32.
        not_finite: how many outputs and derivatives were NaN or infinite, int32; their points are
            left out.
        is_constant: shape of the outputs: whether f does not vary; its bounds are then 0.
        is_converged: whether the tolerance was met; true where none was asked for.
        variance_error: shape of the outputs: the standard error of V.
    """

    bounds: Any
    bounds_error: Any
    bounds_interval: estimates.Interval
    mean: jax.Array
    variance: jax.Array
    rows: jax.Array
    evaluations: jax.Array
    not_finite: jax.Array
    is_constant: jax.Array
    is_converged: jax.Array
    variance_error: jax.Array


def dgsm(
    f: Callable[..., Any],
    inputs: Any,
    *,
    samples: int | None = None,
    tolerance: float | jax.Array | None = None,
    max_samples: int | None = None,
    sampler: Sampler = qmc.sobol,
    errors: str = "delta",
    replicates: int | None = None,
    level: float = 0.95,
    chunk_size: int | None = None,
    nan: str = "raise",
) -> Callable[..., Bounds]:
    """Upper bounds of all total indices, from gradients: for screening many inputs at once.

        T_i <= C_i E (df/dx_i)^2 / V

    An input with a small bound can be fixed; one with a large bound may matter or not. The cost is
    that of `samples` gradients (of as many as there are outputs), and does not grow with d.

    Args:
        f: `f(x, *args) -> output`, as in `indices`, and differentiable almost everywhere without
            jumps: a step has a derivative of 0 and a bound that is wrong.
        inputs: a tree of distributions. Where it is neither uniform nor normal, its quantile
            function must be differentiable.
        samples: the number of points, 1,024 (of each scramble) unless given.
        tolerance: in place of `samples`: points are doubled, as in `indices`.
        max_samples: the most points with `tolerance`.
        sampler: `jaxplain.qmc.sobol` or another, of d dimensions.
        errors: "delta", "scrambles" or "bootstrap", as in `indices`.
        replicates: 16 scrambles, or 100 resamples, unless given.
        level: the probability that an interval covers the bound (not the index).
        chunk_size: points at once; by itself as many as fit into 16 MiB, at most 2,048. For a large
            network a few.
        nan: "raise" where an output or a derivative is not finite (outside of a user's `jit`), or
            "omit": such points are left out and counted.

    Returns:
        `analyse(key, *args) -> Bounds`, a pure function, jitted inside.

    Raises:
        TypeError: as `indices`.
        ValueError: as `indices`.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from jaxplain import sobol
        >>> f = lambda x: x[0] + 2 * x[1]
        >>> inputs = sobol.normal(jnp.zeros(3), 1.0)  # where f is linear, the bounds are met
        >>> b = sobol.dgsm(f, inputs, samples=4096)(jax.random.key(0))
        >>> [round(float(share), 2) for share in b.bounds]
        [0.2, 0.8, 0.0]

    References:
        Sobol' and Kucherenko, Math. Comput. Simul. 2009; Lamboni, Iooss, Popelin and Gamboa, Math.
        Comput. Simul. 2013 (theorem 3.1). Deviations: 1. standard errors, by the delta method. 2.
        Inputs that are neither uniform nor normal are taken through the normal distribution: the
        paper's constant for log-concave densities needs the density at the median and holds for
        these only; through the uniform, the exponential distribution has an infinite bound.
    """
    checks.function(f, "f")
    layout = factors(inputs)
    options = _indices._options(BOUND, BOUND, False, sampler, errors, replicates, level, nan)
    options = options._replace(names=("bounds",), formulas=options.formulas[1:])
    most, first, chunk_size = _indices.sizes(samples, tolerance, max_samples, chunk_size, options)

    def plan_for(outputs: int) -> Gradients:
        own = _Layout(frozenset(), layout.dimensions)
        numbers = own.evaluations * outputs
        rows, _ = _design.block(layout, first, chunk_size, numbers)
        return Gradients(layout, own, rows)

    return _indices.kernel(f, layout, plan_for, options, most, tolerance, nan, _result)


class Gradients(NamedTuple):
    """Points with their gradients; see `_design.Design`.

    Attributes:
        factors: the layout of the inputs.
        layout: how outputs and derivatives lie in a block.
        rows: points of a block, a power of two.
    """

    factors: Factors
    layout: Layout
    rows: int

    @property
    def dimensions(self) -> int:
        """How many uniform numbers a point takes."""
        return self.factors.dimensions

    def outputs(self, f: Callable[[jax.Array], jax.Array], u: jax.Array) -> jax.Array:
        """Of a block of points: the outputs, and the root of C times each derivative (1 + d, q)."""

        def one(x: jax.Array, slope: jax.Array) -> jax.Array:
            x = trees.vary_with_output(f, x)
            y, pull = jax.vjp(f, x)
            (jacobian,) = jax.vmap(pull)(jnp.eye(len(y), dtype=y.dtype))
            return jnp.concatenate([y[None], (jacobian * slope[None]).astype(y.dtype).T])

        return jax.vmap(one, out_axes=2)(self.factors.values(u), self.slopes(u))

    def slopes(self, u: jax.Array) -> jax.Array:
        """The roots of Poincare's constants, or dx/dz of a standard normal z: (rows, d)."""
        parts, start = [], 0
        for leaf, size in zip(self.factors.leaves, self.factors.sizes, strict=True):
            own = u[:, start : start + size].reshape(len(u), *leaf.shape)
            start += size
            if leaf.family == "other":
                _, slope = jax.jvp(jax.vmap(leaf.inverse_cdf), (own,), (jnp.ones_like(own),))
                z = ndtri(own)
                slope = trees.widen(slope) * jnp.exp(-(z**2) / 2) / (2 * jnp.pi) ** 0.5
            else:
                root = leaf.scale / jnp.pi if leaf.family == "uniform" else leaf.scale
                slope = jnp.broadcast_to(trees.widen(root)[None], own.shape)
            parts.append(slope.reshape(len(u), size))
        dtype = trees.widest(*(part.dtype for part in parts))
        return jnp.concatenate([part.astype(dtype) for part in parts], axis=1)


class _Layout(Layout):
    """Blocks of `Gradients`: a are the outputs, ab the scaled derivatives."""

    @property
    def evaluations(self) -> int:
        return 1 + self.groups

    def rows(self, y: jax.Array, known: Known = NOTHING) -> Rows:
        return Rows(y[:1], None, y[1:], None, None, y[:1], y[:1] ** 2, None)

    def scaled(self, y: jax.Array, shift: jax.Array, scale: jax.Array) -> jax.Array:
        first = (y[:1] - shift[None, :, None]) / scale[None, :, None]
        return jnp.concatenate([first, y[1:] / scale[None, :, None]])


_BOUND = Formula(
    (),
    lambda r: (r.ab**2, r.mean, r.square),
    lambda n, m, s: ratio(n, variance_of(m, s)),
)
BOUND = Estimator(_BOUND, _BOUND)


def _result(
    found: Estimates,
    state: State,
    plan: Gradients,
    options: _indices.Options,
    shape: tuple[int, ...],
    is_converged: Any,
) -> Bounds:
    shaped = _indices.Shaped(found, plan.factors, options, shape)
    return Bounds(
        *shaped.values,
        *shaped.errors,
        *shaped.intervals,
        **shaped.rest(state, 1, is_converged),
    )
