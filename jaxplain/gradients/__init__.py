"""Attributions by one gradient, and their averages under noise."""

from jaxplain.gradients._grad_cam import GradCam, grad_cam
from jaxplain.gradients._input_x_gradient import input_x_gradient
from jaxplain.gradients._result import GradientAttribution
from jaxplain.gradients._saliency import saliency
from jaxplain.gradients._smoothgrad import smoothgrad
from jaxplain.gradients._smoothgrad_squared import smoothgrad_squared
from jaxplain.gradients._smoothing import SmoothedAttribution
from jaxplain.gradients._vargrad import vargrad

__all__ = [
    "GradCam",
    "GradientAttribution",
    "SmoothedAttribution",
    "grad_cam",
    "input_x_gradient",
    "saliency",
    "smoothgrad",
    "smoothgrad_squared",
    "vargrad",
]
