"""SmoothGrad squared: the mean square of an attribution under noise on x.

values = 1/n sum_k y_k^2,    y_k = explain(x + s z_k).values,    z_k ~ N(0, I)
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jaxplain import checks
from jaxplain.evaluate._moments import mean_and_variance
from jaxplain.gradients._smoothing import SmoothedAttribution, smoothed


def smoothgrad_squared(
    f: Callable[..., Any],
    *,
    around: Callable[..., Any] | None = None,
    samples: int = 50,
    noise: float | jax.Array = 0.15,
    relative: bool = True,
    chunk_size: int = 16,
) -> Callable[..., SmoothedAttribution]:
    """The mean square of an attribution under Gaussian noise on x, for one example.

        values = 1/n sum_k explain(x + s z_k).values^2,    z_k ~ N(0, I)

    The square of what `smoothgrad` gives, and what `vargrad` gives, together. Its standard error is
    that of a mean of independent samples.

    Args:
        f: `f(x, *args) -> scalar`. Parameters belong among `args`, never closed over.
        around: the method, as for `smoothgrad`: the gradient with its sign unless given.
        samples: the number of noisy copies of x. Static.
        noise: the standard deviation s of the noise: a share of the range max(x) - min(x) of each
            leaf of x, or with `relative=False` in units of x. May be a traced array.
        relative: whether `noise` is a share of the range. Static.
        chunk_size: copies explained at once; memory and speed, and the result only by rounding.

    Returns:
        `explain(key, x, *args) -> SmoothedAttribution`, a pure function, jitted inside, as for
        `smoothgrad`. The values have the square of the attribution's unit.

    Raises:
        TypeError: f or around is not a function; key is not typed; x is not float; noise is not a
            real number; an argument is no array.
        ValueError: f does not return a scalar; samples is below 1; noise is negative; what is
            smoothed takes a key itself.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> explain = smoothgrad_squared(lambda x: x[0] ** 2 - 4 * x[1], noise=0.01)
        >>> result = explain(jax.random.key(0), jnp.array([3.0, 5.0]))
        >>> round(float(result.values[0])), float(result.values[1])
        (36, 16.0)

    References:
        Hooker, Erhan, Kindermans and Kim, "A Benchmark for Interpretability Methods in Deep Neural
        Networks", NeurIPS 2019, section 3 (SmoothGrad squared). Deviations: 1. noise is relative
        unless `relative=False`, as in the paper of SmoothGrad. 2. Standard errors.
    """
    return smoothed(
        f,
        around,
        samples=checks.integer(samples, "samples"),
        noise=noise,
        relative=relative,
        chunk_size=chunk_size,
        reduction=mean_and_variance(jnp.square),
    )
