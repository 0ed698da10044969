"""The design of a sensitivity analysis: which points each row holds, made block by block.

A, B (and C): independent rows of factors, from one sampler of 2 d (3 d) dimensions
A_B^i = A with group i from B        B_A^i = B with group i from A        A_C^i likewise
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxplain import trees
from jaxplain.evaluate import evaluate, stack
from jaxplain.sobol._factors import Factors
from jaxplain.sobol._statistics import Layout
from jaxplain.sobol.estimators import Formula

# Where chunk_size is left open: points that stay in the caches, of 16 MiB at most, and as much for
# the outputs of a block of rows.
EVALUATIONS_IN_FLIGHT = 2**11
NUMBERS_IN_FLIGHT = 2**22


class Design(NamedTuple):
    """Which evaluations a row holds, and how many are made at once.

    Attributes:
        factors: the layout of the inputs.
        layout: which evaluations there are.
        rows: rows of a block, a power of two.
        columns: groups evaluated at once.
    """

    factors: Factors
    layout: Layout
    rows: int
    columns: int

    @property
    def dimensions(self) -> int:
        """How many uniform numbers a row takes."""
        return self.factors.dimensions * (3 if "ac" in self.layout.needs else 2)

    def outputs(self, f: Callable[[jax.Array], jax.Array], u: jax.Array) -> jax.Array:
        """The outputs of a block of rows, (evaluations, outputs, rows), as `Layout` says."""
        return outputs(self, f, u)


def design(
    factors: Factors,
    formulas: Sequence[Formula],
    pairs: bool,
    samples: int,
    chunk_size: int | None,
    outputs: int = 1,
) -> Design:
    """The design for some formulas, with blocks of about `chunk_size` evaluations."""
    needs = {need for formula in formulas for need in formula.needs}
    if pairs:
        needs |= {"b", "ab", "ba"}
    layout = Layout(frozenset(needs), factors.group_count)
    rows, columns = block(factors, samples, chunk_size, layout.evaluations * outputs)
    return Design(factors, layout, rows, columns)


def block(
    factors: Factors, samples: int, chunk_size: int | None, numbers: int = 1
) -> tuple[int, int]:
    """The rows of a block, and the groups evaluated at once, for so many outputs of a row."""
    if chunk_size is None:
        numbers = max(factors.dimensions, numbers)
        chunk_size = max(1, min(EVALUATIONS_IN_FLIGHT, NUMBERS_IN_FLIGHT // numbers))
    # One group at a time as long as there are rows enough: XLA on CPU runs the function of a cheap
    # model ten times faster where the swapped points have no axis over groups.
    rows = 1 << (max(1, min(samples, chunk_size)).bit_length() - 1)
    return rows, max(1, min(factors.group_count, chunk_size // rows))


def bases(plan: Design, u: jax.Array) -> list[jax.Array]:
    """The base points A, B (and C) of uniform numbers, each (rows, d)."""
    d = plan.factors.dimensions
    return [plan.factors.values(u[:, i : i + d]) for i in range(0, plan.dimensions, d)]


def swapped(plan: Design, base: jax.Array, other: jax.Array, group: jax.Array) -> jax.Array:
    """`base` with the factors of a group from `other`."""
    own = jnp.asarray(plan.factors.groups, jnp.int32)[None, :] == group
    return jnp.where(own, other, base)


def all_points(plan: Design, u: jax.Array) -> jax.Array:
    """All points of a block of rows, (evaluations, rows, d), in the order of their outputs."""
    points = bases(plan, u)
    a, b = points[:2]
    needs = plan.layout.needs

    def over_groups(base: jax.Array, other: jax.Array) -> jax.Array:
        groups = jnp.arange(plan.layout.groups, dtype=jnp.int32)
        return jax.vmap(lambda group: swapped(plan, base, other, group))(groups)

    parts = [a[None]]
    parts += [b[None]] if "b" in needs else []
    parts += [over_groups(a, b)] if "ab" in needs else []
    parts += [over_groups(b, a)] if "ba" in needs else []
    parts += [over_groups(a, points[2])] if "ac" in needs else []
    return jnp.concatenate(parts)


def outputs(plan: Design, f: Callable[[jax.Array], jax.Array], u: jax.Array) -> jax.Array:
    """The outputs of a block of rows, (evaluations, outputs, rows), as `Layout` says.

    `f` takes the factors as one vector, and returns one.
    """
    points = bases(plan, u)
    a, b = points[:2]
    needs = plan.layout.needs
    over_rows = lambda x: jax.vmap(f, out_axes=1)(x)  # (outputs, rows)

    def over_groups(base: jax.Array, other: jax.Array) -> jax.Array:
        count = plan.layout.groups
        one = lambda group: over_rows(swapped(plan, base, other, group))
        return evaluate(one, count, stack(count), chunk_size=plan.columns)

    parts = [over_rows(a)[None]]
    parts += [over_rows(b)[None]] if "b" in needs else []
    parts += [over_groups(a, b)] if "ab" in needs else []
    parts += [over_groups(b, a)] if "ba" in needs else []
    parts += [over_groups(a, points[2])] if "ac" in needs else []
    return jnp.concatenate(parts)


def flat(f: Callable[..., Any], factors: Factors) -> Callable[..., Any]:
    """`f` of the factors as one vector, with one wide vector of outputs."""

    def call(x: jax.Array, *args: Any) -> jax.Array:
        y = f(factors.tree(x), *args)
        if not isinstance(y, jax.Array) and not hasattr(y, "dtype"):
            if len(jax.tree.leaves(y)) != 1 or not isinstance(y, int | float):
                raise TypeError(
                    "f must return one array, a scalar or a vector of outputs, but returned a "
                    f"{type(y).__name__}. Stack several outputs: `jnp.stack([...])`."
                )
            y = jnp.asarray(y)
        y = jnp.asarray(y)
        if jnp.issubdtype(y.dtype, jnp.complexfloating):
            raise TypeError("f must return real numbers, but returned complex ones.")
        return y.astype(trees.wide_dtype(y.dtype)).reshape(-1)

    return call


def output_shape(f: Callable[..., Any], factors: Factors, *args: Any) -> tuple[int, ...]:
    """The shape of what `f` returns."""
    x = factors.tree(jnp.zeros((factors.dimensions,)))
    y = jax.eval_shape(f, x, *args)
    return tuple(getattr(y, "shape", ()))
