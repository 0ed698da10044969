"""The harness, on clocks that tell a known time; and that the benchmark built on it runs."""

import json
import os
import pathlib
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from bench import harness, networks

ROOT = pathlib.Path(harness.__file__).parent.parent


class Clock:
    """A wall clock and a CPU clock that move only when a program says so."""

    def __init__(self):
        self.wall_seconds = self.cpu_seconds = 0.0
        self.log = []

    def program(self, name, wall, cpu):
        def run():
            self.log.append(name)
            self.wall_seconds += next(wall)
            self.cpu_seconds += next(cpu)
            return name

        wall, cpu = iter(wall), iter(cpu)
        return run

    def interleave(self, programs, **options):
        return harness.interleave(
            programs,
            wall=lambda: self.wall_seconds,
            cpu=lambda: self.cpu_seconds,
            block=lambda result: self.log.append(f"awaited {result}"),
            **options,
        )


def test_rounds_change_their_order_and_each_result_is_awaited():
    clock = Clock()
    second = [1.0] * 9
    programs = {name: clock.program(name, second, second) for name in "abc"}
    announced = []
    clock.interleave(programs, rounds=3, warmup=2, progress=announced.append)

    # Two rounds of warm-up, then three: each begins one further, every other runs backwards.
    order = "bca" + "bac" + "abc" + "acb" + "cab"
    assert announced == list(order)
    assert clock.log == [entry for name in order for entry in (name, f"awaited {name}")]


def test_each_program_gets_its_own_seconds_without_the_warmup():
    clock = Clock()
    programs = {
        "a": clock.program("a", [100.0, 1.0, 2.0, 4.0], [50.0, 0.5, 1.0, 2.0]),
        "b": clock.program("b", [200.0, 8.0, 16.0, 32.0], [70.0, 3.0, 5.0, 9.0]),
    }
    samples = clock.interleave(programs, rounds=3, warmup=1)
    assert samples == {
        "a": harness.Samples([1.0, 2.0, 4.0], [0.5, 1.0, 2.0]),
        "b": harness.Samples([8.0, 16.0, 32.0], [3.0, 5.0, 9.0]),
    }


def test_the_time_until_the_result_is_there_counts():
    clock = Clock()

    def block(_):
        clock.wall_seconds += 3.0

    samples = harness.interleave(
        {"dispatched": lambda: None},
        rounds=2,
        wall=lambda: clock.wall_seconds,
        cpu=lambda: 0.0,
        block=block,
    )
    assert samples["dispatched"].wall == [3.0, 3.0]


@pytest.mark.parametrize(
    ("programs", "rounds", "warmup"), [({}, 1, 1), ({"a": int}, 0, 1), ({"a": int}, 1, -1)]
)
def test_nothing_to_measure_is_refused(programs, rounds, warmup):
    with pytest.raises(ValueError, match="rounds >= 1"):
        harness.interleave(programs, rounds=rounds, warmup=warmup)


@pytest.mark.parametrize("count", [1, 2, 3, 4, 7, 10])
def test_spread_is_numpys(count):
    values = list(np.random.default_rng(count).exponential(size=count))
    low, middle, high = np.quantile(values, [0.25, 0.5, 0.75])
    expected = {
        "median": middle,
        "quartile_low": low,
        "quartile_high": high,
        "least": min(values),
        "largest": max(values),
    }
    assert harness.spread(values) == pytest.approx(expected, rel=1e-12)


def test_ratio_of_medians_and_within_rounds():
    # A slow second round slows both programs: the ratios within rounds do not see it.
    result = harness.ratio([2.0, 20.0, 3.0], [1.0, 10.0, 2.0])
    assert result["of_medians"] == 1.5
    assert result["by_round"]["median"] == 2.0
    assert (result["by_round"]["least"], result["by_round"]["largest"]) == (1.5, 2.0)
    assert harness.ratio([3.0, 5.0], [3.0, 5.0])["of_medians"] == 1.0
    with pytest.raises(ValueError, match="zip"):
        harness.ratio([1.0], [1.0, 2.0])


def test_a_compiled_program_computes_and_says_what_it_cost():
    x = jnp.arange(6.0).reshape(2, 3)
    program = harness.compile_program(lambda x, scale: scale * x.sum(axis=0), x, jnp.float32(2))
    np.testing.assert_array_equal(program.call(x, jnp.float32(2)), [6.0, 10.0, 14.0])
    assert program.lower_seconds > 0
    assert program.compile_seconds > 0


def test_real_clocks_and_a_tree_of_results():
    samples = harness.interleave({"tree": lambda: {"a": jnp.ones(3), "b": (1, None)}}, rounds=2)
    assert len(samples["tree"].wall) == len(samples["tree"].cpu) == 2
    assert min(samples["tree"].wall) > 0


