"""Flax NNX models as pure functions.

An NNX model is an object: graph + arrays. `split` takes the two apart and `merge` puts a fresh
copy together inside each trace, so that the user's object never meets a tracer:

    apply(params, *inputs) = merge(graph, random state, params)(*inputs)

`params` are plain arrays in nested dicts, with everything that the output depends on: parameters,
batch statistics, and other variables. The states of random streams stay out of it (they are keys
and counters, which have no gradient); they are constants of `apply`, a few bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import flax.linen
import flax.nnx
import jax
import jax.numpy as jnp

from ._call import check_call, check_tree, named_arguments, not_a_module
from ._sites import fail_with_names, tagging

# The attributes that `model.train()` and `model.eval()` set, with their value in training.
TRAINING_FLAGS = {"deterministic": False, "use_running_average": False}
_RESTORED = (
    " (a checkpoint restored without a target has strings for the integers of lists: "
    "flax.nnx.restore_int_paths)"
)


def nnx(
    model: flax.nnx.Module,
    *,
    arguments: Mapping[str, Any] | None = None,
    has_sites: bool = True,
) -> tuple[Callable[..., Any], Any]:
    """Turns a Flax NNX model in evaluation mode into a pure function and its parameters.

        apply(params, *inputs) = model(*inputs, **arguments)

    with the arrays of the model taken from `params`. The model itself is not changed, then or
    later, and `apply` does not follow it: adapt it again after more training. Whatever the call
    changes in the model (sown intermediates, caches) is dropped with the copy that was called. A
    model that draws random numbers in evaluation draws the same ones at each call, from its
    streams as they were when it was adapted. What each module returns is a site by its path, such
    as "layers.0": see `jaxplain.sites`; to name it, modules of the copy get subclasses of their
    classes, so that `isinstance` holds in the model's code, and `type(module) is Block` does not.

    Args:
        model: an `nnx.Module` in evaluation mode; a model without dropout and batch norm has only
            one mode. Shared, scanned, vmapped and rematerialised layers are fine.
        arguments: keyword arguments of the model's call, the same at each call and no arrays to
            explain, e.g. `{"train": False}`; none by default.
        has_sites: whether modules have names. A model that puts modules of several paths together
            as one tree, `jax.tree.map(stack, *self.blocks)`, runs only without.

    Returns:
        `(apply, params)`. `apply(params, *inputs)` is pure and gives what the model gives for
        these inputs. `params` is a tree of nested dicts of arrays, by attribute names and, in
        lists, integers; shapes and dtypes as in the model. It is an argument: other values of
        the same tree need no new compilation.

    Raises:
        TypeError: `model` is no NNX module, or its call does not take the inputs.
        ValueError: the model is in training mode (the message names the modules), its call
            updates batch statistics, `params` has another tree, or the model does not run with its
            modules named.

    Example:
        >>> import jax
        >>> import jax.numpy as jnp
        >>> import jaxplain
        >>> from flax import nnx
        >>> model = nnx.Sequential(nnx.Linear(3, 2, rngs=nnx.Rngs(0)), nnx.Dropout(0.5))
        >>> model.eval()
        >>> apply, params = jaxplain.adapters.nnx(model)
        >>> jax.tree.map(jnp.shape, params)
        {'layers': {0: {'bias': (2,), 'kernel': (3, 2)}}}
        >>> batch = jnp.ones((5, 3))
        >>> bool(jnp.all(apply(params, batch) == model(batch)))
        True

    References:
        The functional interface of Flax NNX, `nnx.split` and `nnx.merge`:
        https://flax.readthedocs.io/en/latest/nnx_basics.html#the-functional-api
    """
    if not isinstance(model, flax.nnx.Module):
        raise TypeError(_not_a_module(model))
    named = named_arguments(arguments, frozenset())
    training = _training_modules(model)
    if training:
        raise ValueError(
            f"the model is in training mode: {', '.join(training)}. Explanations are of the model "
            "in evaluation mode: call model.eval() first, or give model = nnx.view(model, "
            "deterministic=True, use_running_average=True) to leave yours in training"
        )

    model = flax.nnx.clone(model)
    flax.nnx.pop(model, flax.nnx.Intermediate)  # what an earlier call left is no input
    graph, random, state = flax.nnx.split(model, flax.nnx.RngState, ...)
    del model

    # `state` has the arrays inside variables with metadata. Number them, and keep the places: the
    # dict of numbers says where each array of `params` goes back.
    arrays, structure = jax.tree.flatten(state)
    del state
    numbers = flax.nnx.to_pure_dict(
        jax.tree.unflatten(structure, range(len(arrays))), extract_fn=_value
    )
    places, params_structure = jax.tree.flatten(numbers)
    params = jax.tree.unflatten(params_structure, [arrays[place] for place in places])
    count = len(arrays)
    del arrays

    def apply(params: Any, *inputs: Any) -> Any:
        check_tree(params, params_structure, "nnx", hint=_RESTORED)
        leaves = jax.tree.leaves(params)
        ordered: list[Any] = [None] * count
        for place, leaf in zip(places, leaves, strict=True):
            ordered[place] = leaf

        def fresh_copy() -> flax.nnx.Module:
            # copy=True: merged without it, the streams would be `random` itself, and a draw would
            # move them for the next call, or fail in another trace.
            return flax.nnx.merge(graph, random, jax.tree.unflatten(structure, ordered), copy=True)

        copy = fresh_copy()
        check_call(copy, copy.__call__, inputs, named)
        before = _batch_statistics(copy)
        try:
            for path, module in flax.nnx.iter_modules(copy) if has_sites else ():
                # On the copy alone: a class of its own, whose call names what it returns.
                kind: Any = type(module)
                if path and callable(module):
                    object.__setattr__(module, "__class__", tagging(kind, path))
            output = copy(*inputs, **named)
        except Exception as error:
            if not has_sites:
                raise
            fail_with_names(error, lambda: fresh_copy()(*inputs, **named))
        after = _batch_statistics(copy)
        if any(after[path] is not before[path] for path in before):
            updated = _statistics_from_inputs(fresh_copy, inputs, named)
            if updated:
                raise ValueError(
                    f"the call updates batch statistics ({', '.join(updated)}), so it runs in "
                    "training mode, although model.eval() was called: a flag among the arguments "
                    'of the call decides. Choose evaluation there, e.g. arguments={"train": False}'
                )
        return output

    return apply, params


def _training_modules(model: flax.nnx.Module) -> list[str]:
    """Returns e.g. "layers[0].norm (BatchNorm, use_running_average=False)" per such module."""
    return [
        f"{_name(path)} ({type(module).__name__}, {flag}={value})"
        for path, module in flax.nnx.iter_modules(model)
        for flag, value in TRAINING_FLAGS.items()
        if getattr(module, flag, None) is value
    ]


def _name(path: tuple) -> str:
    """Returns ("layers", 0, "norm") as Python writes it: layers[0].norm."""
    text = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path)
    return text.removeprefix(".") or "the model itself"


def _value(variable: Any) -> Any:
    """Returns what a variable holds, without hooks; a bare array is its own value."""
    return variable.get_raw_value() if isinstance(variable, flax.nnx.Variable) else variable


def _batch_statistics(model: flax.nnx.Module) -> dict[str, Any]:
    """Returns the arrays of all batch statistics by path; an update puts another object there."""
    statistics = flax.nnx.state(model, flax.nnx.BatchStat)
    return {_name(path): _value(variable) for path, variable in flax.nnx.to_flat_state(statistics)}


def _statistics_from_inputs(
    fresh_copy: Callable[[], flax.nnx.Module], inputs: tuple, named: dict
) -> list[str]:
    """Returns the paths of the batch statistics that the call computes from its inputs.

    nnx.scan and nnx.remat write all variables back, changed or not, so that another object in a
    statistic's place proves nothing. Here `vmap` follows the dependence: only what comes from the
    inputs is batched when they are. Abstract, and only run where the objects differ.
    """
    updated: list[str] = []

    @jax.custom_batching.custom_vmap
    def mark(statistics: dict[str, Any]) -> dict[str, Any]:
        return statistics

    @mark.def_vmap
    def record(axis_size: int, batched: list, statistics: dict[str, Any]) -> tuple:
        del axis_size
        updated.extend(path for path, is_batched in batched[0].items() if is_batched)
        return statistics, batched[0]

    def call(*inputs: Any) -> dict[str, Any]:
        copy = fresh_copy()
        copy(*inputs, **named)
        return mark(_batch_statistics(copy))

    axes = jax.tree.map(lambda leaf: 0 if hasattr(leaf, "shape") else None, inputs)
    one_more = jax.tree.map(
        lambda leaf: jnp.expand_dims(leaf, 0) if hasattr(leaf, "shape") else leaf, inputs
    )
    jax.eval_shape(lambda: jax.vmap(call, in_axes=axes, axis_size=1)(*one_more))
    return updated


def _not_a_module(model: Any) -> str:
    if isinstance(model, flax.linen.Module):
        return (
            f"model is a Flax Linen module ({type(model).__name__}): use "
            "jaxplain.adapters.linen(module, variables)"
        )
    return not_a_module(model, "model", "a flax.nnx.Module", again="the model")
