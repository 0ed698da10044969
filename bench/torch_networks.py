"""The networks of `networks.py` as a plain PyTorch user writes them: modules, channels first.

`of(name, model)` copies the weights of an NNX model. Inputs keep the peer's layout: images are
(batch, channels, height, width), see `to_torch`.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import nn


def _numbers(variable: Any) -> torch.Tensor:
    return torch.tensor(np.asarray(variable[...]))


def _linear(layer: Any) -> nn.Linear:
    made = nn.Linear(*layer.kernel[...].shape)
    made.weight.data, made.bias.data = _numbers(layer.kernel).T.contiguous(), _numbers(layer.bias)
    return made


def _convolution(layer: Any, **options: Any) -> nn.Conv2d:
    height, width, inputs, outputs = layer.kernel[...].shape
    made = nn.Conv2d(
        inputs, outputs, (height, width), padding=1, bias=layer.bias is not None, **options
    )
    made.weight.data = _numbers(layer.kernel).permute(3, 2, 0, 1).contiguous()
    if layer.bias is not None:
        made.bias.data = _numbers(layer.bias)
    return made


def _batch_norm(layer: Any) -> nn.BatchNorm2d:
    made = nn.BatchNorm2d(layer.mean[...].shape[0], eps=layer.epsilon)
    made.weight.data, made.bias.data = _numbers(layer.scale), _numbers(layer.bias)
    made.running_mean, made.running_var = _numbers(layer.mean), _numbers(layer.var)
    return made


def _layer_norm(layer: Any) -> nn.LayerNorm:
    made = nn.LayerNorm(layer.scale[...].shape[0], eps=layer.epsilon)
    made.weight.data, made.bias.data = _numbers(layer.scale), _numbers(layer.bias)
    return made


class Flattened(nn.Module):
    """Flattens channels last, as the weights of the dense layer are laid out."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.permute(0, 2, 3, 1).flatten(1)


def mlp(model: Any) -> nn.Module:
    """Linear and ReLU in turn."""
    layers: list[nn.Module] = []
    for layer in model.layers:
        layers += [_linear(layer), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def cnn(model: Any) -> nn.Module:
    """Convolution, ReLU and max-pooling in turn, then a dense layer."""
    layers: list[nn.Module] = []
    for layer in model.convolutions:
        layers += [_convolution(layer), nn.ReLU(), nn.MaxPool2d(2)]
    return nn.Sequential(*layers, Flattened(), _linear(model.dense))


class ResidualBlock(nn.Module):
    """Two convolutions and a shortcut, which is padded where the width grows."""

    def __init__(self, block: Any) -> None:
        super().__init__()
        strides = block.conv1.strides
        self.conv1 = _convolution(block.conv1, stride=strides)
        self.bn1, self.bn2 = _batch_norm(block.bn1), _batch_norm(block.bn2)
        self.conv2 = _convolution(block.conv2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        hidden = torch.relu(self.bn1(self.conv1(x)))
        hidden = self.bn2(self.conv2(hidden))
        if hidden.shape != x.shape:
            quarter = hidden.shape[1] // 4
            x = nn.functional.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, quarter, quarter))
        return torch.relu(hidden + x)


class ResNet20(nn.Module):
    """The CIFAR ResNet-20."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        for name, numbers in (
            ("mean", (0.485, 0.456, 0.406)),
            ("deviation", (0.229, 0.224, 0.225)),
        ):
            self.register_buffer(name, torch.tensor(numbers)[:, None, None])
        self.conv1, self.bn1 = _convolution(model.conv1), _batch_norm(model.bn1)
        stages = (model.layer1, model.layer2, model.layer3)
        self.blocks = nn.Sequential(*(ResidualBlock(b) for stage in stages for b in stage))
        self.linear = _linear(model.linear)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.bn1(self.conv1((x - self.mean) / self.deviation)))
        return self.linear(self.blocks(x).mean(dim=(2, 3)))


class TransformerBlock(nn.Module):
    """Pre-LayerNorm attention and a GELU network."""

    def __init__(self, block: Any) -> None:
        super().__init__()
        self.attention_norm = _layer_norm(block.attention_norm)
        self.network_norm = _layer_norm(block.network_norm)
        layer = block.attention
        width, heads, _ = layer.query.kernel[...].shape
        self.attention = nn.MultiheadAttention(width, heads, batch_first=True)
        projections = (layer.query, layer.key, layer.value)
        kernels = [_numbers(p.kernel).reshape(width, width).T for p in projections]
        biases = [_numbers(p.bias).reshape(width) for p in projections]
        self.attention.in_proj_weight.data = torch.cat(kernels).contiguous()
        self.attention.in_proj_bias.data = torch.cat(biases)
        out = _numbers(layer.out.kernel).reshape(width, width).T.contiguous()
        self.attention.out_proj.weight.data = out
        self.attention.out_proj.bias.data = _numbers(layer.out.bias)
        self.expand, self.contract = _linear(block.expand), _linear(block.contract)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        normed = self.attention_norm(x)
        x = x + self.attention(normed, normed, normed, need_weights=False)[0]
        hidden = nn.functional.gelu(self.expand(self.network_norm(x)), approximate="tanh")
        return x + self.contract(hidden)


class Transformer(nn.Module):
    """Blocks over embeddings, mean pooled to classes."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.blocks = nn.Sequential(*(TransformerBlock(block) for block in model.blocks))
        self.norm, self.dense = _layer_norm(model.norm), _linear(model.dense)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.dense(self.norm(self.blocks(x)).mean(dim=1))


_MAKE = {"mlp": mlp, "cnn": cnn, "resnet20": ResNet20, "transformer": Transformer}


def of(name: str, model: Any) -> nn.Module:
    """The network of this name with the weights of an NNX model, for inference."""
    return _MAKE[name](model).eval().requires_grad_(False)


def to_torch(batch: Any) -> torch.Tensor:
    """A batch in PyTorch's layout: images channels first."""
    batch = torch.tensor(np.asarray(batch))
    return batch.permute(0, 3, 1, 2).contiguous() if batch.ndim == 4 else batch


def from_torch(batch: torch.Tensor) -> np.ndarray:
    """Back in ours: images channels last."""
    batch = batch.detach()
    return (batch.permute(0, 2, 3, 1) if batch.ndim == 4 else batch).numpy()
