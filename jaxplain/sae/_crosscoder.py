"""A crosscoder: one set of codes for several values at once, of several models or layers.

codes = as of the dictionary, of the values side by side;    h_hat^m = codes W_dec^m + b_dec^m
loss  = sum_m |h^m - h_hat^m|^2 + what the dictionary adds; L1 with sum_m |d_i^m| as weights
"""

from typing import Any

import jax
import jax.numpy as jnp

from jaxplain.sae._dictionary import UNTOLD, Dictionary, Params, Report, Status, of_its_own
from jaxplain.sae._shards import ALONE, Shards


def crosscoder(dictionary: Dictionary) -> Dictionary:
    """A dictionary of several values with shared codes.

        codes = encode(h^1, ..., h^M side by side),    h_hat^m = codes W_dec^m + b_dec^m
        loss  = sum_m |h^m - h_hat^m|^2 + what the dictionary adds

    An L1 penalty weights each code by the sum over m of the norms of its decoder rows, so that a
    latent may be of one model alone. Where decoder rows have norm 1, all parts together have it.

    Args:
        dictionary: any of this module's for one value, `jaxplain.sae.relu(...)`.

    Returns:
        `jaxplain.sae.Dictionary` of activations (..., M, d). Parameters W_enc (M, d, F), b_enc
        (F,), W_dec (F, M, d), b_dec (M, d).

    Raises:
        TypeError: `dictionary` is none.
        ValueError: activations have no axis of values before that of their width.

    Example:
        >>> import jax
        >>> from jaxplain import sae
        >>> dictionary = sae.crosscoder(sae.relu(latents=32, l1_coefficient=0.1))
        >>> h = jax.random.normal(jax.random.key(0), (100, 2, 8))
        >>> params = dictionary.init(jax.random.key(1), h)
        >>> codes = dictionary.encode(params, h)
        >>> codes.shape, dictionary.decode(params, codes).shape
        ((100, 32), (100, 2, 8))

    References:
        Lindsey, Templeton, Marcus, Conerly, Batson and Olah, "Sparse Crosscoders for Cross-Layer
        Features and Model Diffing", 2024, https://transformer-circuits.pub/2024/crosscoders
    """
    dictionary = of_its_own(dictionary, "a crosscoder")

    def flat(h: Any, outer: int = 1) -> jax.Array:
        if jnp.ndim(h) < 2 + outer:
            raise ValueError(
                "a crosscoder takes activations of shape (..., values, width), but they have "
                f"{jnp.shape(h)}."
            )
        return jnp.reshape(h, (*jnp.shape(h)[:-2], -1))

    def inner(params: Params) -> Params:
        """Side by side; W_dec keeps its parts, whose norms count one by one."""
        W_enc = params["W_enc"].reshape(-1, params["W_enc"].shape[-1])
        return {**params, "W_enc": W_enc, "b_dec": params["b_dec"].reshape(-1)}

    def outer(params: Params, values: int, width: int) -> Params:
        return {
            **params,
            "W_enc": params["W_enc"].reshape(values, width, -1),
            "W_dec": params["W_dec"].reshape(-1, values, width),
            "b_dec": params["b_dec"].reshape(values, width),
        }

    def init(key: jax.Array, sample: Any) -> Params:
        return outer(dictionary.init(key, flat(sample)), *jnp.shape(sample)[-2:])

    def encode(params: Params, h: Any, sparse: int | None = None, *, shards: Shards = ALONE) -> Any:
        return dictionary.encode(inner(params), flat(h, 0), sparse, shards=shards)

    def decode(params: Params, codes: Any, *, shards: Shards = ALONE) -> jax.Array:
        h = dictionary.decode(inner(params), codes, shards=shards)
        return h.reshape(*h.shape[:-1], *params["b_dec"].shape)

    def loss(
        params: Params, batch: Any, status: Status = UNTOLD, *, shards: Shards = ALONE
    ) -> tuple[jax.Array, Report]:
        return dictionary.loss(inner(params), flat(batch), status, shards=shards)

    about = {**dictionary.about, "is_crosscoder": True}
    return dictionary._replace(init=init, encode=encode, decode=decode, loss=loss, about=about)
