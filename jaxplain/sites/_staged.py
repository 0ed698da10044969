"""What the functions of this room share: a function as a program, and names looked up in it."""

import difflib
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import jax

from jaxplain import checks
from jaxplain.rewrite import _interpreter, _inventory, _taps

_INDEXED = re.compile(r"(.*)\[(-?\d+)\]", re.DOTALL)


class Staged(NamedTuple):
    """A function at inputs of certain shapes.

    Attributes:
        program: it, staged.
        inputs: flat.
        output: the tree of its output.
        sites: the names in it.
    """

    program: Any
    inputs: list[Any]
    output: Any
    sites: dict[str, _inventory.Site]

    def run(
        self,
        readings: Mapping[str, _taps.Reading],
        changes: Mapping[str, Sequence[_taps.Change]],
    ) -> tuple[Any, dict[str, Any]]:
        """The output of the function, and what was read."""
        flat, values = _taps.tapped(self.program, self.inputs, readings, changes)
        return jax.tree.unflatten(self.output, flat), values


def stage(f: Callable[..., Any], inputs: Sequence[Any]) -> Staged:
    program, shapes = _interpreter.stage(f, *inputs)
    return Staged(
        program, jax.tree.leaves(inputs), jax.tree.structure(shapes), _inventory.inventory(program)
    )


def jitted(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compiled once for each shape of its inputs, which must be arrays."""
    compiled = jax.jit(function)

    def checked(*inputs: Any, **named: Any) -> Any:
        if named:
            raise TypeError(
                f"inputs go by position, but {', '.join(named)} came by name. Fix it in the "
                "function: `functools.partial(f, name=value)`."
            )
        checks.arrays(inputs, "each input")
        return compiled(*inputs)

    return checked


def listed(names: Any) -> tuple[str, ...]:
    """One name or several, as a tuple of different ones."""
    several = (names,) if isinstance(names, str) else names
    if not isinstance(several, Iterable):
        raise TypeError(f"names must be a name or several, but is a {type(names).__name__}.")
    several = tuple(several)
    for name in several:
        if not isinstance(name, str):
            raise TypeError(
                f"names must be text, such as 'hidden' or 'hidden[0]', but {name!r} is one."
            )
    if len(set(several)) < len(several):
        raise ValueError(f"names has a name twice: {', '.join(several)}.")
    return several


def find(staged: Staged, name: str, use: str) -> tuple[str, int | None]:
    """The site that a name means and, of "name[index]", which of its hits.

    `use` is "read", "written" (each hit by itself), or "edited" (all hits alike).
    """
    sites = staged.sites
    base, index = name, None
    if name not in sites and (indexed := _INDEXED.fullmatch(name)) and indexed[1] in sites:
        base, index = indexed[1], int(indexed[2])
    if base not in sites:
        raise ValueError(_unknown(name, sites))
    site = sites[base]
    why = site.trouble or (site.unread if use == "read" else "")
    if not why and use != "read" and not site.is_used:
        why = "nothing uses it. Go on with what `tag` returns, `h = jaxplain.sites.tag(h, ...)`"
    by_itself = use == "written" or (use == "edited" and index is not None)
    if not why and by_itself:
        why = site.unwritten
    if not why and site.is_copied and (by_itself or site.is_only_copied):
        why = (
            "the function differentiates through `jax.checkpoint`, whose backward pass computes "
            "the value again, and which hit is which is not known there. Do it inside the "
            "derivative: "
            "`jax.grad(jaxplain.sites.write(f, names), argnums=1)`"
        )
    if why:
        raise ValueError(f"the site {base!r} cannot be {use}: {why}.")
    if index is not None:
        if site.is_open:
            raise ValueError(
                f"{name!r}: the site is inside a `while`, whose iterations have no index: ask for "
                f"{base!r}, which is read after the last one and written in all."
            )
        if not -site.hits <= index < site.hits:
            ends = f", from 0 to {site.hits - 1}" if site.hits else ""
            raise ValueError(f"{name!r}: the site has {site.hits} hits{ends}.")
        index %= site.hits
    return base, index


def _unknown(name: str, sites: Mapping[str, _inventory.Site]) -> str:
    if not sites:
        return (
            f"there is no site {name!r}: the function has none at all. Name values in it by "
            '`jaxplain.sites.tag(x, "name")`; models of Flax have names by '
            "`jaxplain.adapters.nnx` and `.linen`."
        )
    near = difflib.get_close_matches(name, sites, n=5, cutoff=0.5)
    some = near or list(sites)[:8]
    more = "" if near or len(sites) <= 8 else f" and {len(sites) - 8} more (`jaxplain.sites.names`)"
    listed = ", ".join(repr(site) for site in some)
    return f"there is no site {name!r}. {'Near' if near else 'There are'}: {listed}{more}."


def whole_shape(site: _inventory.Site, index: int | None) -> tuple[int, ...]:
    """The shape in which a site, or one of its hits, is read and written."""
    return site.whole if index is None else site.shape
