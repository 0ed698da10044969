"""Gated: which latents are active, and how much, are asked apart, so that L1 does not shrink them.

pi    = (h - b_dec) W_enc + b_gate
codes = 1[pi > 0] ReLU((h - b_dec) W_enc exp(r_mag) + b_mag)
loss  = |h - h_hat|^2 + c sum_i ReLU(pi_i) + |h - ReLU(pi) sg(W_dec) - sg(b_dec)|^2
"""

from typing import Any

import jax
import jax.numpy as jnp

from jaxplain.sae import _ground, _initial
from jaxplain.sae._dictionary import UNTOLD, Dictionary, Params, Report, Status
from jaxplain.sae._shards import ALONE, Shards


def gated(latents: int, l1_coefficient: Any, *, is_centred: bool = True) -> Dictionary:
    """A dictionary in which a gate decides which latents are active, and is alone penalised.

        pi    = (h - b_dec) W_enc + b_gate
        codes = 1[pi > 0] ReLU((h - b_dec) W_enc exp(r_mag) + b_mag)
        loss  = |h - h_hat|^2 + c sum_i ReLU(pi_i) + |h - ReLU(pi) sg(W_dec) - sg(b_dec)|^2

    Args:
        latents: F, how many there are.
        l1_coefficient: c, for squared errors that are summed over d. May be a traced number.
        is_centred: whether b_dec is taken from h before it is encoded.

    Returns:
        `jaxplain.sae.Dictionary` whose parameters are W_enc (d, F), b_gate, r_mag and b_mag (F,),
        W_dec (F, d) with rows of norm 1, b_dec (d,).

    Raises:
        TypeError: `latents` is no integer.

    Example:
        >>> import jax
        >>> from jaxplain import sae
        >>> dictionary = sae.gated(latents=32, l1_coefficient=0.1)
        >>> h = jax.random.normal(jax.random.key(0), (100, 8))
        >>> sorted(dictionary.init(jax.random.key(1), h))
        ['W_dec', 'W_enc', 'b_dec', 'b_gate', 'b_mag', 'r_mag']

    References:
        Rajamanoharan, Conmy, Smith, Lieberum, Varma, Kramar, Shah and Nanda, "Improving Dictionary
        Learning with Gated Sparse Autoencoders", 2024, https://arxiv.org/abs/2404.16014
    """
    latents = _ground.latents(latents)

    def init(key: jax.Array, sample: Any) -> Params:
        params = _initial.tied(key, sample, latents)
        zeros = params.pop("b_enc")
        return {**params, "b_gate": zeros, "r_mag": zeros, "b_mag": zeros}

    def gates(params: Params, rows: jax.Array, takes_bias: bool) -> tuple[jax.Array, jax.Array]:
        """The pre-activations of the gates, and the codes."""
        shared = _ground.product(rows, params["W_enc"])
        if takes_bias:
            shared = shared - _ground.product(params["b_dec"], params["W_enc"])[None]
        pi = _ground.plus(shared, params["b_gate"])
        scale = jnp.exp(params["r_mag"]).astype(shared.dtype)
        magnitudes = jax.nn.relu(_ground.plus(shared * scale[None], params["b_mag"]))
        return pi, jnp.where(pi > 0, magnitudes, 0)

    def encode(params: Params, h: Any, sparse: int | None = None, *, shards: Shards = ALONE) -> Any:
        codes = lambda rows: gates(params, rows, is_centred)[1]
        return _ground.encode(params, h, codes, sparse, shards=shards)

    def loss(
        params: Params, batch: Any, status: Status = UNTOLD, *, shards: Shards = ALONE
    ) -> tuple[jax.Array, Report]:
        inputs, targets, takes_bias = _ground.split(batch, is_centred)
        pi, codes = gates(params, inputs, takes_bias)
        open_gates = jax.nn.relu(pi)
        squared = _ground.mean_square(_ground.error(params, codes, targets, shards), shards)
        detached = jax.lax.stop_gradient(params)
        error = _ground.error(detached, open_gates, targets, shards)
        by_gates = _ground.mean_square(error, shards)
        penalty = l1_coefficient * status.sparsity * _ground.mean_sum(open_gates, shards)
        return _ground.reported(targets, squared, penalty, codes, by_gates, shards)

    return Dictionary(
        init,
        encode,
        _ground.decode,
        loss,
        _ground.project_gradient,
        _ground.unit_norm,
        latents=latents,
        has_unit_norm=True,
        about={"architecture": "gated", "is_centred": is_centred},
    )
