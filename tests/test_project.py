"""What is promised about the project itself: README, versions, extras, skeleton, a clean tree."""

import doctest
import importlib.metadata
import importlib.util
import pathlib
import re
import subprocess
import sys
import tomllib

import jax.numpy as jnp
import numpy as np
import pytest

ROOT = pathlib.Path(__file__).resolve().parents[1]
HEAVY = {"flax", "optax", "chex", "orbax", "tensorstore", "matplotlib"}


@pytest.fixture(scope="module")
def project():
    return tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def text(name):
    return (ROOT / name).read_text(encoding="utf-8")


def load(path, name):
    """A Python file as a module, by its path."""
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.pins
def test_readme_quick_start_runs_and_its_claims_hold():
    blocks = re.findall(r"^```python\n(.*?)^```", text("README.md"), flags=re.M | re.S)
    assert blocks
    names = {}
    for block in blocks:
        exec(compile(block, "README.md", "exec"), names)
    images, labels, params, result = (
        names[name] for name in ("images", "labels", "params", "result")
    )
    assert result.values.shape == images.shape
    # The oracle: on this two-layer network with a zero baseline, by hand, in float64 numpy.
    w1, b1, w2, _ = (
        np.asarray(leaf, np.float64)
        for layer in ("hidden", "out")
        for leaf in (params[layer]["kernel"], params[layer]["bias"])
    )
    x = np.asarray(images, np.float64)
    nodes, weights = np.polynomial.legendre.leggauss(32)
    expected = np.zeros_like(x)
    for node, weight in zip((nodes + 1) / 2, weights / 2, strict=True):
        active = (node * x @ w1 + b1) > 0
        expected += weight * x * ((active * w2[:, np.asarray(labels)].T) @ w1.T)
    np.testing.assert_allclose(result.values, expected, atol=1e-4 * np.abs(expected).max())
    assert jnp.abs(result.completeness_gap).max() < 1e-2


@pytest.mark.pins
def test_the_page_on_datasets_runs_and_its_claims_hold(tmp_path, monkeypatch):
    model, program = re.findall(
        r"^```python\n(.*?)^```", text("docs/dataset.md"), flags=re.M | re.S
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "my_model.py").write_text(model)
    names = {"jnp": jnp}
    exec(compile(program, "docs/dataset.md", "exec"), names)
    sys.modules.pop("my_model")
    assert names["summary"].examples == 100
    images, params = names["images"], names["params"]
    label = jnp.argmax(names["apply"](params, images[12:13])[0])
    alone = names["explain"](images[12], jnp.zeros((8, 8)), label, params)
    np.testing.assert_allclose(names["some"][2], alone.values, atol=1e-5)
    np.testing.assert_allclose(names["gaps"][12], alone.completeness_gap, atol=1e-4)


@pytest.mark.pins
def test_a_fresh_import_loads_nothing_heavy():
    code = "import sys, jaxplain; print(*sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not HEAVY & set(run.stdout.split())


def test_the_version_is_one(project):
    version = project["version"]
    assert importlib.metadata.version("jaxplain") == version
    assert re.search(r"^version: (\S+)$", text("CITATION.cff"), flags=re.M)[1] == version
    changelog = text("CHANGELOG.md")
    if ".dev" in version:
        assert f"version under way is {version}." in changelog
        assert "## [Unreleased]" in changelog
    else:
        assert f"## [{version}]" in changelog


def test_the_extras_that_are_named_exist(project):
    extras = project["optional-dependencies"]
    pages = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *ROOT.glob("docs/*.md")]
    named = {
        extra
        for page in pages
        for group in re.findall(r'(?:"\.|jaxplain)\[([a-z0-9,]+)\]', page.read_text())
        for extra in group.split(",")
    }
    sentence = re.search(r"The other\nextras are (.*?)\.\n", text("README.md"), flags=re.S)[1]
    named |= set(re.findall(r"`([a-z0-9]+)`", sentence))
    assert named == set(extras)


def test_dependencies_have_floors_and_no_caps(project):
    for requirement in project["dependencies"]:
        assert re.fullmatch(r"[a-z-]+>=[0-9.]+", requirement), requirement
    # The floors that CI tests are the floors that are declared.
    for pin in re.findall(r"\b((?:jax|jaxlib|flax)==[0-9.]+)", text(".ci/run")):
        assert pin.replace("==", ">=") in project["dependencies"]


def test_every_make_target_of_the_readme_exists():
    targets = set(re.findall(r"^([a-z-]+):", text("Makefile"), flags=re.M))
    named = set()
    for words in re.findall(r"^make ([a-z -]+)|`make ([a-z -]+)`", text("README.md"), flags=re.M):
        named.update(" ".join(words).split())
    assert {"demo", "test", "lint", "types", "docs", "bench"} <= named <= targets


def tracked_files():
    listing = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    if listing.returncode:
        pytest.skip("not a git checkout: which files are tracked is not known")
    return [ROOT / name for name in listing.stdout.split("\0") if name]


def test_no_machine_path_and_no_registry_host_in_the_tree():
    # Written in pieces, so that this file does not hold what it looks for.
    machine_path = r"(?<![\w./~-])/(?:" + "|".join(["work", "tmp", "root", "home"]) + r")/\w"
    hosts = "|".join(
        re.escape(".".join(parts))
        for parts in (
            ("pypi", "org"),
            ("pythonhosted", "org"),
            ("npmjs", "org"),
            ("deb", "debian", "org"),
            ("download", "pytorch", "org"),
        )
    )
    option = "--(?:extra-)?" + "index-url"
    pattern = re.compile(f"{machine_path}|{hosts}|{option}")
    found = []
    for path in tracked_files():
        if not path.is_file():
            continue
        try:
            content = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue
        found += [f"{path.relative_to(ROOT)}: {match[0]}" for match in pattern.finditer(content)]
    assert not found


@pytest.mark.pins
def test_the_skeleton_works(monkeypatch):
    """The kernel that the guide tells to copy passes the test that it tells to copy."""
    folder = ROOT / "docs" / "skeleton"
    kernel = load(folder / "average_gradient.py", "average_gradient")
    monkeypatch.setitem(sys.modules, "average_gradient", kernel)
    examples = doctest.testmod(kernel)
    assert examples.attempted > 0
    assert examples.failed == 0
    tests = load(folder / "test_average_gradient.py", "skeleton_test_average_gradient")
    names = [name for name in dir(tests) if name.startswith("test_")]
    assert len(names) >= 3
    for name in names:
        getattr(tests, name)()
    bench = load(folder / "bench_average_gradient.py", "skeleton_bench_average_gradient")
    result = bench.main(samples=8, width=8, rounds=1)
    assert result["over_floor"]["of_medians"] > 0
