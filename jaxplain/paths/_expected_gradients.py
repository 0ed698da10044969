"""Expected Gradients: Integrated Gradients, averaged over baselines, by samples.

    values = E_{b, t}[ (x - b) * grad f(b + t (x - b)) ],    b uniform on the baselines, t on [0, 1]

Completeness on average: the values sum to f(x) less the mean of f over the baselines.
"""

from collections.abc import Callable
from typing import Any

from jaxplain import checks
from jaxplain.paths._sampling import (
    SampledAttribution,
    checked_positions,
    explain_by_samples,
    from_baselines,
)


def expected_gradients(
    f: Callable[..., Any],
    *,
    samples: int = 200,
    positions: str = "stratified",
    chunk_size: int = 16,
    hoist: bool = True,
) -> Callable[..., SampledAttribution]:
    """Expected Gradients of a scalar function, for one example, with standard errors.

        values = E_{b, t}[ (x - b) * grad f(b + t (x - b)) ]

    Each sample is one gradient, at a random position on the line from one of the baselines to x.

    Args:
        f: `f(x, *args) -> scalar`. Parameters belong among `args`, never closed over.
        samples: gradients, at most: where positions are not "random", those that do not fill the
            last row of the design are left out (`evaluations` says how many there were). Static.
        positions: how samples are placed. "random": baselines and positions independent. All else
            uses each baseline equally often up to one, and has one position in each of equal cells:
            "stratified" in random order, "qmc" so that the positions of each baseline are spread
            too, with neighbours mirrored. Smoother functions gain more. Static.
        chunk_size: samples evaluated at once, at most. It changes memory and speed, and the result
            only by rounding. Under `vmap` the samples in flight are `chunk_size` times the batch:
            take 1 to 4.
        hoist: whether the affine operations that f begins with are applied once to each baseline in
            place of once for each sample, where that saves counted FLOPs: with fewer baselines than
            samples, and more so in a batch that shares its baselines. It changes the result by
            rounding only. Static.

    Returns:
        `explain(key, x, baselines, *args) -> SampledAttribution`, a pure function, jitted inside.
        `key` is a typed key; give each example of a batch its own. `x` is any tree of float arrays
        (scalars too), `baselines` the same tree with the same dtypes and one more, leading axis;
        `*args` are arrays or trees of arrays. Beside the samples f itself is evaluated at x and at
        min(baselines, samples) baselines.

    Raises:
        TypeError: f is not a function; key is not typed; x is not float; an argument is no array.
        ValueError: f does not return a scalar; baselines do not match x; samples is below 1;
            positions is not one of the three.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> f = lambda x: x[0] ** 2 + 3 * x[1]
        >>> baselines = jnp.array([[0.0, 0.0], [0.0, 1.0]])
        >>> explain = expected_gradients(f, samples=64, positions="qmc")
        >>> result = explain(jax.random.key(0), jnp.array([1.0, 2.0]), baselines)
        >>> result.values.round(2).tolist(), float(result.baseline_output)
        ([1.0, 4.5], 1.5)

    References:
        Erion, Janizek, Sturmfels, Lundberg and Lee, "Improving performance of deep learning models
        with axiomatic attribution priors and expected gradients", Nature Machine Intelligence 2021,
        the definition of expected gradients. Deviations: 1. samples are balanced over baselines and
        positions unless `positions="random"`, which is the paper's. 2. The standard errors are
        ours: independent replicates, L'Ecuyer and Lemieux, "Recent advances in randomized
        quasi-Monte Carlo methods", 2002.
    """
    checks.function(f, "f")
    samples = checks.integer(samples, "samples")
    chunk_size = checks.integer(chunk_size, "chunk_size")
    positions = checked_positions(positions)
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
            hoist=hoist,
        )

    return from_baselines(scalar, kernel)
