"""How good a dictionary is on activations that it has not seen.

fvu    = sum |h - h_hat|^2 / sum |h - mean h|^2            over all rows: not a mean of ratios
bias   = sum |h_hat|^2 / sum h_hat . h                     1 where reconstructions are not too small
cosine = mean of h . h_hat / |h| |h_hat|,    l0 = mean number of active latents

Rows of one sequence are not independent: each standard error is of sums over sequences.
"""

import functools
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxplain import checks, trees
from jaxplain.sae import _chunks, _encoded, _ground
from jaxplain.sae._dictionary import Dictionary, Params

ALWAYS = 0.5  # a latent that is active on more than this share of rows tells little by being so


class Measured(NamedTuple):
    """A number with its standard error.

    Attributes:
        value: the estimate.
        standard_error: over sequences, by the linearised ratio; NaN of a single one.
    """

    value: float
    standard_error: float


class Evaluation(NamedTuple):
    """What a dictionary does on held-out activations.

    Attributes:
        squared_error: summed over d, the mean over rows.
        fvu: the share of the variance that is left.
        l0: the mean number of active latents of a row.
        cosine: the mean cosine between h and h_hat; rows of zeros count 0.
        reconstruction_bias: sum |h_hat|^2 / sum h_hat . h; below 1 where codes are too small.
        density: (F,), the share of rows on which each latent is active.
        dead: the share of latents that are active on none.
        always_on: the share of latents that are active on more than half of the rows.
        examples: the number of rows.
    """

    squared_error: Measured
    fvu: Measured
    l0: Measured
    cosine: Measured
    reconstruction_bias: Measured
    density: np.ndarray
    dead: float
    always_on: float
    examples: int


class LossRecovered(NamedTuple):
    """What the rest of a model does with reconstructions in place of activations.

    Attributes:
        original: the mean loss with the activations.
        patched: with their reconstructions.
        zero_ablated: with zeros.
        mean_ablated: with the mean activation.
        recovered: (mean_ablated - patched) / (mean_ablated - original).
        recovered_from_zero: the same with zeros as the floor.
    """

    original: Measured
    patched: Measured
    zero_ablated: Measured
    mean_ablated: Measured
    recovered: Measured
    recovered_from_zero: Measured


def evaluate(
    dictionary: Dictionary,
    params: Params,
    source: Any,
    *,
    sequence_length: int = 1,
) -> Evaluation:
    """Measures a dictionary on activations.

    Args:
        dictionary: of one value: `jaxplain.sae.topk(...)` or another; of a transcoder or a
            crosscoder the batches are as its loss takes them.
        params: its parameters.
        source: activations (n, d), or an iterable of batches of them.
        sequence_length: how many rows that follow each other are of one sequence. Batches of an
            iterable hold whole sequences.

    Returns:
        `Evaluation`, numbers of the host. Sums are in float64.

    Raises:
        TypeError: the source is of the wrong kind.
        ValueError: there are no rows, or a batch holds no whole number of sequences.

    Example:
        >>> import jax
        >>> from jaxplain import sae
        >>> h = jax.random.normal(jax.random.key(0), (1000, 8))
        >>> dictionary = sae.topk(latents=64, k=8)
        >>> params = dictionary.init(jax.random.key(1), h)
        >>> r = sae.evaluate(dictionary, params, h, sequence_length=10)
        >>> round(r.l0.value, 1), r.density.shape
        (8.0, (64,))

    References:
        The core metrics of SAEBench (Karvonen et al., ICML 2025, https://arxiv.org/abs/2503.09532).
        A mean of ratios over rows, which it keeps as `explained_variance_legacy`, gives rows of
        small norm the weight of all others.
    """
    sequence_length = checks.integer(sequence_length, "sequence_length")
    is_pair = bool(dictionary.about.get("is_transcoder"))
    axes = 3 if dictionary.about.get("is_crosscoder") else 2

    centre: Any = None
    sums: dict[str, list[np.ndarray]] = {}
    moments: Any = 0.0
    shift: Any = 0.0
    fired: Any = 0.0
    for batch in _batches(source, sequence_length, is_pair, dictionary.latents):
        targets = batch[1] if is_pair else batch
        if targets.ndim != axes:
            raise ValueError(
                f"a batch holds rows of shape ({'n, M, d' if axes == 3 else 'n, d'}), but has the "
                f"shape {targets.shape}."
            )
        if centre is None:  # near the mean, so that nothing is lost in differences
            centre = jnp.mean(_ground.wide(targets).reshape(len(targets), -1), axis=0)
        found = _rows(
            dictionary.encode, dictionary.decode, is_pair, sequence_length, params, batch, centre
        )
        per_row, vectors, active = jax.device_get(found)
        fired = fired + np.asarray(active, np.float64)
        for name, values in per_row.items():
            by_sequence = np.asarray(values, np.float64).reshape(-1, sequence_length).sum(axis=1)
            sums.setdefault(name, []).append(by_sequence)
        vectors = np.asarray(vectors, np.float64)
        shift = shift + vectors.sum(axis=0)
        both = np.column_stack([sums["error"][-1], sums["spread"][-1], vectors])
        moments = moments + both.T @ both
    if not sums:
        raise ValueError("the source has no activations.")
    total = {name: np.concatenate(parts) for name, parts in sums.items()}
    sequences = len(total["error"])
    n = sequences * sequence_length
    rows = np.full(sequences, float(sequence_length))
    density = fired / n
    return Evaluation(
        ratio(total["error"], rows),
        _fvu(total["error"], total["spread"], shift, moments, sequence_length),
        ratio(total["l0"], rows),
        ratio(total["cosine"], rows),
        ratio(total["size"], total["product"]),
        density,
        float(np.mean(density == 0)),
        float(np.mean(density > ALWAYS)),
        n,
    )


