"""SmoothGrad: the mean of an attribution under noise on x.

values = 1/n sum_k y_k,    y_k = explain(x + s z_k).values,    z_k ~ N(0, I)
"""

from collections.abc import Callable
from typing import Any

import jax

from jaxplain import checks
from jaxplain.evaluate._moments import mean_and_variance
from jaxplain.gradients._smoothing import SmoothedAttribution, smoothed


def smoothgrad(
    f: Callable[..., Any],
    *,
    around: Callable[..., Any] | None = None,
    samples: int = 50,
    noise: float | jax.Array = 0.15,
    relative: bool = True,
    chunk_size: int = 16,
) -> Callable[..., SmoothedAttribution]:
    """The mean of an attribution under Gaussian noise on x, for one example.

        values = 1/n sum_k explain(x + s z_k).values,    z_k ~ N(0, I)

    Smooths what the attribution owes to the exact place of x. Its standard error is that of a mean
    of independent samples.

    Args:
        f: `f(x, *args) -> scalar`. Parameters belong among `args`, never closed over.
        around: the method that is smoothed, a function `f -> explain` whose explanation takes no
            key: `jaxplain.input_x_gradient`, or with options
            `functools.partial(jaxplain.integrated_gradients, steps=16)`. The gradient with its sign
            unless given.
        samples: the number of noisy copies of x. Static.
        noise: the standard deviation s of the noise: a share of the range max(x) - min(x) of each
            leaf of x, or with `relative=False` in units of x. May be a traced array.
        relative: whether `noise` is a share of the range. Static.
        chunk_size: copies explained at once. It changes memory and speed, and the result only by
            rounding. Loops inside `around` have chunks of their own.

    Returns:
        `explain(key, x, *args) -> SmoothedAttribution`, a pure function, jitted inside. `key` is a
        typed key; give each example of a batch its own. `x` is any tree of float arrays, and what
        follows is what `around(f)` takes after it (a baseline, the arguments of f).

    Raises:
        TypeError: f or around is not a function; key is not typed; x is not float; noise is not a
            real number; an argument is no array.
        ValueError: f does not return a scalar; samples is below 1; noise is negative; what is
            smoothed takes a key itself.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> explain = smoothgrad(lambda x: x[0] ** 2 - 4 * x[1], samples=200)
        >>> result = explain(jax.random.key(0), jnp.array([3.0, 5.0]))
        >>> round(float(result.values[0])), float(result.values[1])
        (6, -4.0)

    References:
        Smilkov, Thorat, Kim, Viegas and Wattenberg, "SmoothGrad: removing noise by adding noise",
        2017, section 3 (the mean) and 3.1 (noise of 10 to 20 % of the range, 50 samples).
        Deviations: 1. the range is that of each leaf. 2. The gradient is signed where the paper
        takes absolute values for its pictures. 3. Standard errors.
    """
    return smoothed(
        f,
        around,
        samples=checks.integer(samples, "samples"),
        noise=noise,
        relative=relative,
        chunk_size=chunk_size,
        reduction=mean_and_variance(),
    )
