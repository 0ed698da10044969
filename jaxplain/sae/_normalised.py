"""Normalised activations: a dictionary learns and speaks of them in other units.

h' = s (h - m),    s such that the root mean square norm of h' is given,    m their mean, or 0
folded:  b / s and threshold / s,    b_dec / s + m                in the units of h, with the codes
"""

from typing import Any

import jax
import jax.numpy as jnp

from jaxplain import checks
from jaxplain.sae import _ground, _initial
from jaxplain.sae._dictionary import (
    UNTOLD,
    Dictionary,
    Pair,
    Params,
    Report,
    Status,
    of_its_own,
)
from jaxplain.sae._shards import ALONE, Shards
from jaxplain.sae._transcoder import pair

OWN = ("scale", "centre", "scale_out", "centre_out")
# Parameters in the units of pre-activations, which are those of what is encoded.
BIASES = ("b_enc", "b_gate", "b_mag", "threshold")


def normalised(dictionary: Dictionary, *, norm: Any = None, has_centre: bool = False) -> Dictionary:
    """The same dictionary of activations that are scaled, and centred where asked.

        h' = s (h - m),    s = norm / sqrt(mean |h - m|^2)

    Coefficients, learning rates and bandwidths then mean the same for activations of any size. s
    and m are estimated from the sample that `init` is given, are kept with the parameters, and stay
    as they are. Whoever calls `encode` and `decode` gives and gets activations in their own units;
    codes, losses and `squared_error` are in those of h'. `jaxplain.sae.folded` takes s and m into
    the other parameters, as files of other libraries need, for which `jaxplain.sae.formats` does.

    Args:
        dictionary: `jaxplain.sae.topk(...)` or another. Of a transcoder inputs and targets have
            their own s and m, of a crosscoder each of its values.
        norm: the root mean square norm of h'; sqrt(d) unless given. 1 is what the bandwidths and
            coefficients of the JumpReLU paper are for.
        has_centre: whether the mean is taken from h. A dictionary that takes b_dec from what it
            encodes, as all but `jumprelu` do, starts from their median anyway.

    Returns:
        `jaxplain.sae.Dictionary`, whose parameters are those of `dictionary` and `scale` and
        `centre`.

    Raises:
        TypeError: `dictionary` is none.
        ValueError: `norm` is not positive; the dictionary is normalised or sharded already.

    Example:
        >>> import jax
        >>> from jaxplain import sae
        >>> inner = sae.topk(latents=32, k=4)
        >>> dictionary = sae.normalised(inner, norm=1.0)
        >>> h = 300 * jax.random.normal(jax.random.key(0), (100, 8))
        >>> params = dictionary.init(jax.random.key(1), h)
        >>> round(float(300 * 8**0.5 * params["scale"]), 1)
        1.0
        >>> raw = sae.folded(dictionary, params)
        >>> there = dictionary.decode(params, dictionary.encode(params, h))
        >>> bool(abs(there - inner.decode(raw, inner.encode(raw, h))).max() < 0.01)
        True

    References:
        E|h| = sqrt(d): Conerly et al., "Update on how we train SAEs", 2024,
        https://transformer-circuits.pub/2024/april-update; E|h|^2 = 1: Rajamanoharan et al.,
        "Jumping Ahead", 2024, https://arxiv.org/abs/2407.14435
    """
    dictionary = of_its_own(dictionary, "normalised")
    if norm is not None:
        checks.number(norm, "norm", above=0)
    about = dictionary.about
    is_pair, is_crosscoder = bool(about.get("is_transcoder")), bool(about.get("is_crosscoder"))

    def measured(rows: Any) -> tuple[jax.Array, jax.Array]:
        """Scale and centre of activations (..., d); of (..., M, d) of each of M values."""
        inner = jnp.shape(rows)[-2:] if is_crosscoder else jnp.shape(rows)[-1:]
        rows = _ground.wide(_initial.rows(rows)).reshape(-1, *inner)
        centre = jnp.mean(rows, axis=0) if has_centre else jnp.zeros(inner, rows.dtype)
        squares = jnp.sum(jnp.square(rows - centre[None]), axis=-1, keepdims=is_crosscoder)
        size = jnp.sqrt(jnp.mean(squares, axis=0))
        # Of equal activations the centre leaves what is rounded, whose size means nothing.
        whole = jnp.linalg.norm(centre, axis=-1, keepdims=is_crosscoder)
        is_told = size > _ground.ROUNDING * jnp.finfo(rows.dtype).eps * whole
        wanted = inner[-1] ** 0.5 if norm is None else norm
        return jnp.where(is_told, wanted / jnp.where(is_told, size, 1), 1).astype(
            rows.dtype
        ), centre

    def batch_of(params: Params, batch: Any) -> Any:
        if not is_pair:
            return _scaled(batch, params["scale"], params["centre"])
        inputs, targets = pair(batch)
        return Pair(
            _scaled(inputs, params["scale"], params["centre"]),
            _scaled(targets, params["scale_out"], params["centre_out"]),
        )

    def init(key: jax.Array, sample: Any) -> Params:
        inputs, targets = pair(sample) if is_pair else (sample, None)
        found = dict(zip(OWN, measured(inputs), strict=False))
        if is_pair:
            found |= dict(zip(OWN[2:], measured(targets), strict=True))
        return {**dictionary.init(key, batch_of(found, sample)), **found}

    def encode(params: Params, h: Any, sparse: int | None = None, *, shards: Shards = ALONE) -> Any:
        h = _scaled(jnp.asarray(h), params["scale"], params["centre"])
        return dictionary.encode(_others(params), h, sparse, shards=shards)

    def decode(params: Params, codes: Any, *inputs: Any, shards: Shards = ALONE) -> jax.Array:
        inputs = tuple(_scaled(h, params["scale"], params["centre"]) for h in inputs)
        h_hat = dictionary.decode(_others(params), codes, *inputs, shards=shards)
        scale, centre = (params[f"{name}_out" if is_pair else name] for name in ("scale", "centre"))
        return h_hat / _aligned(scale, h_hat) + _aligned(centre, h_hat)

    def loss(
        params: Params, batch: Any, status: Status = UNTOLD, *, shards: Shards = ALONE
    ) -> tuple[jax.Array, Report]:
        batch = batch_of(jax.lax.stop_gradient(params), batch)
        return dictionary.loss(_others(params), batch, status, shards=shards)

    def before(params: Params, gradient: Params) -> Params:
        return {**gradient, **dictionary.before(_others(params), _others(gradient))}

    def after(
        params: Params, previous: Params, report: Report, status: Status
    ) -> tuple[Params, Any]:
        new, memory = dictionary.after(_others(params), _others(previous), report, status)
        return {**new, **_own(previous)}, memory

    return dictionary._replace(
        init=init,
        encode=encode,
        decode=decode,
        loss=loss,
        before=before,
        after=after,
        memory=lambda params: dictionary.memory(_others(params)),
        about={**about, "is_normalised": True},
    )


