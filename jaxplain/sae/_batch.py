"""The choice that BatchTopK and its nested form share: the k B largest codes of a batch of B.

    codes = pre where pre > 0 and pre is among the k B largest of the batch, else 0

On the sparse path each row offers its 4 k largest; the exact threshold among them comes from
counts, by bisection of the bits of a float. Where a row might have had more to give, which the
least that it offered tells, the batch is searched as a whole.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxplain.sae import _kernels
from jaxplain.sae._dictionary import Params, Report, Sparse, Status
from jaxplain.sae._shards import ALONE, Shards

CANDIDATES = 4  # times k
RATE = 0.01  # of the running mean of thresholds, after its first hundred batches


class Chosen(NamedTuple):
    """The entries of a batch, as packs of k: (B, k) of any rows.

    Attributes:
        codes: the values, 0 where there are too few, and their latents.
        rows: (B, k) int32.
        threshold: the least value that was kept; infinite where none was.
    """

    codes: Sparse
    rows: jax.Array
    threshold: jax.Array


def kth_largest(values: jax.Array, k: int, shards: Shards = ALONE) -> jax.Array:
    """The k-th largest of values that are not negative, exactly; 0 where fewer are positive.

    The order of floats that are not negative is that of their bits: the largest number of which k
    values are no less is built bit by bit, each by a count.
    """
    kind = jnp.dtype(f"int{jnp.finfo(values.dtype).bits}")
    bits = jax.lax.bitcast_convert_type(values, kind)

    def with_bit(i: Any, found: jax.Array) -> jax.Array:
        tried = found | (jnp.ones((), kind) << (kind.itemsize * 8 - 2 - i).astype(kind))
        enough = shards.total(jnp.sum(bits >= tried, dtype=jnp.int32)) >= k
        return jnp.where(enough, tried, found)

    found = jax.lax.fori_loop(0, kind.itemsize * 8 - 1, with_bit, jnp.zeros((), kind))
    return jax.lax.bitcast_convert_type(found, values.dtype)


def masked(pre: jax.Array, k: int, shards: Shards = ALONE) -> tuple[jax.Array, jax.Array]:
    """Codes of a batch as an array of (B, F), and the threshold: the dense form.

    Of parts of a batch the counts alone are exchanged.
    """
    codes = jax.nn.relu(pre)
    known = jax.lax.stop_gradient(codes)
    threshold = kth_largest(known, k * pre.shape[0] * shards.parts(shards.rows), shards)
    codes = jnp.where((known >= threshold) & (known > 0), codes, 0)
    return codes, shards.least(_least(known, threshold))


def _least(values: jax.Array, threshold: jax.Array) -> jax.Array:
    """The least value that is kept; the threshold itself, unless it is 0."""
    kept = (values >= threshold) & (values > 0)
    return jnp.min(jnp.where(kept, values, jnp.inf))


def chosen(pre: jax.Array, k: int) -> Chosen:
    """The k B largest of (B, F) pre-activations, which are known: the sparse form."""
    batch, latents = pre.shape
    if batch * latents >= 2**31:
        raise ValueError(
            f"a batch of {batch} rows and {latents} latents has more than 2^31 pre-activations, "
            "which int32 cannot number: take smaller batches."
        )
    count = min(CANDIDATES * k, latents)
    offered = _kernels.kept(_kernels.top_k(pre, count))
    threshold = kth_largest(offered.values, k * batch)
    more = (offered.values[:, -1] >= threshold) & (offered.values[:, -1] > 0)

    def among_offered() -> tuple[jax.Array, jax.Array, jax.Array]:
        is_kept = (offered.values >= threshold) & (offered.values > 0)
        (places,) = jnp.nonzero(is_kept.reshape(-1), size=k * batch, fill_value=batch * count)
        take = lambda a: a.reshape(-1).at[places].get(mode="fill", fill_value=0)
        rows = jnp.minimum(places // count, batch - 1).astype(jnp.int32)
        return take(offered.values), take(offered.indices), rows

    def among_all() -> tuple[jax.Array, jax.Array, jax.Array]:
        found = _kernels.top_k(jax.nn.relu(pre).reshape(-1), k * batch)
        rows, places = jnp.divmod(found.indices, latents)
        return found.values, places.astype(jnp.int32), rows.astype(jnp.int32)

    if count == latents:
        values, indices, rows = among_offered()
    else:
        values, indices, rows = jax.lax.cond(jnp.any(more), among_all, among_offered)
    packs = lambda a: a.reshape(batch, k)
    least = jnp.min(jnp.where(values > 0, values, jnp.inf))
    return Chosen(Sparse(packs(values), packs(indices)), packs(rows), least)


def settled(params: Params, previous: Params, report: Report, status: Status) -> tuple[Params, Any]:
    """The running mean of the thresholds of batches; one that kept nothing leaves it as it is."""
    old, least = previous["threshold"], report.own["least_kept"]
    seen = status.memory["batches"] if status.memory else jnp.zeros((), jnp.int32)
    rate = jnp.maximum(RATE, 1 / (1 + seen.astype(old.dtype)))
    moved = old + rate * (least.astype(old.dtype) - old)
    counts = jnp.isfinite(least)
    memory = {"batches": seen + counts.astype(jnp.int32)} if status.memory else status.memory
    return {**params, "threshold": jnp.where(counts, moved, old)}, memory