def test_a_record_survives_the_file(tmp_path):
    samples = {"a": harness.Samples([1.0, 3.0], [0.1, 0.25]), "b": harness.Samples([2.0], [0.5])}
    content = {"environment": harness.environment(), "records": [harness.record(samples)]}
    path = tmp_path / "results" / "one.json"
    harness.write(path, content)
    assert harness.read(path) == content
    assert [file.name for file in path.parent.iterdir()] == ["one.json"]

    taken = harness.read(path)["records"][0]["a"]
    assert taken["wall_seconds"] == [1.0, 3.0]
    assert taken["cpu_seconds"] == [0.1, 0.25]
    assert taken["wall"]["median"] == 2.0
    assert taken["cpu"]["median"] == pytest.approx(0.175)


def test_a_number_that_is_none_is_no_record(tmp_path):
    with pytest.raises(ValueError, match="JSON"):
        harness.write(tmp_path / "nan.json", {"seconds": float("nan")})


def test_the_environment_says_what_ran():
    environment = harness.environment()
    assert environment["versions"]["jax"] == jax.__version__
    assert environment["python"] == ".".join(map(str, sys.version_info[:3]))
    assert environment["platform"] == jax.default_backend()
    assert environment["device_kind"] == jax.devices()[0].device_kind
    commit = environment["commit"].removesuffix("-dirty")
    assert commit == "unknown" or (len(commit) == 40 and int(commit, 16) >= 0)
    assert set(environment["threads"]) == {"cores_allowed", *harness.SINGLE_THREAD, "XLA_FLAGS"}


def test_pin_comes_before_jax():
    with pytest.raises(RuntimeError, match="import jax"):
        harness.pin()


PINNED = """
import os
from bench import harness
harness.pin()
import json, jax
jax.numpy.ones(3).block_until_ready()
print(json.dumps(harness.environment()["threads"]))
"""


def run(*words, **environment):
    return subprocess.run(
        [sys.executable, *words],
        cwd=ROOT,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=300,
        check=True,
    ).stdout


def test_pin_holds_a_process_to_one_thread():
    threads = json.loads(run("-c", PINNED, XLA_FLAGS="--xla_cpu_enable_fast_math=false"))
    assert threads["OMP_NUM_THREADS"] == "1"
    flags = threads["XLA_FLAGS"].split()
    assert flags == ["--xla_cpu_enable_fast_math=false", harness.SINGLE_THREAD_XLA]
    if hasattr(os, "sched_setaffinity"):
        assert len(threads["cores_allowed"]) == 1


def seconds(**by_program):
    return {name: {"cpu": {"median": value}} for name, value in by_program.items()}


def test_the_floor_is_the_faster_one_in_each_record():
    integrated_gradients = pytest.importorskip("bench.integrated_gradients")
    kernel = dict.fromkeys(
        (
            integrated_gradients.LOOP_FAST,
            integrated_gradients.AGAIN,
            integrated_gradients.PASS_OFF,
        ),
        6.0,
    )
    records = [
        seconds(**{"host loop": host, "loop in jit": loop, "kernel": 3.0, **kernel})
        for host, loop in ((2.0, 4.0), (5.0, 1.5), (2.5, 9.0))
    ]
    result = integrated_gradients.summary(records, "cpu")
    assert result["floor_seconds"] == (2.0, 1.5, 2.5)
    assert result["floor_is"] == "host loop"
    assert result["over_floor"]["kernel"] == (1.5, 1.2, 2.0)
    assert result["over_floor"]["loop in jit"] == (2.0, 1.0, 3.6)
    assert result["same_program_twice"] == (2.0, 2.0, 2.0)


def test_the_benchmark_runs(tmp_path):
    printed = run(
        "bench/integrated_gradients.py", "--quick", "--only", "mlp", "--out", str(tmp_path)
    )
    assert "mlp" in printed
    assert "A/A" in printed
    (path,) = tmp_path.iterdir()
    result = harness.read(path)
    assert result["case"] == {
        "name": "mlp",
        "example": [784],
        "batch": 2,
        "steps": 2,
        "chunk_size": 1,
    }
    (record,) = result["records"]
    assert set(record) == {
        "host loop",
        "loop in jit",
        "loop in jit, pass on",
        "kernel",
        "kernel again",
        "kernel, pass off",
    }
    assert result["compile_seconds"]["kernel"].keys() == {"lower", "compile"}
    if hasattr(os, "sched_setaffinity"):
        assert len(result["environment"]["threads"]["cores_allowed"]) == 1


def test_the_overheads_run(tmp_path):
    printed = run("bench/overheads.py", "--quick", "--out", str(tmp_path))
    assert "eager call: median" in printed
    (path,) = tmp_path.iterdir()
    result = harness.read(path)
    assert len(result["eager_call"]["eager call"]["wall_seconds"]) == 3
    assert result["compile_512_mb"]["compile_seconds"] > 0


def test_the_qmc_bench_runs(tmp_path):
    printed = run("bench/qmc.py", "--quick", "--out", str(tmp_path))
    assert "bar: 8" in printed
    (file,) = tmp_path.glob("qmc_*.json")
    result = harness.read(file)
    assert result["case"] == {"samples": 2048, "dimensions": 3, "block_size": 1024}
    assert result["theirs_over_ours"]["sobol"]["of_medians"] > 0


