"""Matryoshka: BatchTopK whose first latents must do by themselves, for a row of nested sizes.

loss = mean over sizes m of |h - codes_{<m} W_dec_{<m} - b_dec|^2 + AuxK
"""

from collections.abc import Sequence
from typing import Any

from jaxplain import checks
from jaxplain.sae import _ground, _nested
from jaxplain.sae._dictionary import Dictionary


def matryoshka(
    latents: int,
    k: int,
    *,
    sizes: Sequence[int],
    weights: Sequence[float] | None = None,
    auxiliary_k: int | None = None,
    auxiliary_coefficient: Any = 1 / 32,
    implementation: str = "auto",
    is_centred: bool = True,
) -> Dictionary:
    """BatchTopK of nested dictionaries: the first latents reconstruct by themselves.

        loss = sum over sizes m of w_m |h - h_hat of the first m latents|^2 + AuxK

    One choice of codes, over all latents of the batch, serves all sizes. Early latents become
    general, late ones special, in place of splitting what is general among many.

    Args:
        latents: F, how many there are.
        k: how many are kept of each example on average, of all sizes together.
        sizes: ascending, the last one F: how many latents each nested dictionary has.
        weights: of the sizes; equal ones of sum 1 unless given. (Bussmann et al. count the error of
            b_dec alone too, which has no gradient by the rest: 1 / (sizes + 1) each. SAELens takes
            the sum: 1 each.)
        auxiliary_k: how many dead latents explain the error; half the width d unless given.
        auxiliary_coefficient: of the auxiliary loss; 1/32 as published. May be a traced number.
        implementation: "dense", "sparse" or "auto": see `jaxplain.sae.topk`.
        is_centred: whether b_dec is taken from h before it is encoded.

    Returns:
        `jaxplain.sae.Dictionary`; parameters as those of `jaxplain.sae.batch_topk`.

    Raises:
        TypeError: a number is no integer.
        ValueError: the sizes do not ascend to `latents`; there is not a weight for each; k is more
            than `latents`.

    Example:
        >>> import jax
        >>> from jaxplain import sae
        >>> dictionary = sae.matryoshka(latents=32, k=4, sizes=(4, 12, 32))
        >>> h = jax.random.normal(jax.random.key(0), (100, 8))
        >>> loss, report = dictionary.loss(dictionary.init(jax.random.key(1), h), h)
        >>> float(report.l0)
        4.0

    References:
        Bussmann, Nabeshima, Karvonen and Nanda, "Learning Multi-Level Features with Matryoshka
        Sparse Autoencoders", ICML 2025, https://arxiv.org/abs/2503.17547
    """
    latents = _ground.latents(latents)
    sizes = tuple(checks.integer(size, "each of sizes") for size in sizes)
    if not sizes or list(sizes) != sorted(set(sizes)) or sizes[-1] != latents:
        raise ValueError(f"sizes must ascend to latents, {latents}, but are {list(sizes)}.")
    if weights is not None and len(weights) != len(sizes):
        raise ValueError(f"there are {len(sizes)} sizes, but {len(weights)} weights.")
    return _nested.nested(
        "matryoshka",
        latents,
        k,
        sizes,
        weights,
        auxiliary_k,
        auxiliary_coefficient,
        implementation,
        is_centred,
    )
