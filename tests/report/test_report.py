"""The page of a store, read back from its HTML: stores are real ones, figures are numpy's."""

import base64
import html.parser
import io
import re
import zlib

import jax
import jax.numpy as jnp
import numpy as np
import PIL.Image
import pytest

import jaxplain.store
from jaxplain import metrics, report
from jaxplain.report import _charts, _examples, _format, _pictures, _read

MEGABYTE = 2**20
EVIL = "<script>alert('x')</script><img src=x onerror=alert(1)>\"'&"


# ------------------------------------------------------------------------------ stores to read


def put(path, tree, *, batch_size=64, batches=None, **manifest):
    """A store on disk, of arrays with a leading axis of examples."""
    examples = len(jax.tree.leaves(tree)[0])
    types = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape[1:], a.dtype), tree)
    everything = {"finished": True, "examples": examples, "batch_size": batch_size, **manifest}
    store = jaxplain.store.create(path, everything, types, examples=examples)
    for batch in range(-(-examples // batch_size)) if batches is None else batches:
        here = slice(batch * batch_size, (batch + 1) * batch_size)
        rows = jax.tree.map(lambda a, here=here: a[here], tree)
        for future in jaxplain.store.write(store, batch, rows):
            future.result()
    return path


def attributions(examples, shape, seed=0):
    """What Integrated Gradients returns, of numbers that are easy to check."""
    random = np.random.default_rng(seed)
    values = random.normal(size=(examples, *shape)).astype(np.float32)
    output = random.normal(3.0, 1.0, examples).astype(np.float32)
    baseline = np.zeros(examples, np.float32)
    return {
        "values": values,
        "output": output,
        "baseline_output": baseline,
        "completeness_gap": (output * 10.0 ** random.normal(-4, 1, examples)).astype(np.float32),
        "error": np.full(examples, np.nan, np.float32),
        "finite": np.ones(examples, bool),
        "target": random.integers(0, 3, examples).astype(np.int32),
    }


def quality_of(x, seed=0, steps=8, index=None):
    """What is measured of some examples."""
    random = np.random.default_rng(seed)
    index = np.arange(len(x)) if index is None else index
    x = x[index]
    fractions = np.linspace(0, 1, steps + 1, dtype=np.float32)

    def curve():
        scores, chance = random.random((2, len(x), steps + 1)).astype(np.float32)
        return {
            "scores": scores,
            "area": np.trapezoid(scores, fractions, axis=1).astype(np.float32),
            "random_scores": chance,
            "random_area": np.trapezoid(chance, fractions, axis=1).astype(np.float32),
            "random_error": np.full(len(x), np.nan, np.float32),
            "fractions": np.tile(fractions, (len(x), 1)),
        }

    return {
        "example": index.astype(np.int32),
        "x": x,
        "logits": random.normal(size=(len(x), 3)).astype(np.float32),
        "deletion": curve(),
        "insertion": curve(),
    }


ABOUT = {"method": "jaxplain.paths.integrated_gradients", "options": {"steps": 32}}


class Page(html.parser.HTMLParser):
    """The elements of a page, and whether they are closed in order."""

    EMPTY = frozenset(("meta", "img", "br", "hr", "input", "link"))

    def __init__(self, path):
        super().__init__()
        self.html = path.read_text(encoding="utf-8")
        self.elements, self.open, self.words = [], [], []
        self.feed(self.html)
        self.close()
        assert not self.open, f"not closed: {self.open}"
        self.text = re.sub(r"\s+", " ", " ".join(self.words))

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in self.EMPTY:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open, f"</{tag}> without a beginning"
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] != "style":
            self.words.append(data)

    def of(self, tag):
        return [attributes for name, attributes in self.elements if name == tag]


def written(tmp_path, stores, **options):
    return Page(report.write(stores, tmp_path / "report.html", **options))


@pytest.fixture
def images(tmp_path):
    """A store of 20 small images with its quality."""
    result = attributions(20, (6, 6, 1))
    path = put(tmp_path / "images", result, about=ABOUT)
    x = np.random.default_rng(5).random((20, 6, 6, 1)).astype(np.float32)
    put(path / "quality", quality_of(x))
    return path


def picture(element):
    """The pixels of an <img>."""
    data = base64.b64decode(element["src"].removeprefix("data:image/png;base64,"))
    return PIL.Image.open(io.BytesIO(data))


# ------------------------------------------------------------------------------------- security


def test_texts_are_escaped_wherever_they_come_from(tmp_path):
    result = attributions(2, (4,))
    about = {
        "method": f"a.b.{EVIL}",
        "options": {EVIL: EVIL, "list": [EVIL]},
        "model": EVIL,
        "data": EVIL,
        "target": EVIL,
        "baseline": EVIL,
        "classes": [EVIL] * 3,
        "feature_names": [EVIL] * 4,
        EVIL: {"a": EVIL},
    }
    path = put(
        tmp_path / EVIL.replace("/", ""),
        result,
        about=about,
        versions={EVIL: EVIL},
        fingerprints={EVIL: EVIL, "model": EVIL},
        created=EVIL,
        key=EVIL,
        device_kind=EVIL,
        devices=EVIL,
        platform=EVIL,
        seconds={"run": EVIL, "compile": EVIL},
        computed_examples=EVIL,
    )
    put(path / "quality", quality_of(np.ones((2, 4), np.float32)))
    page = written(tmp_path, [path], title=EVIL)
    assert "<script" not in page.html
    assert "&lt;script&gt;" in page.html
    assert EVIL in page.text  # it is shown, as what it is
    tags = {name for name, _ in page.elements}
    assert not tags & {"script", "iframe", "object", "embed", "link", "form", "a"}
    for _, attributes in page.elements:
        assert not any(name.startswith("on") for name in attributes)
    for element in page.of("img"):
        assert element["src"].startswith("data:image/png;base64,")


def test_nothing_is_fetched(tmp_path, images):
    page = written(tmp_path, images)
    for name, attributes in page.elements:
        for attribute in ("src", "href", "srcset", "action", "data", "poster", "xlink:href"):
            value = attributes.get(attribute)
            assert value is None or value.startswith("data:"), (name, attribute, value)
    without_pictures = re.sub(r'src="data:[^"]*"', "", page.html)
    assert not re.search(r"https?:|//|url\(|@import", without_pictures)
    policy = next(m["content"] for m in page.of("meta") if "http-equiv" in m)
    assert policy.startswith("default-src 'none'")
    assert "script" not in policy


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ("a\x00b\x1b", "a\ufffdb\ufffd"),
        ("\u202egnp.exe", "\ufffdgnp.exe"),
        ("\ud800", "\ufffd"),
        ("x" * 400, "x" * 299 + "…"),
        ({"a": [1, None, True], "b": 0.1}, "a = 1, –, yes, b = 0.1"),
    ],
    ids=["control", "direction", "surrogate", "long", "nested"],
)
def test_odd_texts(value, shown):
    assert _format.text(value) == shown
    assert _format.text(value).encode()  # can be written


