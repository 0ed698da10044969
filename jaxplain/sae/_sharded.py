"""A dictionary over the devices of a mesh: rows of a batch along one axis, latents along another.

W_enc (d, F)   split by columns           W_dec (F, d)   split by rows, as b_enc and what else has F
batch (n, d)   split by rows              b_dec (d,)     on every device

The functions are those of the dictionary, inside a `shard_map`. What they exchange is in `_shards`.
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from jaxplain.sae import _shards
from jaxplain.sae._dictionary import (
    UNTOLD,
    Dictionary,
    Params,
    Report,
    Sparse,
    Status,
    latent_axis,
    of_its_own,
)
from jaxplain.sae._shards import Shards


def sharded(
    dictionary: Dictionary,
    mesh: jax.sharding.Mesh,
    *,
    rows: str | Sequence[str] | None = None,
    latents: str | Sequence[str] | None = None,
) -> Dictionary:
    """The same dictionary over many devices: parameters, codes and batches are split.

        h_hat = sum over devices of codes_own W_dec_own + b_dec

    Train it as any other: its losses and parameters are those of one device, to rounding. `init`
    makes each part of the parameters where it belongs, and the state of an optimiser that is made
    of them (`jaxplain.sae.training`) is split as they are. What a step exchanges is in docs/sae.md:
    of the pre-activations of TopK the candidates alone, of BatchTopK counts.

    Args:
        dictionary: `jaxplain.sae.topk(...)` or another.
        mesh: the devices, of one host or of several (`jax.distributed`). Its axes are all Auto, or
            all Explicit, on which training steps, `encode` and `decode` run, but not what picks
            rows or latents by number: resampling, sweeps, probing and absorption.
        rows: the axis of the mesh, or several, over which the rows of a batch are split: data
            parallel. Each device has all rows unless given.
        latents: the axis, or several, over which latents are split: the encoder by its columns, the
            decoder by its rows. Each device has all latents unless given.

    Returns:
        `jaxplain.sae.Dictionary`, whose codes of (n, d) are split by rows and latents, and its
        `Sparse` codes by rows.

    Raises:
        TypeError: `dictionary` or `mesh` is none.
        ValueError: the mesh has no such axis, axes of both types, or none is named; the latents, or
            the rows of a batch, are no multiple of the devices along their axis.

    Example:
        >>> import jax, optax
        >>> from jaxplain import sae
        >>> auto = (jax.sharding.AxisType.Auto,) * 2
        >>> mesh = jax.make_mesh((1, 1), ("data", "latents"), auto, devices=jax.devices()[:1])
        >>> dictionary = sae.sharded(sae.topk(32, 4), mesh, rows="data", latents="latents")
        >>> h = jax.random.normal(jax.random.key(0), (256, 8))
        >>> training = sae.training(dictionary, optax.adam(1e-2))
        >>> state = training.init(dictionary.init(jax.random.key(1), h))
        >>> [leaf["W_dec"].sharding.spec[0] for leaf in (state.params, state.optimizer[0].mu)]
        ['latents', 'latents']
        >>> state, metrics = jax.jit(training.step, donate_argnums=0)(state, h)

    References:
        As the training of 16 million latents in Gao et al., "Scaling and evaluating sparse
        autoencoders", ICLR 2025, section 2 and appendix, whose top-k over parts this is.
    """
    dictionary = of_its_own(dictionary, "sharded")
    if not isinstance(mesh, jax.sharding.Mesh):
        raise TypeError(f"mesh must be a jax.sharding.Mesh, but is {mesh!r}.")
    kinds = set(mesh.axis_types)
    if jax.sharding.AxisType.Explicit in kinds and len(kinds) > 1:
        raise ValueError(f"the axes of the mesh must be of one type, but are {mesh.axis_types}.")
    shards = Shards(_axes(mesh, rows, "rows"), _axes(mesh, latents, "latents"))
    if not shards.rows and not shards.latents:
        raise ValueError(f"name rows= or latents=, of the axes {mesh.axis_names} of the mesh.")
    named = shards.rows + shards.latents
    if len(set(named)) < len(named):
        raise ValueError(
            f"an axis can split one thing once, but rows={rows!r}, latents={latents!r}."
        )
    by_rows, by_latents = jax.P(shards.rows or None), jax.P(shards.latents or None)
    row_parts, parts = (
        math.prod(mesh.shape[axis] for axis in axes) for axes in (shards.rows, shards.latents)
    )
    if dictionary.latents % parts:
        raise ValueError(
            f"{dictionary.latents} latents are no multiple of the {parts} devices along "
            f"{latents!r}."
        )
    inner = 2 if dictionary.about.get("is_crosscoder") else 1  # axes of one example

    def specs(params: Params) -> dict[str, jax.P]:
        if len(params["W_dec"]) != dictionary.latents:
            raise ValueError(
                f"params have {len(params['W_dec'])} latents, but the dictionary has "
                f"{dictionary.latents}."
            )

        def spec(name: str, leaf: Any) -> jax.P:
            axis = latent_axis(name, leaf, dictionary.latents)
            return jax.P() if axis is None else jax.P(*[None] * axis, *by_latents)

        return {name: spec(name, leaf) for name, leaf in params.items()}

    def apply(
        function: Callable[..., Any], shards: Shards, params: Params, arrays: Any, of: Any, out: Any
    ) -> Any:
        """`function(params, *arrays, shards=)` of the parts; `of` are specs of arrays."""

        def own(params: Params, *arrays: Any) -> Any:
            params = shards.spread(params, dictionary.latents // parts)
            return function(params, *arrays, shards=shards)

        of = specs(params), *of
        arrays = _put(mesh, (params, *arrays), of)
        return jax.shard_map(own, mesh=mesh, in_specs=of, out_specs=out)(*arrays)

    def by_example(array: Any, axes: int) -> tuple[Shards, jax.P, jax.P]:
        """Rows are split where they can be, since no code depends on another row.

        With them the specs of what has the outer axes of this array, and of codes.
        """
        outer = array.ndim - axes
        if outer and array.shape[0] and array.shape[0] % row_parts == 0:
            return shards, by_rows, jax.P(*by_rows, *[None] * (outer - 1), *by_latents)
        alone = dataclasses.replace(shards, rows=())
        return alone, jax.P(), jax.P(*[None] * outer, *by_latents)

    def place(batch: Any) -> Any:
        for shape in map(jnp.shape, jax.tree.leaves(batch)):
            if len(shape) < 2:
                raise ValueError(f"a batch holds rows of shape (n, d), but has the shape {shape}.")
            if shape[0] % row_parts:
                raise ValueError(
                    f"a batch of {shape[0]} rows is no multiple of the {row_parts} devices along "
                    f"{rows!r}."
                )
        return _put(mesh, batch, by_rows)

    def init(key: jax.Array, sample: Any) -> Params:
        sample = _put(mesh, sample, jax.P())
        found = jax.eval_shape(dictionary.init, key, sample)
        where = jax.tree.map(lambda spec: jax.NamedSharding(mesh, spec), specs(found))
        return jax.jit(dictionary.init, out_shardings=where)(key, sample)

    def encode(params: Params, h: Any, sparse: int | None = None) -> Any:
        h = jnp.asarray(h)
        own, of_rows, of_codes = by_example(h, inner)
        function = functools.partial(dictionary.encode, sparse=sparse)
        out = of_codes if sparse is None else of_rows
        return apply(function, own, params, (h,), (of_rows,), out)

    def decode(params: Params, codes: Any, *inputs: Any) -> jax.Array:
        is_sparse = isinstance(codes, Sparse)
        own, of_rows, of_codes = by_example(codes.values if is_sparse else codes, 1)
        of = of_rows if is_sparse else of_codes, *[of_rows for _ in inputs]
        return apply(dictionary.decode, own, params, (codes, *inputs), of, of_rows)

    def loss(params: Params, batch: Any, status: Status = UNTOLD) -> tuple[jax.Array, Report]:
        def own(
            params: Params, batch: Any, dead: Any, told: Status, *, shards: Shards
        ) -> tuple[jax.Array, Report]:
            return dictionary.loss(params, batch, told._replace(dead=dead), shards=shards)

        every = jax.P()
        arrays = place(batch), status.dead, status._replace(dead=None)
        of_report: Any = dict.fromkeys(Report._fields, every) | {"fired": by_latents}
        out = every, Report(**of_report)
        return apply(own, shards, params, arrays, (by_rows, by_latents, every), out)

    def after(
        params: Params, previous: Params, report: Report, status: Status
    ) -> tuple[Params, Any]:
        params, memory = dictionary.after(params, previous, report, status)
        return _put(mesh, params, specs(params)), memory

    return dictionary._replace(
        init=init,
        encode=encode,
        decode=decode,
        loss=loss,
        after=after,
        place=place,
        about={
            **dictionary.about,
            "is_sharded": True,
            "mesh": f"{dict(mesh.shape)}, rows over {shards.rows}, latents over {shards.latents}",
        },
    )


def _axes(mesh: jax.sharding.Mesh, names: Any, what: str) -> tuple[str, ...]:
    if not (names is None or isinstance(names, str | list | tuple)):
        raise TypeError(f"{what} must be the name of an axis, or several, but is {names!r}.")
    found = () if names is None else (names,) if isinstance(names, str) else tuple(names)
    for name in found:
        if name not in mesh.axis_names:
            raise ValueError(f"{what} names the axis {name!r}, but the mesh has {mesh.axis_names}.")
    return found


def _put(mesh: jax.sharding.Mesh, tree: Any, specs: Any) -> Any:
    """Each array where its spec, or that of the branch it is on, has it."""
    is_explicit = jax.sharding.AxisType.Explicit in mesh.axis_types

    def put(leaf: Any, spec: jax.P) -> Any:
        where = jax.NamedSharding(mesh, spec)
        if not hasattr(leaf, "shape"):
            return leaf
        if isinstance(leaf, jax.core.Tracer):
            move = jax.sharding.reshard if is_explicit else jax.lax.with_sharding_constraint
            return move(leaf, where)
        return _shards.placed(leaf, where)

    branch = lambda spec, part: jax.tree.map(lambda leaf: put(leaf, spec), part)
    return jax.tree.map(branch, specs, tree, is_leaf=lambda node: isinstance(node, jax.P))
