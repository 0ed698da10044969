"""BatchTopK for one size or several nested ones: what `batch_topk` and `matryoshka` are made of."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from jaxplain.sae import _batch, _ground, _initial, _kernels
from jaxplain.sae._dictionary import UNTOLD, Dictionary, Params, Report, Sparse, Status
from jaxplain.sae._shards import ALONE, Shards


def nested(
    architecture: str,
    latents: int,
    k: int,
    sizes: Sequence[int],
    weights: Sequence[float] | None,
    auxiliary_k: int | None,
    auxiliary_coefficient: Any,
    implementation: str,
    is_centred: bool,
) -> Dictionary:
    latents = _ground.latents(latents)
    k = _ground.entries(k, "k", latents)
    if auxiliary_k is not None:
        auxiliary_k = _ground.entries(auxiliary_k, "auxiliary_k", latents)
    is_sparse = _ground.implementation(implementation, k, latents)
    shares = [1 / len(sizes)] * len(sizes) if weights is None else list(weights)

    def init(key: jax.Array, sample: Any) -> Params:
        params = _initial.tied(key, sample, latents)
        return {**params, "threshold": jnp.zeros((), params["b_enc"].dtype)}

    def encode(params: Params, h: Any, sparse: int | None = None, *, shards: Shards = ALONE) -> Any:
        def codes(rows: jax.Array) -> jax.Array:
            pre = _ground.pre_activations(params, rows, is_centred)
            return jnp.where(pre > params["threshold"].astype(pre.dtype), jax.nn.relu(pre), 0)

        return _ground.encode(params, h, codes, sparse, shards=shards)

    def loss(
        params: Params, batch: Any, status: Status = UNTOLD, *, shards: Shards = ALONE
    ) -> tuple[jax.Array, Report]:
        inputs, targets, takes_bias = _ground.split(batch, is_centred)
        bias = _ground.bias(params, takes_bias)
        targets = _ground.wide(targets)
        W_enc, W_dec = params["W_enc"], _ground.decoder(params)
        pre = _ground.plus(_ground.product(inputs, W_enc), bias)
        known = jax.lax.stop_gradient(pre)
        edges = list(zip((0, *sizes[:-1]), sizes, strict=True))
        dead = []
        if status.dead is not None:
            count = _ground.auxiliary_entries(auxiliary_k, targets.shape[1], latents)
            found = _ground.dead_codes(known, status.dead, min(count, pre.shape[1]))
            dead += shards.chosen(found, [count])

        if is_sparse and shards is ALONE:
            entries = _batch.chosen(known, k)
            least, is_active = entries.threshold, entries.codes.values > 0
            others: list[Any] = [None] * len(dead)
            rows = [entries.rows, *others]
            codes = [
                _kernels.kept(own)
                for own in _kernels.attach([entries.codes, *dead], inputs, W_enc, bias, rows)
            ]
            values, indices = jnp.where(is_active, codes[0].values, 0), codes[0].indices
            within = lambda low, high: (indices >= low) & (indices < high)
            nested = [
                Sparse(jnp.where(within(*edge), values, 0) if len(edges) > 1 else values, indices)
                for edge in edges
            ]
            rows = [entries.rows] * len(nested) + others
            parts = list(_kernels.decode([*nested, *codes[1:]], W_dec, rows, len(inputs)))
            fired = jnp.zeros(latents, bool).at[indices].max(is_active)
        else:
            dense, least = _batch.masked(pre, k, shards)
            is_active = dense > 0
            parts = [shards.sum(part) for part in _parts(dense, W_dec, edges, shards)]
            parts += _ground.reconstructions(dead, pre, inputs, params, bias, False, shards)
            fired = shards.any_row(jnp.any(is_active, axis=0))

        total = squared = jnp.zeros((), targets.dtype)
        error = targets - _ground.wide(params["b_dec"])[None]
        for part, share in zip(parts, shares, strict=False):
            error = error - part
            squared = _ground.mean_square(error, shards)
            total = total + share * squared
        guess = parts[-1] if dead else None
        revived = _ground.auxiliary(
            error, targets, status.dead, auxiliary_coefficient, guess, shards
        )
        l0 = shards.mean(shards.sum(jnp.sum(is_active).astype(total.dtype))) / known.shape[0]
        own = {"least_kept": jax.lax.stop_gradient(least)}
        of_targets = _ground.variance(targets, shards)
        report = Report(squared, of_targets, total - squared, revived, l0, fired, own)
        return total + revived, report

    def after(
        params: Params, previous: Params, report: Report, status: Status
    ) -> tuple[Params, Any]:
        return _batch.settled(_ground.renormalised(params), previous, report, status)

    def memory(params: Params) -> Any:
        del params
        return {"batches": jnp.zeros((), jnp.int32)}  # that the threshold is the mean of

    return Dictionary(
        init,
        encode,
        _ground.decode,
        loss,
        _ground.project_gradient,
        after,
        memory,
        latents=latents,
        revives=True,
        has_unit_norm=True,
        about={
            "architecture": architecture,
            "k": k,
            "sizes": list(sizes),
            "is_centred": is_centred,
        },
    )


def _parts(
    codes: jax.Array, W_dec: jax.Array, edges: Sequence[tuple[int, int]], shards: Shards
) -> list[jax.Array]:
    """What the latents of each size add to h_hat, of those that are here."""
    if not shards.latents:
        return [_ground.product(codes[:, low:high], W_dec[low:high]) for low, high in edges]
    own = codes.shape[1]
    place = shards.first(own) + jnp.arange(own, dtype=jnp.int32)[None]
    within = lambda low, high: (place >= low) & (place < high)
    return [_ground.product(jnp.where(within(*edge), codes, 0), W_dec) for edge in edges]