# --------------------------------------------------------------------------------------- figures


def test_the_summary_says_what_the_manifest_says(tmp_path, images):
    path = put(
        tmp_path / "full",
        attributions(5, (4,)),
        about={**ABOUT, "model": "my.module:net", "data": "rows.npy", "kind": "table"},
        devices=8,
        platform="cpu",
        device_kind="TFRT",
        versions={"jax": "0.10.2", "python": "3.11"},
        fingerprints={"model": "abcdef0123456789", "data": "9" * 64},
        seconds={"compile": 1.5, "run": 0.25},
        computed_examples=5,
        created="2026-11-25T10:00:00+00:00",
    )
    page = written(tmp_path, path)
    for words in (
        "Explanations of my.module:net on rows.npy",
        "jaxplain.paths.integrated_gradients",
        "steps = 32",
        "20 examples a second",  # 5 / 0.25
        "1.5 s",
        "8 × cpu, TFRT",
        "jax 0.10.2, python 3.11",
        "model abcdef012345, data 999999999999",
        "Kind table",
        "values (4 float32)",
    ):
        assert words in page.text, words


def test_a_manifest_with_next_to_nothing(tmp_path):
    page = written(tmp_path, put(tmp_path / "bare", {"values": np.ones((3, 4), np.float32)}))
    assert "<h1>Explanations</h1>" in page.html
    assert "Throughput" not in page.text
    assert "neither a completeness gap nor an estimated error" in page.text
    assert "Quality was not measured" in page.text
    assert "nothing to rank the examples by" in page.text


