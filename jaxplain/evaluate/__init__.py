"""The two loops that every kernel is built on, their reductions, and `batched`."""

from jaxplain.evaluate._batched import batched
from jaxplain.evaluate._loops import evaluate, walk
from jaxplain.evaluate._reductions import Reduction, both, stack, weighted_sum

__all__ = ["Reduction", "batched", "both", "evaluate", "stack", "walk", "weighted_sum"]
