"""Is an explanation right? Metrics with their errors, and against chance."""

from jaxplain.metrics._attack import AttributionAttack, attribution_attack
from jaxplain.metrics._curves import (
    Curve,
    CurveSummary,
    deletion,
    insertion,
    over_examples,
)
from jaxplain.metrics._desiderata import BaselineDesiderata, baseline_desiderata
from jaxplain.metrics._deviation import DeviationBound, attribution_deviation_bound
from jaxplain.metrics._disparity import Disparity, disparity
from jaxplain.metrics._modalities import (
    ModalityShares,
    ModalitySummary,
    modality_shares,
    modality_summary,
)

__all__ = [
    "AttributionAttack",
    "BaselineDesiderata",
    "Curve",
    "CurveSummary",
    "DeviationBound",
    "Disparity",
    "ModalityShares",
    "ModalitySummary",
    "attribution_attack",
    "attribution_deviation_bound",
    "baseline_desiderata",
    "deletion",
    "disparity",
    "insertion",
    "modality_shares",
    "modality_summary",
    "over_examples",
]