def test_quantiles_of_the_relative_gap(tmp_path):
    result = attributions(200, (4,))
    result["output"][:] = 2.0
    result["completeness_gap"] = (2.0 * np.arange(200) / 1000).astype(np.float32)
    result["baseline_output"][199] = 2.0  # nothing to explain: the relative gap is infinite
    page = written(tmp_path, put(tmp_path / "store", result))
    expected = np.arange(199) / 1000  # of the 199 that have one
    quantiles = np.quantile(expected, [0.5, 0.95, 0.99, 1.0])
    row = re.search(r'<th scope="row">store</th>((?:<td class="n">.*?</td>){6})', page.html)[1]
    cells = re.findall(r">([^<]+)</td>", row)
    np.testing.assert_allclose([float(c) for c in cells[:4]], quantiles, rtol=0.06)
    assert cells[4:] == ["1", "199"]  # one gap is exactly 0
    assert "1 computed example left out, whose figure is not finite" in page.text


def test_the_histogram_counts_each_value_once():
    values = np.array([1e-5, 2e-5, 1e-3, 0.0, np.nan, np.inf, 1.0])
    low, high = _charts.exponents([values])
    assert (low, high) == (-5, 0)
    bins = _charts.binned(values, low, high, bins=5)
    assert bins.counts.tolist() == [2, 0, 1, 0, 1]
    assert bins.zeros == 1
    assert _charts.exponents([np.array([0.0, np.nan])]) == (-8, 0)
    assert _charts.exponents([np.array([1e-3])]) == (-3, -2)


@pytest.mark.parametrize("block_bytes", [2**24, 500], ids=["one block", "many blocks"])
def test_curves_are_those_of_over_examples(tmp_path, monkeypatch, block_bytes):
    monkeypatch.setattr(_read, "BLOCK_BYTES", block_bytes)
    path = put(tmp_path / "store", attributions(37, (4,)))
    quality = quality_of(np.ones((37, 4), np.float32))
    put(path / "quality", quality)
    (run,) = _read.open_runs(path)
    for kind in ("deletion", "insertion"):
        got = _read.curves(run, kind)
        expected = metrics.over_examples(metrics.Curve(**jax.tree.map(jnp.asarray, quality[kind])))
        for mine, mean, error in (
            (got.area, expected.area, expected.area_error),
            (got.random_area, expected.random_area, expected.random_area_error),
            (got.difference, expected.difference, expected.difference_error),
            (got.scores, expected.scores, expected.scores_error),
        ):
            np.testing.assert_allclose(mine.mean, mean, rtol=1e-5)
            np.testing.assert_allclose(mine.error, error, rtol=1e-5)
        np.testing.assert_allclose(got.random_scores.mean, expected.random_scores, rtol=1e-5)
        np.testing.assert_allclose(got.fractions, np.linspace(0, 1, 9), rtol=1e-6)
        assert got.examples == 37
    page = written(tmp_path, path)
    assert _format.with_error(*map(float, got.difference)) in page.text


def test_examples_whose_curve_is_not_finite_are_left_out_and_counted(tmp_path):
    quality = quality_of(np.ones((10, 4), np.float32))
    quality["deletion"]["scores"][3, 2] = np.nan
    path = put(tmp_path / "store", attributions(10, (4,)))
    put(path / "quality", quality)
    (run,) = _read.open_runs(path)
    got = _read.curves(run, "deletion")
    assert (got.examples, got.left_out) == (9, 1)
    area = np.delete(quality["deletion"]["area"].astype(np.float64), 3)
    np.testing.assert_allclose(got.area.mean, area.mean())
    np.testing.assert_allclose(got.area.error, area.std(ddof=1) / 3)


@pytest.mark.parametrize(
    ("mean", "error", "shown"),
    [
        (0.61234, 0.0042, "0.6123 ± 0.0042"),
        (-12.3456, 1.5, "−12.3 ± 1.5"),
        (1234.5, 20.0, "1,234 ± 20"),
        (0.5, float("nan"), "0.5"),
        (0.5, 0.0, "0.5"),
        (float("nan"), 1.0, "–"),
        (1e-9, 1e-10, "1.000 × 10<sup>−9</sup> ± 1.0 × 10<sup>−10</sup>"),
    ],
)
def test_numbers_have_the_digits_that_mean_something(mean, error, shown):
    assert _format.with_error(mean, error) == shown


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (0.0, "0"),
        (None, "–"),
        (-0.123456, "−0.123"),
        (123456.0, "123,456"),
        (1.5e-7, "1.50 × 10<sup>−7</sup>"),
        (float("inf"), "∞"),
        (float("-inf"), "−∞"),
    ],
)
def test_numbers(value, shown):
    assert _format.number(value) == shown


