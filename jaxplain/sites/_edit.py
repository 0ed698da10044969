"""Editing: the function with values at some sites changed by functions of what was there."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from jaxplain import checks
from jaxplain.rewrite import _taps
from jaxplain.sites import _staged


def edit(
    f: Callable[..., Any],
    edits: Mapping[str, Callable[..., jax.Array]],
    *,
    numbered: bool = False,
) -> Callable[..., Any]:
    """The function with the values at some of its sites changed by functions of them.

        output = edit(f, {name: function})(*inputs)

    For ablation, steering, or the replacement of some positions: `lambda h: h.at[3].set(0)`. Arrays
    that a function closes over are constants; what is to vary from call to call goes to
    `jaxplain.sites.write`.

    Args:
        f: any function of arrays, with names in it.
        edits: from sites to functions `value -> value` of the same shape and dtype. Of a site that
            is hit several times each hit is changed, by itself; of "name[3]" that one.
        numbered: whether the functions are `value, number -> value`, with the number of the hit, an
            int32: a sweep over layers is then one program, `jnp.where(number == layer, 0, h)`
            mapped over `layer`. Static.

    Returns:
        `function(*inputs) -> output`, jitted inside.

    Raises:
        TypeError: f or an edit is not a function of these; edits are no dict; a function changes
            the dtype.
        ValueError: there is no such site; it is inside a custom derivative; a function changes the
            shape.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxplain import sites
        >>> f = lambda x: sites.tag(2 * x, "hidden").sum()
        >>> float(sites.edit(f, {"hidden": lambda h: h.at[0].set(0)})(jnp.ones(3)))
        4.0

    References:
        docs/sites.md.
    """
    checks.function(f, "f")
    if not isinstance(edits, Mapping):
        raise TypeError(
            f"edits must be a dict from names to functions, but is a {type(edits).__name__}."
        )
    names = _staged.listed(edits)
    for name in names:
        takes = "value, number" if numbered else "value"
        checks.function(edits[name], f"the edit of {name!r}", takes)

    def function(*inputs: Any) -> Any:
        staged = _staged.stage(f, inputs)
        changes: dict[str, list[_taps.Change]] = {}
        for name in names:
            site, index = _staged.find(staged, name, "written" if numbered else "edited")
            own, rows = _checked(edits[name], name, numbered), None
            if numbered and staged.sites[site].is_open:
                raise ValueError(
                    f"the site {name!r} is inside a `while`, whose iterations have no number: edit "
                    "it without `numbered`."
                )
            if numbered:
                hits = staged.sites[site].hits
                rows = jnp.arange(hits, dtype=jnp.int32) if index is None else jnp.int32(index)
            changes.setdefault(site, []).append(_taps.Change(own, index, rows))
        return staged.run({}, changes)[0]

    return _staged.jitted(function)


def _checked(
    function: Callable[..., jax.Array], name: str, numbered: bool
) -> Callable[[jax.Array, Any], jax.Array]:
    def changed(value: jax.Array, number: Any) -> jax.Array:
        new = function(value, number) if numbered else function(value)
        checks.arrays(new, f"what the edit of {name!r} returns")
        shape, dtype = getattr(new, "shape", ()), getattr(new, "dtype", type(new).__name__)
        if shape != value.shape:
            raise ValueError(
                f"the edit of {name!r} must return the shape {value.shape}, but returned {shape}."
            )
        if dtype != value.dtype:
            raise TypeError(
                f"the edit of {name!r} must return the dtype {value.dtype}, but returned {dtype}."
            )
        return new

    return changed
