"""The factors of a tree of distributions as one vector, and how they are grouped.

u in (0, 1)^d  ->  x = F^-1(u) in R^d  ->  a tree like the inputs
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxplain import trees
from jaxplain.sobol._distributions import Distribution


class Factors(NamedTuple):
    """A tree of distributions, laid out as one vector.

    Attributes:
        leaves: the distributions in the order of the tree.
        structure: the tree.
        groups: shape (d,), the group of each factor, 0 to G - 1, on the host.
        is_grouped: False where each factor is its own group.
    """

    leaves: tuple[Distribution, ...]
    structure: Any
    groups: np.ndarray
    is_grouped: bool

    @property
    def dimensions(self) -> int:
        """How many factors there are, d."""
        return len(self.groups)

    @property
    def group_count(self) -> int:
        """How many groups there are, G."""
        return int(self.groups.max()) + 1

    @property
    def sizes(self) -> list[int]:
        """How many factors each leaf holds."""
        return [int(np.prod(leaf.shape)) for leaf in self.leaves]

    def values(self, u: jax.Array) -> jax.Array:
        """From shape (rows, d) of uniform numbers to (rows, d) of factors, in one wide dtype."""
        dtype = trees.widest(jnp.float32, *(leaf.dtype for leaf in self.leaves))
        parts, start = [], 0
        for leaf, size in zip(self.leaves, self.sizes, strict=True):
            own = u[:, start : start + size].reshape(len(u), *leaf.shape)
            x = jax.vmap(leaf.inverse_cdf)(own)
            parts.append(x.astype(dtype).reshape(len(u), size))
            start += size
        return jnp.concatenate(parts, axis=1)

    def tree(self, flat: jax.Array) -> Any:
        """From shape (d,) to a tree like the inputs."""
        parts, start = [], 0
        for leaf, size in zip(self.leaves, self.sizes, strict=True):
            own = flat[start : start + size].reshape(leaf.shape).astype(leaf.dtype)
            parts.append(own)
            start += size
        return jax.tree.unflatten(self.structure, parts)

    def like_inputs(self, array: jax.Array, axis: int = -1) -> Any:
        """An axis over groups as a tree like the inputs; as it is where factors are grouped."""
        if self.is_grouped:
            return array
        axis = axis % array.ndim
        parts, start = [], 0
        for leaf, size in zip(self.leaves, self.sizes, strict=True):
            own = jax.lax.slice_in_dim(array, start, start + size, axis=axis)
            parts.append(own.reshape(array.shape[:axis] + leaf.shape + array.shape[axis + 1 :]))
            start += size
        return jax.tree.unflatten(self.structure, parts)


def factors(inputs: Any, groups: Any = None) -> Factors:
    """The layout of a tree of distributions, checked."""
    is_leaf = lambda node: isinstance(node, Distribution)
    leaves, structure = jax.tree.flatten(inputs, is_leaf=is_leaf)
    for path, leaf in jax.tree_util.tree_flatten_with_path(inputs, is_leaf=is_leaf)[0]:
        if not isinstance(leaf, Distribution):
            raise TypeError(
                "inputs must be a tree of distributions (`jaxplain.sobol.uniform(low, high)`, "
                "`normal`, `inverse_cdf`), but "
                f"inputs{jax.tree_util.keystr(path)} is a {type(leaf).__name__}."
            )
    count = sum(int(np.prod(leaf.shape)) for leaf in leaves)
    if count == 0:
        raise ValueError("inputs must hold at least one factor, but have none.")
    if groups is None:
        return Factors(tuple(leaves), structure, np.arange(count), False)
    return Factors(tuple(leaves), structure, _grouped(groups, leaves, structure), True)


def _grouped(groups: Any, leaves: list[Distribution], structure: Any) -> np.ndarray:
    given, given_structure = jax.tree.flatten(groups)
    if given_structure != structure:
        raise ValueError(
            "groups must be the same tree as inputs, with an integer (or an array of them) for "
            f"each leaf, but is {given_structure} where inputs are {structure}."
        )
    parts = []
    for number, leaf in zip(given, leaves, strict=True):
        array = np.asarray(number)
        if array.dtype.kind not in "iu":
            raise TypeError(f"groups must be integers, but one has dtype {array.dtype}.")
        try:
            parts.append(np.broadcast_to(array, leaf.shape).ravel())
        except ValueError:
            raise ValueError(
                f"groups of a leaf of shape {leaf.shape} must broadcast to it, but have shape "
                f"{array.shape}."
            ) from None
    flat = np.concatenate(parts).astype(np.int64)
    present = np.unique(flat)
    if present[0] != 0 or present[-1] != len(present) - 1:
        raise ValueError(
            "groups must be numbered 0, 1, ... without a gap, but the numbers are "
            f"{present.tolist() if len(present) < 20 else f'{len(present)} different ones'}."
        )
    return flat
