"""LeNet for 28 x 28 digits.

conv 5x5 (1 -> 6) - ReLU - max pool 2 - conv 5x5 (6 -> 16) - ReLU - max pool 2
- flatten 256 - linear 120 - ReLU - linear 84 - ReLU - linear 10
"""

from __future__ import annotations

import os
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from ._safetensors import load


class LeNet(nnx.Module):
    """LeNet with max pooling and ReLU, for MNIST digits: 44,426 parameters.

        logits = fc_3(relu(fc_2(relu(fc_1(flatten(h)))))),
        h = pool(relu(conv_2(pool(relu(conv_1(x))))))

    The input is x = pixel / 255, without further normalisation; `preprocess` makes it. An
    explanation by x is an explanation by the image.

    Args:
        rngs: the random streams of Flax NNX, for the initial weights.

    Returns:
        A model; `model(batch)` takes `(batch, 28, 28, 1)` and gives logits `(batch, 10)`.

    Raises:
        ValueError: from the call, if the batch has another shape.

    Example:
        >>> import jax
        >>> import jax.numpy as jnp
        >>> import jaxplain
        >>> from flax import nnx
        >>> def logits(batch):
        ...     model = jaxplain.models.LeNet(rngs=nnx.Rngs(0))
        ...     model.eval()
        ...     return model(batch)
        >>> jax.eval_shape(logits, jnp.zeros((5, 28, 28, 1))).shape  # computes nothing
        (5, 10)

    References:
        LeCun, Bottou, Bengio and Haffner, "Gradient-based learning applied to document
        recognition", Proc. IEEE 1998, section II.B. Deviations: (1) max pooling without weights,
        (2) ReLU, (3) all channels connected, (4) a linear output layer, (5) no padding of the
        digits to 32 x 32.
    """

    def __init__(self, *, rngs: nnx.Rngs):
        self.conv_1 = nnx.Conv(1, 6, (5, 5), padding="VALID", rngs=rngs)
        self.conv_2 = nnx.Conv(6, 16, (5, 5), padding="VALID", rngs=rngs)
        self.fc_1 = nnx.Linear(16 * 4 * 4, 120, rngs=rngs)
        self.fc_2 = nnx.Linear(120, 84, rngs=rngs)
        self.fc_3 = nnx.Linear(84, 10, rngs=rngs)

    def __call__(self, batch: jax.Array) -> jax.Array:
        """Returns the logits `(batch, 10)` of digits `(batch, 28, 28, 1)`."""
        if batch.ndim != 4 or batch.shape[1:] != (28, 28, 1):
            raise ValueError(
                f"LeNet takes a batch of shape (batch, 28, 28, 1), but got {batch.shape}"
            )
        hidden = nnx.max_pool(nnx.relu(self.conv_1(batch)), (2, 2), strides=(2, 2))
        hidden = nnx.max_pool(nnx.relu(self.conv_2(hidden)), (2, 2), strides=(2, 2))
        hidden = hidden.reshape(hidden.shape[0], -1)
        hidden = nnx.relu(self.fc_1(hidden))
        hidden = nnx.relu(self.fc_2(hidden))
        return self.fc_3(hidden)

    @classmethod
    def from_safetensors(cls, path: str | os.PathLike[str]) -> LeNet:
        """Loads a LeNet from a safetensors file in PyTorch's layout.

        Args:
            path: the file, with the tensors `conv_1`, `conv_2`, `fc_1`, `fc_2` and `fc_3`
                (`.weight`, `.bias`). The columns of `fc_1.weight` are in the order (channel,
                height, width).

        Returns:
            The model in evaluation mode, float32.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: it is no safetensors file, or its tensors do not fit the network.
            ImportError: the package safetensors is not installed.

        Example:
            >>> from jaxplain.models import LeNet
            >>> path = "lenet_mnist.safetensors"
            >>> model = LeNet.from_safetensors(path)  # doctest: +SKIP

        References:
            The safetensors format: https://huggingface.co/docs/safetensors
        """
        return load(lambda rngs: cls(rngs=rngs), path, flattened={"fc_1.weight": (16, 4, 4)})

    @staticmethod
    def preprocess(images: Any) -> jax.Array:
        """Makes the input of the network from digits as bytes: x = pixel / 255.

        Args:
            images: uint8 `(..., 28, 28)`, ink 255 on black 0.

        Returns:
            float32 `(..., 28, 28, 1)` in [0, 1].

        Raises:
            ValueError: `images` is not uint8 or has another shape.

        Example:
            >>> import numpy as np
            >>> from jaxplain.models import LeNet
            >>> LeNet.preprocess(np.full((2, 28, 28), 255, np.uint8)).shape
            (2, 28, 28, 1)

        References:
            The scaling with the lowest loss for the published weights.
        """
        images = jnp.asarray(images)
        if images.dtype != jnp.uint8 or images.shape[-2:] != (28, 28):
            raise ValueError(
                "images must be uint8 of shape (..., 28, 28), but are "
                f"{images.dtype} {images.shape}"
            )
        return images[..., None].astype(jnp.float32) / 255
