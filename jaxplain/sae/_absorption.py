"""Absorption: a parent's latent is silent, and the latent of a child carries its part.

main   = the latent nearest to the parent f:  argmax_j cos(d_j, f)                 d_j decoder rows
top    = the latent that carries most of f:   argmax_j a_j d_j . f / |f|           a_j codes
rate   = share of the rows with f on which a_main = 0 and top is a latent of a descendant of f
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxplain import checks
from jaxplain.sae import _encoded, _ground
from jaxplain.sae._dictionary import Dictionary, Params
from jaxplain.sae._evaluation import Measured

HIGHEST = jax.lax.Precision.HIGHEST


class Absorption(NamedTuple):
    """How often the latents of children have taken over the part of their parents.

    Attributes:
        rate: (parents,), the share of the rows on which each parent fires where it is absorbed; NaN
            where it fires on none.
        rate_error: (parents,), its standard error over sequences; NaN of a single one.
        mean: the mean rate over the parents that fire.
        silent: (parents,), the share of the same rows on which the main latent is silent, for
            whatever reason; at least `rate`.
        parents: (parents,), the features that are the parent of another.
        main: (parents,), the main latent of each.
        main_cosine: (parents,), the cosine of its decoder row with the parent; where it is low the
            dictionary does not have the parent, and the rate says little.
    """

    rate: np.ndarray
    rate_error: np.ndarray
    mean: Measured
    silent: np.ndarray
    parents: np.ndarray
    main: np.ndarray
    main_cosine: np.ndarray


def absorption(
    dictionary: Dictionary,
    params: Params,
    h: Any,
    features: Any,
    true_codes: Any,
    parents: Any,
    *,
    least_share: float = 0.4,
    least_cosine: float = 0.025,
    sequence_length: int = 1,
) -> Absorption:
    """Measures how often children absorb their parents, where the hierarchy is known.

        main = argmax_j cos(d_j, f)              of the latents that are ever active
        top  = argmax_j a_j d_j . u              u = f / |f|, of the parent f

    On a row where f fires it is absorbed where a_main = 0, cos(d_top, f) >= `least_cosine`, top
    carries the parent, a_top d_top . u >= `least_share` h . u > 0, and top carries in the same way
    a descendant of f that fires on that row too.

    Args:
        dictionary: that reconstructs what it encodes.
        params: its parameters.
        h: activations (n, d).
        features: (features, d), their directions.
        true_codes: (n, features), above 0 where a feature fires.
        parents: (features,) integers, the parent of each, -1 for none; a parent comes before its
            children, as for `jaxplain.sae.synthetic.activations`.
        least_share: of the activations' projection on a feature, how much a latent must contribute
            to carry it.
        least_cosine: of the absorbing latent with the parent.
        sequence_length: how many rows that follow each other are of one sequence.

    Returns:
        `Absorption`, for each feature that is a parent.

    Raises:
        TypeError: activations are no floats, or `parents` no integers.
        ValueError: shapes do not match, there are no rows or no parents, a parent does not come
            before its child, a number is not finite, or the dictionary is a transcoder or a
            crosscoder.

    Example:
        The latent of the child has taken over the parent's part, which its own latent is kept from:

        >>> import jax, jax.numpy as jnp
        >>> from jaxplain import sae
        >>> parents = [-1, 0]
        >>> draw = sae.synthetic.activations(jnp.eye(2), 0.5, parents=parents, deviation=0.0)
        >>> held = draw(jax.random.key(0), 1000)
        >>> both = jnp.array([[1.0, 0], [0.5**0.5, 0.5**0.5]])
        >>> params = {"W_dec": both, "b_dec": jnp.zeros(2), "b_enc": jnp.zeros(2)}
        >>> params |= {"W_enc": jnp.array([[1.0, 0], [-1.0, 2**0.5]])}
        >>> dictionary = sae.relu(latents=2, l1_coefficient=0.1)
        >>> r = sae.absorption(
        ...     dictionary, params, held.activations, jnp.eye(2), held.codes, parents
        ... )
        >>> with_parent = held.codes[held.codes[:, 0] > 0]
        >>> bool(abs(r.rate[0] - (with_parent[:, 1] > 0).mean()) < 1e-6)
        True

    References:
        Chanin, Wilken-Smith, Dulka, Bhatnagar, Golechha and Bloom, "A is for Absorption: Studying
        Feature Splitting and Absorption in Sparse Autoencoders", NeurIPS 2025,
        https://arxiv.org/abs/2409.14507, with the criterion and thresholds of full absorption in
        SAEBench (https://arxiv.org/abs/2503.09532), which need no ablations. Deviations: (1) the
        direction and the firing of a concept are the true ones, not those of a probe; (2) the main
        latent is the one nearest to the direction, not those of a k-sparse probe, which where most
        of a parent is absorbed chooses the absorbing latent itself; a parent that is split into
        several latents then counts as silent, but not as absorbed; (3) the absorbing latent must
        carry a descendant that fires too: the hierarchy is known; (4) contributions are a_j d_j . u
        in place of a_j cos(d_j, u), so that they do not depend on the norms of decoder rows.
    """
    sequence_length = checks.integer(sequence_length, "sequence_length")
    checks.number(least_share, "least_share", above=0)
    checks.number(least_cosine, "least_cosine", at_least=-1, at_most=1)
    for kind in ("transcoder", "crosscoder"):
        if dictionary.about.get(f"is_{kind}"):
            raise ValueError(
                "absorption is for dictionaries that reconstruct one value from itself, but this "
                f"is a {kind}."
            )
    _encoded.rows(dictionary, h, "h", sequence_length)
    width = params["W_dec"].shape[-1]
    features = np.asarray(features, np.float64)
    if features.ndim != 2 or features.shape[1] != width:
        raise ValueError(
            f"features must have the shape (features, {width}), but have {features.shape}."
        )
    if np.shape(true_codes) != (len(h), len(features)):
        raise ValueError(
            f"true_codes must have the shape {(len(h), len(features))}, a number for each row of h "
            f"and each feature, but have {np.shape(true_codes)}."
        )
    below = _descendants(parents, len(features))
    chosen = np.flatnonzero(below.any(axis=1))
    unit = features / np.maximum(np.linalg.norm(features, axis=1, keepdims=True), 1e-30)

    fired: Any = False
    for _, _, codes in _encoded.batches(dictionary, params, h, "h", sequence_length):
        fired = fired | np.asarray(jnp.any(codes > 0, axis=0))
    decoder = _ground.wide(jnp.asarray(params["W_dec"]))
    rows = np.asarray(decoder, np.float64)
    rows = rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-30)
    cosines = unit[chosen] @ rows.T
    main = np.argmax(np.where(fired, cosines, -np.inf), axis=1)

    # In the units of h, in which W_dec of a normalised dictionary stays as it is.
    unit_of_codes = jnp.asarray(params.get("scale", 1.0), decoder.dtype)
    # float32 decides; what the host sums are whole numbers.
    is_aligned = cosines >= least_cosine
    sums: Any = 0.0
    products: Any = 0.0
    for place, own, codes in _encoded.batches(dictionary, params, h, "h", sequence_length):
        found = _absorbed(
            codes.astype(decoder.dtype) / unit_of_codes,
            own,
            decoder,
            jnp.asarray(unit, decoder.dtype),
            jnp.asarray(np.asarray(true_codes[place]) > 0),
            (chosen, main, is_aligned, below[chosen]),
            jnp.asarray(least_share, decoder.dtype),
        )
        flags = np.asarray(found, np.float64)  # (3, rows, parents)
        flags = flags.reshape(3, -1, sequence_length, len(chosen)).sum(axis=2)
        sums = sums + flags.sum(axis=1)
        both = np.concatenate([flags[0], flags[1]], axis=1)
        products = products + both.T @ both
    fires, absorbed, silent = sums
    with np.errstate(invalid="ignore"):
        rate, silent = absorbed / fires, silent / fires
    spread = _covariance(rate, fires, products, len(h) // sequence_length)
    is_told = fires > 0
    mean = np.mean(rate[is_told]) if is_told.any() else np.nan
    of_mean = spread[np.ix_(is_told, is_told)].mean() if is_told.any() else np.nan
    root = lambda variance: np.sqrt(np.maximum(variance, 0))  # below 0 by rounding
    return Absorption(
        rate,
        root(np.diag(spread)),
        Measured(float(mean), float(root(of_mean))),
        silent,
        chosen,
        main,
        cosines[np.arange(len(chosen)), main],
    )


@jax.jit
def _absorbed(
    codes: jax.Array,
    h: jax.Array,
    decoder: jax.Array,
    unit: jax.Array,
    fires: jax.Array,
    of_parents: Any,
    least_share: jax.Array,
) -> jax.Array:
    """(3, rows, parents): whether each parent fires, and then is absorbed, and is silent."""
    project = lambda rows: jnp.matmul(rows, unit.T, precision=HIGHEST)
    needed = least_share * project(h.astype(unit.dtype))

    def of_one(inputs: Any) -> jax.Array:
        parent, main, is_aligned, below = inputs
        along = jnp.matmul(decoder, unit[parent], precision=HIGHEST)
        top = jnp.argmax(codes * along[None], axis=1)
        largest = jnp.take_along_axis(codes, top[:, None], axis=1)
        is_carried = (needed > 0) & (largest * project(decoder[top]) >= needed)
        is_absorbed = (
            is_aligned[top]
            & is_carried[:, parent]
            & jnp.any(is_carried & fires & below[None], axis=1)
        )
        is_silent = fires[:, parent] & (codes[:, main] <= 0)
        return jnp.stack([fires[:, parent], is_silent & is_absorbed, is_silent])

    return jnp.moveaxis(jax.lax.map(of_one, of_parents), 0, -1)


def _covariance(
    rate: np.ndarray, fires: np.ndarray, products: np.ndarray, sequences: int
) -> np.ndarray:
    """(parents, parents), of ratios of sums over sequences, linearised.

    Of a sequence in which a parent fires N times and is absorbed A times, what the rate leaves is
    A - rate N, whose sum over sequences is 0: products of A and N with each other are enough.
    """
    n = len(rate)
    N, NA, A = products[:n, :n], products[:n, n:], products[n:, n:]
    many = sequences / (sequences - 1) if sequences > 1 else np.nan
    with np.errstate(invalid="ignore", divide="ignore"):
        left = A - rate[:, None] * NA - (rate[:, None] * NA).T + np.outer(rate, rate) * N
        spread: np.ndarray = many * left / np.outer(fires, fires)
    return spread


def _descendants(parents: Any, count: int) -> np.ndarray:
    """(features, features): whether the second is a child of the first, or of one that is."""
    parents = np.asarray(parents)
    if parents.dtype.kind not in "iu":
        raise TypeError(f"parents must be integers, but have the dtype {parents.dtype}.")
    if parents.shape != (count,) or np.any(parents >= np.arange(count)):
        raise ValueError(
            f"parents must be {count} integers, each below the feature's own number, or -1."
        )
    below = np.zeros((count, count), bool)
    for child in range(count):
        above = parents[child]
        while above >= 0:
            below[above, child] = True
            above = parents[above]
    if not below.any():
        raise ValueError("parents are all -1: no feature is the parent of another.")
    return below