# ------------------------------------------------------------------------------------ not finite


def test_examples_that_are_not_finite_are_counted_and_the_first_listed(tmp_path):
    result = attributions(200, (4,))
    bad = np.arange(3, 200, 3)  # 66 of them
    result["finite"][bad] = False
    page = written(tmp_path, put(tmp_path / "store", result))
    assert "66 examples of 200 not finite" in page.text
    listed = re.search(r"Their indices: ([\d, ]+), and 16 more\.", page.text)[1]
    assert [int(i) for i in listed.split(", ")] == bad[:50].tolist()


@pytest.mark.parametrize("block_bytes", [2**24, 100], ids=["one block", "many blocks"])
def test_without_a_flag_the_values_are_looked_through(tmp_path, monkeypatch, block_bytes):
    monkeypatch.setattr(_read, "BLOCK_BYTES", block_bytes)
    tree = {"a": np.zeros((30, 4), np.float32), "b": np.zeros((30, 2, 2), np.float32)}
    tree["a"][7, 1], tree["b"][21, 0, 1] = np.nan, np.inf
    page = written(tmp_path, put(tmp_path / "store", {"values": tree}))
    assert "Their indices: 7, 21." in page.text
    assert "a tree of 2 arrays" in page.text


def test_finite_stores_say_so(tmp_path, images):
    assert "All computed examples are finite." in written(tmp_path, images).text


def test_no_array_of_values_is_read_whole(tmp_path, monkeypatch):
    """A store that is larger than a block is read in blocks and in the rows that are shown."""
    monkeypatch.setattr(_read, "BLOCK_BYTES", 4096)
    path = put(tmp_path / "store", {"values": np.ones((500, 8, 8), np.float32)}, batch_size=10)
    most = 0

    class Watched:
        """An array that remembers how many rows were asked of it at once."""

        def __init__(self, array):
            self.array, self.shape, self.dtype = array, array.shape, array.dtype

        def __getitem__(self, key):
            nonlocal most
            got = np.asarray(self.array[key])
            most = max(most, len(got))
            return got

        def __array__(self, *args, **kwargs):
            raise AssertionError("the whole array was read")

    real = jaxplain.store.open

    def watched(path):
        store = real(path)
        return store._replace(arrays={name: Watched(a) for name, a in store.arrays.items()})

    monkeypatch.setattr(jaxplain.store, "open", watched)
    written(tmp_path, path)
    assert 0 < most <= 3 * _examples.EACH


# ------------------------------------------------------------------------------------ unfinished


def test_an_unfinished_store_says_so_and_counts_what_is_done(tmp_path):
    result = attributions(100, (6, 6))
    path = put(tmp_path / "store", result, batch_size=10, batches=[0, 1, 4], finished=False)
    page = written(tmp_path, path)
    assert "is not finished: 30 of 100 examples are computed" in re.sub(r"\s+", " ", page.text)
    shown = {int(i) for i in re.findall(r"<h4>Example (\d+)</h4>", page.html)}
    assert shown
    assert shown <= {*range(20), *range(40, 50)}
    assert "not finite." not in page.text.replace("Amber is not finite.", "")
    assert '<td class="n">30</td>' in page.html
    finished = put(tmp_path / "finished", result, batch_size=10)
    assert "not finished" not in written(tmp_path, finished).text


def test_an_unfinished_quality_says_so_and_only_what_is_measured_is_shown(tmp_path):
    path = put(tmp_path / "store", attributions(40, (6, 6, 1)))
    quality = quality_of(np.ones((40, 6, 6, 1), np.float32), index=np.arange(10, 30))
    put(path / "quality", quality, batch_size=5, batches=[0, 2], finished=False)
    page = written(tmp_path, path)
    assert "The quality of store is not finished: 10 of 20 are measured." in page.text
    shown = {int(i) for i in re.findall(r"<h4>Example (\d+)</h4>", page.html)}
    assert shown == {*range(10, 15), *range(20, 25)}  # and not 0, of empty chunks
    got = _read.curves(_read.open_runs(path)[0], "deletion")
    assert (got.examples, got.left_out) == (10, 0)
    done = [*range(5), *range(10, 15)]
    np.testing.assert_allclose(got.area.mean, quality["deletion"]["area"][done].mean(), rtol=1e-5)


# ------------------------------------------------------------------------------------- examples


