"""Variance-based sensitivity: which inputs make an output vary, and how surely that is known.

inputs = {"angle": sobol.uniform(-pi, pi), "weights": sobol.normal(jnp.zeros(20), 1.0)}
s = sobol.indices(f, inputs, samples=2**14)(key, *args)         # f(tree like inputs, *args)
s.first_order, s.total_order, s.first_order_error               # trees like the inputs
r = sobol.attribution(f, masks=masks.grid(8, 8))(key, x, baseline, *args)       # a map of an image
"""

from jaxplain.sobol import estimators
from jaxplain.sobol._attribution import MaskAttribution, attribution
from jaxplain.sobol._distributions import Distribution, inverse_cdf, normal, uniform
from jaxplain.sobol._indices import Indices, indices
from jaxplain.sobol._plan import Plan, analyse, design
from jaxplain.sobol._shapley import ShapleyEffects, shapley_effects
from jaxplain.sobol._wavelet_attribution import WaveletAttribution, wavelet_attribution
from jaxplain.sobol.estimators import Estimator

__all__ = [
    "Distribution",
    "Estimator",
    "Indices",
    "MaskAttribution",
    "Plan",
    "ShapleyEffects",
    "WaveletAttribution",
    "analyse",
    "attribution",
    "design",
    "estimators",
    "indices",
    "inverse_cdf",
    "normal",
    "shapley_effects",
    "uniform",
    "wavelet_attribution",
]
