"""What the architectures share: the two products, the error, the norm of the decoder, AuxK.

    pre    = (h - b_dec) W_enc + b_enc = h W_enc + (b_enc - b_dec W_enc)
    h_hat  = codes W_dec + b_dec
    loss   = |h - h_hat|^2, summed over d, mean over rows, + penalty + auxiliary

The form on the right has no product in the derivative by b_dec: one of the six matrix products of a
step less. Everything is accumulated in float32 or wider, whatever the dtype of the weights.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from jaxplain import checks, trees
from jaxplain.sae import _kernels
from jaxplain.sae._dictionary import Pair, Params, Report, Sparse, Status
from jaxplain.sae._shards import ALONE, Shards

ROUNDING = 32  # in units of eps: a share of the targets that is no error, but rounding

# ------------------------------------------------------------------------------------ two products


def product(h: jax.Array, weights: jax.Array) -> jax.Array:
    """The product h weights in the dtype of the weights, accumulated in float32 or wider."""
    wide = trees.wide_dtype(weights.dtype)
    return jnp.matmul(h.astype(weights.dtype), weights, preferred_element_type=wide)


def wide(a: jax.Array) -> jax.Array:
    """The array in the dtype that is accumulated in."""
    return a.astype(trees.wide_dtype(a.dtype))


def decoder(params: Params) -> jax.Array:
    """(F, d): of a crosscoder, whose rows have several parts, the parts side by side."""
    return params["W_dec"].reshape(params["W_dec"].shape[0], -1)


def norms(params: Params) -> jax.Array:
    """(F,): the norm of each decoder row; of a crosscoder the sum of those of its parts."""
    squares = jnp.sum(jnp.square(wide(params["W_dec"])), axis=-1)
    # The root has an infinite slope at 0, where a row is that nothing has moved yet.
    found = jnp.where(squares > 0, jnp.sqrt(jnp.where(squares > 0, squares, 1)), 0)
    return found if found.ndim == 1 else jnp.sum(found, axis=-1)


def bias(params: Params, is_centred: bool, name: str = "b_enc") -> jax.Array:
    """(F,): the bias of pre-activations of h itself, where b_dec is taken from h or not."""
    own = wide(params[name])
    return own - product(params["b_dec"], params["W_enc"]) if is_centred else own


def pre_activations(params: Params, h: jax.Array, is_centred: bool) -> jax.Array:
    """(n, F): what the encoder makes of rows h."""
    return plus(product(h, params["W_enc"]), bias(params, is_centred))


def split(batch: Any, is_centred: bool) -> tuple[jax.Array, jax.Array, bool]:
    """Inputs, targets, and whether b_dec is taken from the inputs: never where the two differ."""
    inputs, targets = batch if isinstance(batch, Pair) else (batch, batch)
    for rows in (inputs, targets):
        if jnp.ndim(rows) != 2:
            raise ValueError(
                f"a batch holds rows of shape (n, d), but has the shape {jnp.shape(rows)}: make "
                "rows of it, `h.reshape(-1, h.shape[-1])`."
            )
    return inputs, targets, is_centred and not isinstance(batch, Pair)


# ---------------------------------------------------------------------------- encode, decode, error


def encode(
    params: Params,
    h: Any,
    codes: Callable[[jax.Array], jax.Array],
    sparse: int | None,
    largest: Callable[[jax.Array, int], Sparse] | None = None,
    shards: Shards = ALONE,
) -> Any:
    """Codes of (..., d): `codes` of rows, or the largest ones, by `largest` where it is cheaper."""
    width, own = params["W_enc"].shape
    h = jnp.asarray(h)
    if h.ndim == 0 or h.shape[-1] != width:
        raise ValueError(
            f"activations must have the shape (..., {width}), the width that params have, but have "
            f"{h.shape}."
        )
    outer, flat = h.shape[:-1], h.reshape(-1, width)
    if sparse is None:
        return codes(flat).reshape(*outer, own)
    sparse = checks.integer(sparse, "sparse, the entries kept of each example,")
    latents = own * shards.parts(shards.latents)
    if sparse > latents:
        raise ValueError(f"sparse is {sparse}, but there are {latents} latents.")
    if largest:
        found = largest(flat, sparse)
    else:
        found = _kernels.top_k(codes(flat), min(sparse, own))
    found = shards.merged(found, sparse, own)
    return jax.tree.map(lambda leaf: leaf.reshape(*outer, sparse), found)


def decode(params: Params, codes: Any, *, shards: Shards = ALONE) -> jax.Array:
    """(..., F), or `Sparse` of (..., k), to (..., d)."""
    weights, b_dec = decoder(params), wide(params["b_dec"])
    if not isinstance(codes, Sparse):
        if codes.shape[-1] != weights.shape[0]:
            raise ValueError(
                f"codes must have the shape (..., {weights.shape[0]}), the latents of params, but "
                f"have {codes.shape}."
            )
        return jnp.add(shards.sum(product(codes, weights)), _like(b_dec, codes))
    outer, k = codes.values.shape[:-1], codes.values.shape[-1]
    flat = Sparse(wide(codes.values).reshape(-1, k), codes.indices.reshape(-1, k))
    flat = shards.own(flat, weights.shape[0])
    found = _kernels.decode([flat], weights)[0]
    found = shards.sum(found).reshape(*outer, weights.shape[1])
    return jnp.add(found, _like(b_dec, found))


def _like(vector: jax.Array, array: jax.Array) -> jax.Array:
    return vector.reshape(*(1,) * (array.ndim - 1), -1)


def plus(rows: jax.Array, vector: jax.Array) -> jax.Array:
    """A vector added to each row."""
    return rows + vector[None].astype(rows.dtype)


def mean_square(error: jax.Array, shards: Shards = ALONE) -> jax.Array:
    """Squares summed over d, mean over rows."""
    return shards.mean(jnp.mean(jnp.sum(jnp.square(error), axis=-1)))


def mean_sum(values: jax.Array, shards: Shards = ALONE) -> jax.Array:
    """Values summed over latents, mean over rows."""
    return shards.mean(shards.sum(jnp.mean(jnp.sum(values, axis=-1))))


def variance(targets: jax.Array, shards: Shards = ALONE) -> jax.Array:
    """The total variance of the batch: what the mean of the batch leaves of the squared error."""
    targets = jax.lax.stop_gradient(wide(targets))
    mean = shards.mean(jnp.mean(targets, axis=0, keepdims=True))
    return mean_square(targets - mean, shards)


def error(
    params: Params, codes: jax.Array, targets: jax.Array, shards: Shards = ALONE
) -> jax.Array:
    """What dense codes leave of the targets."""
    h_hat = shards.sum(product(codes, decoder(params)))
    return wide(targets) - plus(h_hat, params["b_dec"])


def reported(
    targets: jax.Array,
    squared: jax.Array,
    penalty: jax.Array,
    codes: jax.Array,
    auxiliary: Any = 0.0,
    shards: Shards = ALONE,
) -> tuple[jax.Array, Report]:
    """The loss of dense codes, and its parts."""
    penalty, auxiliary = (jnp.asarray(part, squared.dtype) for part in (penalty, auxiliary))
    active = codes > 0
    l0 = mean_sum(active.astype(squared.dtype), shards)
    fired = shards.any_row(jnp.any(active, axis=0))
    report = Report(squared, variance(targets, shards), penalty, auxiliary, l0, fired, {})
    return squared + penalty + auxiliary, report


# ------------------------------------------------------------------------------ norm of the decoder


def _flat(params: Params) -> tuple[jax.Array, jax.Array]:
    weights = decoder(params)
    return weights, jnp.sqrt(jnp.sum(jnp.square(wide(weights)), axis=-1, keepdims=True))


def project_gradient(params: Params, gradient: Params) -> Params:
    """The gradient without what would only change the norms of decoder rows."""
    weights, norm = _flat(params)
    rows = gradient["W_dec"].reshape(weights.shape)
    unit = weights / jnp.where(norm > 0, norm, 1).astype(weights.dtype)
    rows = rows - jnp.sum(rows * unit, axis=-1, keepdims=True) * unit
    return {**gradient, "W_dec": rows.reshape(params["W_dec"].shape)}


def renormalised(params: Params) -> Params:
    """Decoder rows of norm 1; a row of zeros stays."""
    weights, norm = _flat(params)
    rows = weights / jnp.where(norm > 0, norm, 1).astype(weights.dtype)
    return {**params, "W_dec": rows.reshape(params["W_dec"].shape)}


def unit_norm(
    params: Params, previous: Params, report: Report, status: Status
) -> tuple[Params, Any]:
    """What is done after a step to keep decoder rows at norm 1."""
    del previous, report
    return renormalised(params), status.memory


# -------------------------------------------------------------------------------------------- AuxK


def auxiliary(
    error: jax.Array,
    targets: jax.Array,
    dead: Any,
    coefficient: Any,
    guess: Any,
    shards: Shards = ALONE,
) -> jax.Array:
    """The loss that dead latents get: to explain what the others leave of the targets.

        coefficient var |e - e_hat|^2 / |e - mean e|^2,    e the error, detached

    That of the paper, which divides both losses by their variances, times the variance of the
    targets. `guess` is e_hat, of the dead latents and without b_dec; None where none are told.
    """
    if guess is None:
        return jnp.zeros((), error.dtype)
    error = jax.lax.stop_gradient(error)
    of_mean = variance(error, shards)
    # Of equal rows it is what rounding leaves, of which nothing can be explained.
    least = (ROUNDING * jnp.finfo(error.dtype).eps) ** 2 * mean_square(targets, shards)
    is_told = of_mean > jax.lax.stop_gradient(least)
    ratio = mean_square(error - guess, shards) / jnp.where(is_told, of_mean, 1)
    found = coefficient * variance(targets, shards) * ratio
    return jnp.where(is_told & shards.any_latent(dead), found, 0).astype(error.dtype)


def reconstructions(
    several: Sequence[Sparse],
    pre: jax.Array | None,
    inputs: jax.Array,
    params: Params,
    bias: jax.Array,
    is_sparse: bool,
    shards: Shards = ALONE,
) -> list[jax.Array]:
    """h_hat without b_dec of entries that were found in each row, each with derivatives."""
    W_dec = decoder(params)
    if is_sparse or pre is None:
        codes = _attached(several, inputs, params["W_enc"], bias, shards)
        return [shards.sum(part) for part in _kernels.decode(codes, W_dec)]
    found = []
    for known in several:
        values = jax.nn.relu(jnp.take_along_axis(pre, known.indices, axis=1))
        values = jnp.where(jnp.isfinite(known.values), values, 0)
        own = _kernels.dense(Sparse(values, known.indices), pre.shape[1])
        found.append(shards.sum(product(own, W_dec)))
    return found


def with_derivative(
    found: Sparse,
    pre: jax.Array | None,
    h: jax.Array,
    W_enc: jax.Array,
    bias: jax.Array,
    shards: Shards = ALONE,
) -> Sparse:
    """Codes of entries that were found in each row, as functions of what they came from."""
    if pre is None:
        return _attached([found], h, W_enc, bias, shards)[0]
    values = jnp.take_along_axis(pre, found.indices, axis=1)
    return Sparse(jnp.where(found.values > 0, values, 0), found.indices)


def _attached(
    several: Sequence[Sparse], h: jax.Array, W_enc: jax.Array, bias: jax.Array, shards: Shards
) -> list[Sparse]:
    h = shards.like(h, several[0].values)
    return [_kernels.kept(own) for own in _kernels.attach(several, h, W_enc, bias)]


def auxiliary_entries(given: int | None, width: int, latents: int) -> int:
    """How many dead latents explain the error: half the width unless given."""
    return given or min(max(width // 2, 1), latents)


def dead_codes(pre: jax.Array, dead: jax.Array, k: int) -> Sparse:
    """The k largest pre-activations of dead latents; entries of the living are -inf."""
    return _kernels.top_k(jnp.where(dead[None], pre, -jnp.inf), k)


# ------------------------------------------------------------------------------------------- checks


def latents(value: Any) -> int:
    return checks.integer(value, "latents")


def entries(value: Any, name: str, latents: int) -> int:
    """A number of entries, at most that of the latents."""
    value = checks.integer(value, name)
    if value > latents:
        raise ValueError(f"{name} is {value}, but there are {latents} latents to choose from.")
    return value


def implementation(value: str, k: int, latents: int) -> bool:
    """Whether the sparse kernels are used.

    "auto" takes them on a CPU where at most one latent of twenty is kept, as docs/sae.md measured.
    """
    if value not in ("auto", "sparse", "dense"):
        raise ValueError(f'implementation must be "auto", "sparse" or "dense", but is {value!r}.')
    if value == "auto":
        return jax.default_backend() == "cpu" and 20 * k <= latents
    return value == "sparse"