def test_best_and_worst_by_insertion_minus_deletion(tmp_path):
    path = put(tmp_path / "store", attributions(40, (6, 6, 1)))
    measured = np.arange(5, 35)
    quality = quality_of(np.ones((40, 6, 6, 1), np.float32), index=measured)
    quality["insertion"]["area"][2] = np.nan  # ranks nowhere
    put(path / "quality", quality)
    runs = _read.open_runs(path)
    (best, worst, random), words = _examples.choose(runs)
    score = quality["insertion"]["area"] - quality["deletion"]["area"]
    order = measured[np.argsort(-score, kind="stable")]  # NaN comes last
    assert best.indices == order[:4].tolist()
    assert worst.indices == order[:-1][::-1][:4].tolist()
    assert not set(random.indices) & {*best.indices, *worst.indices}
    assert set(random.indices) <= set(measured.tolist())
    assert words == "Ranked by insertion area minus deletion area."
    again = _examples.choose(runs)[0]
    assert again[2] == random
    page = written(tmp_path, path)
    headings = re.findall(r"<h4>Example ([\d,]+)</h4>", page.html)
    assert [int(h) for h in headings] == [*best.indices, *worst.indices, *random.indices]


def test_best_and_worst_by_the_gap_where_there_is_no_quality(tmp_path):
    result = attributions(40, (6, 6, 1))
    path = put(tmp_path / "store", result)
    (best, worst, _), words = _examples.choose(_read.open_runs(path))
    gap = np.abs(result["completeness_gap"].astype(float)) / np.abs(result["output"].astype(float))
    assert best.indices == np.argsort(gap)[:4].tolist()
    assert worst.indices == np.argsort(-gap)[:4].tolist()
    assert "gap" in words
    page = written(tmp_path, path)
    assert "The inputs are not in the stores" in page.text
    assert len(page.of("img")) == 12  # maps alone


def test_pictures_are_those_of_the_example(tmp_path):
    values = np.zeros((1, 5, 6, 3), np.float32)
    values[0, 1, 2] = [1.0, 2.0, -0.5]
    values[0, 3, 4] = -2.5
    values[0, 4, 0, 1] = np.nan
    path = put(tmp_path / "store", {"values": values})
    x = np.zeros((1, 5, 6, 3), np.float32)
    x[0, 0, 0] = [1.0, 0.5, 0.0]
    put(path / "quality", {"example": np.zeros(1, np.int32), "x": x})
    page = written(tmp_path, path)
    shown, drawn = (np.asarray(picture(e).convert("RGB")).astype(int) for e in page.of("img"))
    assert shown.shape == drawn.shape == (5, 6, 3)
    np.testing.assert_array_equal(shown, np.rint(255 * x[0]))
    red, blue, amber, white = drawn[1, 2], drawn[3, 4], drawn[4, 0], drawn[0, 0]
    assert red[0] > red[2] + 40
    assert blue[2] > blue[0] + 40
    assert amber.tolist() == [0xFF, 0xB0, 0x00]
    assert white.min() > 240
    assert "1 not finite (amber)" in page.text


def test_magnitudes_have_colours_of_one_direction(tmp_path):
    values = np.arange(36, dtype=np.float32).reshape(1, 6, 6)
    for name, sign in (("positive", 1), ("signed", -1)):
        page = written(tmp_path, put(tmp_path / name, {"values": sign * values}))
        assert ("scale 0 to" in page.text) == (sign == 1)
        assert ("scale ±" in page.text) == (sign == -1)


def test_predictions_stand_beside_the_maps(tmp_path):
    result = attributions(1, (6, 6, 1))
    result["target"][:] = 2
    path = put(tmp_path / "store", result, about={"classes": ["cat", "<dog>", "cow"]})
    quality = quality_of(np.ones((1, 6, 6, 1), np.float32))
    quality["logits"][0] = np.log([0.25, 0.625, 0.125])
    put(path / "quality", quality)
    page = written(tmp_path, path)
    assert "predicted <b>&lt;dog&gt;</b> (62.5 %); explained <b>cow</b>" in page.html
    quality["logits"][0, 0] = np.nan
    assert "not finite" in _examples._probability(_read.open_runs(path)[0], quality["logits"][0])


