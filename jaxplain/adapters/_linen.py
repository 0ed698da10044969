"""Flax Linen modules as pure functions.

A Linen module is pure already; the adapter fixes what is not an array (flags of the call), forbids
state and random numbers, and says in plain words what to do when the module wants them:

    apply(params, *inputs) = module.apply(params, *inputs, **arguments, mutable=False)

`params` is the whole dict of variables: the parameters in "params", the running averages in
"batch_stats", and whatever other collections the module reads.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import flax.core
import flax.errors
import flax.linen
import flax.nnx

from jaxplain.sites._tag import named

from ._call import check_call, named_arguments, not_a_module
from ._sites import name_of

# Keyword arguments of `Module.apply` itself, which the module's call never sees.
APPLY_OPTIONS = frozenset({"rngs", "method", "mutable", "capture_intermediates"})

# What may be changed: a collection that no model has. By what may be changed `flax.linen.jit` tells
# its traces apart, and one of an earlier call of the model has no names.
_NONE = ("jaxplain.sites",)


def linen(
    module: flax.linen.Module,
    variables: Mapping[str, Any],
    *,
    arguments: Mapping[str, Any] | None = None,
) -> tuple[Callable[..., Any], Any]:
    """Turns a Flax Linen module in evaluation mode and its variables into `(apply, params)`.

        apply(params, *inputs) = module.apply(params, *inputs, **arguments, mutable=False)

    Evaluation mode is most often an argument of a Linen module's call: give it in `arguments`.
    Whether the module trains is seen when `apply` is first called, because only then it asks for
    random numbers or writes its running averages.

    Args:
        module: a `flax.linen.Module`; a bound one is used without its own variables.
        variables: what `module.init` returned or training made of it, a dict of collections,
            `{"params": ..., "batch_stats": ...}`. A leftover "intermediates" is not kept.
        arguments: keyword arguments of the module's call, the same at each call and no arrays to
            explain, e.g. `{"train": False}` or `{"deterministic": True}`; none by default.

    Returns:
        `(apply, params)`. `apply(params, *inputs)` is pure and gives what the module gives for
        these inputs. `params` is `variables` as nested plain dicts; it is an argument: other
        values of the same tree need no new compilation.

    Raises:
        TypeError: `module` is no Linen module, `variables` is no dict, or the module's call does
            not take the inputs.
        ValueError: "params" is not among the variables; or, from `apply`, the module is in
            training mode: it asked for random numbers or changed a variable.

    Example:
        >>> import jax
        >>> import jax.numpy as jnp
        >>> import jaxplain
        >>> from flax import linen
        >>> module = linen.Sequential([linen.Dense(2), linen.BatchNorm(use_running_average=True)])
        >>> batch = jnp.ones((5, 3))
        >>> variables = module.init(jax.random.key(0), batch)
        >>> apply, params = jaxplain.adapters.linen(module, variables)
        >>> sorted(params)
        ['batch_stats', 'params']
        >>> bool(jnp.all(apply(params, batch) == module.apply(variables, batch)))
        True

    References:
        `Module.apply` of Flax Linen, with its collections of variables:
        https://flax-linen.readthedocs.io/en/latest/guides/flax_fundamentals/flax_basics.html
    """
    if not isinstance(module, flax.linen.Module):
        raise TypeError(_not_a_module(module))
    named = named_arguments(arguments, APPLY_OPTIONS)
    if not isinstance(variables, Mapping):
        raise TypeError(
            'variables must be the dict that module.init returned, {"params": ...}, but is a '
            f"{type(variables).__name__}"
        )
    if variables and "params" not in variables:
        raise ValueError(
            f'variables has no collection "params", only {sorted(map(str, variables))}. Pass all '
            'of what module.init returned, {"params": ..., "batch_stats": ...}, not the '
            "parameters alone"
        )
    if module.scope is not None:
        module, _ = module.unbind()
    params = {
        name: flax.core.unfreeze(collection)
        for name, collection in variables.items()
        if name != "intermediates"
    }

    def apply(params: Any, *inputs: Any) -> Any:
        check_call(module, module.__call__, inputs, named)
        try:
            with flax.linen.intercept_methods(_name_outputs()):
                output, _ = module.apply(params, *inputs, **named, mutable=_NONE)
                return output
        except flax.errors.InvalidRngError as error:
            raise ValueError(_in_training(module, "asked for random numbers", error)) from error
        except flax.errors.ModifyScopeVariableError as error:
            raise ValueError(_in_training(module, "changed a variable", error)) from error

    return apply, params


def _name_outputs() -> Callable[..., Any]:
    """Names what each module returns, for one call of the model."""
    running: set[tuple[str, ...]] = set()

    def intercept(call: Callable[..., Any], args: Any, kwargs: Any, context: Any) -> Any:
        path = context.module.path
        # A call by `super()`, or of a module that shares its scope, is a part of the one that runs.
        if context.method_name != "__call__" or not path or path in running:
            return call(*args, **kwargs)
        running.add(path)
        try:
            return named(call(*args, **kwargs), name_of(path))
        finally:
            running.remove(path)

    return intercept


def _in_training(module: flax.linen.Module, what: str, error: Exception) -> str:
    return (
        f"{type(module).__name__} is in training mode: its call {what} ({error}). Explanations are "
        "of the model in evaluation mode: choose it by the flag of the call, e.g. "
        'jaxplain.adapters.linen(module, variables, arguments={"train": False}), or by the '
        "module's own fields, deterministic=True and use_running_average=True"
    )


def _not_a_module(module: Any) -> str:
    if isinstance(module, flax.nnx.Module):
        return (
            f"module is a Flax NNX module ({type(module).__name__}): use "
            "jaxplain.adapters.nnx(model)"
        )
    return not_a_module(module, "module", "a flax.linen.Module")
