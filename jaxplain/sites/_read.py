"""Reading: the function, which also returns the values at some sites."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax

from jaxplain import checks
from jaxplain.rewrite import _taps
from jaxplain.sites import _staged


def read(
    f: Callable[..., Any],
    names: str | Iterable[str],
    *,
    reduce: Callable[[jax.Array], Any] | Mapping[str, Callable[[jax.Array], Any]] | None = None,
) -> Callable[..., tuple[Any, dict[str, Any]]]:
    """The function, with the values at some of its sites as a second output.

        output, {name: value} = read(f, names)(*inputs)

    A site that is hit several times (the layers of a loop or of a `scan`) is read as one array with
    a leading axis over hits; "name[3]" and "name[-1]" are single ones.

    Args:
        f: any function of arrays, with names in it: `jaxplain.sites.tag`, `checkpoint_name`, or a
            model of `jaxplain.adapters`.
        names: the site or sites; `jaxplain.sites.names(f)(*inputs)` lists them.
        reduce: `value -> array or tree`, applied to each value where it is, inside the loop: a mean
            or a projection, so that the values of all layers need not be kept. One function for all
            names, or a dict of them; the values themselves unless given.

    Returns:
        `function(*inputs) -> (output, values)`, jitted inside; `values` is a dict by name. It
        differentiates and maps as f does. Inside `while` the last iteration's value is read (zeros
        if there is none); inside `shard_map` a leading axis is over the shards.

    Raises:
        TypeError: f or reduce is not a function; names are no text; an input is no array.
        ValueError: there is no such site, with near ones named; it is inside a custom derivative or
            in some branches of a `cond` only; an index is out of range.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxplain import sites
        >>> def f(x):
        ...     for _ in range(3):
        ...         x = sites.tag(2 * x, "layer")
        ...     return x.sum()
        >>> output, values = sites.read(f, ["layer", "layer[-1]"])(jnp.ones(2))
        >>> values["layer"].shape, values["layer[-1]"].tolist()
        ((3, 2), [8.0, 8.0])

    References:
        docs/sites.md.
    """
    checks.function(f, "f")
    names = _staged.listed(names)
    reductions = reduce if isinstance(reduce, Mapping) else dict.fromkeys(names, reduce)
    for name, own in reductions.items():
        if name not in names:
            raise ValueError(f"reduce has {name!r}, which is not among the names that are read.")
        if own is not None:
            checks.function(own, "reduce", "value")

    def function(*inputs: Any) -> tuple[Any, dict[str, Any]]:
        staged = _staged.stage(f, inputs)
        readings = {}
        for name in names:
            site, index = _staged.find(staged, name, "read")
            readings[name] = _taps.Reading(site, index, reductions.get(name))
        output, values = staged.run(readings, {})
        for name, reading in readings.items():
            if reading.hit is None and not staged.sites[reading.name].is_stacked:
                values[name] = jax.tree.map(lambda rows: rows[0], values[name])
        return output, values

    return _staged.jitted(function)
