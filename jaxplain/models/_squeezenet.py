"""SqueezeNet 1.0 for ImageNet, as Caffe runs it.

    conv1 7x7/2 (96) - ReLU - pool - fire2..4 - pool - fire5..8 - pool - fire9
    - conv_final 1x1 with padding 1 - ReLU - global mean = logits
    fire(x) = concat(relu(conv1x1_2(s)), relu(conv3x3_2(s))),  s = relu(conv1x1_1(x))

Pools are 3x3/2 maxima in Caffe's "ceil" mode: a window that sticks out at the end still counts.
"""

from __future__ import annotations

import os
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from ._safetensors import load

# The mean colour of ImageNet, blue, green and red.
MEAN_BGR = (104.0, 117.0, 123.0)


class Fire(nnx.Module):
    """A 1x1 convolution that squeezes the channels, then 1x1 and 3x3 ones side by side."""

    def __init__(self, channels_in: int, squeezed: int, expanded: int, *, rngs: nnx.Rngs):
        self.conv1x1_1 = nnx.Conv(channels_in, squeezed, (1, 1), rngs=rngs)
        self.conv1x1_2 = nnx.Conv(squeezed, expanded, (1, 1), rngs=rngs)
        self.conv3x3_2 = nnx.Conv(squeezed, expanded, (3, 3), padding=1, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        squeezed = nnx.relu(self.conv1x1_1(x))
        return jnp.concatenate(
            [nnx.relu(self.conv1x1_2(squeezed)), nnx.relu(self.conv3x3_2(squeezed))], axis=-1
        )


class SqueezeNet(nnx.Module):
    """SqueezeNet 1.0 for ImageNet: 1,248,424 parameters, no batch norm.

        logits = mean(relu(conv_final(fire9(pool(fire8(...pool(fire4(...pool(relu(conv1(x)))))))))))

    The input is the photo as blue, green, red minus the mean colour (104, 117, 123), in units of
    pixel values and not divided by anything; `preprocess` makes it from RGB bytes. Explanations
    are by this input; its zero is the mean colour. Logits are never negative. Dropout, which only
    trains, is left out.

    Args:
        rngs: the random streams of Flax NNX, for the initial weights.

    Returns:
        A model; `model(batch)` takes `(batch, 227, 227, 3)` (other sizes work too) and gives
        logits `(batch, 1000)` in the order of ImageNet's WordNet numbers.

    Raises:
        ValueError: from the call, if the batch does not have three channels.

    Example:
        >>> import jax
        >>> import jax.numpy as jnp
        >>> import jaxplain
        >>> from flax import nnx
        >>> def logits(batch):
        ...     model = jaxplain.models.SqueezeNet(rngs=nnx.Rngs(0))
        ...     model.eval()
        ...     return model(batch)
        >>> jax.eval_shape(logits, jnp.zeros((5, 227, 227, 3))).shape  # computes nothing
        (5, 1000)

    References:
        Iandola et al., "SqueezeNet: AlexNet-level accuracy with 50x fewer parameters and < 0.5MB
        model size", 2016, table 1. Han, Mao and Dally, "Deep compression", ICLR 2016, for the
        compressed weights.
    """

    def __init__(self, *, rngs: nnx.Rngs):
        self.conv1 = nnx.Conv(3, 96, (7, 7), strides=2, padding="VALID", rngs=rngs)
        self.fire2 = Fire(96, 16, 64, rngs=rngs)
        self.fire3 = Fire(128, 16, 64, rngs=rngs)
        self.fire4 = Fire(128, 32, 128, rngs=rngs)
        self.fire5 = Fire(256, 32, 128, rngs=rngs)
        self.fire6 = Fire(256, 48, 192, rngs=rngs)
        self.fire7 = Fire(384, 48, 192, rngs=rngs)
        self.fire8 = Fire(384, 64, 256, rngs=rngs)
        self.fire9 = Fire(512, 64, 256, rngs=rngs)
        self.conv_final = nnx.Conv(512, 1000, (1, 1), padding=1, rngs=rngs)

    def __call__(self, batch: jax.Array) -> jax.Array:
        """Returns the logits `(batch, 1000)` of photos `(batch, height, width, 3)`, BGR - mean."""
        if batch.ndim != 4 or batch.shape[-1] != 3:
            raise ValueError(
                f"SqueezeNet takes a batch of shape (batch, 227, 227, 3), but got {batch.shape}"
            )
        hidden = ceil_max_pool(nnx.relu(self.conv1(batch)))
        hidden = self.fire4(self.fire3(self.fire2(hidden)))
        hidden = ceil_max_pool(hidden)
        hidden = self.fire8(self.fire7(self.fire6(self.fire5(hidden))))
        hidden = self.fire9(ceil_max_pool(hidden))
        return nnx.relu(self.conv_final(hidden)).mean(axis=(1, 2))

    @classmethod
    def from_safetensors(cls, path: str | os.PathLike[str]) -> SqueezeNet:
        """Loads a SqueezeNet 1.0 from a safetensors file in Caffe's layout.

        Args:
            path: the file, with Caffe's layer names (`conv1.weight`, `fire2/conv1x1_1.weight`,
                ..., `conv_final.bias`).

        Returns:
            The model, float32.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: it is no safetensors file, or its tensors do not fit the network.
            ImportError: the package safetensors is not installed.

        Example:
            >>> from jaxplain.models import SqueezeNet
            >>> path = "squeezenet1_0_dc.safetensors"
            >>> model = SqueezeNet.from_safetensors(path)  # doctest: +SKIP

        References:
            The safetensors format: https://huggingface.co/docs/safetensors
        """
        return load(lambda rngs: cls(rngs=rngs), path, separator="/")

    @staticmethod
    def preprocess(images: Any) -> jax.Array:
        """Makes the input of the network from photos as bytes: BGR - (104, 117, 123).

        Args:
            images: uint8 `(..., height, width, 3)`, RGB; for the published accuracy the shorter
                side scaled to 256 and the centre cropped to 227.

        Returns:
            float32 of the same shape, BGR, in units of pixel values.

        Raises:
            ValueError: `images` is not uint8 or does not have three channels.

        Example:
            >>> import numpy as np
            >>> from jaxplain.models import SqueezeNet
            >>> red = np.array([[[255, 0, 0]]], np.uint8)
            >>> SqueezeNet.preprocess(red).tolist()
            [[[-104.0, -117.0, 132.0]]]

        References:
            https://github.com/songhan/SqueezeNet-Deep-Compression, with Caffe's own transform.
        """
        images = jnp.asarray(images)
        if images.dtype != jnp.uint8 or images.ndim < 3 or images.shape[-1] != 3:
            raise ValueError(
                "images must be uint8 of shape (..., height, width, 3), but are "
                f"{images.dtype} {images.shape}"
            )
        mean = jnp.asarray(MEAN_BGR, jnp.float32).reshape((1,) * (images.ndim - 1) + (3,))
        return images[..., ::-1].astype(jnp.float32) - mean


def ceil_max_pool(x: jax.Array) -> jax.Array:
    """Maximum over 3x3 windows at every second pixel; the last window may stick out by one."""
    height, width = x.shape[1:3]
    # Flax pads with minus infinity, which never is the maximum.
    end = ((0, (height - 3) % 2), (0, (width - 3) % 2))
    return nnx.max_pool(x, (3, 3), strides=(2, 2), padding=end)