def test_vectors_are_bars_with_names_and_values(tmp_path):
    values = np.zeros((1, 12), np.float32)
    values[0, 3], values[0, 7], values[0, 1] = -5.0, 2.0, np.nan
    about = {"feature_names": [f"f{i}" for i in range(12)]}
    path = put(tmp_path / "store", {"values": values}, about=about)
    x = 10.0 + np.arange(12, dtype=np.float32)[None]
    put(path / "quality", {"example": np.zeros(1, np.int32), "x": x})
    page = written(tmp_path, path)
    labels = re.findall(r'class="name">([^<]+)<', page.html)
    assert labels[:2] == ["f3 = 13", "f7 = 17"]
    assert len(labels) == 10
    assert "2 smaller left out" in page.text
    widths = re.findall(r'<rect class="(for|against)" .*?width="([\d.]+)"', page.html)
    assert [kind for kind, _ in widths[:2]] == ["against", "for"]
    np.testing.assert_allclose(float(widths[0][1]) / float(widths[1][1]), 2.5, rtol=0.01)


@pytest.mark.parametrize("shape", [(), (3, 4, 5, 6), (7, 8, 9), (0,), (1, 5)], ids=str)
def test_other_shapes_are_said_not_to_be_drawn(tmp_path, shape):
    page = written(tmp_path, put(tmp_path / "store", {"values": np.ones((2, *shape), np.float32)}))
    assert "are not drawn" in page.text
    assert not page.of("img")


@pytest.mark.parametrize("shape", [(5, 6), (5, 6, 1), (5, 6, 3), (3, 5, 6)], ids=str)
def test_shapes_of_images(tmp_path, shape):
    page = written(tmp_path, put(tmp_path / "store", {"values": np.ones((2, *shape), np.float32)}))
    assert [picture(e).size for e in page.of("img")] == [(6, 5)] * 2


def test_bfloat16_is_drawn(tmp_path):
    values = jnp.ones((2, 5, 6), jnp.bfloat16)
    path = put(tmp_path / "store", {"values": np.asarray(values)})
    assert len(written(tmp_path, path).of("img")) == 2


# ------------------------------------------------------------------------------ one, none, several


def test_one_example_has_no_errors_and_no_ranking(tmp_path):
    path = put(tmp_path / "store", attributions(1, (6, 6, 1)), about=ABOUT)
    quality = quality_of(np.ones((1, 6, 6, 1), np.float32))
    put(path / "quality", quality)
    page = written(tmp_path, path)
    assert "The example" in page.text
    assert "Best" not in page.text
    area = float(quality["deletion"]["area"][0])
    assert f'<td class="n">{_format.number(area)}</td>' in page.html  # without ±
    assert (
        "nan"
        not in page.html.replace("data:image", "").lower().split("</style>")[1].split("<img")[0]
    )


def test_no_examples(tmp_path):
    page = written(tmp_path, put(tmp_path / "store", attributions(0, (6, 6, 1)), about=ABOUT))
    assert "holds no examples" in page.text
    assert "There are no examples to show." in page.text
    assert "0 examples" in page.text
    assert not page.of("img")


@pytest.fixture
def two(tmp_path):
    """Two stores of the same data."""
    x = np.random.default_rng(5).random((30, 6, 6, 1)).astype(np.float32)
    both = {"data": "d" * 64, "model": "m" * 64}
    first = put(tmp_path / "one", attributions(30, (6, 6, 1)), about=ABOUT, fingerprints=both)
    put(first / "quality", quality_of(x))
    second = put(
        tmp_path / "two",
        {k: v for k, v in attributions(30, (6, 6, 1), 1).items() if k in ("values", "finite")},
        about={"method": "jaxplain.gradients.input_x_gradient"},
        fingerprints=both,
    )
    put(second / "quality", quality_of(x, seed=1))
    return first, second


def test_two_stores_stand_side_by_side(tmp_path, two):
    page = written(tmp_path, two)
    assert "integrated gradients and input x gradient compared, 30 examples" in page.text
    heads = re.findall(r'<th scope="col">([^<]+)</th>', page.html)
    assert heads[:2] == ["integrated gradients", "input x gradient"]
    cards = re.findall(r'<article class="example">.*?</article>', page.html, flags=re.S)
    assert len(cards) == 12
    for card in cards:
        captions = re.findall(r"<figcaption><b>(.*?)</b>", card)
        assert captions == ["input", "integrated gradients", "input x gradient"]
    # The same example: its two maps are those of the two stores.
    index = int(re.search(r"<h4>Example (\d+)</h4>", cards[0])[1])
    sources = re.findall(r'src="([^"]+)" alt="Attr', cards[0])
    for source, path in zip(sources, two, strict=True):
        values = np.asarray(jaxplain.store.open(path).arrays["values"][index])
        assert source == _pictures.heatmap(values, -1, 256, absolute=False)[0]
    assert "differ" not in page.text.split("How to read")[0].replace("difference", "")


