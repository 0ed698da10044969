"""Sobol indices against SALib and scipy: CPU seconds on one core, and errors by estimator.

    python -m bench.sobol_indices [--quick] [--only ishigami g32]     # times
    python -m bench.sobol_indices --accuracy                          # no times: error by estimator

SALib is to be installed (`pip install SALib`). Times: all programs of a case take turns in one
process, the same N, the model in vectorised numpy for the peers (float64) and in JAX for
`jaxplain.sobol.indices` (float32), whose compilation is timed apart. A call makes the points,
evaluates the model, and estimates S and T:

- `jaxplain`: with standard errors and intervals, by the delta method; entered twice (A/A);
- `jaxplain bootstrap`: the same from 100 resamples, as SALib does;
- `SALib`: `sample.sobol` and `analyze.sobol` with their defaults but for second order, which would
  double the evaluations: scrambled points, 100 resamples;
- `scipy`: `scipy.stats.sobol_indices`, without intervals.

Accuracy: the root mean square error over repetitions of the worst index, by estimator, under Monte
Carlo and scrambled Sobol' points, at about equal calls: 1,024 (d + 2), of which an estimator that
takes 2 d + 2 evaluations a row makes half of the rows (a power of two for Sobol').
"""

from __future__ import annotations

import argparse
import functools
import importlib.metadata
import pathlib
import time
import warnings
from collections.abc import Callable
from typing import Any

if __name__ == "__main__":
    import sys

    sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))
    if "--accuracy" not in sys.argv:
        from bench.harness import pin

        pin()

import jax
import numpy as np

from bench import harness, sensitivity_cases
from jaxplain import qmc, sobol
from jaxplain.sobol import estimators

# The bars: how many times as long the peers take.
BARS = {"ishigami": {"SALib": 100, "scipy": 4}, "g32": {"SALib": 700, "scipy": 60}}
SAMPLES = {"ishigami": 2**16, "g32": 2**14}
COMPILE_BAR = 5.0


def ishigami(x: np.ndarray) -> np.ndarray:
    """Of rows."""
    return np.sin(x[:, 0]) + 7 * np.sin(x[:, 1]) ** 2 + 0.1 * x[:, 2] ** 4 * np.sin(x[:, 0])


def g32(x: np.ndarray) -> np.ndarray:
    """Of rows."""
    a = np.asarray(sensitivity_cases.G32)
    return np.prod((np.abs(4 * x - 2) + a) / (1 + a), axis=1)


MODELS = {"ishigami": (ishigami, 3, (-np.pi, np.pi)), "g32": (g32, 32, (0.0, 1.0))}


def salib(name: str, samples: int) -> Callable[[], Any]:
    """Points, model and analysis with the defaults."""
    from SALib.analyze import sobol as analyze
    from SALib.sample import sobol as sample

    model, d, bounds = MODELS[name]
    problem = {
        "num_vars": d,
        "names": [f"x{i}" for i in range(d)],
        "bounds": [list(bounds)] * d,
    }

    def run() -> Any:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            x = sample.sample(problem, samples, calc_second_order=False)
            found = analyze.analyze(problem, model(x), calc_second_order=False)
        return found["S1"], found["ST"]

    return run


def scipy(name: str, samples: int) -> Callable[[], Any]:
    """`sobol_indices` without intervals."""
    from scipy import stats

    model, d, (low, high) = MODELS[name]
    dists = [stats.uniform(low, high - low)] * d

    def run() -> Any:
        found = stats.sobol_indices(func=lambda x: model(x.T)[None], n=samples, dists=dists)
        return found.first_order, found.total_order

    return run


def time_case(name: str, samples: int, rounds: int, peer_rounds: int) -> dict[str, Any]:
    """The record of one case."""
    case = sensitivity_cases.CASES[name]()
    make = functools.partial(sobol.indices, case.f, case.inputs, samples=samples)
    key = jax.random.key(0)
    compiling = {}
    analyses = {"jaxplain": make(), "jaxplain bootstrap": make(errors="bootstrap")}
    for entry, analyse in analyses.items():
        start = time.process_time()
        program = harness.compile_program(analyse, key)
        compiling[entry] = {
            "cpu_seconds": time.process_time() - start,
            "lower_seconds": program.lower_seconds,
            "compile_seconds": program.compile_seconds,
        }
        jax.block_until_ready(analyse(key))
    programs: dict[str, Callable[[], Any]] = {
        "jaxplain": functools.partial(analyses["jaxplain"], key),
        "jaxplain again": functools.partial(analyses["jaxplain"], key),
        "jaxplain bootstrap": functools.partial(analyses["jaxplain bootstrap"], key),
    }
    own = harness.interleave(programs, rounds=rounds)
    peers = {"SALib": salib(name, samples), "scipy": scipy(name, samples)}
    everything = {"jaxplain": programs["jaxplain"], **peers}
    taken = harness.interleave(everything, rounds=peer_rounds, warmup=1)
    clock = harness.clock()
    ratio = lambda found, a, b: harness.ratio(getattr(found[a], clock), getattr(found[b], clock))
    ratios = {peer: ratio(taken, peer, "jaxplain") for peer in peers}
    error = lambda first, total: max(
        float(np.max(np.abs(np.asarray(first) - case.first_order))),
        float(np.max(np.abs(np.asarray(total) - case.total_order))),
    )
    found = [analyses["jaxplain"](jax.random.key(seed)) for seed in range(peer_rounds * 5)]
    errors = {
        "jaxplain": [error(s.first_order, s.total_order) for s in found],
        "scipy": [error(*peers["scipy"]()) for _ in found],
    }
    return {
        "benchmark": "sobol_indices",
        "case": name,
        "samples": samples,
        "clock": clock,
        "environment": harness.environment() | {"peers": _versions()},
        "compile": compiling,
        "own": harness.record(own),
        "taking_turns": harness.record(taken),
        "a_a": ratio(own, "jaxplain again", "jaxplain"),
        "bootstrap": ratio(own, "jaxplain bootstrap", "jaxplain"),
        "times_as_long": ratios,
        "largest_error": {name: harness.spread(several) for name, several in errors.items()},
    }


