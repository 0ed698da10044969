"""The error of the mean of a sequence whose samples are not independent.

se = sqrt(sum_b (m_b - m)^2 / (B (B - 1))) over the means m_b of B consecutive batches
"""

from typing import Any, NamedTuple

import jax.numpy as jnp

from jaxplain import checks
from jaxplain.estimates._leaves import accumulator, map_unzip, sample_count
from jaxplain.estimates._moments import init_moments
from jaxplain.estimates._statistics import mean, standard_error
from jaxplain.estimates._streaming import update


class BatchMeans(NamedTuple):
    """A mean and its standard error from the spread of the means of consecutive batches.

    Attributes:
        mean: tree shaped like one sample, in the accumulator's dtype.
        standard_error: tree like `mean`, in the same unit; it has batches - 1 degrees of freedom.
    """

    mean: Any
    standard_error: Any


def batch_means(values: Any, batches: int) -> BatchMeans:
    """The mean of a sequence and its standard error from the means of consecutive batches.

    se = sqrt(sum_b (m_b - m)^2 / (B (B - 1))), where m_b are the means of B batches of equal
    length.

    For a correlated sequence (a Markov chain, overlapping windows) the batches have to be longer
    than the correlation. For randomised quasi-Monte Carlo let each batch be one independent
    randomisation, one behind the other: consecutive pieces of a single scrambled sequence balance
    each other, and their spread says too much.

    Args:
        values: tree of arrays (n, ...), the sequence on the leading axis.
        batches: how many batches, static, at least 2; it must divide n. Ten to thirty are usual:
            the error has `batches - 1` degrees of freedom, for `student_interval`.

    Returns:
        `BatchMeans(mean, standard_error)`, trees shaped like one sample. NaN for an empty sequence.

    Raises:
        ValueError: fewer than 2 batches, or their number does not divide n.
        TypeError: `batches` is not an integer; a leaf is complex or not a number.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxplain import estimates
        >>> r = estimates.batch_means(jnp.array([0.0, 2.0, 4.0, 6.0]), batches=2)
        >>> float(r.mean), float(r.standard_error)
        (3.0, 2.0)

    References:
        Flegal, Jones 2010, "Batch means and spectral variance estimators in Markov chain Monte
        Carlo"; L'Ecuyer, Lemieux 2002, "Recent advances in randomized quasi-Monte Carlo methods"
        (replicates as batches).
    """
    batches = checks.integer(batches, "batches", 2)
    length = sample_count(values, "values")
    over = length % batches
    if over:
        raise ValueError(
            f"{batches} batches do not divide {length} samples. Leave out the first {over}, "
            f"`values[{over}:]`, or choose another number."
        )

    def spread(leaf: Any) -> tuple[Any, Any]:
        leaf = jnp.asarray(leaf).astype(accumulator(leaf))
        if length == 0:
            nothing = jnp.full(leaf.shape[1:], jnp.nan, leaf.dtype)
            return nothing, nothing
        grouped = leaf.reshape((batches, length // batches, *leaf.shape[1:]))
        # around the first sample, which costs nothing and keeps what a large mean would round away
        origin = leaf[0]
        state = update(init_moments(origin), (grouped - origin[None, None]).mean(1))
        return origin + mean(state), standard_error(state)

    return BatchMeans(*map_unzip(spread, 2, values))
