"""The one-example form of a model that must see its whole batch in one call.

batched(F, in_axes)(x, *args) = F(x[None], *args[None])[0]
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxplain import checks, trees
from jaxplain.rewrite import _fast


def batched(
    model_function: Callable[..., jax.Array], in_axes: int | Sequence[Any] = 0
) -> Callable[..., jax.Array]:
    """The function of one example, of a function that must see its batch.

        batched(F, in_axes)(x, *args) = F(x[None], *args[None])[0]

    A kernel explains one example, and `vmap` makes the batch. For most models that costs nothing,
    but a model with its own batch sharding, or with code that has no batching rule (Pallas, mixture
    of experts), cannot be fed `x[None]` inside a `vmap`. Through `batched` the model is called
    once, with all mapped axes (examples, path points) merged into its own batch axis, and so is
    its gradient.

    First order only: one gradient, with respect to `x`. A second derivative, the gradient of an
    explanation and forward mode do not go through it, and say so.

    Args:
        model_function: from (batch, ...) arrays to an output of shape (batch,).
        in_axes: as in `jax.vmap`, one entry for each argument (or a tree prefix of it): the axis of
            the batch, or None for what all examples share. The first must not be None.

    Returns:
        `f(x, *args) -> scalar`, for jaxplain's kernels or for `jax.vmap(jax.grad(f))`. What is
        shared must be an argument: closing over a traced array fails.

    Raises:
        TypeError: `model_function` is not a function, or an axis not an integer or None; at the
            call, an argument or the output is not an array.
        ValueError: at the call, a shared argument is mapped by `vmap`; a gradient is asked for with
            respect to anything but `x`; the output is not (batch,); `in_axes` does not fit;
            `model_function` closes over a traced array.
        NotImplementedError: a second derivative is asked for.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> model = lambda x, w: jnp.tanh(x @ w)  # (batch, 3), (3,) -> (batch,)
        >>> f = batched(model, in_axes=(0, None))
        >>> x, w = jnp.ones((5, 3)), jnp.ones(3)
        >>> jax.vmap(jax.grad(f), in_axes=(0, None))(x, w).shape  # one call of model, of batch 5
        (5, 3)

    References:
        `jax.custom_batching.custom_vmap`; docs/architecture.md, "Models that must see their batch".
    """
    checks.function(model_function, "model_function")

    def flatten(arguments: tuple[Any, ...]) -> tuple[list[Any], list[int | None], Any]:
        axes = tuple(in_axes) if isinstance(in_axes, Sequence) else (in_axes,) * len(arguments)
        if len(axes) != len(arguments):
            raise ValueError(
                f"in_axes has {len(axes)} entries, but f was called with {len(arguments)} "
                "arguments: give one entry for each, None for what all examples share."
            )
        leaves, structure = jax.tree.flatten(arguments)
        flat = _broadcast_prefix(axes, arguments)
        if any(axis is None for axis in _broadcast_prefix(axes[:1], arguments[:1])):
            raise ValueError("in_axes[0] must be an axis: x is one example of the model's batch.")
        return leaves, flat, structure

    def of_leaves(structure: Any, axes: Sequence[int | None]) -> Callable[..., jax.Array]:
        def call(*leaves: Any) -> jax.Array:
            moved = [
                leaf if axis is None else jnp.moveaxis(leaf, 0, axis)
                for leaf, axis in zip(leaves, axes, strict=True)
            ]
            output = model_function(*jax.tree.unflatten(structure, moved))
            size = leaves[0].shape[0]  # x comes first and has an axis
            if not isinstance(output, jax.Array | np.ndarray):
                raise TypeError(
                    "model_function must return one array of shape (batch,), but returned a "
                    f"{type(output).__name__}. Return only what is to be explained."
                )
            if output.shape != (size,):
                raise ValueError(
                    f"model_function must return shape (batch,) = ({size},), but returned "
                    f"{output.shape}. Select one output for each example, e.g. "
                    "`jnp.take_along_axis(logits, labels[:, None], 1)[:, 0]`."
                )
            return output

        return call

    @jax.custom_vjp
    def f(x: Any, args: tuple[Any, ...]) -> jax.Array:
        leaves, axes, structure = flatten((x, *args))
        return _merged(of_leaves(structure, axes), axes)(*leaves)

    def forward(x: Any, args: tuple[Any, ...]) -> tuple[jax.Array, Any]:
        if any(p.perturbed for p in jax.tree.leaves(args, is_leaf=_is_primal)):
            raise ValueError(_FIRST_ARGUMENT_ONLY)
        x, args = jax.tree.map(lambda p: p.value, (x, args), is_leaf=_is_primal)
        leaves, axes, structure = flatten((x, *args))
        inputs = len(jax.tree.leaves(x))
        model = of_leaves(structure, axes)

        def value_and_gradient(*leaves: Any) -> tuple[jax.Array, list[jax.Array]]:
            first, rest = leaves[:inputs], leaves[inputs:]
            output, pull = jax.vjp(lambda *first: model(*first, *rest), *first)
            return output, list(pull(jnp.ones_like(output)))

        output, gradient = _first_order(_merged(value_and_gradient, axes))(*leaves)
        return output, jax.tree.unflatten(jax.tree.structure(x), gradient)

    def backward(gradient: Any, cotangent: jax.Array) -> tuple[Any, None]:
        return jax.tree.map(lambda g: g * cotangent.astype(g.dtype), gradient), None

    f.defvjp(forward, backward, symbolic_zeros=True)

    @functools.wraps(model_function)
    def one(x: Any, *args: Any) -> jax.Array:
        checks.arrays((x, *args), "each argument of f")
        if not jax.tree.leaves(x):
            raise ValueError("x must hold at least one array, but is an empty tree.")
        return f(x, args)

    return one


_FIRST_ARGUMENT_ONLY = (
    "a function made by jaxplain.batched has a gradient with respect to its first argument only; "
    "for any other differentiate the model's own batch function."
)
_FIRST_ORDER_ONLY = (
    "a function made by jaxplain.batched can be differentiated once: no second derivative, and no "
    "gradient of an explanation, goes through it. Use the model's one-example form, f(x, *args), "
    "with `jax.vmap` for that."
)
_CLOSES_OVER = (
    "the function given to jaxplain.batched closes over a traced array. Make it an argument, with "
    "None in in_axes if all examples share it: `batched(lambda x, params: ..., (0, None))`."
)


def _first_order(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function, which refuses to be differentiated.

    Without it a second derivative, `vmap` of `jvp`, maps the directions into the model's batch and
    the rules call each other without end (jax 0.10.2).
    """
    once = jax.custom_jvp(function)

    @once.defjvp
    def refuse(primals: Any, tangents: Any) -> Any:
        raise NotImplementedError(_FIRST_ORDER_ONLY)

    return once


