"""Path attributions: a path from a baseline to the input, a quadrature rule, a velocity.

values_i = sum over nodes k of w_k * dF/dx_i(gamma(t_k)) * dgamma_i/dt(t_k)
"""

from jaxplain.paths._adversarial_gradient_integration import adversarial_gradient_integration
from jaxplain.paths._blur import blur, blur_integrated_gradients
from jaxplain.paths._conductance import conductance
from jaxplain.paths._exact import ExactAttribution, exact_integrated_gradients
from jaxplain.paths._expected_gradients import expected_gradients
from jaxplain.paths._expected_hessians import (
    SampledInteractionRow,
    SampledInteractions,
    expected_hessian_row,
    expected_hessians,
)
from jaxplain.paths._gradient_shap import gradient_shap
from jaxplain.paths._guided_integrated_gradients import guided_integrated_gradients
from jaxplain.paths._idg import DecisionAttribution, idg
from jaxplain.paths._idgi import idgi
from jaxplain.paths._ig2 import ig2
from jaxplain.paths._integrated_gradients import integrated_gradients
from jaxplain.paths._integrated_hessians import (
    InteractionRow,
    Interactions,
    integrated_hessian_row,
    integrated_hessians,
)
from jaxplain.paths._internal_influence import internal_influence
from jaxplain.paths._layer import LayerAttribution
from jaxplain.paths._left_integrated_gradients import (
    StoppedAttribution,
    left_integrated_gradients,
)
from jaxplain.paths._lpi import lpi
from jaxplain.paths._mfaba import mfaba
from jaxplain.paths._path_attribution import path_attribution
from jaxplain.paths._product import product
from jaxplain.paths._result import PathAttribution
from jaxplain.paths._rounds import rounds
from jaxplain.paths._samp import samp, samp_plus_plus
from jaxplain.paths._sampling import SampledAttribution
from jaxplain.paths._straight_line import straight_line
from jaxplain.paths.quadrature import (
    clenshaw_curtis,
    composite,
    gauss_kronrod,
    gauss_legendre,
    left_riemann,
    midpoint,
    right_riemann,
    trapezoid,
)

__all__ = [
    "DecisionAttribution",
    "ExactAttribution",
    "InteractionRow",
    "Interactions",
    "LayerAttribution",
    "PathAttribution",
    "SampledAttribution",
    "SampledInteractionRow",
    "SampledInteractions",
    "StoppedAttribution",
    "adversarial_gradient_integration",
    "blur",
    "blur_integrated_gradients",
    "clenshaw_curtis",
    "composite",
    "conductance",
    "exact_integrated_gradients",
    "expected_gradients",
    "expected_hessian_row",
    "expected_hessians",
    "gauss_kronrod",
    "gauss_legendre",
    "gradient_shap",
    "guided_integrated_gradients",
    "idg",
    "idgi",
    "ig2",
    "integrated_gradients",
    "integrated_hessian_row",
    "integrated_hessians",
    "internal_influence",
    "left_integrated_gradients",
    "left_riemann",
    "lpi",
    "mfaba",
    "midpoint",
    "path_attribution",
    "product",
    "right_riemann",
    "rounds",
    "samp",
    "samp_plus_plus",
    "straight_line",
    "trapezoid",
]
