"""Models as pure functions: `(apply, params)`, in evaluation mode.

Everything else in jaxplain works on plain functions with the parameters as an argument; these
functions make them from a model of Flax NNX, Flax Linen, Equinox or Haiku, and leave the model as
it was:

    apply, params = jaxplain.adapters.nnx(model)
    apply, params = jaxplain.adapters.linen(module, variables)
    apply, params = jaxplain.adapters.equinox(model)
    apply, params = jaxplain.adapters.haiku(transformed, params)
    output = apply(params, batch)
"""

from ._equinox import equinox
from ._haiku import haiku
from ._linen import linen
from ._nnx import nnx

__all__ = ["equinox", "haiku", "linen", "nnx"]
