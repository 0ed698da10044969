"""What the adapters share: the arguments of a model's call, and libraries that may be missing."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Mapping
from typing import Any


def library(name: str, extra: str) -> Any:
    """An optional library, or how to install it."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ImportError(
            f"this adapter needs {name}, which is not installed: pip install 'jaxplain[{extra}]'"
        ) from error


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
