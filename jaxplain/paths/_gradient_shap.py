"""GradientSHAP: Expected Gradients with noise on x.

    values = E_{b, t, z}[ (x' - b) * grad f(b + t (x' - b)) ],    x' = x + s z,    z ~ N(0, I)

On average the values sum to E f(x') less the mean of f over the baselines.
"""

from collections.abc import Callable
from typing import Any

import jax

from jaxplain import checks
from jaxplain.noise import add_noise
from jaxplain.paths._sampling import (
    SampledAttribution,
    checked_positions,
    explain_by_samples,
    from_baselines,
)


def gradient_shap(
    f: Callable[..., Any],
    *,
    samples: int = 200,
    noise: float | jax.Array = 0.15,
    relative: bool = True,
    positions: str = "stratified",
    chunk_size: int = 16,
) -> Callable[..., SampledAttribution]:
    """GradientSHAP of a scalar function, for one example, with standard errors.

        values = E_{b, t, z}[ (x' - b) * grad f(b + t (x' - b)) ],    x' = x + s z,    z ~ N(0, I)

    `expected_gradients`, smoothed: each sample has its own noise on x as well.

    Args:
        f: `f(x, *args) -> scalar`. Parameters belong among `args`, never closed over.
        samples: gradients, at most; as for `expected_gradients`. Static.
        noise: the standard deviation s of the noise: a share of the range max(x) - min(x) of each
            leaf of x, or with `relative=False` in units of x. May be a traced array. With 0 this is
            `expected_gradients`.
        relative: whether `noise` is a share of the range. Static.
        positions: "stratified", "random" or "qmc", as for `expected_gradients`. Static.
        chunk_size: samples evaluated at once, at most; memory and speed, and the result only by
            rounding.

    Returns:
        `explain(key, x, baselines, *args) -> SampledAttribution`, a pure function, jitted inside;
        arguments as for `expected_gradients`. `output` is f at x without noise, so that
        `completeness_gap` holds what the noise changes of f on average, E f(x') - f(x), beside the
        error of the samples.

    Raises:
        TypeError: f is not a function; key is not typed; x is not float; noise is not a real
            number; an argument is no array.
        ValueError: f does not return a scalar; baselines do not match x; samples is below 1; noise
            is negative; positions is not one of the three.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> f = lambda x: 2 * x[0] + 3 * x[1]
        >>> baselines = jnp.array([[0.0, 0.0], [0.0, 1.0]])
        >>> explain = gradient_shap(f, samples=64, noise=0.1)
        >>> result = explain(jax.random.key(0), jnp.array([1.0, 2.0]), baselines)
        >>> bool(jnp.all(jnp.abs(result.values - jnp.array([2.0, 4.5])) < 0.3))
        True

    References:
        Lundberg and Lee, "A Unified Approach to Interpreting Model Predictions", NIPS 2017, of
        which it is an approximation under independent features; as in Captum's `GradientShap`.
        Deviations: 1. noise is relative and 0.15 unless given, as for `smoothgrad`; elsewhere it is
        absolute and 0. 2. Samples are balanced unless `positions="random"`. 3. Standard errors.
    """
    checks.function(f, "f")
    samples = checks.integer(samples, "samples")
    chunk_size = checks.integer(chunk_size, "chunk_size")
    positions = checked_positions(positions)
    checks.number(noise, "noise", at_least=0)
    scalar = checks.scalar(f)

    def kernel(key: Any, x: Any, baselines: Any, *args: Any) -> SampledAttribution:
        return explain_by_samples(
            scalar,
            key,
            x,
            baselines,
            args,
            samples=samples,
            positions=positions,
            chunk_size=chunk_size,
            noisy=lambda key: add_noise(key, x, noise, relative=bool(relative)),
        )

    return from_baselines(scalar, kernel)
