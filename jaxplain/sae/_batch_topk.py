"""BatchTopK: of a batch of B examples the k B largest pre-activations are kept; then a threshold.

training    codes = the k B largest of ReLU((h - b_dec) W_enc + b_enc) in the batch
afterwards  codes = pre where pre > theta, theta the mean of the least kept
loss        |h - h_hat|^2 + AuxK, as of TopK
"""

from typing import Any

from jaxplain.sae import _nested
from jaxplain.sae._dictionary import Dictionary


def batch_topk(
    latents: int,
    k: int,
    *,
    auxiliary_k: int | None = None,
    auxiliary_coefficient: Any = 1 / 32,
    implementation: str = "auto",
    is_centred: bool = True,
) -> Dictionary:
    """A dictionary that keeps k latents of an example on average, more where there is more to say.

        training:    codes = the k B largest of ReLU((h - b_dec) W_enc + b_enc) over a batch of B
        afterwards:  codes = pre where pre > theta,    theta = mean over batches of the least kept

    `encode` is of the second kind: what an example's codes are depends on no other. `theta` is a
    parameter that training sets: the mean over the first hundred batches, then one of rate 0.01; a
    batch that kept nothing does not count. Decoder rows have norm 1, as in `jaxplain.sae.topk`.

    Args:
        latents: F, how many there are.
        k: how many are kept of each example on average.
        auxiliary_k: how many dead latents explain the error; half the width d unless given.
        auxiliary_coefficient: of the auxiliary loss; 1/32 as published. May be a traced number.
        implementation: "dense", "sparse" or "auto": see `jaxplain.sae.topk`. The sparse form is
            exact: where one row may hold more than 4 k of the largest the whole batch is searched.
        is_centred: whether b_dec is taken from h before it is encoded.

    Returns:
        `jaxplain.sae.Dictionary`; parameters W_enc, b_enc, W_dec, b_dec, and the scalar threshold.

    Raises:
        TypeError: a number is no integer.
        ValueError: k or `auxiliary_k` is more than `latents`; an unknown implementation.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from jaxplain import sae
        >>> dictionary = sae.batch_topk(latents=32, k=4)
        >>> h = jax.random.normal(jax.random.key(0), (100, 8))
        >>> params = dictionary.init(jax.random.key(1), h)
        >>> loss, report = dictionary.loss(params, h)
        >>> float(report.l0)
        4.0

    References:
        Bussmann, Leask and Nanda, "BatchTopK Sparse Autoencoders", 2024,
        https://arxiv.org/abs/2412.06410
    """
    return _nested.nested(
        "batch_topk",
        latents,
        k,
        (latents,),
        None,
        auxiliary_k,
        auxiliary_coefficient,
        implementation,
        is_centred,
    )
