"""A whole run on synthetic data, beside SAELens's own `train_toy_sae`.

    python -m bench.toy_dictionary [--quick] [--rounds 7] [--out FOLDER]

256 features in 64 dimensions, five of which fire on average; TopK of 256 latents and k = 5, batches
of 1,024 that are drawn in the loop, Adam at 1e-3, gradients clipped at 1, float32, one pinned core.
Each round is a run of 500 steps from a new start. Ours is measured as a `lax.scan` over the step,
which draws its own batches, compiled before; and as `sae.train` with a function that draws them, as
users call it, which compiles in each call: its seconds are those of 500 steps after its first
record. What the batches alone cost stands beside both.

Both sides are then trained once for longer, and judged on the same examples held out. SAELens is
in an environment of its own, as `bench/dictionaries.py` says; without it, ours alone is measured.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import io
import pathlib
import time
from collections.abc import Callable
from typing import Any, NamedTuple

if __name__ == "__main__":
    import sys

    sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))
    from bench.harness import pin

    pin()

import jax
import jax.numpy as jnp
import numpy as np
import optax

from bench import harness
from jaxplain import sae

BAR = 0.6  # the most that CPU seconds of a step may be of theirs
RATE, DEAD_AFTER, MEAN, DEVIATION = 1e-3, 1000, 1.0, 0.15  # latents are dead after so many batches


class Case(NamedTuple):
    features: int = 256
    width: int = 64
    latents: int = 256
    k: int = 5
    batch: int = 1024
    steps: int = 500  # of a timed run
    steps_of_quality: int = 5000
    held: int = 20_000

    @property
    def probability(self) -> float:
        return self.k / self.features


class Ours:
    """The data, and the two ways to train on them."""

    def __init__(self, case: Case) -> None:
        self.case = case
        self.features = sae.synthetic.features(jax.random.key(0), case.features, case.width)
        self.draw = sae.synthetic.activations(
            self.features, case.probability, mean=MEAN, deviation=DEVIATION
        )
        self.dictionary = sae.topk(case.latents, case.k)
        self.optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(RATE))

    def batch(self, key: jax.Array) -> jax.Array:
        return self.draw(key, self.case.batch).activations

    def scan(self, steps: int, key: jax.Array) -> Any:
        """A whole run as one program: the parameters and the FVU of each step."""
        run = sae.training(self.dictionary, self.optimizer, dead_after=DEAD_AFTER * self.case.batch)
        for_start, for_data = jax.random.split(key)

        def step(state: Any, t: jax.Array) -> Any:
            state, metrics = run.step(state, self.batch(jax.random.fold_in(for_data, t)))
            return state, metrics["fvu"]

        start = run.init(self.dictionary.init(for_start, self.batch(for_start)))
        state, fvu = jax.lax.scan(step, start, jnp.arange(steps))
        return state.params, fvu

    def data(self, key: jax.Array) -> jax.Array:
        """The batches of a run, each summed up so that it is made."""
        one = lambda total, t: (total + self.batch(jax.random.fold_in(key, t)).sum(), None)
        return jax.lax.scan(one, jnp.zeros(()), jnp.arange(self.case.steps))[0]

    def train(self, steps: int, key: jax.Array, **options: Any) -> Any:
        return sae.train(
            key,
            self.dictionary,
            self.batch,
            optimizer=self.optimizer,
            steps=steps,
            dead_after=DEAD_AFTER * self.case.batch,
            **options,
        ).params

    def seconds_of_training(self, clock: Callable[[], float], key: jax.Array) -> float:
        """Of as many steps as a timed run has, which come after the first record."""
        every, times = min(self.case.steps, 100), []
        told = lambda metrics: times.append(clock())
        self.train(self.case.steps + every, key, record_every=every, on_record=told)
        return times[-1] - times[0]


class Theirs:
    """SAELens's own loop, with the features of ours."""

    def __init__(self, case: Case, features: np.ndarray) -> None:
        import sae_lens
        import torch
        from sae_lens import synthetic

        torch.set_num_threads(1)
        torch.manual_seed(0)
        self.case, self.torch, self.lens, self.synthetic = case, torch, sae_lens, synthetic
        self.features = synthetic.FeatureDictionary(case.features, case.width, initializer=None)
        self.features.feature_vectors.data = torch.tensor(features)
        self.generator = synthetic.ActivationGenerator(
            case.features, case.probability, DEVIATION, MEAN
        )

    def train(self, steps: int) -> Any:
        shape = {"d_in": self.case.width, "d_sae": self.case.latents}
        config = self.lens.TopKTrainingSAEConfig(**shape, k=self.case.k)
        model = self.lens.TopKTrainingSAE(config)
        with contextlib.redirect_stderr(io.StringIO()):  # the progress bar
            self.synthetic.train_toy_sae(
                model,
                self.features,
                self.generator,
                training_samples=steps * self.case.batch,
                batch_size=self.case.batch,
                lr=RATE,
            )
        return model

    def data(self) -> float:
        total = 0.0
        with self.torch.no_grad():
            for _ in range(self.case.steps):
                total += self.features(self.generator(self.case.batch)).sum()
        return float(total)

    def reconstructed(self, model: Any, h: np.ndarray) -> np.ndarray:
        model.eval()
        with self.torch.no_grad():
            return model(self.torch.tensor(h)).numpy()


