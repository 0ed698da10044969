"""Leaves of the trees that are estimated: the dtype of their sums, their samples, their shapes.

dtype of the sums = the leaf's own where it is a float of 32 bits or more, else float32
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jaxplain import checks, trees


def accumulator(leaf: Any) -> Any:
    """The dtype a leaf is accumulated in: its own, but float32 at least."""
    dtype = jnp.result_type(leaf.dtype if hasattr(leaf, "dtype") else leaf)
    if jnp.issubdtype(dtype, jnp.floating):
        return trees.wide_dtype(dtype)
    if jnp.issubdtype(dtype, jnp.integer) or dtype == jnp.bool_:
        return jnp.dtype(jnp.float32)
    raise TypeError(
        f"estimates need real numbers, but got dtype {dtype}. For complex values estimate the real "
        "and the imaginary part, e.g. `{'real': z.real, 'imag': z.imag}`; keys and other types "
        "have no mean."
    )


def widest(tree: Any) -> Any:
    """The widest dtype that a leaf is accumulated in."""
    return trees.widest(jnp.float32, *map(accumulator, jax.tree.leaves(tree)))


def map_unzip(function: Callable[..., tuple[Any, ...]], places: int, *args: Any) -> tuple[Any, ...]:
    """`jax.tree.map` of a function whose result has some places: one tree for each of them."""
    structure: Any = jax.tree.structure(args[0])
    rows = [function(*leaves) for leaves in zip(*map(jax.tree.leaves, args), strict=True)]
    return tuple(structure.unflatten([row[place] for row in rows]) for place in range(places))


def same_structure(expected: Any, got: Any, name: str) -> None:
    """Raises ValueError unless two trees have one structure."""
    wanted: Any = jax.tree.structure(expected)
    came: Any = jax.tree.structure(got)
    if wanted != came:
        raise ValueError(f"{name} must be a tree {wanted}, but is {came}.")


def sample_count(values: Any, name: str) -> int:
    """The common length of the leading axis of a tree of real arrays."""
    checks.arrays(values, name)
    shapes = [jnp.shape(leaf) for leaf in jax.tree.leaves(values)]
    if not shapes:
        raise ValueError(f"{name} must hold at least one array, but is an empty tree.")
    if () in shapes:
        raise ValueError(
            f"{name} must have a leading sample axis, but a leaf is a scalar. Give `values[None]`."
        )
    counts = sorted({shape[0] for shape in shapes})
    if len(counts) > 1:
        raise ValueError(f"the leaves of {name} have different numbers of samples: {counts}.")
    for leaf in jax.tree.leaves(values):
        accumulator(leaf)
    return int(counts[0])


def samples_of(state_mean: Any, values: Any, name: str = "values") -> int:
    """The number of samples, checked to be of the state's tree, shapes and dtypes."""
    same_structure(state_mean, values, name)
    for expected, got in zip(jax.tree.leaves(state_mean), jax.tree.leaves(values), strict=True):
        if jnp.ndim(got) == 0 or jnp.shape(got)[1:] != expected.shape:
            shape = ", ".join(("c", *map(str, expected.shape)))
            raise ValueError(
                f"{name} must have a leading sample axis: shape ({shape}) was expected, but got "
                f"{jnp.shape(got)}. Give one sample as `values[None]`."
            )
        if accumulator(got) != expected.dtype:
            raise TypeError(
                f"{name} of dtype {got.dtype} accumulate in {accumulator(got)}, but the state was "
                f"made for {expected.dtype}. Make the state with `init_*` from a value of the same "
                "dtype."
            )
    return sample_count(values, name) if jax.tree.leaves(values) else 0


def share(part: Any, whole: Any) -> Any:
    """The quotient part / whole, and 0 where whole is 0."""
    empty = whole == 0
    quotient = part / jnp.where(empty, jnp.ones_like(whole), whole)
    return jnp.where(empty, jnp.zeros_like(whole), quotient)
