"""Equinox models as pure functions.

An Equinox model is a tree: arrays, and the rest. `params` are its arrays, in a tree like the model
with None for all else, and the call is mapped over a batch, since Equinox models take one example:

    apply(params, *inputs) = vmap(combine(params, rest))(*inputs)
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax

from ._call import check_call, check_tree, library, named_arguments, not_a_module
from ._sites import fail_with_names, name_of, tagging


def equinox(
    model: Any,
    state: Any = None,
    *,
    arguments: Mapping[str, Any] | None = None,
    is_batched: bool = True,
    has_sites: bool = True,
) -> tuple[Callable[..., Any], Any]:
    """Turns an Equinox model in inference mode into a pure function and its parameters.

        apply(params, *inputs) = vmap(model)(*inputs, **arguments)

    with the arrays of the model taken from `params`. The model is not changed. What each module
    returns is a site by its path, such as "layers.0": see `jaxplain.sites`. To name it, modules of
    the copy that is called get subclasses of their classes: `isinstance` holds in the model's code,
    `type(module) is Block` does not.

    Args:
        model: an `equinox.Module` that is called with one example, in inference mode.
        state: the `equinox.nn.State` of a model with running statistics, which is then called as
            `model(*inputs, state)` and returns `(output, state)`. What the call changes in it is
            dropped.
        arguments: keyword arguments of the model's call, the same at each call and no arrays to
            explain; none by default.
        is_batched: whether `apply` takes a batch, by `jax.vmap`, as the functions of
            `jaxplain.targets` give it. Else it takes one example, as the model does: for reading
            inside loops whose length depends on the example, `jax.vmap(sites.read(...))`.
        has_sites: whether modules have names. A model that puts modules of several paths together
            as one tree, `jax.tree.map(stack, *self.blocks)`, runs only without.

    Returns:
        `(apply, params)`. `apply(params, *inputs)` is pure and takes a batch: each input with a
        leading axis over examples. `params` is the model with its arrays alone, as
        `equinox.filter(model, equinox.is_array)` gives it; with a state the pair of both. It is an
        argument: other values of the same tree need no new compilation.

    Raises:
        ImportError: Equinox is not installed.
        TypeError: `model` is no Equinox module, or its call does not take the inputs.
        ValueError: the model is in training mode (the message names the modules), `params` has
            another tree, or the model does not run with its modules named.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> import equinox as eqx
        >>> import jaxplain
        >>> model = eqx.nn.MLP(3, 2, width_size=4, depth=1, key=jax.random.key(0))
        >>> apply, params = jaxplain.adapters.equinox(model)
        >>> apply(params, jnp.ones((5, 3))).shape
        (5, 2)
        >>> output, values = jaxplain.sites.read(apply, "layers.0")(params, jnp.ones((5, 3)))
        >>> values["layers.0"].shape
        (5, 4)

    References:
        Filtering in Equinox, `equinox.partition` and `equinox.combine`:
        https://docs.kidger.site/equinox/all-of-equinox/
    """
    eqx = library("equinox")
    if not isinstance(model, eqx.Module):
        raise TypeError(not_a_module(model, "model", "an equinox.Module", again="the model"))
    named = named_arguments(arguments, frozenset())
    training = [
        f"{name_of(path) or 'the model itself'} ({type(module).__name__})"
        for path, module in _modules(eqx, model)
        if getattr(module, "inference", None) is False and getattr(module, "p", None) != 0
    ]
    if training:
        raise ValueError(
            f"the model is in training mode: {', '.join(training)} with inference=False. "
            "Explanations are of the model in inference mode: give "
            "equinox.nn.inference_mode(model), which leaves yours as it is"
        )
    arrays, rest = eqx.partition(model, eqx.is_array)
    params = arrays if state is None else (arrays, state)
    expected = jax.tree.structure(params)

    def apply(params: Any, *inputs: Any) -> Any:
        check_tree(params, expected, "equinox")
        arrays, own = (params, ()) if state is None else (params[0], (params[1],))

        def run(copy: Any) -> Any:
            mine = jax.tree.map(lambda leaf: leaf, own)  # a state is used up by its update
            one = lambda *inputs: copy(*inputs, *mine, **named)
            output = one if state is None else lambda *inputs: one(*inputs)[0]
            return (jax.vmap(output) if is_batched else output)(*inputs)

        copy = eqx.combine(arrays, rest)  # new objects, whose classes are changed
        check_call(copy, copy.__call__, (*inputs, *own), named)
        if not has_sites:
            return run(copy)
        try:
            for path, module in list(_modules(eqx, copy)):
                # What is shared comes back as modules, and a state as one: neither is a value.
                if path and callable(module) and not isinstance(module, eqx.nn.Shared):
                    kind: Any = type(module)
                    object.__setattr__(module, "__class__", tagging(kind, path, eqx.nn.State))
            return run(copy)
        except Exception as error:
            fail_with_names(error, lambda: run(eqx.combine(arrays, rest)))

    return apply, params


def _modules(eqx: Any, node: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, Any]]:
    """The module and all those in it, with their paths."""
    if isinstance(node, eqx.Module):
        yield path, node
    inner = lambda child: child is not node and isinstance(child, eqx.Module)
    for place, child in jax.tree_util.tree_leaves_with_path(node, is_leaf=inner):
        if inner(child):
            yield from _modules(eqx, child, (*path, *map(_part, place)))


def _part(key: Any) -> str:
    return jax.tree_util.keystr((key,), simple=True)
