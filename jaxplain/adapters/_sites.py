"""Sites by module path: what each module of a Flax model returns is named after it."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from typing import Any, NoReturn

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


def fail_with_names(error: Exception, plain: Callable[[], Any]) -> NoReturn:
    """Raises what a call with names failed with, or that it is for the names that it failed."""
    try:
        plain()
    except Exception:  # whatever it is: the model fails by itself, and `error` says with what
        runs = False
    else:
        runs = True
    if not runs:
        raise error
    raise ValueError(
        "the model runs as it is, but not with its modules named: for that each module of the copy "
        "that is called gets a subclass of its class of its own, and this model puts modules of "
        "several paths together (as one tree, in a `cond`), or its classes do not allow it. Give "
        "has_sites=False to explain it without sites, or name values in it by jaxplain.sites.tag"
    ) from error