@functools.partial(jax.jit, static_argnums=(0, 1, 2, 3))  # so that a second call is compiled
def _rows(
    encode: Callable[..., Any],
    decode: Callable[..., jax.Array],
    is_pair: bool,
    sequence_length: int,
    params: Params,
    batch: Any,
    centre: Any,
) -> tuple[Any, Any, Any]:
    """What is summed of each row, of the rows of each sequence, and of each latent."""
    inputs, targets = batch if is_pair else (batch, batch)
    codes = encode(params, inputs)
    skips = "W_skip" in params
    h_hat = decode(params, codes, *([inputs] if skips else []))
    n = targets.shape[0]
    dtype = trees.wide_dtype(targets.dtype)
    h, h_hat = (a.reshape(n, -1).astype(dtype) for a in (targets, h_hat))
    from_centre = h - centre.reshape(1, -1)
    product = jnp.sum(h * h_hat, axis=-1)
    norms = jnp.linalg.norm(h, axis=-1) * jnp.linalg.norm(h_hat, axis=-1)
    active = codes > 0
    per_row = {
        "error": jnp.sum(jnp.square(h - h_hat), axis=-1),
        "spread": jnp.sum(jnp.square(from_centre), axis=-1),
        "l0": jnp.sum(active, axis=-1),
        "cosine": jnp.where(norms > 0, product / jnp.where(norms > 0, norms, 1), 0),
        "size": jnp.sum(jnp.square(h_hat), axis=-1),
        "product": product,
    }
    vectors = jnp.sum(from_centre.reshape(-1, sequence_length, h.shape[-1]), axis=1)
    return per_row, vectors, jnp.sum(active, axis=0)


def loss_recovered(
    loss: Callable[..., jax.Array],
    dictionary: Dictionary,
    params: Params,
    batches: Iterable[tuple[Any, ...]],
    *,
    mean: Any,
) -> LossRecovered:
    """What reconstructions cost the rest of a model.

        recovered = (L(mean h) - L(h_hat)) / (L(mean h) - L(h))

    Args:
        loss: `loss(h, *args) -> (n,)`, the loss of each example with the activations h in their
            place: of `jaxplain.sites.at(model_loss, site)` for a batch.
        dictionary: what reconstructs them.
        params: its parameters.
        batches: tuples `(h, *args)` of arrays, the activations (n, ..., d) first.
        mean: (d,), the mean activation.

    Returns:
        `LossRecovered`; standard errors over examples, each of which is one sequence.

    Raises:
        ValueError: there are no batches, or the loss is not one number for each example.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from jaxplain import sae
        >>> h = jax.random.normal(jax.random.key(0), (200, 8))
        >>> dictionary = sae.topk(latents=64, k=32)
        >>> params = dictionary.init(jax.random.key(1), h)
        >>> loss = lambda h, label: jnp.square(h[:, 0] - label)
        >>> r = sae.loss_recovered(loss, dictionary, params, [(h, h[:, 0])], mean=h.mean(axis=0))
        >>> r.original.value
        0.0

    References:
        Bricken et al., "Towards Monosemanticity", 2023; the floors are those of SAEBench.
    """
    if dictionary.about.get("is_transcoder"):
        raise ValueError("loss_recovered is for dictionaries that reconstruct what they encode.")
    mean = jnp.asarray(mean)

    @jax.jit
    def losses(params: Params, h: jax.Array, *args: Any) -> list[jax.Array]:
        h_hat = dictionary.decode(params, dictionary.encode(params, h)).astype(h.dtype)
        flat = jnp.broadcast_to(mean.astype(h.dtype), h.shape)
        return [loss(value, *args) for value in (h, h_hat, jnp.zeros_like(h), flat)]

    found: list[list[np.ndarray]] = []
    for h, *args in batches:
        parts = jax.device_get(losses(params, jnp.asarray(h), *args))
        for part in parts:
            if np.shape(part) != (len(h),):
                raise ValueError(
                    f"loss must return one number for each of {len(h)} examples, but returned the "
                    f"shape {np.shape(part)}."
                )
        found.append([np.asarray(part, np.float64) for part in parts])
    if not found:
        raise ValueError("batches is empty.")
    original, patched, zero, flat = (np.concatenate(parts) for parts in zip(*found, strict=True))
    ones = np.ones_like(original)
    return LossRecovered(
        ratio(original, ones),
        ratio(patched, ones),
        ratio(zero, ones),
        ratio(flat, ones),
        ratio(flat - patched, flat - original),
        ratio(zero - patched, zero - original),
    )


