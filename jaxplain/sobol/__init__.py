"""Variance-based sensitivity: which inputs make an output vary, and how surely that is known.

inputs = {"angle": sobol.uniform(-pi, pi), "weights": sobol.normal(jnp.zeros(20), 1.0)}
s = sobol.indices(f, inputs, samples=2**14)(key, *args)         # f(tree like inputs, *args)
s.first_order, s.total_order, s.first_order_error               # trees like the inputs
"""

from jaxplain.sobol import estimators
from jaxplain.sobol._aggregated import Aggregated, aggregated
from jaxplain.sobol._dgsm import Bounds, dgsm
from jaxplain.sobol._distributions import Distribution, inverse_cdf, normal, uniform
from jaxplain.sobol._indices import Indices, indices
from jaxplain.sobol._plan import Plan, analyse, design
from jaxplain.sobol._polynomial_chaos import PolynomialChaos, polynomial_chaos
from jaxplain.sobol._rank_based import RankBased, rank_based
from jaxplain.sobol._shapley import ShapleyEffects, shapley_effects
from jaxplain.sobol._structural import intrinsic_contributions, structural_model

__all__ = [
    "Aggregated",
    "Bounds",
    "Distribution",
    "Indices",
    "Plan",
    "PolynomialChaos",
    "RankBased",
    "ShapleyEffects",
    "aggregated",
    "analyse",
    "design",
    "dgsm",
    "estimators",
    "indices",
    "intrinsic_contributions",
    "inverse_cdf",
    "normal",
    "polynomial_chaos",
    "rank_based",
    "shapley_effects",
    "structural_model",
    "uniform",
]
