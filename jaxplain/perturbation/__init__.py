"""Attribution by perturbing parts of an example and looking at what f says: no gradients.

explain = perturbation.rise(f, samples=4000)
result = explain(key, x, baseline, *args)         # result.values result.standard_error
"""

from jaxplain.perturbation._rise import RiseAttribution, rise

__all__ = ["RiseAttribution", "rise"]
