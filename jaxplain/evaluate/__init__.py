"""The two loops that every kernel is built on, their reductions, and `batched`."""

from jaxplain.evaluate._batched import batched
from jaxplain.evaluate._loops import evaluate, walk
from jaxplain.evaluate._reductions import Reduction, both, stack, weighted_sum
from jaxplain.evaluate._rounds import Rounds

__all__ = ["Reduction", "Rounds", "batched", "both", "evaluate", "stack", "walk", "weighted_sum"]
