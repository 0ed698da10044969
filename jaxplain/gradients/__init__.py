"""Attributions by one gradient."""

from jaxplain.gradients._input_x_gradient import input_x_gradient
from jaxplain.gradients._result import GradientAttribution
from jaxplain.gradients._saliency import saliency

__all__ = ["GradientAttribution", "input_x_gradient", "saliency"]
