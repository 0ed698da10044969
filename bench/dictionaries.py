"""One step of training a dictionary, beside the steps of SAELens and dictionary_learning.

    python -m bench.dictionaries [--quick] [--rounds 7] [--out FOLDER]

d = 512, 4,096 latents, batches of 4,096, k = 32, float32, one pinned core: forward, gradient,
clipping, projection, Adam, dead counters. The peers go through their own training step
(`SAETrainer.step`, `trainer.update`) on the same activations; without them, our steps are measured
against each other. They are not among the extras of this package, since installing them replaces
PyTorch: in an environment of their own `pip install torch==2.13.0 sae-lens==6.54.12
dictionary-learning==0.1.0`, then `pip install --no-deps torch==2.13.0`, then this package.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import pathlib
from collections.abc import Callable
from typing import Any

if __name__ == "__main__":
    import sys

    sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))
    from bench.harness import pin

    pin()

import jax
import numpy as np
import optax

from bench import harness
from jaxplain import sae

# Ours against theirs, and the most that CPU seconds may be of theirs.
BARS = {
    ("topk", "SAELens topk"): 0.5,
    ("topk", "dictionary_learning topk"): 0.5,
    ("batch_topk", "SAELens batch_topk"): 0.5,
    ("batch_topk", "dictionary_learning batch_topk"): 0.5,
    ("relu", "SAELens relu"): 0.8,
    ("jumprelu", "SAELens jumprelu"): 0.8,
}


def ours(h: np.ndarray, latents: int, k: int) -> dict[str, Callable[[], Any]]:
    """A donated step of each architecture, which goes on from its own state."""
    batch = jax.numpy.asarray(h)
    makes = {
        "topk": sae.topk(latents, k),
        "topk, again": sae.topk(latents, k),
        "topk, dense": sae.topk(latents, k, implementation="dense"),
        "batch_topk": sae.batch_topk(latents, k),
        "relu": sae.relu(latents, 1.0),
        "jumprelu": sae.jumprelu(latents, 1.0, target_l0=k),
        "gated": sae.gated(latents, 1.0),
    }
    found = {}
    for name, dictionary in makes.items():
        optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(3e-4))
        run = sae.training(dictionary, optimizer)
        held = [run.init(dictionary.init(jax.random.key(0), batch))]
        step = jax.jit(run.step, donate_argnums=0)

        def go(held: list[Any] = held, step: Any = step) -> Any:
            held[0], metrics = step(held[0], batch)
            return metrics

        found[name] = go
    product = jax.jit(lambda h, W: h @ W)
    weights = jax.random.normal(jax.random.key(1), (h.shape[1], latents))
    found["one matrix product"] = lambda: product(batch, weights)
    return found


def of_saelens(h: np.ndarray, latents: int, k: int) -> dict[str, Callable[[], Any]]:
    """Their own trainer's step, where they are installed."""
    try:
        import sae_lens
        import torch
        from sae_lens.config import SAETrainerConfig
        from sae_lens.training.sae_trainer import SAETrainer
    except ImportError:
        return {}
    shape = {"d_in": h.shape[1], "d_sae": latents}
    makes = {
        "topk": (sae_lens.TopKTrainingSAE, sae_lens.TopKTrainingSAEConfig(**shape, k=k)),
        "batch_topk": (
            sae_lens.BatchTopKTrainingSAE,
            sae_lens.BatchTopKTrainingSAEConfig(**shape, k=k),
        ),
        "relu": (sae_lens.StandardTrainingSAE, sae_lens.StandardTrainingSAEConfig(**shape)),
        "jumprelu": (sae_lens.JumpReLUTrainingSAE, sae_lens.JumpReLUTrainingSAEConfig(**shape)),
    }
    batch, found = torch.tensor(h), {}
    for name, (kind, config) in makes.items():
        settings = SAETrainerConfig(
            total_training_samples=10**9, train_batch_size_samples=len(h), lr=3e-4, lr_end=3e-4
        )
        with contextlib.redirect_stdout(io.StringIO()):
            trainer = SAETrainer(settings, kind(config), data_provider=iter(()))
        found[f"SAELens {name}"] = lambda trainer=trainer: trainer.step(batch).loss
    return found


