"""Local Path Integration: Expected Gradients over the baselines near x.

    r(z)    the representation of z;    N(x) = the k baselines with the smallest ||r(b) - r(x)||
    p_b     = density_b / sum_{c in N(x)} density_c
    values  = sum_{b in N(x)} p_b E_t[ (x - b) * grad f(b + t (x - b)) ]

The argument of the paper: what a path explains is the difference of x from its baseline, so a
baseline should be an input that could have come in place of x; those lie in the same part of the
data as the model sees it. Completeness on average, with the mean of f over N(x) by p.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxplain import checks, trees
from jaxplain.evaluate import evaluate, stack
from jaxplain.paths._sampling import (
    SampledAttribution,
    checked_positions,
    explain_by_samples,
    from_baselines,
    row,
)
from jaxplain.rewrite import _fast


def lpi(
    f: Callable[..., Any],
    *,
    neighbours: int = 20,
    representation: Callable[..., Any] | None = None,
    density: Any = None,
    samples: int = 200,
    positions: str = "stratified",
    chunk_size: int = 16,
) -> Callable[..., SampledAttribution]:
    """Local Path Integration of a scalar function, for one example, with standard errors.

        values = sum_{b in N(x)} p_b E_t[ (x - b) * grad f(b + t (x - b)) ]

    `expected_gradients` over the baselines nearest to x as the model represents them: what
    distinguishes x from inputs like it, and not from the average input. An x that is itself among
    the baselines is its own nearest neighbour and adds nothing: leave it out.

    Args:
        f: `f(x, *args) -> scalar`. Parameters belong among `args`, never closed over.
        neighbours: how many baselines make the neighbourhood; all where there are fewer. Static.
        representation: `representation(x, *args)` -> an array or a tree of arrays in which
            distances are taken, Euclidean over all leaves; the paper's is the logits. x itself
            where none is given.
        density: shape (baselines,), how many examples each baseline stands for, as with the centres
            of a clustering. Equal unless given; may be a traced array.
        samples: gradients, at most; as for `expected_gradients`. Static.
        positions: "stratified", "random" or "qmc", as for `expected_gradients`. Static.
        chunk_size: samples, and representations, evaluated at once, at most; memory and speed, and
            the result only by rounding.

    Returns:
        `explain(key, x, baselines, *args) -> SampledAttribution`, a pure function, jitted inside;
        arguments as for `expected_gradients`. The representation is evaluated at every baseline.

    Raises:
        TypeError: f or representation is not a function; key is not typed; x is not float; an
            argument is no array.
        ValueError: f does not return a scalar; baselines do not match x, or density their number;
            neighbours or samples is below 1; positions is not one of the three.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> f = lambda x: 2 * x[0] + 3 * x[1]
        >>> baselines = jnp.array([[0.0, 0.0], [9.0, 9.0], [1.0, 1.0]])
        >>> explain = lpi(f, neighbours=2, samples=8)
        >>> explain(jax.random.key(0), jnp.array([1.0, 2.0]), baselines).values.tolist()
        [1.0, 4.5]

    References:
        Yang, Akhtar, Wen and Mian, "Local Path Integration for Attribution", AAAI 2023.
        Deviations: 1. the paper's neighbourhood is the k-means cluster of x among the training
        data; here it is the nearest baselines, so that nothing need be fitted, x lies in its middle
        and the shapes are fixed. 2. The paper draws its references from a second clustering inside
        the first and weighs each by the share of examples that it stands for; here each baseline
        stands for itself, so that the weights are equal, unless `density` says otherwise. 3. The
        weights sum to 1, which keeps completeness; the authors' code divides by the number of
        references once more. 4. Positions are balanced on the whole of [0, 1]; the code draws them
        from 0.01 to 0.99. 5. Standard errors.
    """
    checks.function(f, "f")
    neighbours = checks.integer(neighbours, "neighbours")
    if representation is not None:
        checks.function(representation, "representation")
    if density is not None:
        checks.arrays(density, "density")
        if isinstance(density, np.ndarray) and not (np.isfinite(density) & (density >= 0)).all():
            raise ValueError("density must be finite and not negative: it counts examples.")
    samples = checks.integer(samples, "samples")
    chunk_size = checks.integer(chunk_size, "chunk_size")
    positions = checked_positions(positions)
    scalar = checks.scalar(f)

    def kernel(key: Any, x: Any, baselines: Any, *args: Any) -> SampledAttribution:
        count = jax.tree.leaves(baselines)[0].shape[0]
        near = lambda z: z if representation is None else representation(z, *args)
        represent, _ = _fast.staged(lambda z: trees.widen(near(z)), x)
        here = represent(x)

        def distance(k: jax.Array) -> jax.Array:
            apart = trees.subtract(represent(row(baselines, k)), here)
            return trees.total(jax.tree.map(jnp.square, apart))

        distances = evaluate(distance, count, stack(count), chunk_size=chunk_size)
        # Which ones are nearest is a choice: no derivative goes through it. (Not `top_k`, which XLA
        # does for all examples of a sharded batch in one place.)
        nearest = jnp.argsort(jax.lax.stop_gradient(distances))[:neighbours].astype(jnp.int32)
        local = jax.vmap(lambda k: row(baselines, k))(nearest)
        weights = None
        if density is not None:
            if np.shape(density) != (count,):
                raise ValueError(
                    f"density must have one number for each baseline, shape ({count},), but has "
                    f"shape {np.shape(density)}."
                )
            weights = jax.vmap(lambda k: row(jnp.asarray(density), k))(nearest)
            weights = weights.astype(trees.wide_dtype(weights.dtype))
            weights = weights / jnp.sum(weights)
        result = explain_by_samples(
            scalar,
            key,
            x,
            local,
            args,
            samples=samples,
            positions=positions,
            chunk_size=chunk_size,
            weights=weights,
            hoist=True,
        )
        # A baseline that is not a number has no distance, and must not go unseen.
        return result._replace(finite=result.finite & trees.finite(baselines, distances))

    return from_baselines(scalar, kernel)