def _versions() -> dict[str, str]:
    return {name: importlib.metadata.version(name) for name in ("SALib", "scipy")}


# ------------------------------------------------------------------------------------- accuracy

EACH = ("jansen", "saltelli2010", "janon_monod", "martinez", "azzini", "owen", "homma")


def root_mean_square(case: Any, name: str, sampler: Any, calls: int, repetitions: int) -> Any:
    """Of the worst index: first order and total order; and the rows."""
    one = getattr(estimators, name)
    d = len(case.first_order)
    each = {"azzini": 2 * d + 2, "owen": 3 * d + 2}.get(name, d + 2)
    rows = calls // each
    if sampler is qmc.sobol:
        rows = 2 ** round(np.log2(rows))
    total = estimators.jansen if one.total_order is None else one
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # fewer than 1,024 rows is the point
        analyse = sobol.indices(
            case.f,
            case.inputs,
            samples=rows,
            sampler=sampler,
            first_order=one,
            total_order=total,
        )
    keys = jax.random.split(jax.random.key(1), repetitions)
    found = jax.jit(lambda keys: jax.lax.map(analyse, keys, batch_size=10))(keys)
    error = lambda values, exact: float(
        np.max(np.sqrt(np.mean((np.asarray(values) - exact) ** 2, axis=0)))
    )
    return {
        "rows": rows,
        "first_order": error(found.first_order, case.first_order),
        "total_order": None
        if one.total_order is None
        else error(found.total_order, case.total_order),
    }


def accuracy(names: list[str], repetitions: int) -> dict[str, Any]:
    """Prints a table in markdown, and gives its numbers."""
    columns = [(case, kind) for case in names for kind in ("monte_carlo", "sobol")]
    print("| index | estimator | " + " | ".join(f"{c} {k}" for c, k in columns) + " |")
    print("|---|---|" + "---|" * len(columns))
    table: dict[str, Any] = {}
    for name in EACH:
        for case_name, kind in columns:
            case = sensitivity_cases.CASES[case_name]()
            calls = 1024 * (len(case.first_order) + 2)
            found = root_mean_square(case, name, getattr(qmc, kind), calls, repetitions)
            table.setdefault(name, {})[f"{case_name}, {kind}"] = found
    for order, letter in (("total_order", "T"), ("first_order", "S")):
        for name in EACH:
            if getattr(getattr(estimators, name), order) is not None:
                cells = [f"{table[name][f'{c}, {k}'][order]:.1e}" for c, k in columns]
                print(f"| {letter} | {name} | " + " | ".join(cells) + " |")
    return {
        "benchmark": "sobol_accuracy",
        "environment": harness.environment(),
        "repetitions": repetitions,
        "root_mean_square_error": table,
    }


def main(arguments: list[str] | None = None) -> None:
    """Measures, prints, and writes JSON files."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", nargs="+", help="cases")
    parser.add_argument("--rounds", type=int, default=31, help="rounds of jaxplain alone")
    parser.add_argument("--peer-rounds", type=int, default=3, help="rounds with the peers")
    parser.add_argument("--accuracy", action="store_true", help="errors in place of times")
    parser.add_argument("--repetitions", type=int, default=100, help="of each error")
    parser.add_argument("--quick", action="store_true", help="tiny: does it run? writes nothing")
    parser.add_argument("--out", type=pathlib.Path, help="folder of the JSON files")
    options = parser.parse_args(arguments)
    folder = options.out
    if folder is None and not options.quick:
        folder = pathlib.Path(__file__).parent / "results"
    kind = jax.devices()[0].device_kind.replace(" ", "-")
    if options.accuracy:
        names = options.only or ["ishigami", "g8"]
        content = accuracy(names, 4 if options.quick else options.repetitions)
        if folder is not None:
            harness.write(folder / "sobol_accuracy.json", content)
        return
    for name in options.only or list(SAMPLES):
        rounds = (3, 1) if options.quick else (options.rounds, options.peer_rounds)
        content = time_case(name, 1024 if options.quick else SAMPLES[name], *rounds)
        spent = content["own"]["jaxplain"][content["clock"]]
        compiling = content["compile"]["jaxplain"]["cpu_seconds"]
        print(
            f"{name}, N = {content['samples']:,}: median {1e3 * spent['median']:.2f} ms "
            f"(quartiles {1e3 * spent['quartile_low']:.2f}, {1e3 * spent['quartile_high']:.2f}; "
            f"A/A {content['a_a']['of_medians']:.3f}); bootstrap "
            f"{content['bootstrap']['of_medians']:.2f} times; compiling {compiling:.2f} CPU s "
            f"(bar {COMPILE_BAR:.0f})"
        )
        for peer, found in content["times_as_long"].items():
            print(
                f"    {peer}: {found['of_medians']:.0f} times as long (bar {BARS[name][peer]}), "
                f"{content['taking_turns'][peer][content['clock']]['median']:.2f} s"
            )
        for entry, found in content["largest_error"].items():
            print(f"    error of the worst index, {entry}: median {found['median']:.1e}")
        if folder is not None:
            harness.write(folder / f"sobol_indices_{name}_{kind}.json", content)


if __name__ == "__main__":
    main()