def of_dictionary_learning(h: np.ndarray, latents: int, k: int) -> dict[str, Callable[[], Any]]:
    """Their trainers' updates, where they are installed."""
    try:
        import torch
        from dictionary_learning.trainers.batch_top_k import BatchTopKTrainer
        from dictionary_learning.trainers.standard import StandardTrainerAprilUpdate
        from dictionary_learning.trainers.top_k import TopKTrainer
    except ImportError:
        return {}
    shared = {
        "steps": 10**6,
        "activation_dim": h.shape[1],
        "dict_size": latents,
        "layer": 0,
        "lm_name": "none",
        "device": "cpu",
    }
    trainers = {
        "topk": TopKTrainer(**shared, k=k),
        "batch_topk": BatchTopKTrainer(**shared, k=k),
        "relu": StandardTrainerAprilUpdate(**shared),
    }
    batch, found = torch.tensor(h), {}
    for name, trainer in trainers.items():
        steps = iter(range(10**9))
        found[f"dictionary_learning {name}"] = lambda trainer=trainer, steps=steps: trainer.update(
            next(steps), batch
        )
    return found


def measure(rounds: int, width: int, latents: int, k: int, batch: int) -> dict[str, Any]:
    try:
        import torch

        torch.set_num_threads(1)
        versions = {"torch": torch.__version__}
    except ImportError:
        versions = {}
    h = np.random.default_rng(0).normal(size=(batch, width)).astype(np.float32)
    programs = ours(h, latents, k) | of_saelens(h, latents, k)
    programs |= of_dictionary_learning(h, latents, k)
    samples = harness.interleave(programs, rounds=rounds, warmup=2)
    clock = harness.clock()
    seconds = {name: getattr(taken, clock) for name, taken in samples.items()}
    print(f"width {width}, {latents} latents, k = {k}, batches of {batch}, {clock} seconds a step")
    for name, taken in seconds.items():
        product = harness.ratio(taken, seconds["one matrix product"])["of_medians"]
        middle = harness.spread(taken)["median"]
        print(f"  {name:32} {middle:.4f} s, {product:5.2f} of one matrix product")
    ratios = {}
    for (mine, other), bar in BARS.items():
        if other in seconds:
            ratios[f"{mine} over {other}"] = found = harness.ratio(seconds[mine], seconds[other])
            print(f"  {mine} over {other}: {found['of_medians']:.3f} (bar {bar})")
    ratios["topk over topk, again"] = harness.ratio(seconds["topk"], seconds["topk, again"])
    return {
        "case": {"width": width, "latents": latents, "k": k, "batch": batch},
        "clock": clock,
        "peers": versions,
        "ratios": ratios,
        "rounds": harness.record(samples),
    }


def main(arguments: list[str] | None = None) -> None:
    """Measures, prints, and writes a JSON file."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--quick", action="store_true", help="tiny: does it run? writes nothing")
    parser.add_argument("--out", type=pathlib.Path, help="folder of the JSON files")
    options = parser.parse_args(arguments)
    size = (16, 128, 4, 64) if options.quick else (512, 4096, 32, 4096)
    folder = options.out
    if folder is None and not options.quick:
        folder = pathlib.Path(__file__).parent / "results"
    found = measure(options.rounds, *size)
    if folder is not None:
        kind = jax.devices()[0].device_kind.replace(" ", "-")
        about = {"benchmark": "dictionaries", "environment": harness.environment()}
        harness.write(folder / f"dictionaries_{kind}.json", about | found)


if __name__ == "__main__":
    main()
