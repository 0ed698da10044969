"""Dictionaries in the files of other libraries, read and written.

SAELens               a folder: cfg.json, sae_weights.safetensors      every architecture it has
sparsify              a folder: cfg.json, sae.safetensors              topk, and transcoders of it
dictionary_learning   a folder: config.json, ae.pt                     every architecture it has
Gemma Scope           params.npz, or params.safetensors + config.json  jumprelu, read only

What a file says that no dictionary here can be, or a dictionary is that a file cannot say, is an
error that names the field. Nothing is unpickled.
"""

from jaxplain.sae.formats._dictionary_learning import (
    load_dictionary_learning,
    save_dictionary_learning,
)
from jaxplain.sae.formats._gemma_scope import load_gemma_scope
from jaxplain.sae.formats._saelens import load_saelens, save_saelens
from jaxplain.sae.formats._sparsify import load_sparsify, save_sparsify

__all__ = [
    "load_dictionary_learning",
    "load_gemma_scope",
    "load_saelens",
    "load_sparsify",
    "save_dictionary_learning",
    "save_saelens",
    "save_sparsify",
]
