"""Flax models as pure functions: `(apply, params)`, in evaluation mode.

Everything else in jaxplain works on plain functions with the parameters as an argument; these two
functions make them from a Flax NNX or a Flax Linen model and leave the model as it was:

    apply, params = jaxplain.adapters.nnx(model)
    apply, params = jaxplain.adapters.linen(module, variables)
    output = apply(params, batch)
"""

from ._linen import linen
from ._nnx import nnx

__all__ = ["linen", "nnx"]
