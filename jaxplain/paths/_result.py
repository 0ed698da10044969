"""What the path attributions share: the result, and the check of what a kernel is called with."""

from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp

from jaxplain import checks, trees

Result = TypeVar("Result")


class PathAttribution(NamedTuple):
    """An attribution along a path, and how good it is.

    Attributes:
        values: tree and shapes of x, dtype of x: what each element of x contributed to
            `output - baseline_output`, in the units of f.
        output: f at the end of the path, f(x), a scalar.
        baseline_output: f at the start of the path, f(baseline), a scalar.
        completeness_gap: sum(values) - (output - baseline_output), a scalar in float32 or wider,
            with the values as they were before they were given the dtype of x.
        error: the estimated error of `values`, relative to their Euclidean norm. With `tolerance`
            only; NaN where it is not estimated.
        evaluations: the number of gradients of f that went into `values`, int32.
        finite: whether x, the baseline, the outputs and the values are free of NaN and infinity.
    """

    values: Any
    output: jax.Array
    baseline_output: jax.Array
    completeness_gap: jax.Array
    error: jax.Array
    evaluations: jax.Array
    finite: jax.Array


def result(
    x: Any,
    baseline: Any,
    outputs: tuple[jax.Array, jax.Array],
    values: Any,
    *,
    evaluations: Any,
    error: Any = jnp.nan,
) -> PathAttribution:
    """The result of wide `values`; `outputs` are those at the start and at the end of the path."""
    baseline_output, output = outputs
    gap = trees.total(values)
    dtype = trees.widest(gap.dtype, output.dtype)
    gap = gap.astype(dtype) - (output.astype(dtype) - baseline_output.astype(dtype))
    values = trees.cast_like(values, x)
    return PathAttribution(
        values,
        output,
        baseline_output,
        gap,
        jnp.asarray(error, gap.dtype),
        jnp.asarray(evaluations, jnp.int32),
        trees.finite(x, baseline, outputs, values),
    )


def from_baseline(
    f: Callable[..., jax.Array], kernel: Callable[..., Result]
) -> Callable[..., Result]:
    """`explain(x, baseline, *args)`: checked, placed on the mesh, and jitted."""

    @jax.jit
    def program(x: Any, baseline: Any, *args: Any) -> Result:
        return kernel(*placed(f, x, baseline, args), *args)

    def explain(x: Any, baseline: Any, *args: Any) -> Result:
        return program(*checked(x, baseline, *args))

    return explain


def checked(x: Any, baseline: Any, *args: Any) -> tuple[Any, ...]:
    """The arguments of an explanation that starts from a baseline: trees of arrays that match."""
    x = checks.explained(x)
    baseline = checks.like(baseline, x, "baseline")
    checks.arrays(args, "each argument after the baseline")
    return x, baseline, *args


def placed(f: Callable[..., jax.Array], x: Any, baseline: Any, args: Any) -> tuple[Any, Any]:
    """X and the baseline, as sharded and as varying over a mesh as either is, or f."""
    x = trees.place_like(x, jax.eval_shape(trees.subtract, x, baseline))
    x = trees.vary_with_output(f, x, *args)
    return x, trees.place_like(baseline, x)