def judged(features: Any, decoder: Any, h: np.ndarray, h_hat: np.ndarray) -> dict[str, float]:
    found = sae.synthetic.recovery(features, decoder)
    left = np.square(h - h_hat).sum() / np.square(h - h.mean(axis=0)).sum()
    return {
        "fvu": float(left),
        "max_cosine": found.max_cosine,
        "matched_cosine": found.matched_cosine,
        "share_found": found.share_found,
    }


def measure(rounds: int, case: Case) -> dict[str, Any]:
    ours, key = Ours(case), jax.random.key(1)
    try:
        import torch

        theirs = Theirs(case, np.asarray(ours.features))
        versions = {"torch": torch.__version__, "sae_lens": theirs.lens.__version__}
    except ImportError:
        theirs, versions = None, {}

    scan = harness.compile_program(functools.partial(ours.scan, case.steps), key)
    data = harness.compile_program(ours.data, key)
    clock = harness.clock()
    tick = time.process_time if clock == "cpu" else time.perf_counter
    training: list[float] = []
    programs: dict[str, Callable[[], Any]] = {
        "scan": lambda: scan.call(key),
        "scan, again": lambda: scan.call(key),
        "scan, its data": lambda: data.call(key),
        "sae.train": lambda: training.append(ours.seconds_of_training(tick, key)),
    }
    if theirs is not None:
        programs["SAELens"] = lambda: theirs.train(case.steps)
        programs["SAELens, its data"] = theirs.data
    samples = harness.interleave(programs, rounds=rounds)
    of_run = {name: getattr(taken, clock) for name, taken in samples.items()}
    of_run["sae.train"] = training[-rounds:]
    seconds = {name: [run / case.steps for run in taken] for name, taken in of_run.items()}
    print(f"{case}: {clock} seconds of a step, whole runs of {case.steps} steps")
    for name, taken in seconds.items():
        print(f"  {name:20} {1e3 * harness.spread(taken)['median']:8.3f} ms")
    print(f"  compiling: the scan {scan.lower_seconds + scan.compile_seconds:.1f} s")
    ratios = {"scan over scan, again": harness.ratio(seconds["scan"], seconds["scan, again"])}
    if theirs is not None:
        for name in ("scan", "sae.train"):
            ratios[f"{name} over SAELens"] = found = harness.ratio(
                seconds[name], seconds["SAELens"]
            )
            print(f"  {name} over SAELens: {found['of_medians']:.3f} (bar {BAR})")

    held = ours.draw(jax.random.key(2), case.held).activations
    h = np.asarray(held)
    quality = {}
    longer = jax.jit(functools.partial(ours.scan, case.steps_of_quality))
    for name, params in (
        ("scan", longer(key)[0]),
        ("sae.train", ours.train(case.steps_of_quality, key)),
    ):
        codes = ours.dictionary.encode(params, held)
        h_hat = np.asarray(ours.dictionary.decode(params, codes))
        quality[name] = judged(ours.features, params["W_dec"], h, h_hat)
    if theirs is not None:
        model = theirs.train(case.steps_of_quality)
        decoder = model.W_dec.detach().numpy()
        quality["SAELens"] = judged(ours.features, decoder, h, theirs.reconstructed(model, h))
    print(f"after {case.steps_of_quality} steps, on {case.held} examples held out")
    for name, found in quality.items():
        print(f"  {name:20} " + ", ".join(f"{k} {v:.4f}" for k, v in found.items()))
    return {
        "case": case._asdict(),
        "clock": clock,
        "peers": versions,
        "bar": BAR,
        "compile_seconds": {"lower": scan.lower_seconds, "compile": scan.compile_seconds},
        "seconds_of_a_step": {
            name: {"median": harness.spread(taken)["median"], "rounds": taken}
            for name, taken in seconds.items()
        },
        "ratios": ratios,
        "quality": quality,
        "rounds": harness.record(samples),
    }


def main(arguments: list[str] | None = None) -> None:
    """Measures, prints, and writes a JSON file."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--quick", action="store_true", help="tiny: does it run? writes nothing")
    parser.add_argument("--out", type=pathlib.Path, help="folder of the JSON file")
    options = parser.parse_args(arguments)
    case = Case(32, 16, 40, 2, 64, 5, 300, 1000) if options.quick else Case()
    folder = options.out
    if folder is None and not options.quick:
        folder = pathlib.Path(__file__).parent / "results"
    found = measure(options.rounds, case)
    if folder is not None:
        kind = jax.devices()[0].device_kind.replace(" ", "-")
        about = {"benchmark": "toy_dictionary", "environment": harness.environment()}
        harness.write(folder / f"toy_dictionary_{kind}.json", about | found)


if __name__ == "__main__":
    main()
