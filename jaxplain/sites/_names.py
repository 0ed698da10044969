"""What can be named in a function."""

from collections.abc import Callable
from typing import Any

import jax

from jaxplain import checks
from jaxplain.sites import _staged


def names(f: Callable[..., Any]) -> Callable[..., dict[str, jax.ShapeDtypeStruct]]:
    """The sites of a function, with the shapes and dtypes in which they are read and written.

        {name: shape and dtype} = names(f)(*inputs)

    Nothing is computed: the function is traced.

    Args:
        f: any function of arrays.

    Returns:
        `function(*inputs) -> dict`, in the order of the program. Inputs may be arrays or
        `jax.ShapeDtypeStruct`. A site that is hit several times has a leading axis over hits. What
        cannot be read or written (in a custom derivative, in some branches only) is left out.

    Raises:
        TypeError: f is not a function.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxplain import sites
        >>> f = lambda x: sites.tag(jnp.tanh(x), "hidden").sum()
        >>> {name: value.shape for name, value in sites.names(f)(jnp.zeros(3)).items()}
        {'hidden': (3,)}

    References:
        docs/sites.md.
    """
    checks.function(f, "f")

    def function(*inputs: Any) -> dict[str, jax.ShapeDtypeStruct]:
        sites = _staged.stage(f, inputs).sites
        return {
            name: jax.ShapeDtypeStruct(site.whole, site.dtype)
            for name, site in sites.items()
            if not (site.trouble or site.unread)
        }

    return function
