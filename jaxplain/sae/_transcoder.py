"""A transcoder: a dictionary between two places, most often the input and output of an MLP.

codes = as of the dictionary, of x, without b_dec;    y_hat = codes W_dec + b_dec [+ x W_skip^T]
loss  = |y - y_hat|^2 + what the dictionary adds
"""

from typing import Any

import jax
import jax.numpy as jnp

from jaxplain.sae import _ground, _initial
from jaxplain.sae._dictionary import UNTOLD, Dictionary, Pair, Params, Report, Status, of_its_own
from jaxplain.sae._shards import ALONE, Shards


def transcoder(dictionary: Dictionary, *, has_skip: bool = False) -> Dictionary:
    """A dictionary whose codes of one value are decoded to another.

        codes = encode(x),    y_hat = codes W_dec + b_dec [+ x W_skip^T]
        loss  = |y - y_hat|^2 + what the dictionary adds

    Args:
        dictionary: any of this module's for one value, `jaxplain.sae.topk(...)`.
        has_skip: whether a linear map of x is added, which need not go through the codes.

    Returns:
        `jaxplain.sae.Dictionary` of pairs: `init(key, (x, y))`, `encode(params, x)`,
        `decode(params, codes)`, or with a skip `decode(params, codes, x)`, `loss(params, (x, y))`.
        Nothing is taken from x before it is encoded. Parameters W_enc (d, F), b_enc (F,), W_dec (F,
        outputs), b_dec (outputs,), and W_skip (outputs, d), which starts at 0, as SAELens has them.

    Raises:
        TypeError: `dictionary` is none.
        ValueError: a batch is no pair, or its parts differ in length.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from jaxplain import sae
        >>> dictionary = sae.transcoder(sae.topk(latents=32, k=4), has_skip=True)
        >>> x = jax.random.normal(jax.random.key(0), (100, 8))
        >>> params = dictionary.init(jax.random.key(1), (x, jnp.tanh(x[:, :3])))
        >>> dictionary.decode(params, dictionary.encode(params, x), x).shape
        (100, 3)

    References:
        Dunefsky, Chlenski and Nanda, "Transcoders Find Interpretable LLM Feature Circuits", NeurIPS
        2024; with a skip: Paulo, Shabalin and Belrose, "Transcoders Beat Sparse Autoencoders for
        Interpretability", 2025, https://arxiv.org/abs/2501.18823
    """
    dictionary = of_its_own(dictionary, "a transcoder")

    def init(key: jax.Array, sample: Any) -> Params:
        inputs, targets = pair(sample)
        own, other = jax.random.split(key)
        params = dictionary.init(own, inputs)
        norm = _ground.norms(params)[0]
        outer = _initial.tied(other, targets, params["W_dec"].shape[0], norm)
        params |= {"W_dec": outer["W_dec"], "b_dec": outer["b_dec"]}
        if has_skip:
            shape = (targets.shape[-1], inputs.shape[-1])
            params["W_skip"] = jnp.zeros(shape, params["W_enc"].dtype)
        return params

    def uncentred(params: Params) -> Params:
        width = params["W_enc"].shape[0]
        inner = {name: leaf for name, leaf in params.items() if name != "W_skip"}
        return {**inner, "b_dec": jnp.zeros(width, params["b_dec"].dtype)}

    def encode(params: Params, h: Any, sparse: int | None = None, *, shards: Shards = ALONE) -> Any:
        return dictionary.encode(uncentred(params), h, sparse, shards=shards)

    def decode(
        params: Params, codes: Any, inputs: Any = None, *, shards: Shards = ALONE
    ) -> jax.Array:
        outputs = dictionary.decode(params, codes, shards=shards)
        if not has_skip:
            return outputs
        if inputs is None:
            raise ValueError(
                "the dictionary has a skip: decode(params, codes, inputs) needs the inputs too."
            )
        return outputs + _ground.product(inputs, params["W_skip"].T)

    def loss(
        params: Params, batch: Any, status: Status = UNTOLD, *, shards: Shards = ALONE
    ) -> tuple[jax.Array, Report]:
        inputs, targets = pair(batch)
        left = targets
        if has_skip:
            left = _ground.wide(targets) - _ground.product(inputs, params["W_skip"].T)
        loss, report = dictionary.loss(params, Pair(inputs, left), status, shards=shards)
        return loss, report._replace(variance=_ground.variance(targets, shards))

    about = {**dictionary.about, "is_transcoder": True, "has_skip": has_skip}
    return dictionary._replace(init=init, encode=encode, decode=decode, loss=loss, about=about)


def pair(batch: Any) -> Pair:
    """Two arrays of (n, d) and (n, outputs)."""
    if not isinstance(batch, tuple | list) or len(batch) != 2:
        raise ValueError(
            "a transcoder takes pairs (inputs, targets) of activations, but a "
            f"{type(batch).__name__} came."
        )
    inputs, targets = (_initial.rows(part, "each of (inputs, targets)") for part in batch)
    if len(inputs) != len(targets):
        raise ValueError(f"there are {len(inputs)} inputs, but {len(targets)} targets.")
    return Pair(inputs, targets)
