"""A kernel over a dataset of any size: sharded, streamed to disk, with progress, resumable."""

from jaxplain.run._map import Summary, map
from jaxplain.run._plan import Plan, plan

__all__ = ["Plan", "Summary", "map", "plan"]
