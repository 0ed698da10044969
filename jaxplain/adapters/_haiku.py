"""Haiku functions as pure functions.

`haiku.transform` has made a pure function already; the adapter fixes what is not an array (flags of
the call), forbids random numbers and changes of the state, and names what each module returns:

    apply(params, *inputs) = transformed.apply(params, state, None, *inputs, **arguments)[0]
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax

from jaxplain.sites._tag import named

from ._call import library, named_arguments


def haiku(
    transformed: Any,
    params: Mapping[str, Any],
    state: Mapping[str, Any] | None = None,
    *,
    arguments: Mapping[str, Any] | None = None,
) -> tuple[Callable[..., Any], Any]:
    """Turns a transformed Haiku function in evaluation mode into `(apply, params)`.

        apply(params, *inputs) = transformed.apply(params, state, None, *inputs, **arguments)[0]

    What each module returns is a site by its name among the parameters, "mlp/~/linear_0", in a
    layer stack "stack/linear": see `jaxplain.sites`. Modules of a function that is transformed
    inside this one, and given parameters without `haiku.lift`, have names such as "linear@1".

    Args:
        transformed: what `haiku.transform` or `haiku.transform_with_state` returned.
        params: what its `init` returned or training made of it.
        state: of a function that was transformed with its state, that state.
        arguments: keyword arguments of the function, the same at each call and no arrays to
            explain, e.g. `{"is_training": False}`; none by default.

    Returns:
        `(apply, params)`. `apply(params, *inputs)` is pure and gives what the function gives for
        these inputs. `params` are the parameters, with a state `{"params": ..., "state": ...}`; an
        argument: other values of the same tree need no new compilation.

    Raises:
        ImportError: Haiku is not installed.
        TypeError: `transformed` is not a transformed function, or `params` or `state` is no dict.
        ValueError: a state is missing or too many; or, from `apply`, the function is in training
            mode: it asked for random numbers or changed its state.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> import haiku as hk
        >>> import jaxplain
        >>> batch = jnp.ones((5, 3))
        >>> transformed = hk.transform(lambda x: hk.nets.MLP([4, 2])(x))
        >>> apply, params = jaxplain.adapters.haiku(
        ...     transformed, transformed.init(jax.random.key(0), batch)
        ... )
        >>> apply(params, batch).shape
        (5, 2)
        >>> list(jaxplain.sites.names(apply)(params, batch))
        ['mlp/~/linear_0', 'mlp/~/linear_1', 'mlp']

    References:
        `haiku.transform_with_state`: https://dm-haiku.readthedocs.io/en/latest/api.html
    """
    hk = library("haiku")
    has_state = isinstance(transformed, hk.TransformedWithState)
    if not has_state and not isinstance(transformed, hk.Transformed):
        raise TypeError(
            f"transformed is a {type(transformed).__name__}, but must be what haiku.transform or "
            "haiku.transform_with_state returned"
        )
    options = named_arguments(arguments, frozenset())
    call = transformed.apply
    while hasattr(call, "lower"):  # of jax.jit, which may have traced it before, without names
        call = call.__wrapped__
    # What `without_apply_rng` made takes no key, and is of the same class as what does.
    key = () if call.__qualname__.startswith("without_apply_rng.") else (None,)
    given = {"params": params, "state": state} if has_state else {"params": params}
    for name, tree in given.items():
        if not isinstance(tree, Mapping):
            raise TypeError(
                f"{name} must be the dict that transformed.init returned, but is a "
                f"{type(tree).__name__}"
            )
    if not has_state and state is not None:
        raise ValueError("a function of haiku.transform has no state, but state was given")

    def apply(whole: Any, *inputs: Any) -> Any:
        params, state = (whole["params"], whole["state"]) if has_state else (whole, {})
        try:
            with hk.intercept_methods(_name_outputs(hk, params)):
                if not has_state:
                    return call(params, *key, *inputs, **options)
                output, after = call(params, state, *key, *inputs, **options)
        except Exception as error:
            if type(error).__name__ != "MissingRNGError":  # which is not among Haiku's public names
                raise
            raise ValueError(_in_training("asked for random numbers")) from error
        before = jax.tree_util.tree_leaves_with_path(state)
        changed = [
            jax.tree_util.keystr(place, simple=True, separator=".")
            for (place, old), new in zip(before, jax.tree.leaves(after), strict=True)
            if old is not new
        ]
        if changed:
            raise ValueError(_in_training(f"changed its state ({', '.join(changed)})"))
        return output

    return apply, given if has_state else params


def _name_outputs(hk: Any, params: Mapping[str, Any]) -> Callable[..., Any]:
    """Names what each module returns, for one call of the function.

    A lifted function is a function of its own, which names its modules and parameters from the
    start. A name in it is completed by where its parameters are among those of the whole.
    """
    known: list[tuple[str, Mapping[str, Any]]] = [("", params)]  # a place, and what is there
    unknown: list[tuple[str, ...]] = []
    running: list[Any] = []

    def path(name: str, own: Mapping[str, Any]) -> str:
        leaves = jax.tree.leaves(own)
        same = [
            (place, all(a is b for a, b in zip(leaves, jax.tree.leaves(there), strict=True)))
            for place, there in known
            if {key: own[key].keys() for key in own} == {key: there[key].keys() for key in there}
        ]
        if same:  # a transform in between leaves the names alone: then the last that was lifted
            place = next((place for place, is_own in same if is_own), same[-1][0])
            return f"{place}/{name}" if place else name
        keys = tuple(own)  # of a function that was given parameters by hand
        if keys not in unknown:
            unknown.append(keys)
        return f"{name}@{unknown.index(keys) + 1}"

    def intercept(call: Callable[..., Any], args: Any, kwargs: Any, context: Any) -> Any:
        module = context.module
        # A call by `super()` is a part of the one that runs.
        if context.method_name != "__call__" or any(module is other for other in running):
            return call(*args, **kwargs)
        running.append(module)
        try:
            output = call(*args, **kwargs)
        finally:
            running.pop()
        own = hk.get_params()
        if type(module).__name__ == "LiftingModule":  # it returns parameters, which are no values
            known.append((path(module.prefix_name, own).removesuffix("/"), output[0]))
            return output
        return named(output, path(module.module_name, own))

    return intercept


def _in_training(what: str) -> str:
    return (
        f"the function is in training mode: its call {what}. Explanations are of the model in "
        "evaluation mode: choose it by the flag of the call, e.g. "
        'jaxplain.adapters.haiku(transformed, params, state, arguments={"is_training": False})'
    )
