"""Checks of arguments, at trace time, with messages that say what came and what to do.

Each public function calls these first. They look at shapes, dtypes and trees only, so that they
work on tracers and cost microseconds.
"""

import functools
import inspect
import math
import numbers
import operator
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

__all__ = [
    "arrays",
    "explained",
    "floating",
    "function",
    "integer",
    "key",
    "like",
    "number",
    "rule",
    "scalar",
    "several",
]


def function(value: Any, name: str, takes: str = "") -> None:
    """Raises TypeError unless `value` can be called, with the arguments that `takes` lists."""
    if not callable(value):
        raise TypeError(f"{name} must be a function, but is {_describe(value)}.")
    if not takes:
        return
    try:
        signature = inspect.signature(value)
    except (TypeError, ValueError):  # of some builtins nothing is known
        return
    try:
        signature.bind(*takes.split(", "))
    except TypeError:
        raise TypeError(f"{name} is called with ({takes}), but takes {signature}.") from None


def floating(value: jax.Array, what: str) -> None:
    """Raises TypeError unless a gradient with respect to the array can be taken."""
    if not jnp.issubdtype(value.dtype, jnp.inexact):
        raise TypeError(
            f"{what} has the dtype {value.dtype}, and a gradient with respect to it is taken: "
            "choose a place where there are floats."
        )


def integer(value: Any, name: str, minimum: float = 1) -> int:
    """A static Python integer of at least `minimum`."""
    try:
        number = operator.index(value)
    except TypeError:
        raise TypeError(
            f"{name} must be a Python integer, since it is part of the compiled program, but is "
            f"{_describe(value)}."
        ) from None
    if isinstance(value, bool):
        raise TypeError(f"{name} must be an integer, but is a bool ({value}).")
    if number < minimum:
        raise ValueError(f"{name} must be at least {minimum}, but is {number}.")
    return number


def key(value: Any) -> None:
    """Raises TypeError unless `value` is one typed key."""
    if not isinstance(value, jax.Array) or not jnp.issubdtype(value.dtype, jax.dtypes.prng_key):
        raise TypeError(
            f"key must be a typed key, `jax.random.key(seed)`, and comes first, but is "
            f"{_describe(value)}."
        )
    if value.shape != ():
        raise ValueError(
            f"key must be one key, but has shape {value.shape}. For a batch of examples: "
            "`jax.vmap(explain)(jax.random.split(key, n), ...)`."
        )


def number(
    value: Any,
    name: str,
    *,
    at_least: float | None = None,
    above: float | None = None,
    at_most: float | None = None,
    below: float | None = None,
    hint: str = "",
) -> Any:
    """One finite real number within the limits, given back; or a traced one, taken as it is."""
    dtype = getattr(value, "dtype", np.result_type(type(value)) if _is_array(value) else None)
    is_real = dtype is not None and (
        jnp.issubdtype(dtype, jnp.floating) or jnp.issubdtype(dtype, jnp.integer)
    )
    if not is_real or np.ndim(value) != 0:
        raise TypeError(f"{name} must be one real number, but is {_describe(value)}.")
    try:
        known = float(value)
    except jax.errors.ConcretizationTypeError:
        return value  # traced: its value is not known yet
    limits = {
        f"at least {at_least}": at_least is None or known >= at_least,
        f"above {above}": above is None or known > above,
        f"at most {at_most}": at_most is None or known <= at_most,
        f"below {below}": below is None or known < below,
    }
    if not (math.isfinite(known) and all(limits.values())):
        named = [text for text in limits if not text.endswith("None")]
        if at_most is None and below is None:
            named = ["finite", *named]
        raise ValueError(
            f"{name} must be {' and '.join(named)}, but is {value}." + (f" {hint}" if hint else "")
        )
    return value


