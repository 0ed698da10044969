"""What SmoothGrad and its relatives share: an attribution under noise on x, and its reduction.

y_k = explain(x + s z_k, *args).values,    z_k ~ N(0, I),    k = 1, ..., n
"""

import inspect
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxplain import checks, trees
from jaxplain.evaluate import Reduction, evaluate
from jaxplain.evaluate._moments import root
from jaxplain.gradients._saliency import saliency
from jaxplain.noise import add_noise


class SmoothedAttribution(NamedTuple):
    """An attribution from samples of noise on x, and how good it is.

    Attributes:
        values: tree, shapes and dtype of x.
        standard_error: tree and shapes of x, in float32 or wider: the standard error of `values`
            over the samples; NaN with too few samples: one, for `vargrad` fewer than four.
        output: f at x without noise, a scalar.
        samples: the number of attributions that went into `values`, int32.
        finite: whether x, the output and the values are free of NaN and infinity.
    """

    values: Any
    standard_error: Any
    output: jax.Array
    samples: jax.Array
    finite: jax.Array


def signed_gradient(f: Callable[..., Any]) -> Callable[..., Any]:
    """The gradient with its sign: what is smoothed unless something else is given."""
    return saliency(f, absolute=False)


def smoothed(
    f: Callable[..., Any],
    around: Callable[..., Any] | None,
    *,
    samples: int,
    noise: Any,
    relative: bool,
    chunk_size: int,
    reduction: Reduction,
) -> Callable[..., SmoothedAttribution]:
    """`explain(key, x, *args)`, where `reduction` makes (values, their variances) of the y_k."""
    checks.function(f, "f")
    checks.number(noise, "noise", at_least=0)
    chunk_size = checks.integer(chunk_size, "chunk_size")
    around = signed_gradient if around is None else around
    checks.function(around, "around")
    inner = around(f)
    checks.function(inner, "what around(f) returns")
    parameters = list(inspect.signature(inner).parameters.values())
    if parameters and parameters[0].name == "key":
        raise ValueError(
            "around(f) must be an explanation without samples of its own, but it takes a key. "
            "`jaxplain.paths.gradient_shap` is Expected Gradients with noise on x; around a path "
            "with one baseline take `jaxplain.integrated_gradients`."
        )

    @jax.jit
    def kernel(key: Any, x: Any, *args: Any) -> SmoothedAttribution:
        output = _result(inner(x, *args)).output  # its values are not used, and not computed

        def point(index: jax.Array) -> Any:
            noisy = add_noise(jax.random.fold_in(key, index), x, noise, relative=bool(relative))
            return trees.widen(inner(noisy, *args).values)

        values, variance = evaluate(point, samples, reduction, chunk_size=chunk_size)
        values = trees.cast_like(values, x)
        return SmoothedAttribution(
            values,
            root(variance),
            output,
            jnp.int32(samples),
            trees.finite(x, output, values),
        )

    def explain(key: Any, x: Any, *args: Any) -> SmoothedAttribution:
        checks.key(key)
        x = checks.explained(x)
        checks.arrays(args, "each argument after x")
        return kernel(key, x, *args)

    # Whoever asks what it takes (the command line does) sees a key, and what is smoothed takes.
    first = inspect.Parameter("key", inspect.Parameter.POSITIONAL_OR_KEYWORD)
    explain.__signature__ = inspect.Signature([first, *parameters])  # type: ignore[attr-defined]
    return explain


def _result(result: Any) -> Any:
    if not (hasattr(result, "values") and hasattr(result, "output")):
        raise TypeError(
            "around must be a method of the library, whose results have values and an output, but "
            f"around(f) returned a {type(result).__name__}."
        )
    return result
