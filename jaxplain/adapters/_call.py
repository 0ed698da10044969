"""What the adapters share: the arguments of a model's call, and libraries that may be missing."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Mapping
from typing import Any

import jax


def library(name: str) -> Any:
    """An optional library, or how to install it: by the extra of its name."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ImportError(
            f"this adapter needs {name}, which is not installed: pip install 'jaxplain[{name}]'"
        ) from error


def not_a_module(model: Any, subject: str, kind: str, again: str = "it") -> str:
    """What came in place of a model: `subject` is the argument, `kind` the class it should have."""
    if isinstance(model, type):
        return f"{subject} is the class {model.__name__}: make {again} first, {model.__name__}(...)"
    return (
        f"{subject} must be {kind}, but is a {type(model).__name__}. A plain function "
        "apply(params, batch) needs no adapter"
    )


def check_tree(params: Any, expected: Any, adapter: str, hint: str = "") -> None:
    """Raises ValueError where `params` is not the tree that the adapter returned."""
    given: Any = jax.tree.structure(params)
    if given != expected:
        raise ValueError(
            f"params has the tree {given}, but this model has {expected}. Pass the params that "
            f"jaxplain.adapters.{adapter} returned, or a tree of the same structure{hint}"
        )


def named_arguments(arguments: Mapping[str, Any] | None, reserved: frozenset[str]) -> dict:
    """Returns `arguments` as a dict of its own, or says what is wrong with it."""
    if arguments is None:
        return {}
    if not isinstance(arguments, Mapping):
        raise TypeError(
            f"arguments must be a dict of the model's keyword arguments, e.g. "
            f'{{"train": False}}, but is a {type(arguments).__name__}'
        )
    for name in arguments:
        if not isinstance(name, str):
            raise TypeError(f"the keys of arguments must be names, but {name!r} is one of them")
        if name in reserved:
            raise ValueError(
                f"arguments has {name!r}, which is an option of Flax's apply and not an argument "
                "of the model's call. An adapted model is a pure function without random numbers "
                "or state: call module.apply yourself if you need that option"
            )
    return dict(arguments)


def check_call(model: Any, call: Callable, inputs: tuple, arguments: Mapping[str, Any]) -> None:
    """Raises TypeError where `inputs` and `arguments` do not fit the signature of `call`."""
    try:
        inspect.signature(call).bind(*inputs, **arguments)
    except TypeError as error:
        raise TypeError(
            f"{type(model).__name__} cannot be called with {len(inputs)} inputs and the named "
            f"arguments {sorted(arguments)}: {error}. Inputs come after params, "
            "apply(params, *inputs); flags and options are given to the adapter once, e.g. "
            'arguments={"train": False}'
        ) from None