def folded(dictionary: Dictionary, params: Params) -> Params:
    """The parameters of the dictionary that was normalised, for activations as they are.

        (h - m) s W + b = s ((h - m) W + b / s):    biases and thresholds / s,  b_dec / s + m

    Decoder rows keep their norms, and codes are then in the units of h. (Of a crosscoder, whose
    values have an s each, W_enc is multiplied and W_dec divided by them, and codes stay.)

    Args:
        dictionary: of `jaxplain.sae.normalised`.
        params: its parameters.

    Returns:
        A dict of arrays without `scale` and `centre`.

    Raises:
        ValueError: the dictionary is not normalised.

    Example:
        >>> import jax
        >>> from jaxplain import sae
        >>> dictionary = sae.normalised(sae.topk(latents=32, k=4))
        >>> params = dictionary.init(
        ...     jax.random.key(0), jax.random.normal(jax.random.key(1), (9, 8))
        ... )
        >>> sorted(sae.folded(dictionary, params))
        ['W_dec', 'W_enc', 'b_dec', 'b_enc']

    References:
        As `fold_activation_norm_scaling_factor` of SAELens, which scales W_enc and W_dec:
        https://github.com/decoderesearch/SAELens
    """
    about = dictionary.about
    if not about.get("is_normalised"):
        raise ValueError("the dictionary is not of jaxplain.sae.normalised: nothing is to fold.")
    scale, centre = params["scale"], params["centre"]
    is_pair = about.get("is_transcoder")
    scale_out, centre_out = (
        (params[f"{name}_out"] for name in OWN[:2]) if is_pair else (scale, centre)
    )
    found = _others(params)
    if about.get("is_crosscoder"):
        found |= {"W_enc": found["W_enc"] * scale[..., None], "W_dec": found["W_dec"] / scale[None]}
    else:
        found |= {name: found[name] / scale for name in BIASES if name in found}
        found["W_dec"] = found["W_dec"] * (scale / scale_out)
    found["b_dec"] = found["b_dec"] / scale_out + centre_out
    if "W_skip" in found:
        found["W_skip"] = found["W_skip"] * (scale / scale_out)
        found["b_dec"] = found["b_dec"] - found["W_skip"] @ centre
    if is_pair or not about["is_centred"]:  # then b_dec does not take the centre from h
        W_enc = found["W_enc"].reshape(-1, found["W_enc"].shape[-1])
        of_centre = centre.reshape(-1) @ W_enc
        found |= {name: found[name] - of_centre for name in ("b_enc", "b_gate") if name in found}
        if "b_mag" in found:
            found["b_mag"] = found["b_mag"] - jnp.exp(found["r_mag"]) * of_centre
    return found


def _own(params: Params) -> Params:
    return {name: leaf for name, leaf in params.items() if name in OWN}


def _others(params: Params) -> Params:
    return {name: leaf for name, leaf in params.items() if name not in OWN}


def _aligned(leaf: jax.Array, array: Any) -> jax.Array:
    return leaf.reshape(*(1,) * (jnp.ndim(array) - leaf.ndim), *leaf.shape)


def _scaled(h: Any, scale: jax.Array, centre: jax.Array) -> jax.Array:
    h = _ground.wide(jnp.asarray(h))
    if h.shape[-1] != centre.shape[-1]:
        raise ValueError(
            f"activations must have the shape (..., {centre.shape[-1]}), the width that params "
            f"have, but have {h.shape}."
        )
    found: jax.Array = (h - _aligned(centre, h)) * _aligned(scale, h)
    return found
