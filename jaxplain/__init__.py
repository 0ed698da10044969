"""jaxplain: high-performance explanation kernels in JAX.

An explanation is a function transformation, as `jax.grad` is: it takes the user's function and
returns a pure function that `jit`, `vmap`, `grad` and sharding compose with.

    f = jaxplain.targets.logit(apply)                       # f(x, label, params) -> scalar
    explain = jaxplain.integrated_gradients(f, steps=32)    # options here
    result = explain(x, baseline, label, params)            # arrays here

Everything below is loaded on first use, so that `import jaxplain` costs no more than `import jax`.
"""

import importlib
import importlib.metadata
from typing import Any

__all__ = [
    "adapters",
    "baselines",
    "batched",
    "estimates",
    "evaluate",
    "expected_gradients",
    "gradients",
    "input_x_gradient",
    "integrated_gradients",
    "masks",
    "metrics",
    "models",
    "paths",
    "perturbation",
    "plots",
    "priors",
    "qmc",
    "report",
    "rewrite",
    "run",
    "sae",
    "saliency",
    "sites",
    "sobol",
    "store",
    "targets",
    "wavelets",
]

# The few functions with a name at the top, and the room each lives in.
_HEADLINES = {
    "batched": "evaluate",
    "expected_gradients": "paths",
    "input_x_gradient": "gradients",
    "integrated_gradients": "paths",
    "saliency": "gradients",
}


def __getattr__(name: str) -> Any:
    if name == "__version__":
        return importlib.metadata.version("jaxplain")
    if name in _HEADLINES:
        return getattr(importlib.import_module(f"jaxplain.{_HEADLINES[name]}"), name)
    if name in __all__:
        return importlib.import_module(f"jaxplain.{name}")
    raise AttributeError(f"module 'jaxplain' has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