def test_areas_of_two_stores_are_compared_example_by_example(tmp_path):
    both = {"data": "d" * 64}
    x = np.ones((30, 4), np.float32)
    stores, areas = [], []
    for name, index in (("one", np.arange(0, 25)), ("two", np.arange(28, 9, -1))):
        stores.append(put(tmp_path / name, attributions(30, (4,)), fingerprints=both))
        quality = quality_of(x, seed=len(areas), index=index)
        quality["deletion"]["area"] = (1.5 * len(areas) + np.sqrt(index)).astype(np.float32)
        quality["deletion"]["area"][-1] = np.nan  # of example 24 there, of example 10 here
        put(stores[-1] / "quality", quality)
        areas.append(dict(zip(index.tolist(), quality["insertion"]["area"], strict=True)))
    first, second = _read.open_runs(stores)
    deletion, examples = _read.paired(first, second, "deletion")
    assert examples == len(range(11, 24))
    np.testing.assert_allclose([deletion.mean, deletion.error], [1.5, 0.0], atol=1e-6)
    insertion, examples = _read.paired(first, second, "insertion")
    apart = np.array([float(areas[1][i]) - float(areas[0][i]) for i in range(10, 25)])
    assert examples == 15
    np.testing.assert_allclose(insertion.mean, apart.mean(), rtol=1e-6)
    np.testing.assert_allclose(insertion.error, apart.std(ddof=1) / np.sqrt(15), rtol=1e-6)
    page = written(tmp_path, stores)
    assert "two minus one, in area, example by example: 1.5" in page.text
    assert "(13 examples)." in page.text


def test_stores_of_other_data_are_shown_apart(tmp_path, two):
    other = put(
        tmp_path / "three", attributions(30, (6, 6, 1), 2), about=ABOUT,
        fingerprints={"data": "e" * 64, "model": "n" * 64},
    )  # fmt: skip
    page = written(tmp_path, [*two, other])
    assert "The data differ between stores" in page.text
    assert "The fingerprints of the models differ" in page.text
    cards = re.findall(r'<article class="example">.*?</article>', page.html, flags=re.S)
    assert len(cards) == 24
    # Of one method twice: the folders tell them apart.
    assert "integrated gradients (one)" in page.text
    assert "integrated gradients (three)" in page.text


def test_quality_of_one_of_two(tmp_path, two):
    import shutil

    shutil.rmtree(two[0] / "quality")
    page = written(tmp_path, two)
    assert "Quality was not measured for integrated gradients." in page.text
    assert "of input x gradient." in page.text  # the ranking is by the one that has it
    cards = re.findall(r'<article class="example">.*?</article>', page.html, flags=re.S)
    assert all(card.count("<img") == 3 for card in cards)


def test_no_quality(tmp_path):
    page = written(tmp_path, put(tmp_path / "store", attributions(3, (6, 6, 1))))
    assert "Quality was not measured: the stores hold no deletion or insertion." in page.text


def test_quality_that_cannot_be_read_is_said(tmp_path, images):
    (images / "quality" / "zarr.json").write_text("{}")
    page = written(tmp_path, images)
    assert "The quality of integrated gradients cannot be read" in page.text
    assert "Quality was not measured" in page.text


# ----------------------------------------------------------------------------------- the document


