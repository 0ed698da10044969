"""Resampling: dead latents start anew, in the directions of what is explained worst.

input j drawn with p_j ~ (|h_j - h_hat_j|^2)^2
W_dec[i] = h_j / |h_j|,   W_enc[:, i] = 0.2 mean |W_enc of the living| h_j / |h_j|,   b_enc[i] = 0
"""

from typing import Any

import jax
import jax.numpy as jnp

from jaxplain.sae import _ground
from jaxplain.sae._dictionary import Dictionary, Params, latent_axis

SHARE = 0.2  # of the mean norm of living encoder columns
# Parameters with one number for each latent, which starts from 0; thresholds stay.
BIASES = ("b_enc", "b_gate", "b_mag", "r_mag")


def resampled(
    key: jax.Array, dictionary: Dictionary, params: Params, batch: Any, dead: jax.Array
) -> Params:
    """The parameters with dead latents made anew; where none is dead, as they were."""
    if isinstance(batch, tuple) or batch.ndim != 2 or params["W_dec"].ndim != 2:
        raise ValueError("resampling is for dictionaries of one value: batches of shape (n, d).")
    h = _ground.wide(batch)
    error = h - dictionary.decode(params, dictionary.encode(params, h))
    loss = jnp.sum(jnp.square(error), axis=-1)
    # What is not finite has no direction: it is not drawn, and where nothing is, none starts anew.
    is_finite = jnp.isfinite(loss)
    dead = dead & jnp.any(is_finite)
    loss = jnp.where(is_finite, loss, 0)
    chances = jnp.square(loss / jnp.maximum(jnp.max(loss), jnp.finfo(loss.dtype).tiny))
    total = jnp.sum(chances)
    even = is_finite.astype(loss.dtype) / jnp.maximum(jnp.sum(is_finite), 1).astype(loss.dtype)
    chances = jnp.where(total > 0, chances / jnp.where(total > 0, total, 1), even)
    draws = jax.random.choice(key, len(h), dead.shape, p=chances)
    drawn = h[draws] - params["centre"][None] if "centre" in params else h[draws]
    drawn = jnp.where(is_finite[draws][:, None], drawn, 0)
    norms = jnp.linalg.norm(drawn, axis=-1, keepdims=True)
    directions = drawn / jnp.where(norms > 0, norms, 1)
    W_enc, W_dec = params["W_enc"], params["W_dec"]
    sizes = jnp.linalg.norm(_ground.wide(W_enc), axis=0)
    living = jnp.maximum(jnp.sum(~dead), 1)
    mean = lambda sizes: jnp.where(jnp.all(dead), 1, jnp.sum(jnp.where(dead, 0, sizes)) / living)
    of_living = mean(_ground.norms(params))  # 1, unless norms are free
    new_dec = (of_living * directions).astype(W_dec.dtype)
    new_enc = (SHARE * mean(sizes) * directions.T).astype(W_enc.dtype)
    return {
        **params,
        "W_dec": jnp.where(dead[:, None], new_dec, W_dec),
        "W_enc": jnp.where(dead[None], new_enc, W_enc),
        **{name: jnp.where(dead, 0, params[name]) for name in BIASES if name in params},
    }


def of_latents(params: Params, dead: jax.Array) -> Params:
    """For each parameter which of its numbers belong to a dead latent."""
    latents = dead.shape[0]

    def mask(name: str, leaf: jax.Array) -> jax.Array:
        axis = latent_axis(name, leaf, latents)
        if axis is None:
            return jnp.zeros(leaf.shape, bool)
        shape = [latents if k == axis else 1 for k in range(leaf.ndim)]
        return jnp.broadcast_to(dead.reshape(shape), leaf.shape)

    return {name: mask(name, leaf) for name, leaf in params.items()}
