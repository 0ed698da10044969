"""Variance-based sensitivity: which inputs make an output vary, and how surely that is known.

inputs = {"angle": sobol.uniform(-pi, pi), "weights": sobol.normal(jnp.zeros(20), 1.0)}
s = sobol.indices(f, inputs, samples=2**14)(key, *args)         # f(tree like inputs, *args)
s.first_order, s.total_order, s.first_order_error               # trees like the inputs
r = sobol.attribution(f, masks=masks.grid(8, 8))(key, x, baseline, *args)       # a map of an image
"""

from jaxplain.sobol import estimators
from jaxplain.sobol._aggregated import Aggregated, aggregated
from jaxplain.sobol._attribution import MaskAttribution, attribution
from jaxplain.sobol._dgsm import Bounds, dgsm
from jaxplain.sobol._distributions import Distribution, inverse_cdf, normal, uniform
from jaxplain.sobol._hsic import HSICAttribution, hsic_attribution
from jaxplain.sobol._indices import Indices, indices
from jaxplain.sobol._main_effects import MainEffects, main_effects
from jaxplain.sobol._plan import Plan, analyse, design
from jaxplain.sobol._polynomial_chaos import PolynomialChaos, polynomial_chaos
from jaxplain.sobol._rank_based import RankBased, rank_based
from jaxplain.sobol._shapley import ShapleyEffects, shapley_effects
from jaxplain.sobol._structural import intrinsic_contributions, structural_model
from jaxplain.sobol._wavelet_attribution import WaveletAttribution, wavelet_attribution
from jaxplain.sobol.estimators import Estimator

__all__ = [
    "Aggregated",
    "Bounds",
    "Distribution",
    "Estimator",
    "HSICAttribution",
    "Indices",
    "MainEffects",
    "MaskAttribution",
    "Plan",
    "PolynomialChaos",
    "RankBased",
    "ShapleyEffects",
    "WaveletAttribution",
    "aggregated",
    "analyse",
    "attribution",
    "design",
    "dgsm",
    "estimators",
    "hsic_attribution",
    "indices",
    "intrinsic_contributions",
    "inverse_cdf",
    "main_effects",
    "normal",
    "polynomial_chaos",
    "rank_based",
    "shapley_effects",
    "structural_model",
    "uniform",
    "wavelet_attribution",
]