def test_the_page_is_whole_and_the_same_each_time(tmp_path, two):
    first = written(tmp_path, two).html
    assert written(tmp_path, two).html == first
    page = written(tmp_path, two)
    assert page.html.startswith("<!doctype html>")
    assert page.of("html") == [{"lang": "en"}]
    assert {"name": "viewport", "content": "width=device-width, initial-scale=1"} in page.of("meta")
    assert "@media (prefers-color-scheme: dark) {" in page.html
    levels = [int(name[1]) for name, _ in page.elements if re.fullmatch(r"h[1-6]", name)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(element.get("alt") for element in page.of("img"))
    assert all(element.get("aria-label") for element in page.of("svg"))
    scrolled = page.html.count('<div class="scroll" tabindex="0"')
    assert scrolled == len(page.of("table")) > 0
    # Each colour that is used is there in the light and in the dark.
    used = set(re.findall(r"var\((--[a-z-]+)[,)]", page.html)) - {"--own", "--wide"}
    light, dark = (set(re.findall(r"(--[a-z-]+):", part)) for part in _roots(page.html))
    assert used <= light == dark


def _roots(text):
    blocks = re.findall(r":root \{(.*?)\}", text, flags=re.S)
    assert len(blocks) == 2
    return blocks


def test_sizes(tmp_path):
    """1,797 digits by two methods, and 64 photographs as hard to compress as pictures come."""
    both = {"data": "d" * 64}
    x = np.random.default_rng(0).random((1797, 8, 8, 1)).astype(np.float32)
    stores = []
    for number in range(2):
        result = attributions(1797, (8, 8, 1), number)
        stores.append(put(tmp_path / f"digits{number}", result, batch_size=512, fingerprints=both))
        put(stores[-1] / "quality", quality_of(x, number, steps=32), batch_size=512)
    assert report.write(stores, tmp_path / "digits.html").stat().st_size < 0.2 * MEGABYTE
    x = np.random.default_rng(0).random((64, 224, 224, 3)).astype(np.float32)
    path = put(tmp_path / "photos", attributions(64, (224, 224, 3)), batch_size=8)
    put(path / "quality", quality_of(x), batch_size=8)
    page = report.write(path, tmp_path / "photos.html")
    assert page.stat().st_size < 3 * MEGABYTE
    assert {picture(e).size for e in Page(page).of("img")} == {(224, 224)}


@pytest.mark.parametrize("pictures", [1, 24, 36, 60, 1000])
def test_many_pictures_are_made_smaller(pictures):
    side = _pictures.side(pictures)
    assert pictures * side**2 * 4 / 3 < 2.6 * MEGABYTE  # which leaves room for the text
    noise = np.random.default_rng(0).normal(size=(300, 200))
    uri, words = _pictures.heatmap(noise, -1, side, absolute=False)
    assert f"means over areas, {side} ×" in words
    assert max(picture({"src": uri}).size) == side
    # No picture is larger than a byte a pixel, with its frame and palette, in base64.
    assert len(uri) <= 4 / 3 * (1.01 * side**2 + 1200)


def test_a_smaller_map_keeps_means_and_what_is_not_finite():
    values = np.repeat(np.repeat(np.array([[1.0, -3.0], [0.0, 2.0]]), 50, 0), 50, 1)
    values[0, 99] = np.nan
    small = _pictures._reduced(values, 2)
    np.testing.assert_allclose(small, [[1.0, np.nan], [0.0, 2.0]], rtol=1e-6)
    np.testing.assert_allclose(_pictures._reduced(1e-300 * values, 2)[0, 0], 1e-300, rtol=1e-6)


def test_pictures_are_compressed():
    flat = _pictures.photograph(np.zeros((64, 64, 3)), -1, 256)
    assert len(flat) < 300
    data = base64.b64decode(flat.split(",")[1])
    start = data.index(b"IDAT") + 4
    assert zlib.decompressobj().decompress(data[start:])  # a deflated stream


# --------------------------------------------------------------------------------------- writing


def test_the_page_is_written_in_one_step(tmp_path, images, monkeypatch):
    out = tmp_path / "new" / "folder" / "page.html"
    assert report.write(str(images), str(out)) == out
    assert [p.name for p in out.parent.iterdir()] == ["page.html"]
    assert out.stat().st_mode & 0o777 == 0o644
    before = out.read_text(encoding="utf-8")

    def fails(*args):
        raise OSError("no space left")

    monkeypatch.setattr("os.replace", fails)
    with pytest.raises(OSError, match="no space left"):
        report.write(images, out, title="another")
    assert out.read_text(encoding="utf-8") == before
    assert [p.name for p in out.parent.iterdir()] == ["page.html"]  # nothing half written is left


def test_bad_arguments_are_named(tmp_path, images):
    with pytest.raises(ValueError, match="at least one store"):
        report.write([], tmp_path / "page.html")
    with pytest.raises(FileNotFoundError, match="nowhere"):
        report.write(tmp_path / "nowhere", tmp_path / "page.html")
    with pytest.raises(IsADirectoryError, match=r"report\.html"):
        report.write(images, tmp_path)
    with pytest.raises(ValueError, match="not a jaxplain store"):
        report.write(tmp_path, tmp_path / "page.html")
    assert not (tmp_path / "page.html").exists()


def test_a_missing_matplotlib_names_the_line_that_installs_it(tmp_path, images, monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ImportError, match=r"pip install 'jaxplain\[plot\]'"):
        report.write(images, tmp_path / "page.html")
