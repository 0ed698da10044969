"""The share of each modality in an attribution of several: which of the inputs decided.

share_m = sum_i |values_mi| / sum over all modalities,     m the entries of the tree at its top
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxplain import checks, estimates, trees


class ModalityShares(NamedTuple):
    """What each modality had in one attribution.

    Each field but the last is the container of the modalities (a dict, a tuple) with a number for
    each.

    Attributes:
        share: sum |values| of the modality over that of all; they sum to 1. NaN where all values
            are zero.
        signed_share: sum of the values over sum |values| of all: within -share and share, and equal
            to share where all values of the modality are positive.
        contribution: sum of the values, in their units: with a complete method the modality's part
            of `output - baseline_output`.
        finite: whether the values are free of NaN and infinity.
    """

    share: Any
    signed_share: Any
    contribution: Any
    finite: jax.Array


class ModalitySummary(NamedTuple):
    """The shares of many examples: means over the examples, and their standard errors.

    Attributes:
        share: the mean share of each modality; share_error: its standard error.
        signed_share: the mean signed share; signed_share_error: its standard error.
        contribution: the mean contribution; contribution_error: its standard error.
        examples: how many examples went into the means.
        undefined: how many were left out, since all their values are zero: they have no shares.
    """

    share: Any
    share_error: Any
    signed_share: Any
    signed_share_error: Any
    contribution: Any
    contribution_error: Any
    examples: jax.Array
    undefined: jax.Array


def modality_shares(values: Any) -> ModalityShares:
    """The share of each modality in the attribution of one example.

        share_m = sum_i |values_mi| / sum_m sum_i |values_mi|

    A modality is an entry of the tree at its top: of `{"image": ..., "text": ...}` there are two,
    whatever is below. The sums run over elements, so an image of many pixels, each with a little
    noise, gets a share for the noise: look at `signed_share` too, where noise cancels.

    Args:
        values: the attribution of one example: a dict, tuple, list or NamedTuple with an entry for
            each modality, each an array or a tree of arrays. `vmap` makes a batch.

    Returns:
        `ModalityShares`, in float32 or wider. `jaxplain.metrics.modality_summary` takes a batch of
        them to means with standard errors.

    Raises:
        TypeError: a leaf is not an array.
        ValueError: values is a single array, or has no entry.

    Example:
        >>> import jax.numpy as jnp
        >>> values = {"image": jnp.array([[2.0, -1.0]]), "text": jnp.array([1.0])}
        >>> shares = modality_shares(values)
        >>> {name: float(share) for name, share in shares.share.items()}
        {'image': 0.75, 'text': 0.25}
        >>> {name: float(share) for name, share in shares.signed_share.items()}
        {'image': 0.25, 'text': 0.25}

    References:
        Jain, Tamarapalli, Yerramilli and Bisk, "MAEA: Multimodal Attribution for Embodied AI", 2023
        (arXiv 2307.13850), which reports the attribution of each modality at the layer where they
        are fused. Deviations: 1. the layer is the caller's choice: explain there with a tree of
        modalities. 2. The paper's normalisation was not available to us; the signed share and the
        contribution are ours.
    """
    checks.arrays(values, "values")
    entries, container = jax.tree.flatten(values, is_leaf=lambda node: node is not values)
    if jax.tree_util.all_leaves([values]) or not entries:
        raise ValueError(
            "values must be a tree with an entry for each modality, such as a dict or a tuple, but "
            f"is {'a single array' if entries else 'empty'}. Explain all modalities at once: "
            '`f(x) = model(x["image"], x["text"])`.'
        )
    dtype = trees.widest(*(leaf.dtype for leaf in jax.tree.leaves(trees.widen(_arrays(values)))))

    def total(entry: Any) -> jax.Array:
        return trees.total(entry).astype(dtype) if jax.tree.leaves(entry) else jnp.zeros((), dtype)

    wide = [trees.widen(_arrays(entry)) for entry in entries]
    sums = [total(entry) for entry in wide]
    sizes = [total(jax.tree.map(jnp.abs, entry)) for entry in wide]
    size = jnp.sum(jnp.stack(sizes))
    of_all = lambda parts: jax.tree.unflatten(container, [part / size for part in parts])
    return ModalityShares(
        of_all(sizes), of_all(sums), jax.tree.unflatten(container, sums), trees.finite(sums, sizes)
    )


def modality_summary(shares: ModalityShares) -> ModalitySummary:
    """The mean shares of a batch, and their standard errors over the examples.

        mean = sum_i s_i / n,    error = sqrt(sum_i (s_i - mean)^2 / (n (n - 1)))

    Each example counts the same, however large its attribution. An example whose values are all
    zero has no shares and is left out; one whose values are not finite makes the means NaN.

    Args:
        shares: what `vmap(modality_shares)` returns: each field with a leading axis of examples.

    Returns:
        A `ModalitySummary`. With one example the errors are NaN, with none the means too.

    Raises:
        TypeError: `shares` is not a `ModalityShares`.
        ValueError: the shares have no axis of examples.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> values = {"image": jnp.array([[3.0], [1.0]]), "text": jnp.array([[1.0], [1.0]])}
        >>> summary = modality_summary(jax.vmap(modality_shares)(values))
        >>> float(summary.share["image"]), float(summary.share_error["image"])
        (0.625, 0.125)

    References:
        `jaxplain.estimates`; Jain, Tamarapalli, Yerramilli and Bisk 2023 (arXiv 2307.13850) for
        the aggregate over a dataset.
    """
    if not isinstance(shares, ModalityShares):
        raise TypeError(
            "shares must be a ModalityShares, as `jax.vmap(modality_shares)` returns, but is a "
            f"{type(shares).__name__}."
        )
    if jnp.ndim(shares.finite) != 1:
        raise ValueError(
            "shares must have one leading axis of examples, but `finite` has shape "
            f"{jnp.shape(shares.finite)}: use `jax.vmap(modality_shares)(values)`."
        )
    samples = shares[:3]
    is_zero = shares.finite & jnp.isnan(jnp.stack(jax.tree.leaves(shares.share))).any(axis=0)
    one = jax.tree.map(lambda v: jax.ShapeDtypeStruct((), v.dtype), samples)
    moments = estimates.update(estimates.init_moments(one), samples, ~is_zero)
    means, errors = estimates.mean(moments), estimates.standard_error(moments)
    undefined = jnp.sum(is_zero, dtype=jnp.int32)
    return ModalitySummary(
        means[0],
        errors[0],
        means[1],
        errors[1],
        means[2],
        errors[2],
        jnp.int32(is_zero.shape[0]) - undefined,
        undefined,
    )


def _arrays(tree: Any) -> Any:
    return jax.tree.map(jnp.asarray, tree)
