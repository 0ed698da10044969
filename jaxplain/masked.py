"""A model on masked examples: what the methods share that draw masks and look at the outputs.

    y = f(x'),    x' = perturbed(expand(cells, x))

A kernel draws the cells, evaluates `outputs` on them inside a loop and makes numbers for the cells
of them, which `spread` lays out over x. (Not public; `jaxplain.masks` is.)
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp

from jaxplain import checks, masks, trees

__all__ = ["Example", "explanation"]

Result = TypeVar("Result")


class Example(NamedTuple):
    """One example, ready to be masked, inside a program.

    Attributes:
        x: what is explained, a tree of arrays.
        baseline: a tree like it.
        parts: its masks.
        perturbed: `mask -> x'`.
        f: `x' -> output`, with the other arguments in place.
        output: f(x), of any shape.
        baseline_output: f where all cells are 0.
    """

    x: Any
    baseline: Any
    parts: masks.Masks
    perturbed: Callable[[Any], Any]
    f: Callable[[Any], jax.Array]
    output: jax.Array
    baseline_output: jax.Array

    @property
    def cells(self) -> tuple[int, ...]:
        """The shape of the cells."""
        return tuple(self.parts.shape(self.x))

    @property
    def dimensions(self) -> int:
        """How many cells there are."""
        return math.prod(self.cells)

    def outputs(self, cells: jax.Array) -> jax.Array:
        """The outputs with x masked, as one wide vector; `cells` may be flat."""
        return self.outputs_of_mask(self.parts.expand(cells.reshape(self.cells), self.x))

    def outputs_of_mask(self, mask: Any) -> jax.Array:
        """The outputs with x masked, as one wide vector."""
        return flat(self.f(self.perturbed(mask)))

    def like_cells(self, array: jax.Array) -> jax.Array:
        """From (outputs, cells) to the shapes of both."""
        return array.reshape(*self.output.shape, *self.cells)

    def spread(self, cells: jax.Array, *, as_x: bool = True) -> Any:
        """A number for each output and cell, (outputs, cells), at each element of x."""
        expand = lambda one: self.parts.expand(one.reshape(self.cells), self.x)
        return self.like_x(jax.vmap(expand)(cells), as_x=as_x)

    def like_x(self, tree: Any, *, as_x: bool = True) -> Any:
        """Leaves (outputs, *mask) broadcast to (*output, *x), in the dtypes of x or their own."""

        def one(leaf: jax.Array, other: jax.Array) -> jax.Array:
            whole = jnp.broadcast_to(leaf, (leaf.shape[0], *other.shape))
            whole = whole.reshape(*self.output.shape, *other.shape)
            if as_x and jnp.issubdtype(other.dtype, jnp.floating):
                whole = whole.astype(other.dtype)
            return whole if self.output.shape else trees.place_like(whole, other)

        return jax.tree.map(one, tree, self.x)


def flat(output: jax.Array) -> jax.Array:
    """An output of any shape as one wide vector."""
    return output.astype(trees.wide_dtype(output.dtype)).reshape(-1)


def explanation(
    f: Callable[..., Any],
    parts: Any,
    perturbation: Any,
    kernel: Callable[[jax.Array, Example], Result],
) -> Callable[..., Result]:
    """`explain(key, x, baseline, *args)`: checked, placed on the mesh, and jitted."""
    checks.function(f, "f")
    checks.function(perturbation, "perturbation")
    if not isinstance(parts, masks.Masks):
        raise TypeError(
            "masks must be a Masks, such as `jaxplain.masks.grid(7, 7)`, but is a "
            f"{type(parts).__name__}."
        )

    @jax.jit
    def program(key: Any, x: Any, baseline: Any, *args: Any) -> Result:
        x = trees.place_like(x, jax.eval_shape(trees.subtract, x, baseline))
        prepared = perturbation(x, trees.place_like(baseline, x))

        def perturbed(mask: Any) -> Any:
            return checks.like(prepared(mask), x, "what the perturbation makes")

        one = lambda x: _output(f(x, *args))
        cells = parts.shape(x)
        nothing = perturbed(parts.expand(jnp.zeros(cells), x))
        ends = jax.vmap(one)(jax.tree.map(lambda *leaves: jnp.stack(leaves), x, nothing))
        return kernel(key, Example(x, baseline, parts, perturbed, one, ends[0], ends[1]))

    def explain(key: Any, x: Any, baseline: Any, *args: Any) -> Result:
        checks.key(key)
        x = checks.explained(x, is_differentiated=False)
        baseline = checks.like(baseline, x, "baseline")
        checks.arrays(args, "each argument after the baseline")
        return program(key, x, baseline, *args)

    return explain


def _output(output: Any) -> jax.Array:
    if not jax.tree_util.all_leaves([output]) or output is None:
        raise TypeError(
            f"f must return one array, a score or a vector of them, but returned a "
            f"{type(output).__name__}. Stack several: `jnp.stack([...])`."
        )
    checks.arrays(output, "what f returns")
    output = jnp.asarray(output)
    if not jnp.issubdtype(output.dtype, jnp.floating):
        raise TypeError(
            f"f must return a float array, but returned dtype {output.dtype}. Return the score or "
            "the probability of a class, not its number."
        )
    return output