def arrays(tree: Any, what: str) -> None:
    """Raises TypeError unless every leaf is an array or a number."""
    for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]:
        if not _is_array(leaf):
            place = jax.tree_util.keystr(path)
            where = f"the leaf at {place} is" if place else "is"
            raise TypeError(
                f"{what} must be an array or a tree of arrays, but {where} {_describe(leaf)}. "
                "Arguments are traced by JAX; give anything else to the function beforehand, e.g. "
                "`functools.partial(f, mode='eval')`."
            )


def explained(x: Any, *, is_differentiated: bool = True, is_masked: bool = False) -> Any:
    """What is explained, as a tree of arrays; the leaves may be scalars.

    Float arrays, where a gradient with respect to them is taken or parts of them are masked.
    """
    arrays(x, "x")
    if not jax.tree.leaves(x):
        raise ValueError("x must hold at least one array, but is an empty tree.")
    x = jax.tree.map(jnp.asarray, x)
    for path, leaf in jax.tree_util.tree_flatten_with_path(x)[0]:
        if (is_differentiated or is_masked) and not jnp.issubdtype(leaf.dtype, jnp.floating):
            place = jax.tree_util.keystr(path)
            use = "masks multiply it" if is_masked else "a gradient with respect to it is taken"
            raise TypeError(
                f"x must be float, since {use}, but x{place} has "
                f"dtype {leaf.dtype}. If it holds pixels, convert it: `x.astype(jnp.float32)`. If "
                "it holds token ids, explain the embeddings in place of the ids, with the function "
                'of the value at that place: `jaxplain.sites.at(f, "embedding")`.'
            )
    return x


def like(value: Any, x: Any, name: str, *, any_float: bool = False) -> Any:
    """A tree of the same structure, shapes and dtypes as `x`; or of any float dtypes."""
    arrays(value, name)
    structure: Any = jax.tree.structure(value)
    expected: Any = jax.tree.structure(x)
    if structure != expected:
        hint = (
            " It is never zero by itself: `jaxplain.baselines.zeros(x)` makes one."
            if name == "baseline"
            else ""
        )
        raise ValueError(
            f"{name} must be the same tree as x, but is {structure} where x is {expected}.{hint}"
        )

    def check(path: Any, leaf: Any, other: jax.Array) -> jax.Array:
        place = jax.tree_util.keystr(path)
        is_number = isinstance(leaf, numbers.Real) and not isinstance(leaf, bool | np.generic)
        weak = is_number or getattr(leaf, "weak_type", False)
        if np.shape(leaf) != other.shape:
            raise ValueError(
                f"{name}{place} must have the shape of x{place}, {other.shape}, but has "
                f"{np.shape(leaf)}. For a constant: `jnp.full_like(x, value)`; a batch of "
                "examples goes through `jax.vmap(explain, in_axes=(0, None, ...))`."
            )
        if any_float:
            leaf = jnp.asarray(leaf)
            if not jnp.issubdtype(leaf.dtype, jnp.floating):
                raise TypeError(f"{name}{place} must be float, but has dtype {leaf.dtype}.")
            return leaf
        leaf = jnp.asarray(leaf, other.dtype) if weak else jnp.asarray(leaf)
        if leaf.dtype != other.dtype:
            raise TypeError(
                f"{name}{place} must have the dtype of x{place}, {other.dtype}, but has "
                f"{leaf.dtype}. Convert one: `{name}.astype(x.dtype)`."
            )
        return leaf

    return jax.tree_util.tree_map_with_path(check, value, x)


