"""Activations made when they are needed: chunks of inputs run through a model, and mixed.

chunk c    function(example, *shared) of a batch of examples, one program
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxplain import checks
from jaxplain.sae import _chunks
from jaxplain.sae._chunks import Chunks


def harvested(
    function: Callable[..., Any],
    inputs: Any,
    *,
    shared: Sequence[Any] = (),
    batch_size: int,
    mask: Any = None,
    buffer_bytes: int = 2**28,
) -> Chunks:
    """Activations of a model as the source of a training run, with nothing on disk.

    Each pass over the inputs runs the model anew: what is wanted in more than one or two passes is
    cheaper on disk, by `jaxplain.run.map` of the same function and `jaxplain.sae.stored`.

    Args:
        function: `function(example, *shared) -> (..., d)`, the activations of one example, such as
            `lambda tokens, params: sites.read(model, "resid")(tokens, params)[1]["resid"]`. It is
            mapped over a batch; a model that must see its batch goes into `jaxplain.batched`.
        inputs: an array (examples, ...), or a pytree of such: token ids, images. Of numpy, they
            stay on the host.
        shared: what all examples share, such as the parameters of the model.
        batch_size: how many examples the model runs at once: a chunk.
        mask: (examples, ...) of booleans or integers, of the shape of the activations without d;
            rows where it is 0 are left out. All rows count unless given.
        buffer_bytes: how many bytes of activations are mixed at a time: as many whole chunks as
            fit, at least one. Twice as much is held, since the next group is begun ahead; it waits
            on the device.

    Returns:
        `Chunks`, for `source` of `jaxplain.sae.train`. Which batch a step gets depends on the key
        and its number alone, so that a run goes on at the exact example.

    Raises:
        TypeError: `inputs` are no arrays, or the function gives something else than floats.
        ValueError: there are no examples, their arrays have different lengths, the activations have
            no width, or the mask is of another shape.

    Example:
        >>> import jax, jax.numpy as jnp, optax
        >>> from jaxplain import sae
        >>> x = jax.random.normal(jax.random.key(0), (64, 5, 8))
        >>> layer = lambda x, W: jnp.tanh(x @ W)
        >>> source = sae.harvested(layer, x, shared=(jnp.eye(8),), batch_size=16)
        >>> result = sae.train(
        ...     jax.random.key(1),
        ...     sae.topk(latents=16, k=2),
        ...     source,
        ...     optimizer=optax.adam(1e-3),
        ...     steps=10,
        ...     batch_size=32,
        ... )
        >>> source.rows.tolist(), int(result.state.step)
        ([80, 80, 80, 80], 10)

    References:
        As the activation stores of SAELens and dictionary_learning (2025), which keep half of a
        buffer: https://github.com/decoderesearch/SAELens
    """
    checks.arrays(inputs, "inputs")
    batch_size = checks.integer(batch_size, "batch_size")
    shapes = [np.shape(leaf) for leaf in jax.tree.leaves(inputs)]
    examples = shapes[0][0] if shapes and shapes[0] else 0
    if not examples or any(shape[:1] != (examples,) for shape in shapes):
        raise ValueError(
            "inputs must be arrays (examples, ...) of one number of examples, at least one, but "
            f"have the shapes {', '.join(map(str, shapes))}."
        )
    run = jax.jit(jax.vmap(function, in_axes=(0, *(None for _ in shared))))
    begin = lambda part: run(jax.tree.map(lambda leaf: leaf[part], inputs), *shared)
    found = jax.eval_shape(lambda: begin(slice(0, batch_size)))
    if not hasattr(found, "shape") or not jnp.issubdtype(found.dtype, jnp.floating):
        raise TypeError(f"the function must return activations, one array of floats, not {found}.")
    if found.ndim < 2:
        raise ValueError(
            f"the function must return (..., d) for an example, but returned {found.shape[1:]}."
        )
    shape = (examples, *found.shape[1:])
    if mask is not None:
        mask = _chunks.checked_mask(mask, shape[:-1], "mask", "the activations")
    return _chunks.of_parts(
        shape, found.dtype.itemsize, batch_size, mask, buffer_bytes, begin, np.asarray
    )