def _is_primal(leaf: Any) -> bool:
    return hasattr(leaf, "perturbed")


def _broadcast_prefix(axes: Any, arguments: Any) -> list[int | None]:
    """One axis for each leaf of `arguments`, from a prefix of its tree."""
    flat: list[int | None] = []

    def add(axis: Any, part: Any) -> None:
        if axis is not None and (isinstance(axis, bool) or not isinstance(axis, int)):
            raise TypeError(f"an entry of in_axes must be an integer or None, but is {axis!r}.")
        flat.extend([axis] * len(jax.tree.leaves(part)))

    try:
        jax.tree.map(add, axes, arguments, is_leaf=lambda axis: axis is None)
    except ValueError as error:
        raise ValueError(f"in_axes {axes} is not a tree prefix of the arguments: {error}") from None
    return flat


def _merged(function: Callable[..., Any], axes: Sequence[int | None]) -> Callable[..., Any]:
    """The one-example form of `function`, whose vmaps, however nested, become its batch axis.

    `function` takes flat leaves, those with an axis carrying the batch in front. Two rules: `one`
    adds the batch axis, or takes the first mapped axis for it; `many` merges each further one.
    """
    many = jax.custom_batching.custom_vmap(_fast.inline(function, _CLOSES_OVER))

    def spread(size: int, mapped: Sequence[bool], leaves: Sequence[Any]) -> list[Any]:
        spread = []
        one_mapped = next(leaf for leaf, is_mapped in zip(leaves, mapped, strict=True) if is_mapped)
        for axis, is_mapped, leaf in zip(axes, mapped, leaves, strict=True):
            if axis is None and is_mapped:
                raise ValueError(
                    f"an array of shape {leaf.shape} is declared shared in jaxplain.batched "
                    "(its in_axes is None), but vmap maps it. Give it an axis, or do not map it."
                )
            if axis is not None and not is_mapped:
                leaf = jnp.broadcast_to(leaf, (size, *leaf.shape))
                leaf = trees.shard_first_like(leaf, one_mapped)
            spread.append(leaf)
        return spread

    @many.def_vmap
    def merge(size: int, mapped: Sequence[bool], *leaves: Any) -> tuple[Any, Any]:
        leaves = tuple(spread(size, mapped, leaves))
        flat = [
            leaf if axis is None else leaf.reshape(size * leaf.shape[1], *leaf.shape[2:])
            for axis, leaf in zip(axes, leaves, strict=True)
        ]
        inner = next(
            leaf.shape[1] for axis, leaf in zip(axes, leaves, strict=True) if axis is not None
        )
        outputs = many(*flat)
        outputs = jax.tree.map(lambda o: o.reshape(size, inner, *o.shape[1:]), outputs)
        return outputs, jax.tree.map(lambda _: True, outputs)

    @jax.custom_batching.custom_vmap
    def one(*leaves: Any) -> Any:
        alone = [
            leaf if axis is None else leaf[None] for axis, leaf in zip(axes, leaves, strict=True)
        ]
        return jax.tree.map(lambda output: output[0], many(*alone))

    @one.def_vmap
    def many_of_one(size: int, mapped: Sequence[bool], *leaves: Any) -> tuple[Any, Any]:
        outputs = many(*spread(size, mapped, leaves))
        return outputs, jax.tree.map(lambda _: True, outputs)

    return one
