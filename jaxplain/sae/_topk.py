"""TopK: of each example the k largest pre-activations are kept.

codes = ReLU(TopK_k((h - b_dec) W_enc + b_enc)),    h_hat = codes W_dec + b_dec
loss  = |h - h_hat|^2 + c_aux var(h) |e - e_hat|^2 / var(e)          e = h - h_hat, detached
        e_hat = ReLU(TopK_k_aux(pre of dead latents)) W_dec
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jaxplain import checks
from jaxplain.sae import _ground, _initial, _kernels
from jaxplain.sae._dictionary import UNTOLD, Dictionary, Params, Report, Sparse, Status
from jaxplain.sae._shards import ALONE, Shards

# Pre-activations of a batch, in numbers, above which latents are encoded in blocks.
MOST_AT_ONCE = 2**26


def topk(
    latents: int,
    k: int,
    *,
    multi_topk: bool = False,
    auxiliary_k: int | None = None,
    auxiliary_coefficient: Any = 1 / 32,
    implementation: str = "auto",
    block_size: int | None = None,
    is_centred: bool = True,
) -> Dictionary:
    """A dictionary that keeps the k largest latents of each example.

        codes = ReLU(TopK_k((h - b_dec) W_enc + b_enc))
        loss  = |h - h_hat|^2 + c_aux var(h) |e - e_hat|^2 / var(e)

    The gradient flows through the entries that are kept. Decoder rows have norm 1: training takes
    what would change it from the gradient before each step and renormalises after.

    Args:
        latents: F, how many there are.
        k: how many are kept of each example.
        multi_topk: whether |h - h_hat(4k)|^2 / 8 is added, with 4k kept: the codes are then good
            at other k too.
        auxiliary_k: how many dead latents explain the error; half the width d unless given, at
            most F.
        auxiliary_coefficient: c_aux; 1/32 as published. May be a traced number.
        implementation: "dense", "sparse" (what is not kept costs nothing in the decoder and in the
            derivatives) or "auto", the faster as measured: see docs/sae.md. Equal to rounding.
        block_size: how many latents are encoded at a time on the sparse path, with a running choice
            of the largest. Unless given all at once, or a block of such a size that the pre-
            activations of a batch stay below 2^25 numbers where they would be above 2^26.
        is_centred: whether b_dec is taken from h before it is encoded.

    Returns:
        `jaxplain.sae.Dictionary` whose parameters are W_enc (d, F), b_enc (F,), W_dec (F, d), b_dec
        (d,).

    Raises:
        TypeError: a number is no integer.
        ValueError: k or `auxiliary_k` is more than `latents`; an unknown implementation.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from jaxplain import sae
        >>> dictionary = sae.topk(latents=32, k=4)
        >>> h = jax.random.normal(jax.random.key(0), (100, 8))
        >>> params = dictionary.init(jax.random.key(1), h)
        >>> codes = dictionary.encode(params, h)
        >>> codes.shape, int(jnp.max(jnp.sum(codes > 0, axis=-1)))
        ((100, 32), 4)
        >>> dictionary.decode(params, dictionary.encode(params, h, sparse=4)).shape
        (100, 8)

    References:
        Gao, Dupre la Tour, Tillman, Goh, Troll, Radford, Sutskever, Leike and Wu, "Scaling and
        evaluating sparse autoencoders", ICLR 2025, sections 2.3, 2.4 and 4.3. The loss is theirs
        times the variance of the batch.
    """
    latents = _ground.latents(latents)
    k = _ground.entries(k, "k", latents)
    counts = [k, min(4 * k, latents)] if multi_topk else [k]
    if auxiliary_k is not None:
        auxiliary_k = _ground.entries(auxiliary_k, "auxiliary_k", latents)
    is_sparse = _ground.implementation(implementation, counts[-1], latents)
    if block_size is not None:
        block_size = checks.integer(block_size, "block_size")
        if not is_sparse:
            raise ValueError('block_size is for implementation="sparse".')

    def init(key: jax.Array, sample: Any) -> Params:
        return _initial.tied(key, sample, latents)

    def block_of(rows: int, latents: int) -> int | None:
        if block_size is not None or not is_sparse or rows * latents <= MOST_AT_ONCE:
            return block_size
        return max(MOST_AT_ONCE // 2 // rows, 1)

    def finder(
        h: jax.Array, W_enc: jax.Array, bias: jax.Array
    ) -> tuple[Callable[..., Sparse], jax.Array | None]:
        """`find(count, among=None)`, and the pre-activations unless they are made in blocks."""
        block = block_of(h.shape[0], W_enc.shape[1])
        pre = _ground.plus(_ground.product(h, W_enc), bias) if block is None else None

        def find(count: int, among: Any = None) -> Sparse:
            """The largest pre-activations of each row, of all latents or among some."""
            count = min(count, W_enc.shape[1])
            if block is not None:
                allowed = bias if among is None else jnp.where(among, bias, -jnp.inf)
                return _kernels.blocked_top_k(h, W_enc, allowed, count, block)
            known = jax.lax.stop_gradient(jnp.asarray(pre))
            if among is None:
                return _kernels.top_k(known, count)
            return _ground.dead_codes(known, among, count)

        return find, pre

    def encode(params: Params, h: Any, sparse: int | None = None, *, shards: Shards = ALONE) -> Any:
        own = params["W_enc"].shape[1]

        def largest(h: jax.Array, count: int) -> Sparse:
            """The k largest, and nothing, up to `count` entries."""
            bias = _ground.bias(params, is_centred)
            find, pre = finder(h, params["W_enc"], bias)
            (found,) = shards.chosen(find(min(k, count)), [min(k, count)])
            codes = _ground.with_derivative(found, pre, h, params["W_enc"], bias, shards)
            more = max(min(count, own) - codes.values.shape[1], 0)
            return jax.tree.map(lambda leaf: jnp.pad(leaf, ((0, 0), (0, more))), codes)

        codes = lambda rows: _kernels.dense(largest(rows, k), own)
        return _ground.encode(params, h, codes, sparse, largest, shards)

    def loss(
        params: Params, batch: Any, status: Status = UNTOLD, *, shards: Shards = ALONE
    ) -> tuple[jax.Array, Report]:
        inputs, targets, takes_bias = _ground.split(batch, is_centred)
        bias = _ground.bias(params, takes_bias)
        targets = _ground.wide(targets)
        find, pre = finder(inputs, params["W_enc"], bias)
        several = shards.chosen(find(counts[-1]), counts)
        first = several[0]
        if status.dead is not None:
            count = _ground.auxiliary_entries(auxiliary_k, targets.shape[1], latents)
            several += shards.chosen(find(count, status.dead), [count])
        guesses = _ground.reconstructions(several, pre, inputs, params, bias, is_sparse, shards)
        targets = targets - _ground.wide(params["b_dec"])[None]
        error = targets - guesses[0]
        squared = _ground.mean_square(error, shards)
        extra = jnp.zeros_like(squared)
        if multi_topk:
            extra = _ground.mean_square(targets - guesses[1], shards) / 8
        guess = None if status.dead is None else guesses[-1]
        revived = _ground.auxiliary(
            error, targets, status.dead, auxiliary_coefficient, guess, shards
        )
        active = first.values > 0
        fired = shards.like(jnp.zeros(params["b_enc"].shape, bool), active)
        fired = shards.any_row(fired.at[first.indices].max(active))
        l0 = _ground.mean_sum(active.astype(squared.dtype), shards)
        variance = _ground.variance(targets, shards)
        report = Report(squared, variance, extra, revived, l0, fired, {})
        return squared + extra + revived, report

    return Dictionary(
        init,
        encode,
        _ground.decode,
        loss,
        _ground.project_gradient,
        _ground.unit_norm,
        latents=latents,
        revives=True,
        has_unit_norm=True,
        about={
            "architecture": "topk",
            "k": k,
            "multi_topk": multi_topk,
            "is_centred": is_centred,
        },
    )
