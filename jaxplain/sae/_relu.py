"""ReLU with an L1 penalty, in its two forms.

codes = ReLU((h - b_dec) W_enc + b_enc),    h_hat = codes W_dec + b_dec
loss  = |h - h_hat|^2 + c sum_i codes_i |d_i|          d_i the rows of W_dec, of norm 1 or free
"""

from typing import Any

import jax
import jax.numpy as jnp

from jaxplain.sae import _ground, _initial
from jaxplain.sae._dictionary import UNTOLD, Dictionary, Params, Report, Status
from jaxplain.sae._shards import ALONE, Shards

FREE_NORM = 0.1  # of decoder rows at the start, where norms are free


def relu(
    latents: int,
    l1_coefficient: Any,
    *,
    has_unit_norm: bool = False,
    has_ghost_gradients: bool = False,
    is_centred: bool = True,
) -> Dictionary:
    """A dictionary whose latents are few because their sum is penalised.

        codes = ReLU((h - b_dec) W_enc + b_enc)
        loss  = |h - h_hat|^2 + c sum_i codes_i |d_i|

    Args:
        latents: F, how many there are.
        l1_coefficient: c, for a squared error that is summed over d (docs/sae.md converts those of
            other libraries). May be a traced number: a sweep compiles once.
        has_unit_norm: whether decoder rows d_i have norm 1, kept by training. Free unless given:
            rows start at norm 0.1 and their norms are in the penalty.
        has_ghost_gradients: whether dead latents get a loss too: that of explaining, by exp(pre),
            half of what the others leave; scaled to the size of the squared error.
        is_centred: whether b_dec is taken from h before it is encoded.

    Returns:
        `jaxplain.sae.Dictionary` whose parameters are W_enc (d, F), b_enc (F,), W_dec (F, d), b_dec
        (d,).

    Raises:
        TypeError: `latents` is no integer.

    Example:
        >>> import jax
        >>> from jaxplain import sae
        >>> dictionary = sae.relu(latents=32, l1_coefficient=0.1)
        >>> h = jax.random.normal(jax.random.key(0), (100, 8))
        >>> params = dictionary.init(jax.random.key(1), h)
        >>> loss, report = dictionary.loss(params, h)
        >>> bool(loss == report.squared_error + report.penalty)
        True

    References:
        Norm 1: Bricken et al., "Towards Monosemanticity", 2023,
        https://transformer-circuits.pub/2023/monosemantic-features; free norms: Conerly et al.,
        "Update on how we train SAEs", 2024, https://transformer-circuits.pub/2024/april-update.
        Ghost gradients: Jermyn and Templeton, "Ghost Grads: An improvement on resampling", 2024,
        https://transformer-circuits.pub/2024/jan-update
    """
    latents = _ground.latents(latents)

    def init(key: jax.Array, sample: Any) -> Params:
        return _initial.tied(key, sample, latents, 1.0 if has_unit_norm else FREE_NORM)

    def encode(params: Params, h: Any, sparse: int | None = None, *, shards: Shards = ALONE) -> Any:
        codes = lambda rows: jax.nn.relu(_ground.pre_activations(params, rows, is_centred))
        return _ground.encode(params, h, codes, sparse, shards=shards)

    def loss(
        params: Params, batch: Any, status: Status = UNTOLD, *, shards: Shards = ALONE
    ) -> tuple[jax.Array, Report]:
        inputs, targets, takes_bias = _ground.split(batch, is_centred)
        pre = _ground.pre_activations(params, inputs, takes_bias)
        codes = jax.nn.relu(pre)
        error = _ground.error(params, codes, targets, shards)
        squared = _ground.mean_square(error, shards)
        sizes = codes if has_unit_norm else codes * _ground.norms(params)[None]
        penalty = l1_coefficient * status.sparsity * _ground.mean_sum(sizes, shards)
        ghosts: Any = 0.0
        if has_ghost_gradients and status.dead is not None:
            ghosts = _ghosts(params, pre, error, status.dead, shards)
        return _ground.reported(targets, squared, penalty, codes, ghosts, shards)

    dictionary = Dictionary(
        init,
        encode,
        _ground.decode,
        loss,
        latents=latents,
        revives=has_ghost_gradients,
        about={"architecture": "relu", "has_unit_norm": has_unit_norm, "is_centred": is_centred},
    )
    if not has_unit_norm:
        return dictionary
    return dictionary._replace(
        before=_ground.project_gradient, after=_ground.unit_norm, has_unit_norm=True
    )


def _ghosts(
    params: Params, pre: jax.Array, error: jax.Array, dead: jax.Array, shards: Shards
) -> jax.Array:
    """The loss of dead latents whose codes are exp(pre), as large as the squared error."""
    error = jax.lax.stop_gradient(error)

    codes = jnp.where(dead[None], jnp.exp(jnp.where(dead[None], pre, 0)), 0)
    guess = shards.sum(_ground.product(codes, _ground.decoder(params)))
    sizes = [jnp.linalg.norm(rows, axis=-1, keepdims=True) for rows in (error, guess)]
    size, own = jax.lax.stop_gradient(sizes)
    scale = size / (2 * jnp.where(own > 0, own, 1))
    loss = _ground.mean_square(error - scale * guess, shards)
    known = jax.lax.stop_gradient(loss)
    found = loss * (_ground.mean_square(error, shards) / jnp.where(known > 0, known, 1))
    return jnp.where(shards.any_latent(dead), found, 0)
