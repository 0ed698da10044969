"""Sparse codes and their products: what is kept costs, what is not does not.

    decode      y_b = sum_j v_bj W[i_bj]
    attach      v_bj = x_b . W[:, i_bj] + bias[i_bj], known already; the derivative is what is added

Codes are kept as packs: `values` and `indices` of shape (packs, k), where pack p holds entries of
row p, or of the rows `rows[p]` of the same shape. Derivatives visit the entries that are kept and
no other. The forms for CPU are the measured ones (docs/sae.md): sums over k are written out, so
that XLA fuses the gathers, and rows are updated in place, pack by pack.
"""

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from jaxplain import trees
from jaxplain.sae._dictionary import Sparse

NO_DERIVATIVE: Any = None  # of integers
# Entries of a pack whose sum is written out in one piece.
UNROLLED = 64
# Packs whose weights are gathered at once.
CHUNK = 32


def top_k(values: jax.Array, k: int) -> Sparse:
    """The k largest of each row, and where they are.

    Behind a barrier: XLA on CPU knows `top_k` by its pattern and sorts the row where a slice of the
    result spoils it, at thirty times the cost. One for each: both at once bring XLA down where a
    program is of many devices, since `top_k` of float64 is then not taken apart.
    """
    return Sparse(*map(jax.lax.optimization_barrier, jax.lax.top_k(values, k)))


