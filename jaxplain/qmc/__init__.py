"""Points in the unit cube, made on the device inside the loop that uses them.

    block = sampler(key, dimensions, samples, block_size)        # outside the loop
    block(k)                                                     # inside: shape (block_size, d)

Samplers are functions of these four arguments, with options set by `functools.partial`; any
function of this form is one. `points` gives a whole design as an array.
"""

from jaxplain.qmc._halton import halton
from jaxplain.qmc._latin_hypercube import latin_hypercube
from jaxplain.qmc._monte_carlo import monte_carlo
from jaxplain.qmc._sampler import points
from jaxplain.qmc._sobol import sobol

__all__ = ["halton", "latin_hypercube", "monte_carlo", "points", "sobol"]
