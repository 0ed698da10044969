"""Results on disk: a folder of zarr arrays, one for each field, and a manifest of what they are.

The folder is an ordinary zarr 3 group, which any zarr library reads. Each array is chunked along
the examples, one chunk for each batch of the run, so a chunk that is there is a batch that is done.
"""

from jaxplain.store._fingerprint import fingerprint
from jaxplain.store._layout import (
    Store,
    create,
    exists,
    finished_batches,
    names,
    open,
    reopen,
    write,
)
from jaxplain.store._manifest import update_manifest

__all__ = [
    "Store",
    "create",
    "exists",
    "fingerprint",
    "finished_batches",
    "names",
    "open",
    "reopen",
    "update_manifest",
    "write",
]
