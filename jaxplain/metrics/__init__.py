"""Is an explanation right? Metrics with their errors, and against chance."""

from jaxplain.metrics._curves import (
    Curve,
    CurveSummary,
    deletion,
    insertion,
    over_examples,
)

__all__ = ["Curve", "CurveSummary", "deletion", "insertion", "over_examples"]
