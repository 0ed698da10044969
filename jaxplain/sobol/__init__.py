"""Variance-based sensitivity: which inputs make an output vary, and how surely that is known.

inputs = {"angle": sobol.uniform(-pi, pi), "weights": sobol.normal(jnp.zeros(20), 1.0)}
s = sobol.indices(f, inputs, samples=2**14)(key, *args)         # f(tree like inputs, *args)
s.first_order, s.total_order, s.first_order_error               # trees like the inputs
"""

from jaxplain.sobol import estimators
from jaxplain.sobol._distributions import Distribution, inverse_cdf, normal, uniform
from jaxplain.sobol._hsic import HSICAttribution, hsic_attribution
from jaxplain.sobol._indices import Indices, indices
from jaxplain.sobol._main_effects import MainEffects, main_effects

__all__ = [
    "Distribution",
    "HSICAttribution",
    "Indices",
    "MainEffects",
    "estimators",
    "hsic_attribution",
    "indices",
    "inverse_cdf",
    "main_effects",
    "normal",
    "uniform",
]
