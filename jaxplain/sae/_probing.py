"""k-sparse probing: how well a concept is read from the k latents that tell most of it.

difference_j = mean of codes_j where the concept is there - mean where it is not
latents      = the k with the largest |difference|
probe        = argmin_w,b sum_i log(1 + exp(-y_i (w . z_i + b))) + |w|^2 / 2        y_i = 1 or -1

z are the codes of these latents, of mean 0 and deviation 1 on the rows the probe is fitted to.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import scipy.optimize
import scipy.special

from jaxplain import checks
from jaxplain.sae import _encoded, _ground
from jaxplain.sae._dictionary import Dictionary, Params
from jaxplain.sae._evaluation import Measured, ratio

PENALTY = 1.0  # of |w|^2 / 2 beside a sum over rows: it matters only where classes separate
CLOSE = 1e-5  # of sqrt(n), the size of the gradient's noise: where a fit ends


class SparseProbing(NamedTuple):
    """How well a concept is read from few latents.

    Attributes:
        counts: k of each probe.
        accuracy: (counts,), the share of held-out rows that each probe has right.
        accuracy_error: (counts,), its standard error over sequences, for the probe as it is.
        ceiling: the accuracy of a probe on the activations themselves.
        floor: that of always saying what is more common among held-out rows.
        latents: the latents of the largest probe, the most telling first; the probe of k takes k.
        difference: their mean codes with the concept less those without, on the training rows.
    """

    counts: tuple[int, ...]
    accuracy: np.ndarray
    accuracy_error: np.ndarray
    ceiling: Measured
    floor: Measured
    latents: np.ndarray
    difference: np.ndarray


def sparse_probing(
    dictionary: Dictionary,
    params: Params,
    h: Any,
    labels: Any,
    held_h: Any,
    held_labels: Any,
    *,
    counts: Sequence[int] = (1, 2, 5),
    sequence_length: int = 1,
) -> SparseProbing:
    """Reads a concept from the k latents whose codes differ most with it.

        latents = the k largest |mean codes with the concept - mean codes without|
        probe   = argmin_w,b sum_i log(1 + exp(-y_i (w . z_i + b))) + |w|^2 / 2

    Latents are chosen and probes fitted on some rows, and accuracy is measured on others.

    Args:
        dictionary: what encodes; of a transcoder the inputs are what is encoded.
        params: its parameters.
        h: activations (n, d) to choose and to fit on.
        labels: (n,) booleans or integers 0 and 1, whether the concept is there.
        held_h: activations (m, d) to measure on.
        held_labels: (m,), theirs.
        counts: k of each probe, at most the number of latents.
        sequence_length: how many held-out rows that follow each other are of one sequence.

    Returns:
        `SparseProbing`, numbers of the host. Codes are made a batch at a time; the activations are
        held once in float64, for the probe on them.

    Raises:
        TypeError: activations are no floats, or labels neither booleans nor integers.
        ValueError: there are no rows, one class is missing in `labels`, shapes do not match, a
            number is not finite, or k is more than the latents.

    Example:
        >>> import jax
        >>> from jaxplain import sae
        >>> features = sae.synthetic.features(jax.random.key(0), 8, 8)
        >>> draw = sae.synthetic.activations(features, 0.3)
        >>> fit, held = draw(jax.random.key(1), 400), draw(jax.random.key(2), 400)
        >>> dictionary = sae.topk(latents=64, k=8)
        >>> params = dictionary.init(jax.random.key(3), fit.activations)
        >>> concept = lambda batch: batch.codes[:, 0] > 0
        >>> r = sae.sparse_probing(
        ...     dictionary,
        ...     params,
        ...     fit.activations,
        ...     concept(fit),
        ...     held.activations,
        ...     concept(held),
        ... )
        >>> r.latents.shape, bool(r.ceiling.value > r.accuracy[0] > r.floor.value)
        ((5,), True)

    References:
        Gurnee, Nanda, Pauly, Harvey, Troitskii and Bertsimas, "Finding Neurons in a Haystack",
        TMLR 2023, https://arxiv.org/abs/2305.01610. The choice of latents and the strength of the
        penalty are those of SAEBench (Karvonen et al., ICML 2025,
        https://arxiv.org/abs/2503.09532). Deviations: (1) codes are standardised before the probe
        is fitted, so that the penalty does not depend on their scale; (2) classes are not made
        equally large: `floor` says what that is worth.
    """
    sequence_length = checks.integer(sequence_length, "sequence_length")
    latents = params["W_enc"].shape[-1]
    counts = tuple(_ground.entries(k, "each of counts", latents) for k in counts)
    if not counts:
        raise ValueError("counts is empty: give the number of latents of at least one probe.")
    _encoded.rows(dictionary, h, "h")
    _encoded.rows(dictionary, held_h, "held_h", sequence_length)
    labels = _labels(labels, len(h), "labels")
    held_labels = _labels(held_labels, len(held_h), "held_labels")
    if labels.all() or not labels.any():
        raise ValueError(
            f"labels are all {int(labels[0])}, but a probe needs rows with the concept and without."
        )

    sums: Any = 0.0
    for place, _, codes in _encoded.batches(dictionary, params, h, "h"):
        parts = jax.device_get(_class_sums(codes, labels[place]))
        sums = sums + np.asarray(parts, np.float64)
    difference = sums[1] / labels.sum() - sums[0] / (~labels).sum()
    chosen = np.argsort(-np.abs(difference), kind="stable")[: max(counts)]

    def codes_of(rows: Any, name: str) -> np.ndarray:
        """(n, chosen), in the order of the choice."""
        found = _encoded.batches(dictionary, params, rows, name)
        return np.concatenate(
            [np.asarray(jnp.take(codes, chosen, axis=1), np.float64) for *_, codes in found]
        )

    def accuracy(rows: np.ndarray, held: np.ndarray) -> Measured:
        return _mean(_predict(rows, labels, held) == held_labels, sequence_length)

    fit, held = codes_of(h, "h"), codes_of(held_h, "held_h")
    found = [accuracy(fit[:, :k], held[:, :k]) for k in counts]
    flat = lambda rows: np.asarray(rows, np.float64).reshape(len(rows), -1)
    is_common = held_labels.mean() >= 0.5
    return SparseProbing(
        counts,
        np.array([own.value for own in found]),
        np.array([own.standard_error for own in found]),
        accuracy(flat(h), flat(held_h)),
        _mean(held_labels == is_common, sequence_length),
        chosen,
        difference[chosen],
    )


@jax.jit
def _class_sums(codes: jax.Array, labels: jax.Array) -> jax.Array:
    """(2, F): the sums of codes without the concept, and with it."""
    codes = _ground.wide(codes)
    is_there = labels[:, None]
    without, within = jnp.where(is_there, 0, codes), jnp.where(is_there, codes, 0)
    return jnp.stack([jnp.sum(without, axis=0), jnp.sum(within, axis=0)])


def _predict(rows: np.ndarray, labels: np.ndarray, held: np.ndarray) -> np.ndarray:
    """What a probe fitted on some rows says of others."""
    mean, deviation = rows.mean(axis=0), rows.std(axis=0)
    # Constant up to the rounding of the mean: such a column tells nothing.
    scale = np.where(deviation > 1e-12 * np.abs(mean), deviation, np.inf)
    weights, intercept = _logistic((rows - mean) / scale, labels)
    says: np.ndarray = ((held - mean) / scale) @ weights + intercept > 0
    return says


def _logistic(z: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, float]:
    """The weights and the intercept of a logistic regression, by Newton's method."""
    sign = np.where(labels, 1.0, -1.0)
    design = np.column_stack([z, np.ones(len(z))])
    penalty = np.append(np.full(z.shape[1], PENALTY), 0.0)
    margin = lambda w: sign * (design @ w)

    def value(w: np.ndarray) -> float:
        return float(np.logaddexp(0, -margin(w)).sum() + penalty @ w**2 / 2)

    def gradient(w: np.ndarray) -> np.ndarray:
        return penalty * w - design.T @ (sign * scipy.special.expit(-margin(w)))

    def curvature(w: np.ndarray, direction: np.ndarray) -> np.ndarray:
        both = scipy.special.expit(margin(w)) * scipy.special.expit(-margin(w))
        return penalty * direction + design.T @ (both * (design @ direction))

    found = scipy.optimize.minimize(
        value,
        np.zeros(design.shape[1]),
        jac=gradient,
        hessp=curvature,
        method="trust-ncg",  # its steps need products with the Hessian only, never d^2 numbers
        options={"gtol": CLOSE * np.sqrt(len(z))},
    ).x
    return found[:-1], float(found[-1])


def _mean(values: np.ndarray, sequence_length: int) -> Measured:
    by_sequence = values.astype(np.float64).reshape(-1, sequence_length).sum(axis=1)
    return ratio(by_sequence, np.full(len(by_sequence), float(sequence_length)))


def _labels(labels: Any, rows: int, name: str) -> np.ndarray:
    """(n,) booleans."""
    labels = np.asarray(labels)
    if labels.dtype.kind not in "biu":
        raise TypeError(
            f"{name} must be booleans or integers 0 and 1, but have the dtype {labels.dtype}."
        )
    if labels.shape != (rows,):
        raise ValueError(
            f"{name} must have the shape ({rows},), one for each row, but have {labels.shape}."
        )
    other = np.setdiff1d(labels, [0, 1])
    if len(other):
        raise ValueError(
            f"{name} must be 0 or 1, but hold {other[0]}. For one class of several: "
            f"`{name} == {other[0]}`."
        )
    return labels.astype(bool)
