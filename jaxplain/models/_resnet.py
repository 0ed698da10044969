"""ResNet-20 for CIFAR-10.

    conv 3x3 (3 -> 16) - BN - ReLU - 3 stages of 3 basic blocks (16, 32, 64 channels)
    - global mean - linear 10
    block(x) = relu(bn2(conv2(relu(bn1(conv1(x))))) + shortcut(x))

The shortcut has no parameters ("option A"): where a stage halves the image it takes every second
pixel and fills up the channels with zeros on both sides.
"""

from __future__ import annotations

import os
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from ._safetensors import load

# Per channel, red, green and blue, of images in [0, 1].
MEAN = (0.485, 0.456, 0.406)
STANDARD_DEVIATION = (0.229, 0.224, 0.225)


class BasicBlock(nnx.Module):
    """Two 3x3 convolutions with batch norm around a shortcut without parameters."""

    def __init__(self, channels_in: int, channels: int, *, stride: int, rngs: nnx.Rngs):
        self.conv1 = _conv(channels_in, channels, stride=stride, rngs=rngs)
        self.bn1 = nnx.BatchNorm(channels, momentum=0.9, epsilon=1e-5, rngs=rngs)
        self.conv2 = _conv(channels, channels, stride=1, rngs=rngs)
        self.bn2 = nnx.BatchNorm(channels, momentum=0.9, epsilon=1e-5, rngs=rngs)
        self.stride = stride
        self.padding = (channels - channels_in) // 2

    def __call__(self, x: jax.Array) -> jax.Array:
        hidden = nnx.relu(self.bn1(self.conv1(x)))
        hidden = self.bn2(self.conv2(hidden))
        shortcut = x[:, :: self.stride, :: self.stride, :]
        shortcut = jnp.pad(shortcut, ((0, 0), (0, 0), (0, 0), (self.padding, self.padding)))
        return nnx.relu(hidden + shortcut)


class ResNet20(nnx.Module):
    """ResNet-20 for CIFAR-10: 269,722 parameters, with batch statistics 271,098 numbers.

        logits = linear(mean(layer3(layer2(layer1(relu(bn1(conv1((p - mean) / std))))))))

    The input is p = pixel / 255 in [0, 1], RGB; `preprocess` makes it. The normalisation by mean
    and standard deviation is part of the network, so that explanations are by p.

    Args:
        rngs: the random streams of Flax NNX, for the initial weights.

    Returns:
        A model in training mode, as Flax makes them; `model(batch)` takes `(batch, 32, 32, 3)`
        and gives logits `(batch, 10)`: airplane, automobile, bird, cat, deer, dog, frog, horse,
        ship, truck.

    Raises:
        ValueError: from the call, if the batch does not have three channels.

    Example:
        >>> import jax
        >>> import jax.numpy as jnp
        >>> import jaxplain
        >>> from flax import nnx
        >>> def logits(batch):
        ...     model = jaxplain.models.ResNet20(rngs=nnx.Rngs(0))
        ...     model.eval()
        ...     return model(batch)
        >>> jax.eval_shape(logits, jnp.zeros((5, 32, 32, 3))).shape  # computes nothing
        (5, 10)

    References:
        He, Zhang, Ren and Sun, "Deep residual learning for image recognition", CVPR 2016,
        section 4.2 with n = 3 and shortcut option A. Deviation: (1) the stage's new channels are
        padded on both sides, as the published weights of
        https://github.com/akamaster/pytorch_resnet_cifar10 want it.
    """

    def __init__(self, *, rngs: nnx.Rngs):
        self.conv1 = _conv(3, 16, stride=1, rngs=rngs)
        self.bn1 = nnx.BatchNorm(16, momentum=0.9, epsilon=1e-5, rngs=rngs)
        self.layer1 = _stage(16, 16, stride=1, rngs=rngs)
        self.layer2 = _stage(16, 32, stride=2, rngs=rngs)
        self.layer3 = _stage(32, 64, stride=2, rngs=rngs)
        self.linear = nnx.Linear(64, 10, rngs=rngs)

    def __call__(self, batch: jax.Array) -> jax.Array:
        """Returns the logits `(batch, 10)` of images `(batch, height, width, 3)` in [0, 1]."""
        if batch.ndim != 4 or batch.shape[-1] != 3:
            raise ValueError(
                f"ResNet20 takes a batch of shape (batch, 32, 32, 3), but got {batch.shape}"
            )
        mean = jnp.asarray(MEAN, batch.dtype).reshape(1, 1, 1, 3)
        standard_deviation = jnp.asarray(STANDARD_DEVIATION, batch.dtype).reshape(1, 1, 1, 3)
        hidden = nnx.relu(self.bn1(self.conv1((batch - mean) / standard_deviation)))
        for stage in (self.layer1, self.layer2, self.layer3):
            for block in stage:
                hidden = block(hidden)
        return self.linear(hidden.mean(axis=(1, 2)))

    @classmethod
    def from_safetensors(cls, path: str | os.PathLike[str]) -> ResNet20:
        """Loads a ResNet-20 from a safetensors file in PyTorch's layout.

        Args:
            path: the file, with the names of torchvision's ResNets (`layer1.0.conv1.weight`,
                `bn1.running_mean`, ...) and `linear` for the last layer.

        Returns:
            The model in evaluation mode, float32.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: it is no safetensors file, or its tensors do not fit the network.
            ImportError: the package safetensors is not installed.

        Example:
            >>> from jaxplain.models import ResNet20
            >>> path = "resnet20.safetensors"
            >>> model = ResNet20.from_safetensors(path)  # doctest: +SKIP

        References:
            The safetensors format: https://huggingface.co/docs/safetensors
        """
        return load(lambda rngs: cls(rngs=rngs), path)

    @staticmethod
    def preprocess(images: Any) -> jax.Array:
        """Makes the input of the network from images as bytes: p = pixel / 255.

        Args:
            images: uint8 `(..., height, width, 3)`, RGB.

        Returns:
            float32 of the same shape, in [0, 1].

        Raises:
            ValueError: `images` is not uint8 or does not have three channels.

        Example:
            >>> import numpy as np
            >>> from jaxplain.models import ResNet20
            >>> float(ResNet20.preprocess(np.full((32, 32, 3), 255, np.uint8)).max())
            1.0

        References:
            https://github.com/akamaster/pytorch_resnet_cifar10, trainer.py (its normalisation
            after this step is inside the network here).
        """
        images = jnp.asarray(images)
        if images.dtype != jnp.uint8 or images.ndim < 3 or images.shape[-1] != 3:
            raise ValueError(
                "images must be uint8 of shape (..., height, width, 3), but are "
                f"{images.dtype} {images.shape}"
            )
        return images.astype(jnp.float32) / 255


def _conv(channels_in: int, channels: int, *, stride: int, rngs: nnx.Rngs) -> nnx.Conv:
    # Padding is given as numbers: "SAME" pads a strided convolution at the end only.
    return nnx.Conv(
        channels_in, channels, (3, 3), strides=stride, padding=1, use_bias=False, rngs=rngs
    )


def _stage(channels_in: int, channels: int, *, stride: int, rngs: nnx.Rngs) -> nnx.List:
    return nnx.List(
        [
            BasicBlock(channels_in, channels, stride=stride, rngs=rngs),
            BasicBlock(channels, channels, stride=1, rngs=rngs),
            BasicBlock(channels, channels, stride=1, rngs=rngs),
        ]
    )
