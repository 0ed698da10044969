"""Path attributions: a path from a baseline to the input, a quadrature rule, a velocity.

values_i = sum over nodes k of w_k * dF/dx_i(gamma(t_k)) * dgamma_i/dt(t_k)
"""

from jaxplain.paths._integrated_gradients import integrated_gradients
from jaxplain.paths._integrated_hessians import (
    InteractionRow,
    Interactions,
    integrated_hessian_row,
    integrated_hessians,
)
from jaxplain.paths._result import PathAttribution
from jaxplain.paths.quadrature import (
    clenshaw_curtis,
    gauss_legendre,
    left_riemann,
    midpoint,
    right_riemann,
    trapezoid,
)

__all__ = [
    "InteractionRow",
    "Interactions",
    "PathAttribution",
    "clenshaw_curtis",
    "gauss_legendre",
    "integrated_gradients",
    "integrated_hessian_row",
    "integrated_hessians",
    "left_riemann",
    "midpoint",
    "right_riemann",
    "trapezoid",
]
