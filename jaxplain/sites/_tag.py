"""Naming a value: the identity, with a name that is seen in the program."""

from typing import Any

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

from jaxplain import checks


def tag(x: Any, name: str) -> Any:
    """Names a value inside a function, so that it can be read and written from outside.

        y = tag(x, "name")        y is x

    The name is `jax.ad_checkpoint.checkpoint_name`'s: a policy of `jax.checkpoint` that saves these
    names saves these values. Models that call `checkpoint_name` need no tag.

    Args:
        x: an array, or a tree of them: each leaf is then named by its place too, such as
            "name.0" and "name.1" of a pair, "name.key" of a dict.
        name: any text but the empty one. A name that comes several times is one site with several
            hits, as the layers of a loop; docs/sites.md has the names of TransformerLens.

    Returns:
        x. It is the returned value that carries the name: use it in place of x.

    Raises:
        TypeError: the name is no text; a leaf of x is no array.
        ValueError: the name is empty.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxplain import sites
        >>> f = lambda x: sites.tag(jnp.tanh(x), "hidden").sum()
        >>> output, values = sites.read(f, "hidden")(jnp.zeros(3))
        >>> values["hidden"].shape
        (3,)

    References:
        `jax.ad_checkpoint.checkpoint_name`; docs/sites.md.
    """
    if not isinstance(name, str):
        raise TypeError(f"name must be text, such as 'hidden', but is {name!r}.")
    if not name:
        raise ValueError("name must not be empty.")
    checks.arrays(x, "x")
    return named(jax.tree.map(jnp.asarray, x), name)


def named(tree: Any, name: str, opaque: type | tuple[type, ...] = ()) -> Any:
    """The tree with its JAX arrays named, each by its place in it too.

    Other leaves are left alone: a number or a flag that Python goes on with stays one. So are nodes
    of the `opaque` types, with all that is in them.
    """

    def of_leaf(path: Any, leaf: Any) -> Any:
        if not isinstance(leaf, jax.Array):
            return leaf
        place = jax.tree_util.keystr(path, simple=True, separator=".")
        # Together nothing; under `vmap` both put the axis of the batch first: it is read there.
        leaf = jnp.squeeze(jnp.expand_dims(leaf, 0), 0)
        return checkpoint_name(leaf, f"{name}.{place}" if place else name)

    is_opaque = lambda node: isinstance(node, opaque)
    return jax.tree_util.tree_map_with_path(of_leaf, tree, is_leaf=is_opaque)
