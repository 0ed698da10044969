"""Streaming estimates and how far they can be believed.

A sampling kernel sees its values chunk by chunk and keeps only a state of fixed size. For samples
y_i with weights w_i the state holds

    count          n  = sum_i w_i
    mean           m  = sum_i w_i y_i / n
    sum_of_squares M2 = sum_i w_i (y_i - m)^2

and two states a, b of disjoint samples merge (Chan, Golub and LeVeque) by

    d  = m_b - m_a          n  = n_a + n_b
    m  = m_a + d n_b / n    M2 = M2_a + M2_b + d^2 n_a n_b / n

`update` is the merge with the moments of one chunk, taken in two passes around the chunk's own
mean. Each of the three sums is kept as an unevaluated pair high + low (`compensation` holds the low
parts), so that a million float32 updates lose nothing that one would keep. Sums of products
(covariances) follow the same formulas with d^2 replaced by d_x d_y.

States are NamedTuples of arrays over any pytree: they pass through `jit`, `vmap`, `grad`, `scan`
and `shard_map`, and can be stored. Values narrower than float32, integers and booleans are
accumulated in float32, float64 in float64, and the statistics come in that dtype: a standard error
rounded to bfloat16 would be of no use. Too few samples give NaN, never an exception.

The three states (`_moments`, `_covariance`, `_covariance_matrix`) stand on the pairs (`_pairs`) and
on what they share of chunks (`_chunks`) and of joining (`_join`); `_streaming` fills them,
`_statistics` reads them. `_batch_means`, `_intervals` and `_bootstrap` make errors and intervals.
"""

from jaxplain.estimates._batch_means import BatchMeans, batch_means
from jaxplain.estimates._bootstrap import bootstrap_interval
from jaxplain.estimates._covariance import Covariance, init_covariance
from jaxplain.estimates._covariance_matrix import CovarianceMatrix, init_covariance_matrix
from jaxplain.estimates._intervals import Interval, normal_interval, student_interval
from jaxplain.estimates._moments import Compensation, Moments, init_moments
from jaxplain.estimates._statistics import (
    correlation,
    covariance,
    mean,
    standard_error,
    variance,
)
from jaxplain.estimates._streaming import merge, merge_across, update

__all__ = [
    "BatchMeans",
    "Compensation",
    "Covariance",
    "CovarianceMatrix",
    "Interval",
    "Moments",
    "batch_means",
    "bootstrap_interval",
    "correlation",
    "covariance",
    "init_covariance",
    "init_covariance_matrix",
    "init_moments",
    "mean",
    "merge",
    "merge_across",
    "normal_interval",
    "standard_error",
    "student_interval",
    "update",
    "variance",
]
