"""Writing: the function with values at some sites replaced by arguments."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from jaxplain import checks
from jaxplain.rewrite import _taps
from jaxplain.sites import _staged


def write(f: Callable[..., Any], names: str | Iterable[str]) -> Callable[..., Any]:
    """The function with the values at some of its sites replaced by arguments.

        output = write(f, names)({name: value}, *inputs)

    Replacements are arguments: other values do not recompile, `vmap` maps over them and `grad`
    differentiates by them. What led to a replaced value is not computed.

    Args:
        f: any function of arrays, with names in it.
        names: the site or sites; "name[3]" for one hit of several.

    Returns:
        `function(values, *inputs) -> output`, jitted inside. `values` is a dict with each name; a
        value has the shape and dtype in which the site is read: with a leading axis over hits where
        there are several.

    Raises:
        TypeError: f is not a function; names are no text; values are no dict of arrays, or of
            another dtype.
        ValueError: there is no such site; it is inside a custom derivative; a value is missing, is
            too many, or has another shape.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxplain import sites
        >>> f = lambda x: 3 * sites.tag(jnp.tanh(x), "hidden").sum()
        >>> float(sites.write(f, "hidden")({"hidden": jnp.ones(2)}, jnp.zeros(2)))
        6.0

    References:
        docs/sites.md.
    """
    checks.function(f, "f")
    names = _staged.listed(names)

    def function(values: Mapping[str, Any], *inputs: Any) -> Any:
        staged = _staged.stage(f, inputs)
        changes: dict[str, list[_taps.Change]] = {}
        for name in names:
            site, index = _staged.find(staged, name, "written")
            shape = _staged.whole_shape(staged.sites[site], index)
            value = _fitting(values[name], name, shape, staged.sites[site].dtype)
            if index is None and not staged.sites[site].is_stacked:
                value = value[None]
            changes.setdefault(site, []).append(_taps.Change(None, index, value))
        return staged.run({}, changes)[0]

    compiled = _staged.jitted(function)

    def checked(values: Mapping[str, Any], *inputs: Any) -> Any:
        if not isinstance(values, Mapping):
            raise TypeError(
                f"values must be a dict from names to arrays, but is a {type(values).__name__}: "
                "write(f, names)(values, *inputs)."
            )
        if set(values) != set(names):
            raise ValueError(
                f"values must have the names {sorted(names)}, but has {sorted(map(str, values))}."
            )
        return compiled(dict(values), *inputs)

    return checked


def at(f: Callable[..., Any], name: str) -> Callable[..., Any]:
    """The function as a function of the value at a site: what explains a layer or a neuron.

        g(value, *inputs) = write(f, name)({name: value}, *inputs)

    With it every method that explains an input explains a layer:
    `jaxplain.integrated_gradients(at(f, "block3"))(value, baseline, *inputs)`.

    Args:
        f: any function of arrays, with names in it.
        name: the site; "name[3]" for one hit of several.

    Returns:
        `g(value, *inputs)`, jitted inside. The inputs are those of f, of any dtype; where the value
        does not depend on them in any other way they have no effect.

    Raises:
        TypeError: f is not a function; the name is no text; the value has another dtype.
        ValueError: there is no such site, or the value has another shape.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from jaxplain import sites
        >>> f = lambda x: (sites.tag(2 * x, "hidden") ** 2).sum()
        >>> g = sites.at(f, "hidden")
        >>> jax.grad(g)(jnp.ones(2), jnp.zeros(2)).tolist()
        [2.0, 2.0]

    References:
        docs/sites.md; layer attributions as compositions, docs/ideas.md.
    """
    if not isinstance(name, str):
        raise TypeError(f"name must be text, such as 'hidden' or 'hidden[0]', but is {name!r}.")
    written = write(f, name)
    return lambda value, *inputs: written({name: value}, *inputs)


def _fitting(value: Any, name: str, shape: tuple[int, ...], dtype: Any) -> jax.Array:
    """The value as an array, of the shape and dtype of the site."""
    checks.arrays(value, f"the value for {name!r}")
    if not jax.tree_util.all_leaves([value]):
        raise TypeError(f"the value for {name!r} must be one array, but is a tree.")
    value = jnp.asarray(value)
    if value.shape != shape:
        raise ValueError(
            f"the value for {name!r} must have shape {shape}, but has {value.shape}. For each of a "
            "batch, use `jax.vmap`; to change some positions, `jaxplain.sites.edit`."
        )
    if value.dtype != dtype:
        raise TypeError(
            f"the value for {name!r} must have dtype {dtype}, but has {value.dtype}: cast it, "
            f"`value.astype({str(dtype)!r})`."
        )
    return value
