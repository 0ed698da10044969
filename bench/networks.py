"""The four networks that the bars are measured on, written as a plain Flax user writes them.

Nothing in them helps `jaxplain`: `nnx.Conv` in NHWC, `nnx.max_pool`, `nnx.MultiHeadAttention`. Each
factory takes a seed and returns an NNX model in evaluation mode that maps a batch to logits.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from jaxplain import models

Activation = Callable[[jax.Array], jax.Array]


class MLP(nnx.Module):
    """784-512-512-10."""

    def __init__(
        self,
        widths: tuple[int, ...] = (784, 512, 512, 10),
        activation: Activation = nnx.relu,
        *,
        rngs: nnx.Rngs,
    ) -> None:
        self.layers = nnx.List(
            [
                nnx.Linear(width, following, rngs=rngs)
                for width, following in itertools.pairwise(widths)
            ]
        )
        self.activation = activation

    def __call__(self, x: jax.Array) -> jax.Array:
        for layer in self.layers[:-1]:
            x = self.activation(layer(x))
        return self.layers[-1](x)


class CNN(nnx.Module):
    """3x3 convolutions, each followed by ReLU and 2x2 max-pooling, then a dense layer."""

    def __init__(
        self,
        size: int = 32,
        widths: tuple[int, ...] = (3, 32, 64, 128),
        classes: int = 10,
        *,
        rngs: nnx.Rngs,
    ) -> None:
        self.convolutions = nnx.List(
            [
                nnx.Conv(width, following, (3, 3), rngs=rngs)
                for width, following in itertools.pairwise(widths)
            ]
        )
        side = size // 2 ** len(self.convolutions)
        self.dense = nnx.Linear(side * side * widths[-1], classes, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        for convolution in self.convolutions:
            x = nnx.max_pool(nnx.relu(convolution(x)), (2, 2), strides=(2, 2))
        return self.dense(x.reshape(x.shape[0], -1))


class Block(nnx.Module):
    """A pre-LayerNorm transformer block with a GELU network four times as wide."""

    def __init__(self, width: int, heads: int, *, rngs: nnx.Rngs) -> None:
        self.attention_norm = nnx.LayerNorm(width, rngs=rngs)
        self.attention = nnx.MultiHeadAttention(heads, width, decode=False, rngs=rngs)
        self.network_norm = nnx.LayerNorm(width, rngs=rngs)
        self.expand = nnx.Linear(width, 4 * width, rngs=rngs)
        self.contract = nnx.Linear(4 * width, width, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        x = x + self.attention(self.attention_norm(x))
        return x + self.contract(nnx.gelu(self.expand(self.network_norm(x))))


class Transformer(nnx.Module):
    """Blocks over embeddings (batch, positions, width), mean pooled to classes."""

    def __init__(
        self,
        width: int = 128,
        heads: int = 4,
        depth: int = 4,
        classes: int = 10,
        *,
        rngs: nnx.Rngs,
    ) -> None:
        self.blocks = nnx.List([Block(width, heads, rngs=rngs) for _ in range(depth)])
        self.norm = nnx.LayerNorm(width, rngs=rngs)
        self.dense = nnx.Linear(width, classes, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        for block in self.blocks:
            x = block(x)
        return self.dense(self.norm(x).mean(axis=1))


def _evaluation(model: Any) -> Any:
    model.eval()
    return model


def mlp(seed: int = 0, activation: Activation = nnx.relu) -> MLP:
    """The MLP 784-512-512-10."""
    return _evaluation(MLP(activation=activation, rngs=nnx.Rngs(seed)))


def cnn(seed: int = 0) -> CNN:
    """The max-pool CNN 32/64/128 on (32, 32, 3)."""
    return _evaluation(CNN(rngs=nnx.Rngs(seed)))


def resnet20(seed: int = 0) -> Any:
    """The CIFAR ResNet-20 of `jaxplain.models`, with random weights."""
    return _evaluation(models.ResNet20(rngs=nnx.Rngs(seed)))


def transformer(seed: int = 0) -> Transformer:
    """The transformer of 4 blocks, width 128, 4 heads, on embeddings (positions, 128)."""
    return _evaluation(Transformer(rngs=nnx.Rngs(seed)))


class Case(NamedTuple):
    """One row of a benchmark: a network, the shape of one example, and the amount of work."""

    name: str
    make: Callable[[int], Any]
    example: tuple[int, ...]
    batch: int
    steps: int

    def inputs(self, seed: int = 0) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Examples (batch, *example), a zero baseline of one example, labels (batch,)."""
        key_examples, key_labels = jax.random.split(jax.random.key(seed))
        examples = jax.random.normal(key_examples, (self.batch, *self.example))
        labels = jax.random.randint(key_labels, (self.batch,), 0, 10)
        return examples, jnp.zeros(self.example), labels


CASES: dict[str, Case] = {
    case.name: case
    for case in (
        Case("mlp", mlp, (784,), batch=256, steps=64),
        Case("cnn", cnn, (32, 32, 3), batch=32, steps=64),
        Case("resnet20", resnet20, (32, 32, 3), batch=8, steps=32),
        Case("transformer", transformer, (64, 128), batch=8, steps=32),
    )
}
"""The networks of the bars, by name."""
