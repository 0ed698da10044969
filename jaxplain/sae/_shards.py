"""One part of a dictionary among others: what its sums and its choice of latents ask of the rest.

h_hat  = sum over parts of codes_own W_dec_own                    (rows, d) numbers are exchanged
top k  = the k largest of all parts' k largest                    (rows, parts k) numbers are
loss   = mean over parts of the loss of their rows                one number is

Inside a `shard_map`, where rows of a batch are split over some axes of a mesh and latents over
others. Alone, which is the default everywhere, each function is what it is without devices.
"""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxplain import trees
from jaxplain.sae import _kernels
from jaxplain.sae._dictionary import Params, Sparse, latent_axis


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class Shards:
    """The axes of a mesh over which rows and latents are split.

    Attributes:
        rows: names of axes; () where every device has all rows.
        latents: names of axes; () where every device has all latents.
    """

    rows: tuple[str, ...] = ()
    latents: tuple[str, ...] = ()

    def mean(self, value: jax.Array) -> jax.Array:
        """The mean over rows of what is one number, or vector, for the rows of each part."""
        return jax.lax.pmean(value, self.rows) if self.rows else value

    def sum(self, value: jax.Array) -> jax.Array:
        """The sum over latents of what those of each part give."""
        return jax.lax.psum(value, self.latents) if self.latents else value

    def total(self, value: jax.Array) -> jax.Array:
        """The sum over rows and latents."""
        axes = self.rows + self.latents
        return jax.lax.psum(value, axes) if axes else value

    def least(self, value: jax.Array) -> jax.Array:
        """The least over rows and latents."""
        axes = self.rows + self.latents
        return jax.lax.pmin(value, axes) if axes else value

    def any_row(self, flags: jax.Array) -> jax.Array:
        """Whether a flag is set for the rows of any part."""
        if not self.rows:
            return flags
        return jax.lax.psum(flags.astype(jnp.int32), self.rows) > 0

    def any_latent(self, flags: jax.Array) -> jax.Array:
        """Whether any flag of any latent is set."""
        return self.sum(jnp.any(flags).astype(jnp.int32)) > 0

    def parts(self, axes: tuple[str, ...]) -> int:
        """How many parts there are."""
        return math.prod(jax.lax.axis_size(axis) for axis in axes)

    def first(self, latents: int) -> Any:
        """The number, among all, of the first latent of this part, which has so many."""
        return latents * jax.lax.axis_index(self.latents) if self.latents else 0

    def chosen(self, found: Sparse, counts: Sequence[int]) -> list[Sparse]:
        """Of this part's largest, in order, those among the `count` largest of all; others -inf.

        Where entries are equal the lower latent is taken, as `top_k` does.
        """
        if not self.latents:
            return [
                jax.tree.map(lambda leaf, count=count: leaf[:, :count], found) for count in counts
            ]
        known = jax.lax.stop_gradient(found.values)
        offered = jax.lax.all_gather(known, self.latents, axis=1, tiled=True)
        best = _kernels.top_k(offered, min(max(counts), offered.shape[1]))
        place = self.first(known.shape[1]) + jnp.arange(known.shape[1], dtype=jnp.int32)[None]
        several = []
        for count in counts:
            edge = slice(count - 1, count)
            least, last = best.values[:, edge], best.indices[:, edge]
            # Not `known >= least`: of numbers that are none, none would be taken.
            is_chosen = ~(known < least) & ((known != least) | (place <= last))
            several.append(Sparse(jnp.where(is_chosen, known, -jnp.inf), found.indices))
        return several

    def merged(self, found: Sparse, count: int, latents: int) -> Sparse:
        """The `count` largest of all parts of so many latents, numbered among all, everywhere."""
        if not self.latents:
            return found
        found = found._replace(indices=found.indices + self.first(latents))
        values, indices = (
            jax.lax.all_gather(leaf, self.latents, axis=1, tiled=True, to="invarying")
            for leaf in found
        )
        best = _kernels.top_k(values, count)
        return Sparse(best.values, jnp.take_along_axis(indices, best.indices, axis=1))

    def own(self, codes: Sparse, latents: int) -> Sparse:
        """The entries of this part, which has so many latents, of entries among all; others 0."""
        if not self.latents:
            return codes
        place = codes.indices - self.first(latents)
        is_own = (place >= 0) & (place < latents)
        return Sparse(jnp.where(is_own, codes.values, 0), jnp.where(is_own, place, 0))

    def spread(self, params: Params, latents: int) -> Params:
        """Parameters of so many latents that vary over rows too, as what is computed of them does.

        Their derivatives are then added over rows once, at the end.
        """
        if not self.rows:
            return params
        is_split = {
            name: latent_axis(name, leaf, latents) is not None for name, leaf in params.items()
        }
        vary = lambda leaf: jax.lax.pcast(leaf, self.rows, to="varying")
        return {name: vary(leaf) if is_split[name] else leaf for name, leaf in params.items()}

    def like(self, tree: Any, other: jax.Array) -> Any:
        """Each leaf as varying over devices as `other` is: what custom derivatives ask for."""
        if self is ALONE:
            return tree
        return jax.tree.map(lambda leaf: trees.place_like(leaf, other), tree)


ALONE = Shards()


def placed(leaf: Any, where: jax.sharding.Sharding) -> jax.Array:
    """An array on the devices of a mesh, which may be of several hosts."""
    if where.is_fully_addressable or not getattr(leaf, "is_fully_addressable", True):
        return jax.device_put(leaf, where)
    # Each host has all of it and takes its own part.
    whole = np.asarray(leaf)
    return jax.make_array_from_callback(whole.shape, where, lambda part: whole[part])