def blocked_top_k(
    x: jax.Array, weights: jax.Array, bias: jax.Array, k: int, block_size: int
) -> Sparse:
    """The k largest of each row of x weights + bias, some latents at a time: (n, F) is never there.

    What is found is known, not differentiated: see `attach`.
    """
    x, weights, bias = jax.lax.stop_gradient((x, weights, bias))
    n, latents = x.shape[0], weights.shape[1]
    block_size = min(block_size, latents)
    blocks = -(-latents // block_size)
    columns = jnp.arange(block_size, dtype=jnp.int32)

    def step(found: Sparse, i: jax.Array) -> tuple[Sparse, None]:
        # The last block begins earlier than its place, and leaves out what was seen.
        start = jnp.minimum(i * block_size, latents - block_size)
        own = jax.lax.dynamic_slice_in_dim(weights, start, block_size, axis=1)
        part = jax.lax.dynamic_slice_in_dim(bias, start, block_size)
        part = jnp.where(start + columns >= i * block_size, part, -jnp.inf)
        pre = jnp.matmul(x.astype(own.dtype), own, preferred_element_type=bias.dtype)
        of_block = top_k(pre + part[None], min(k, block_size))
        both = jnp.concatenate([found.values, of_block.values], axis=1)
        places = jnp.concatenate([found.indices, start + of_block.indices], axis=1)
        best = top_k(both, k)
        return Sparse(best.values, jnp.take_along_axis(places, best.indices, axis=1)), None

    nothing = Sparse(jnp.full((n, k), -jnp.inf, bias.dtype), jnp.zeros((n, k), jnp.int32))
    nothing = trees.place_like(nothing, jax.eval_shape(step, nothing, jnp.int32(0))[0])
    return jax.lax.scan(step, nothing, jnp.arange(blocks, dtype=jnp.int32))[0]


def kept(found: Sparse) -> Sparse:
    """What ReLU leaves of the largest pre-activations."""
    return Sparse(jax.nn.relu(found.values), found.indices)  # whose slope at 0 is 0


def dense(codes: Sparse, latents: int) -> jax.Array:
    """(n, k) entries as an array of (n, F); an index that comes twice is added."""
    n = codes.values.shape[0]
    rows = jnp.arange(n, dtype=jnp.int32)[:, None]
    return jnp.zeros((n, latents), codes.values.dtype).at[rows, codes.indices].add(codes.values)


# ------------------------------------------------------------------- the three loops over entries


def _gathered_sums(
    values: jax.Array, indices: jax.Array, weights: jax.Array, rows: Any, size: int
) -> jax.Array:
    """sums[row] = sum over its entries of value weights[index], (size, d)."""
    if rows is not None:
        nothing = jnp.zeros((size, weights.shape[1]), values.dtype)
        return _updated_rows(nothing, rows, values, weights, indices)

    def some(values: jax.Array, indices: jax.Array) -> jax.Array:
        terms = [
            values[:, j, None] * weights[indices[:, j]].astype(values.dtype)
            for j in range(values.shape[1])
        ]
        return functools.reduce(jnp.add, terms)

    k = values.shape[1]
    first = k % UNROLLED or min(k, UNROLLED)
    if k == first:
        return some(values, indices)
    split = lambda a: jnp.moveaxis(a[:, first:].reshape(len(a), -1, UNROLLED), 1, 0)
    add = lambda total, part: (total + some(*part), None)
    start = some(values[:, :first], indices[:, :first])
    return jax.lax.scan(add, start, (split(values), split(indices)))[0]


def _products(
    values: jax.Array, indices: jax.Array, weights: jax.Array, rows: Any, g: jax.Array
) -> jax.Array:
    """g[row] . weights[index] for each entry, in the shape and dtype of the values."""

    def of_pack(pack: Any) -> jax.Array:
        indices, own = pack
        taken = weights[indices].astype(values.dtype)
        return taken @ own if rows is None else jnp.sum(taken * g[own], axis=-1)

    return jax.lax.map(of_pack, (indices, g if rows is None else rows), batch_size=CHUNK)


def _updated_rows(
    sums: jax.Array, at: jax.Array, values: jax.Array, source: jax.Array, source_at: Any
) -> jax.Array:
    """sums[at] += value source[source_at] for each entry; without `source_at` by the pack's row."""
    sums = trees.place_like(sums, values)

    def in_place(
        sums: jax.Array, at: jax.Array, values: jax.Array, source: jax.Array, source_at: Any
    ) -> jax.Array:
        def add(sums: jax.Array, pack: Any) -> tuple[jax.Array, None]:
            at, values, own = pack
            taken = own[None] if source_at is None else source[own]
            return sums.at[at].add(values[:, None] * taken.astype(values.dtype)), None

        packs = (at, values, source if source_at is None else source_at)
        return jax.lax.scan(add, sums, packs)[0]

    def at_once(
        sums: jax.Array, at: jax.Array, values: jax.Array, source: jax.Array, source_at: Any
    ) -> jax.Array:
        taken = source[:, None] if source_at is None else source[source_at]
        return sums.at[at].add(values[..., None] * taken.astype(values.dtype))

    return jax.lax.platform_dependent(
        sums, at, values, source, source_at, cpu=in_place, default=at_once
    )


# -------------------------------------------------------------------------------- with derivatives


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def _decode(several: Any, weights: jax.Array, rows: Any, sizes: tuple[int, ...]) -> Any:
    return tuple(
        _gathered_sums(codes.values, codes.indices, weights, own, size)
        for codes, own, size in zip(several, rows, sizes, strict=True)
    )


def _decode_forward(
    several: Any, weights: jax.Array, rows: Any, sizes: tuple[int, ...]
) -> tuple[Any, Any]:
    return _decode(several, weights, rows, sizes), (several, weights, rows)


def _decode_backward(sizes: tuple[int, ...], saved: Any, gradients: Any) -> tuple[Any, ...]:
    del sizes
    several, weights, rows = saved
    of_codes, dtype = [], trees.widest(*(codes.values.dtype for codes in several))
    of_weights = jnp.zeros(weights.shape, dtype)
    for codes, own, g in zip(several, rows, gradients, strict=True):
        values, indices = codes
        of_codes.append(Sparse(_products(values, indices, weights, own, g), NO_DERIVATIVE))
        of_weights = _updated_rows(of_weights, indices, values, g, own)
    return tuple(of_codes), of_weights.astype(weights.dtype), tuple(None for _ in rows)


_decode.defvjp(_decode_forward, _decode_backward)


def decode(
    several: Sequence[Sparse], weights: jax.Array, rows: Any = None, size: int = 0
) -> tuple[jax.Array, ...]:
    """sum_j values[p, j] weights[indices[p, j]]: (n, k) codes and (F, d) weights to (n, d).

    Of several codes, whose derivatives by the weights are added up in one place. With `rows` the
    entries are those of these rows, of `size` in all; None for codes that are rows themselves.
    """
    rows = tuple(rows) if rows is not None else (None,) * len(several)
    sizes = tuple(0 if own is None else size for own in rows)
    return _decode(tuple(several), weights, rows, sizes)


@jax.custom_vjp
def _attach(several: Any, x: jax.Array, columns: jax.Array, bias: jax.Array, rows: Any) -> Any:
    del x, columns, bias, rows
    return tuple(codes.values for codes in several)


def _attach_forward(several: Any, *sources: Any) -> tuple[Any, Any]:
    return _attach(several, *sources), ([codes.indices for codes in several], *sources)


def _attach_backward(saved: Any, gradients: Any) -> tuple[Any, ...]:
    several, x, columns, bias, rows = saved
    dtype = trees.widest(*(g.dtype for g in gradients))
    of_x, of_columns = jnp.zeros(x.shape, dtype), jnp.zeros(columns.shape, dtype)
    of_bias = jnp.zeros(bias.shape, dtype)
    for indices, own, g in zip(several, rows, gradients, strict=True):
        of_x = of_x + _gathered_sums(g, indices, columns, own, len(x))  # dropped where x is data
        of_columns = _updated_rows(of_columns, indices, g, x, own)
        of_bias = trees.place_like(of_bias, g).at[indices].add(g)
    return (
        tuple(Sparse(jnp.zeros_like(g), NO_DERIVATIVE) for g in gradients),
        of_x.astype(x.dtype),
        of_columns.astype(columns.dtype),
        of_bias.astype(bias.dtype),
        tuple(None for _ in rows),
    )


_attach.defvjp(_attach_forward, _attach_backward)


def attach(
    several: Sequence[Sparse],
    x: jax.Array,
    weights: jax.Array,
    bias: jax.Array,
    rows: Any = None,
) -> tuple[Sparse, ...]:
    """The codes as functions of what they came from: values that are known get their derivative.

        values = x[row] @ weights[:, indices] + bias[indices]

    Args:
        several: (n, k) pre-activations each, found outside of the derivative.
        x: (n, d).
        weights: (d, F).
        bias: (F,), in the dtype of the values.
        rows: for each, of packs that are no rows, the row of each entry, or None.
    """
    several = tuple(jax.lax.stop_gradient(tuple(several)))
    rows = tuple(rows) if rows is not None else (None,) * len(several)
    # Transposed out here: the derivatives of all are summed as rows before they are turned.
    values = _attach(several, x, weights.T, bias, rows)
    return tuple(codes._replace(values=own) for codes, own in zip(several, values, strict=True))