def test_the_hsic_benchmark_runs(tmp_path):
    printed = run("bench/hsic.py", "--quick", "--out", str(tmp_path))
    assert "the n^3 form takes" in printed
    (path,) = tmp_path.iterdir()
    assert harness.read(path)["relative_error"] < 1e-4


def test_the_dictionaries_benchmark_runs(tmp_path):
    printed = run("-m", "bench.dictionaries", "--quick", "--rounds", "2", "--out", str(tmp_path))
    assert "topk, dense" in printed
    (file,) = tmp_path.iterdir()
    found = harness.read(file)
    assert set(found["rounds"]) >= {"topk", "batch_topk", "relu", "jumprelu", "one matrix product"}


def test_the_toy_of_dictionaries_runs(tmp_path):
    printed = run("-m", "bench.toy_dictionary", "--quick", "--rounds", "2", "--out", str(tmp_path))
    assert "compiling: the scan" in printed
    (file,) = tmp_path.iterdir()
    found = harness.read(file)
    seconds = found["seconds_of_a_step"]
    assert all(len(s["rounds"]) == 2 and s["median"] > 0 for s in seconds.values())
    assert set(seconds) >= {"scan", "scan, again", "scan, its data", "sae.train"}
    for how in ("scan", "sae.train"):  # of the same start they differ in their batches alone
        assert 0.35 < found["quality"][how]["fvu"] < 0.55


def test_the_sites_benchmark_runs(tmp_path):
    printed = run("-m", "bench.sites", "--quick", "--out", str(tmp_path))
    assert "all residual sites" in printed
    for path in tmp_path.iterdir():
        assert harness.read(path)["over_plain"]["projected"]["of_medians"] > 0


def test_the_run_benchmark_runs(tmp_path):
    printed = run("bench/run.py", "--quick", "--only", "mlp", "--out", str(tmp_path))
    assert "mlp: run.map has" in printed
    (path,) = tmp_path.iterdir()
    assert harness.read(path)["throughput_over_bare"]["of_medians"] > 0


@pytest.mark.slow
def test_the_study_of_accuracy_runs(tmp_path):
    pytest.importorskip(
        "sklearn", reason="the digits are scikit-learn's: pip install jaxplain[demo]"
    )
    run("-m", "bench.cost_for_accuracy", "--quick", "--only", "relu_mlp", "--out", str(tmp_path))
    assert (tmp_path / "cost_for_accuracy.png").stat().st_size > 1000
    result = harness.read(tmp_path / "cost_for_accuracy_relu_mlp.json")
    of = {(r["rule"], r["gradients"]): r["vector_error"]["median"] for r in result["rules"]}
    assert of["gauss_legendre", 16] < of["left_riemann", 16]
    assert ("gauss_kronrod", 15) in of
    assert all(0 <= r["met"] <= 1 for r in result["tolerances"])


@pytest.mark.slow
def test_the_study_of_dictionaries_runs(tmp_path):
    run("-m", "bench.dictionary_pareto", "--quick", "--only", "toy", "--out", str(tmp_path))
    assert (tmp_path / "dictionary_pareto.png").stat().st_size > 1000
    found = harness.read(tmp_path / "dictionary_pareto_toy.json")["architectures"]
    assert len(found) == 8
    for one, two in found.values():
        assert one["l0"] != two["l0"]
        assert 0 < min(one["fvu"], two["fvu"]) < 1.5
    one, two = found["topk"]
    assert (one["sparsity"], two["sparsity"]) == (1, 2)
    assert one["l0"] <= 1 < two["l0"] <= 2


# What the bars were set on (classes, weights and biases): a network that drifts is another network.
PARAMETERS = {
    "mlp": 784 * 512 + 512 + 512 * 512 + 512 + 512 * 10 + 10,
    "cnn": (27 * 32 + 32) + (288 * 64 + 64) + (576 * 128 + 128) + (4 * 4 * 128 * 10 + 10),
    "resnet20": 269722,
    "transformer": 4 * (4 * (128 * 128 + 128) + 2 * 128 * 512 + 512 + 128 + 4 * 128)
    + (2 * 128)
    + (128 * 10 + 10),
}


@pytest.mark.parametrize("name", networks.CASES)
def test_the_networks_are_those_of_the_bars(name):
    case = networks.CASES[name]
    model = case.make(0)
    sizes = [leaf.size for leaf in jax.tree.leaves(nnx.state(model, nnx.Param))]
    assert sum(sizes) == PARAMETERS[name]
    examples, baseline, labels = case._replace(batch=2).inputs()
    forward = nnx.jit(lambda model, batch: model(batch))
    logits = forward(model, examples)
    assert logits.shape == (2, 10)
    # Evaluation mode: the same answer twice, whatever the rest of the batch is.
    alone = forward(model, examples[:1])
    np.testing.assert_allclose(logits[:1], alone, rtol=1e-4, atol=1e-5)
    assert baseline.shape == case.example
    assert labels.shape == (2,)


def test_networks_of_a_seed_are_equal():
    x = jnp.ones((1, 784))
    np.testing.assert_array_equal(networks.mlp(1)(x), networks.mlp(1)(x))
    assert not np.array_equal(networks.mlp(1)(x), networks.mlp(2)(x))
