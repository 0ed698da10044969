"""The distributions of the inputs of a sensitivity analysis: x = F^-1(u), u uniform in (0, 1).

Each element of a distribution's shape is one factor, and all factors are independent.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import ndtri

from jaxplain import checks, trees


@dataclasses.dataclass(frozen=True)
class Distribution:
    """The distribution of an array of independent factors.

    Not a pytree: it stands as a leaf in the tree of inputs.

    Attributes:
        shape: the shape of the array, () for one factor.
        dtype: its dtype.
        inverse_cdf: from an array of this shape, uniform in (0, 1), to the values.
        family: "uniform", "normal" or "other".
        location: of these two families x = location + scale z, with z uniform in (0, 1) or standard
            normal: an array of this shape; else None.
        scale: see above.
    """

    shape: tuple[int, ...]
    dtype: Any
    inverse_cdf: Callable[[jax.Array], jax.Array]
    family: str = "other"
    location: Any = dataclasses.field(default=None, compare=False, repr=False)
    scale: Any = dataclasses.field(default=None, compare=False, repr=False)


def uniform(low: Any, high: Any) -> Distribution:
    """Factors that are uniform between two bounds.

        x = low + (high - low) u

    Args:
        low: the lower bounds, a number or an array; may be traced.
        high: the upper bounds; the two broadcast against each other.

    Returns:
        A `Distribution` with the broadcast shape, one factor for each element.

    Raises:
        TypeError: a bound is not an array of real numbers.
        ValueError: the shapes do not broadcast, or a bound that is known is not finite, or not
            below the other.

    Example:
        >>> uniform([0.0, 0.0, 1.0], 2.0).shape
        (3,)

    References:
        docs/sobol.md, "Inputs".
    """
    low, high = _parameters(low=low, high=high)
    _known(low < high, f"low must be below high, but low is {low} and high is {high}.")
    quantile = _wide(lambda u, low, high: low + (high - low) * u, low, high)
    return Distribution(low.shape, low.dtype, quantile, "uniform", low, high - low)


def normal(mean: Any, standard_deviation: Any) -> Distribution:
    """Factors that are normally distributed.

        x = mean + standard_deviation Phi^-1(u)

    Args:
        mean: a number or an array; may be traced.
        standard_deviation: above 0; the two broadcast against each other.

    Returns:
        A `Distribution` with the broadcast shape, one factor for each element.

    Raises:
        TypeError: a parameter is not an array of real numbers.
        ValueError: the shapes do not broadcast, or a parameter that is known is not finite, or the
            deviation not above 0.

    Example:
        >>> import jax.numpy as jnp
        >>> float(normal(3.0, 2.0).inverse_cdf(jnp.float32(0.5)))
        3.0

    References:
        Wichura, Appl. Stat. 1988, AS 241, for the quantile (as jax.scipy.special.ndtri has it).
    """
    mean, deviation = _parameters(mean=mean, standard_deviation=standard_deviation)
    _known(deviation > 0, f"standard_deviation must be above 0, but is {deviation}.")
    quantile = _wide(lambda u, mean, deviation: mean + deviation * ndtri(u), mean, deviation)
    return Distribution(mean.shape, mean.dtype, quantile, "normal", mean, deviation)


def inverse_cdf(function: Callable[[jax.Array], Any], shape: tuple[int, ...] = ()) -> Distribution:
    """Factors of any distribution, given by its quantiles.

        x = function(u)

    Args:
        function: from an array of `shape`, uniform in (0, 1), to one of the same shape; element by
            element, and in JAX. `lambda u: -jnp.log1p(-u)` is the exponential distribution.
        shape: one factor for each element.

    Returns:
        A `Distribution`.

    Raises:
        TypeError: function is not one, or shape is not a tuple of integers.
        ValueError: function does not return an array of the shape.

    Example:
        >>> import jax.numpy as jnp
        >>> exponential = inverse_cdf(lambda u: -jnp.log1p(-u), shape=(4,))
        >>> exponential.shape, exponential.dtype
        ((4,), dtype('float32'))

    References:
        Devroye 1986, "Non-Uniform Random Variate Generation", chapter 2 (inversion).
    """
    checks.function(function, "function")
    if not isinstance(shape, tuple) or not all(isinstance(n, int | np.integer) for n in shape):
        raise TypeError(f"shape must be a tuple of integers, such as (4,), but is {shape!r}.")
    uniform_numbers = jax.ShapeDtypeStruct(shape, jnp.result_type(float))
    values = jax.eval_shape(function, uniform_numbers)
    if getattr(values, "shape", None) != shape or not jnp.issubdtype(values.dtype, jnp.floating):
        raise ValueError(
            f"function must return a float array of shape {shape}, the shape of what it is given, "
            f"but returned {values}."
        )
    return Distribution(shape, values.dtype, function)


def _parameters(**numbers: Any) -> list[Any]:
    """The parameters as float arrays of one shape and dtype."""
    for name, number in numbers.items():
        if isinstance(number, list | tuple):
            numbers[name] = number = np.asarray(number)
        checks.arrays(number, name)
    arrays = [jnp.asarray(number) for number in numbers.values()]
    dtypes = [a.dtype for a in arrays if jnp.issubdtype(a.dtype, jnp.floating)]
    weak = [a.weak_type for a in arrays if jnp.issubdtype(a.dtype, jnp.floating)]
    strong = [dtype for dtype, is_weak in zip(dtypes, weak, strict=True) if not is_weak]
    dtype = max(strong, key=lambda d: jnp.finfo(d).bits, default=jnp.result_type(float))
    for (name, _), array in zip(numbers.items(), arrays, strict=True):
        if jnp.issubdtype(array.dtype, jnp.complexfloating) or array.dtype == jnp.bool_:
            raise TypeError(f"{name} must be real numbers, but has dtype {array.dtype}.")
        _known(jnp.isfinite(array), f"{name} must be finite, but is {array}.")
    try:
        shape = np.broadcast_shapes(*(array.shape for array in arrays))
    except ValueError:
        shapes = " and ".join(f"{n} has {a.shape}" for n, a in zip(numbers, arrays, strict=True))
        raise ValueError(f"the parameters' shapes must broadcast, but {shapes}.") from None
    return [jnp.broadcast_to(array.astype(dtype), shape) for array in arrays]


def _wide(function: Callable[..., jax.Array], *parameters: jax.Array) -> Any:
    """In the parameters' dtype, computed in that of u: rounded to fewer bits, u may become 1."""
    dtype = parameters[0].dtype

    def inverse_cdf(u: jax.Array) -> jax.Array:
        wide = trees.widest(u.dtype, dtype)
        return function(u.astype(wide), *(p.astype(wide) for p in parameters)).astype(dtype)

    return inverse_cdf


def _known(holds: jax.Array, message: str) -> None:
    if not isinstance(holds, jax.core.Tracer) and not np.all(holds):
        raise ValueError(message)
