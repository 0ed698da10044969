"""Reference networks for tests, tutorials and benchmarks, as a plain Flax NNX user writes them.

All take batches in NHWC layout and give logits. `from_safetensors` loads published weights and
returns the model in evaluation mode; `preprocess` makes the input from the bytes of an image.
"""

from ._lenet import LeNet
from ._resnet import ResNet20
from ._squeezenet import SqueezeNet

__all__ = ["LeNet", "ResNet20", "SqueezeNet"]