def several(value: Any, x: Any, name: str) -> Any:
    """A tree like x with one more, leading axis, which counts what `name` (a plural) says."""
    arrays(value, name)
    structure: Any = jax.tree.structure(value)
    expected: Any = jax.tree.structure(x)
    if structure != expected:
        raise ValueError(
            f"{name} must be the same tree as x, but is {structure} where x is {expected}."
        )
    value = jax.tree.map(jnp.asarray, value)
    counts = set()
    for (path, leaf), other in zip(
        jax.tree_util.tree_flatten_with_path(value)[0], jax.tree.leaves(x), strict=True
    ):
        place = jax.tree_util.keystr(path)
        if leaf.shape[1:] != other.shape or leaf.ndim == 0:
            raise ValueError(
                f"each of {name}{place} must have the shape of x{place}, {other.shape}, but has "
                f"{leaf.shape[1:]}: {name}{place} has shape {leaf.shape}, and its first axis "
                f"counts the {name}. For a single one: `{name[:-1]}[None]`."
            )
        if leaf.dtype != other.dtype:
            raise TypeError(
                f"{name}{place} must have the dtype of x{place}, {other.dtype}, but has "
                f"{leaf.dtype}. Convert one: `{name}.astype(x.dtype)`."
            )
        counts.add(leaf.shape[0])
    if len(counts) > 1:
        raise ValueError(
            f"the leaves of {name} have different numbers of {name}: {sorted(counts)}."
        )
    if counts == {0}:
        raise ValueError(f"{name} must hold at least one, but the first axis is empty.")
    return value


def scalar(f: Callable[..., Any]) -> Callable[..., jax.Array]:
    """`f`, checked when it is traced: it must return one float."""

    @functools.wraps(f, updated=())
    def checked(*args: Any) -> jax.Array:
        output = f(*args)
        leaves = jax.tree.leaves(output)
        if len(leaves) != 1 or not _is_array(output):
            raise TypeError(
                "f must return one scalar array, but returned "
                f"{_describe(output)}. Return only what is to be explained."
            )
        output = jnp.asarray(output)
        if output.shape != ():
            raise ValueError(
                f"f must return a scalar, but returned shape {output.shape}. Select what to "
                "explain, e.g. `lambda x: f(x)[label]`, or build f with "
                "`jaxplain.targets.logit(apply)`."
            )
        if not jnp.issubdtype(output.dtype, jnp.floating):
            raise TypeError(
                f"f must return a float, but returned dtype {output.dtype}: a class number cannot "
                "be differentiated. Return the score of a class, e.g. `logits[label]`."
            )
        return output

    return checked


def rule(value: Any, steps: int) -> tuple[np.ndarray, np.ndarray]:
    """The nodes and weights of a quadrature rule, in float64."""
    if not callable(value):
        raise TypeError(
            "rule must be a function `steps -> (nodes, weights)`, such as "
            f"`jaxplain.paths.gauss_legendre`, but is {_describe(value)}."
        )
    result = value(steps)
    if not isinstance(result, Sequence) or len(result) != 2:
        raise TypeError(
            "rule must return (nodes, weights), two arrays of one length, but returned "
            f"{_describe(result)}."
        )
    nodes, weights = map(np.asarray, result)
    for array in (nodes, weights):
        if array.dtype.kind not in "fiu" and array.dtype != jnp.bfloat16:
            raise TypeError(
                f"rule must return real nodes and weights, but returned {_describe(array)}."
            )
    nodes, weights = nodes.astype(np.float64), weights.astype(np.float64)
    if nodes.ndim != 1 or nodes.shape != weights.shape or nodes.size == 0:
        raise ValueError(
            "rule must return nodes and weights of one length, at least one, but returned shapes "
            f"{nodes.shape} and {weights.shape}."
        )
    if not (np.isfinite(nodes).all() and np.isfinite(weights).all()):
        raise ValueError("rule returned nodes or weights that are not finite.")
    if nodes.min() < 0 or nodes.max() > 1:
        raise ValueError(
            f"rule must return nodes within [0, 1], from baseline to x, but they span "
            f"[{nodes.min()}, {nodes.max()}]."
        )
    return nodes, weights


def _is_array(leaf: Any) -> bool:
    return isinstance(leaf, (jax.Array, np.ndarray, np.generic, numbers.Number)) and not (
        isinstance(leaf, (np.ndarray, np.generic)) and leaf.dtype.kind in "OSUMm"
    )


def _describe(value: Any) -> str:
    if isinstance(value, (jax.Array, np.ndarray)):
        return f"an array of shape {value.shape} and dtype {value.dtype}"
    text = repr(value)
    return f"a {type(value).__name__}" + (f" ({text})" if len(text) <= 60 else "")