def max_cosines(left: Any, right: Any = None) -> np.ndarray:
    """The cosine of each decoder row with the nearest one of another dictionary, or of its own.

        c_i = max_j cos(left_i, right_j),    or within one: max over j != i

    Args:
        left: (F, d), W_dec.
        right: (G, d), W_dec of another dictionary, such as of another seed; unless given the other
            rows of `left`.

    Returns:
        (F,): near 1 between seeds where latents are stable, and within one where they are doubled.

    Raises:
        ValueError: they are no matrices of one width.

    Example:
        >>> import numpy as np
        >>> from jaxplain import sae
        >>> sae.max_cosines(np.eye(3), 2 * np.eye(3)[::-1]).tolist()
        [1.0, 1.0, 1.0]

    References:
        Sharkey, Braun and Millidge, "Taking features out of superposition with sparse
        autoencoders", 2022.
    """
    a = np.asarray(left, np.float64)
    b = a if right is None else np.asarray(right, np.float64)
    if a.ndim != 2 or b.ndim != 2 or a.shape[1] != b.shape[1]:
        raise ValueError(f"decoders must be matrices of one width, but are {a.shape}, {b.shape}.")
    unit = lambda m: m / np.maximum(np.linalg.norm(m, axis=-1, keepdims=True), 1e-30)
    a, b = unit(a), unit(b)
    best = np.empty(len(a))
    for start in range(0, len(a), 1024):  # a part at a time: F^2 numbers may be too many
        cosines = a[start : start + 1024] @ b.T
        if right is None and len(a) == 1:
            cosines[:] = np.nan  # there is no other
        elif right is None:
            own = np.arange(len(cosines))
            cosines[own, start + own] = -1
        best[start : start + 1024] = cosines.max(axis=1)
    return best


def ratio(top: np.ndarray, bottom: np.ndarray) -> Measured:
    """The ratio of two sums over independent clusters, with its linearised standard error."""
    n, whole = len(top), bottom.sum()
    with np.errstate(divide="ignore", invalid="ignore"):
        value = top.sum() / whole
        rest = top - value * bottom
        error = np.sqrt(np.sum(rest**2) * n / (n - 1)) / abs(whole) if n > 1 else np.nan
    return Measured(float(value), float(error))


def _fvu(
    error: np.ndarray, spread: np.ndarray, shift: np.ndarray, moments: np.ndarray, length: int
) -> Measured:
    """The ratio of the error to the spread about the mean, which is known at the end only.

    Of a sequence with the sums E of errors, S and v of squares and of vectors about the centre, and
    the mean at m from it, the spread about the mean is S - 2 m . v + length |m|^2. So the squares
    what the ratio leaves of it, E - fvu (...), are a quadratic form in (E, S, v).
    """
    sequences = len(error)
    mean = shift / (sequences * length)
    between = sequences * length * np.sum(mean**2)
    with np.errstate(divide="ignore", invalid="ignore"):
        whole = spread.sum() - between
        value = error.sum() / whole
        weights = np.concatenate([[1, -value], 2 * value * mean])
        constant = -value * length * np.sum(mean**2)
        first = weights @ np.concatenate([[error.sum(), spread.sum()], shift])
        squares = weights @ moments @ weights + 2 * constant * first + sequences * constant**2
        many = sequences / (sequences - 1) if sequences > 1 else np.nan
        error_of = np.sqrt(max(squares, 0.0) * many) / abs(whole)
    return Measured(float(value), float(error_of))


def _batches(source: Any, sequence_length: int, is_pair: bool, latents: int) -> Iterator[Any]:
    if isinstance(source, _chunks.Chunks):
        source = source.in_order()
    if hasattr(source, "shape") or (is_pair and isinstance(source, tuple)):
        n = len(jax.tree.leaves(source)[0])
        size = _encoded.batch_rows(latents, sequence_length)
        parts: Any = (
            jax.tree.map(lambda a, k=k: jnp.asarray(a[k : k + size]), source)
            for k in range(0, n, size)
        )
    elif isinstance(source, Iterable):
        parts = (jax.tree.map(jnp.asarray, batch) for batch in source)
    else:
        raise TypeError(
            f"source must be activations or an iterable of batches, but is a "
            f"{type(source).__name__}."
        )
    for batch in parts:
        rows = len(jax.tree.leaves(batch)[0])
        if rows % sequence_length:
            raise ValueError(
                f"a batch of {rows} rows holds no whole number of sequences of {sequence_length}."
            )
        if rows:
            yield batch
