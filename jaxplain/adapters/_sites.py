"""Sites by module path: what each module of a Flax model returns is named after it."""

from __future__ import annotations

import functools
from collections.abc import Iterable
from typing import Any

from jaxplain.sites._tag import named


def name_of(path: Iterable[Any]) -> str:
    """The name of a module by its path: ("layers", 0, "norm") is layers.0.norm."""
    return ".".join(map(str, path))


@functools.cache
def tagging(kind: Any, path: tuple[Any, ...], opaque: type | tuple[type, ...] = ()) -> type:
    """The class, with a call that names what it returns, except what is in `opaque` nodes.

    One for each class and path: transforms of NNX take modules apart and put them together again by
    their class, which must be the same.
    """

    @functools.wraps(kind.__call__)
    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        return named(kind.__call__(self, *args, **kwargs), name_of(path), opaque)

    return type(kind)(kind.__name__, (kind,), {"__call__": call, "__module__": kind.__module__})
