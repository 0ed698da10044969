"""A kernel over a dataset of any size: sharded, streamed to disk, with progress, resumable."""

from jaxplain.run._map import Summary, map

__all__ = ["Summary", "map"]
