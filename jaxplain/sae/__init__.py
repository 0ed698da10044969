"""Sparse dictionaries: autoencoders whose latents are few at a time, and what can be said of them.

dictionary = sae.topk(latents=4096, k=32)               # Dictionary(init, encode, decode, loss)
params     = dictionary.init(key, sample)
codes      = dictionary.encode(params, activations)     # (..., d) -> (..., latents)
training   = sae.training(dictionary, optax.adam(2e-4)) # (init, step), yours to jit, shard and scan
result     = sae.train(key, dictionary, source, optimizer=optax.adam(2e-4), steps=10_000)
"""

from jaxplain.sae import formats, synthetic
from jaxplain.sae._absorption import Absorption, absorption
from jaxplain.sae._batch_topk import batch_topk
from jaxplain.sae._chunks import Chunks
from jaxplain.sae._crosscoder import crosscoder
from jaxplain.sae._dictionary import Dictionary, Pair, Report, Sparse, Status
from jaxplain.sae._evaluation import (
    Evaluation,
    LossRecovered,
    Measured,
    evaluate,
    loss_recovered,
    max_cosines,
)
from jaxplain.sae._gated import gated
from jaxplain.sae._harvested import harvested
from jaxplain.sae._initial import geometric_median
from jaxplain.sae._jumprelu import jumprelu
from jaxplain.sae._matryoshka import matryoshka
from jaxplain.sae._normalised import folded, normalised
from jaxplain.sae._p_annealed import p_annealed
from jaxplain.sae._probing import SparseProbing, sparse_probing
from jaxplain.sae._relu import relu
from jaxplain.sae._separation import Separation, separation
from jaxplain.sae._sharded import sharded
from jaxplain.sae._stored import stored
from jaxplain.sae._sweep import Sweep, sweep
from jaxplain.sae._topk import topk
from jaxplain.sae._train import Trained, train
from jaxplain.sae._training import State, Training, training
from jaxplain.sae._transcoder import transcoder

__all__ = [
    "Absorption",
    "Chunks",
    "Dictionary",
    "Evaluation",
    "LossRecovered",
    "Measured",
    "Pair",
    "Report",
    "Separation",
    "Sparse",
    "SparseProbing",
    "State",
    "Status",
    "Sweep",
    "Trained",
    "Training",
    "absorption",
    "batch_topk",
    "crosscoder",
    "evaluate",
    "folded",
    "formats",
    "gated",
    "geometric_median",
    "harvested",
    "jumprelu",
    "loss_recovered",
    "matryoshka",
    "max_cosines",
    "normalised",
    "p_annealed",
    "relu",
    "separation",
    "sharded",
    "sparse_probing",
    "stored",
    "sweep",
    "synthetic",
    "topk",
    "train",
    "training",
    "transcoder",
]
