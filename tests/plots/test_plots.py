"""What stands in the figures, read back from matplotlib's own objects and from the pixels drawn."""

import io
import subprocess
import sys

import jax.numpy as jnp
import matplotlib
import matplotlib.figure
import numpy as np
import pytest

from jaxplain import plots
from jaxplain.plots import _scaling, _tokens

AMBER = np.array([0xFF, 0xB0, 0x00]) / 255


@pytest.fixture(autouse=True)
def no_figure_is_left_open():
    """Drawing never touches the list of open figures of pyplot."""
    yield
    import matplotlib._pylab_helpers

    assert not matplotlib._pylab_helpers.Gcf.figs


def drawn(ax):
    """The whole figure, drawn: raises what only drawing raises."""
    buffer = io.BytesIO()
    ax.figure.savefig(buffer, dpi=60)
    return buffer


def colours_of(ax):
    """The colours of the map on these axes, (height, width, 4)."""
    image = ax.images[-1]
    return image.to_rgba(image.get_array(), alpha=1.0)


VALUES = np.random.default_rng(0).normal(size=(6, 5, 3))


# ---------------------------------------------------------------------------------------- heatmap


@pytest.mark.parametrize("convert", [np.asarray, jnp.asarray], ids=["numpy", "jax"])
def test_channels_are_summed_with_their_signs(convert):
    ax = plots.heatmap(convert(VALUES.astype(np.float32)))
    np.testing.assert_allclose(ax.images[0].get_array(), VALUES.sum(-1), rtol=1e-5, atol=1e-6)
    first = plots.heatmap(np.moveaxis(VALUES, -1, 0), channel_axis=0)
    np.testing.assert_allclose(first.images[0].get_array(), VALUES.sum(-1), rtol=1e-12)
    magnitude = plots.heatmap(convert(VALUES.astype(np.float32)), absolute=True)
    np.testing.assert_allclose(
        magnitude.images[0].get_array(), np.abs(VALUES.sum(-1)), rtol=1e-5, atol=1e-6
    )


def test_limits_are_symmetric_robust_and_stated():
    values = np.linspace(-1, 1, 1000).reshape(50, 20)
    values[0, 0] = 1e6  # an outlier moves a percentile by little
    ax = plots.heatmap(values, percentile=99)
    limit = np.percentile(np.abs(values), 99)
    assert ax.images[0].get_clim() == pytest.approx((-limit, limit))
    assert limit < 1
    assert ax.get_xlabel() == f"scale ±{limit:.2g}, 99th percentile"
    largest = plots.heatmap(values, percentile=100)
    assert largest.images[0].get_clim() == (-1e6, 1e6)
    assert largest.get_xlabel() == "scale ±1e+06, largest value"
    assert plots.heatmap(values, percentile=100, absolute=True).images[0].get_clim() == (0, 1e6)


def test_zero_is_white_and_signs_have_their_colours():
    white, red, blue = colours_of(plots.heatmap(np.array([[0.0, 2.0, -2.0]])))[0]
    assert white[:3].min() > 0.95
    assert red[0] > red[2] + 0.2
    assert blue[2] > blue[0] + 0.2


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_has_its_own_colour_and_is_counted(bad):
    values = VALUES.copy()
    values[2, 3, 1] = bad
    for absolute in (False, True):
        ax = plots.heatmap(values, np.zeros((6, 5)), absolute=absolute)
        colours = colours_of(ax)
        amber = np.all(np.abs(colours[..., :3] - AMBER) < 1e-6, axis=-1)
        assert np.argwhere(amber).tolist() == [[2, 3]]
        assert ax.get_xlabel().endswith("\n1 not finite (amber)")
        assert ax.images[-1].get_alpha()[2, 3] == 1  # and shows over an image
        assert np.isfinite(ax.images[-1].get_clim()).all()


@pytest.mark.parametrize(
    ("values", "text"),
    [
        (np.zeros((4, 4)), "zero everywhere"),
        (np.full((4, 4), np.nan), "no finite value"),
        (np.full((4, 4), -0.25), "scale ±0.25, 99th percentile"),
        (np.eye(40) * np.eye(1, 40), "scale ±1, largest value"),  # the 99th percentile is zero
        (np.ones((1, 1)), "scale ±1, 99th percentile"),
        (np.full((4, 4), 1e-300), "scale ±1e-300, 99th percentile"),
    ],
    ids=["zero", "nan", "constant", "sparse", "one pixel", "tiny"],
)
@pytest.mark.parametrize("image", [False, True], ids=["alone", "over an image"])
def test_maps_without_a_scale_are_drawn(values, text, image):
    ax = plots.heatmap(values, np.zeros(values.shape) if image else None)
    assert ax.get_xlabel() == text
    low, high = ax.images[-1].get_clim()
    assert low == -high < 0
    drawn(ax)


def test_over_an_image_the_map_is_as_opaque_as_it_is_strong():
    image = np.full((2, 2, 3), [255, 0, 0], np.uint8)
    ax = plots.heatmap(np.array([[0.0, 1.0], [2.0, -4.0]]), image, percentile=100, alpha=0.8)
    assert len(ax.images) == 2
    np.testing.assert_allclose(ax.images[0].get_array(), 0.299)  # in grey, by luminance
    np.testing.assert_allclose(ax.images[1].get_alpha(), [[0, 0.2], [0.4, 0.8]])
    assert ax.images[1].get_extent() == ax.images[0].get_extent()


@pytest.mark.parametrize(
    ("image", "expected"),
    [
        (np.array([[0, 128, 255]], np.uint8), [0, 128 / 255, 1]),
        (np.array([[0.0, 0.25, 0.5]]), [0, 0.25, 0.5]),  # in [0, 1] already
        (np.array([[-2.0, 0.0, 2.0]]), [0, 0.5, 1]),
        (np.array([[7.0, 7.0, 7.0]]), [0, 0, 0]),
        (np.array([[-1.0, np.nan, 1.0]]), [0, 0.5, 1]),
        (np.array([[np.nan, np.nan, np.nan]]), [0.5, 0.5, 0.5]),
        (jnp.array([[0.0, 0.5, 1.0]], jnp.bfloat16), [0, 0.5, 1]),
    ],
    ids=["uint8", "unit", "stretched", "constant", "nan", "all nan", "bfloat16"],
)
def test_how_images_become_colours(image, expected):
    colours = _scaling.picture(image, -1)
    assert colours.shape == (1, 3, 3)
    np.testing.assert_allclose(colours[0], np.repeat(np.array(expected)[:, None], 3, axis=1))


def test_given_axes_are_used_and_new_ones_are_apart():
    figure = matplotlib.figure.Figure()
    ax = figure.subplots()
    assert plots.heatmap(VALUES, ax=ax) is ax
    assert plots.bars([1.0], ["a"], ax=ax) is ax
    assert plots.curve([0.0, 1.0], [1.0, 0.0], ax=ax) is ax
    assert plots.tokens(["a"], [1.0], ax=ax) is ax
    assert plots.pareto({"a": {"l0": [1], "fvu": [1]}}, ax=ax) is ax
    assert plots.heatmap(VALUES).figure is not figure


# ------------------------------------------------------------------------------------------- bars


def test_bars_in_order_with_their_errors():
    ax = plots.bars([1.0, -3.0, 2.0], ["a", "$x_1$", "c"], errors=[0.1, 0.2, np.nan])
    assert [label.get_text() for label in ax.get_yticklabels()] == ["a", "$x_1$", "c"]
    assert not any(label.get_parse_math() for label in ax.get_yticklabels())
    assert [bar.get_width() for bar in ax.patches] == [1, -3, 2]
    segments = ax.containers[-1].lines[2][0].get_segments()
    ends = sorted(segment[:, 0].tolist() for segment in segments)
    np.testing.assert_allclose(ends, [[-3.2, -2.8], [0.9, 1.1]])
    low, high = ax.get_ylim()
    assert low > high  # the first at the top
    drawn(ax)


def test_the_largest_bars_are_chosen_by_magnitude():
    ax = plots.bars(jnp.array([0.5, -4.0, jnp.nan, 3.0, 0.0]), list("abcde"), top=3)
    assert [label.get_text() for label in ax.get_yticklabels()] == ["b", "d", "a"]
    assert "2 smaller left out" in ax.get_xlabel()
    everything = plots.bars(np.array([0.5, np.nan]), list("ab"))
    assert [t.get_text() for t in everything.get_yticklabels()] == ["a", "b (not finite)"]
    assert len(everything.patches) == 1
    drawn(plots.bars([np.nan, np.nan], ["a", "b"]))
    drawn(plots.bars([0.0], ["a"], errors=[0.0]))


# ------------------------------------------------------------------------------------------ curve


def test_curves_and_their_bands():
    fractions, scores, errors = np.linspace(0, 1, 4), np.array([4.0, 2, 1, 0]), np.full(4, 0.25)
    ax = plots.curve(fractions, scores, errors=errors, label="_$a$")
    ax = plots.curve(fractions, scores[::-1], label="random", ax=ax)
    np.testing.assert_allclose(ax.lines[0].get_xydata(), np.stack([fractions, scores], 1))
    band = ax.collections[0].get_paths()[0].vertices
    for place, score in zip(fractions, scores, strict=True):
        heights = band[np.isclose(band[:, 0], place), 1]
        np.testing.assert_allclose([heights.min(), heights.max()], [score - 0.25, score + 0.25])
    assert [t.get_text().strip() for t in ax.get_legend().get_texts()] == ["_$a$", "random"]
    assert not any(text.get_parse_math() for text in ax.get_legend().get_texts())
    assert ax.lines[0].get_color() != ax.lines[1].get_color()
    drawn(ax)


def test_a_curve_with_nan_errors_is_drawn():
    """As of one example, whose standard error does not exist."""
    drawn(plots.curve([0.0, 1.0], [1.0, 0.0], errors=[np.nan, np.nan], label="one"))


# ----------------------------------------------------------------------------------------- pareto


def test_a_line_for_each_architecture_in_the_order_of_l0():
    rows = [{"l0": 8.0, "fvu": 0.1, "se": 0.02}, {"l0": 2.0, "fvu": 0.4, "se": np.nan}]
    arrays = {"l0": jnp.array([1.0, 4.0, 16.0]), "fvu": jnp.array([0.5, 0.25, 0.125])}
    ax = plots.pareto({"_$relu$": rows}, errors="se")
    assert plots.pareto({"topk": arrays, "gated": rows}, ax=ax) is ax
    expected = ([[2, 0.4], [8, 0.1]], [[1, 0.5], [4, 0.25], [16, 0.125]], [[2, 0.4], [8, 0.1]])
    for line, own in zip(ax.lines, expected, strict=True):
        np.testing.assert_allclose(line.get_xydata(), own)
    assert len({line.get_marker() for line in ax.lines}) == 3
    assert len({line.get_color() for line in ax.lines}) == 3
    (segment,) = ax.collections[0].get_segments()  # none where the error is NaN
    np.testing.assert_allclose(segment, [[8, 0.08], [8, 0.12]])
    assert ax.get_title(loc="right") == "bars: ± one standard error"
    texts = ax.get_legend().get_texts()
    assert [text.get_text().strip() for text in texts] == ["_$relu$", "topk", "gated"]
    assert not any(text.get_parse_math() for text in texts)
    assert ax.get_xscale() == "log"
    assert ax.get_xlabel().startswith("L0")
    assert ax.get_ylabel().startswith("FVU")
    drawn(ax)
    low, high = ax.get_xlim()
    ticks = [t.get_text() for t in ax.get_xticklabels() if low <= t.get_position()[0] <= high]
    assert ticks == ["1", "2", "5", "10"]  # and not powers of ten alone


def test_points_that_a_logarithm_or_a_figure_cannot_have_are_counted():
    found = {"l0": [0.0, 3.0, np.inf, 1.0, -1.0], "fvu": [1.0, 0.2, 0.1, np.nan, 0.1]}
    ax = plots.pareto({"a": found, "b": {"l0": [0], "fvu": [1]}})
    np.testing.assert_allclose(ax.lines[0].get_xydata(), [[3, 0.2]])
    texts = [text.get_text() for text in ax.get_legend().get_texts()]
    assert texts == ["a (4 left out)", "b (1 left out)"]
    assert ax.get_title(loc="right") == ""
    drawn(ax)


def test_any_two_fields_are_drawn():
    rows = [{"k": 1, "$d$": 0.5}, {"k": 2, "$d$": 0.25}]
    ax = plots.pareto({"topk": rows}, x="k", y="$d$")
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("k", "$d$")
    np.testing.assert_allclose(ax.lines[0].get_xydata(), [[1, 0.5], [2, 0.25]])
    drawn(ax)


# ------------------------------------------------------------------------------------------- grid


def test_a_grid_has_an_example_a_row_and_a_method_a_column():
    images = np.random.default_rng(1).random((3, 6, 5, 3))
    maps = {"plain": np.stack([VALUES, 2 * VALUES, -VALUES]), "<none>": np.zeros((3, 6, 5))}
    axes = plots.grid(images, maps, titles=["$", "b", "c"])
    assert axes.shape == (3, 3)
    for row in range(3):
        np.testing.assert_allclose(axes[row, 0].images[0].get_array(), images[row])
        expected = maps["plain"][row].sum(-1)
        np.testing.assert_allclose(axes[row, 1].images[0].get_array(), expected)
        assert axes[row, 2].get_xlabel() == "zero everywhere"
    assert [ax.get_title() for ax in axes[0]] == ["$", "plain", "<none>"]
    assert axes[2, 0].get_title() == "c"
    drawn(axes[0, 0])
    assert plots.grid(images, maps["plain"]).shape == (3, 2)


# ----------------------------------------------------------------------------------------- tokens


@pytest.mark.parametrize(
    ("token", "shown"),
    [
        (" a", "·a"),
        ("a\n", "a⏎"),
        ("\t", "→"),
        ("\x00\x1b", "\\x00\\x1b"),
        ("\u202e", "\\u202e"),  # would turn the text around
        ("", "∅"),
        ("é$<", "é$<"),
    ],
    ids=ascii,
)
def test_characters_that_cannot_be_seen_are_shown(token, shown):
    assert _tokens.visible(token) == shown


def test_dollars_are_text():
    words = ["$a_1$", "$\\frac{$", "b$"]
    ax = plots.tokens(words, [1.0, 2.0, 3.0])
    assert [text.get_text() for text in ax.texts] == words
    drawn(ax)  # as mathtext the second would be refused


def test_lines_wrap_within_the_axes_and_lose_nothing():
    words = ["word", " and", " another"] * 60 + ["x" * 500, "end"]
    ax = plots.tokens(words, np.linspace(-1, 1, len(words)))
    assert "".join(text.get_text() for text in ax.texts).replace("·", " ") == "".join(words)
    columns = ax.get_xlim()[1]
    for box in ax.patches:
        assert box.get_x() >= 0
        assert box.get_x() + box.get_width() <= columns
    lines = ax.get_ylim()[0]
    assert lines > 10
    # Drawn, every letter stands within its axes.
    drawn(ax)
    frame = ax.get_window_extent()
    for text in ax.texts:
        extent = text.get_window_extent()
        assert frame.x0 - 3 <= extent.x0
        assert extent.x1 <= frame.x1 + 3
        assert frame.y0 - 3 <= extent.y0
        assert extent.y1 <= frame.y1 + 3


def test_given_axes_shrink_the_letters_until_the_text_fits():
    figure = matplotlib.figure.Figure(figsize=(3, 1.5), dpi=100)
    ax = plots.tokens([" word"] * 120, np.ones(120), ax=figure.subplots())
    drawn(ax)
    frame = ax.get_window_extent()
    extents = [text.get_window_extent() for text in ax.texts]
    assert min(extent.y0 for extent in extents) >= frame.y0 - 3
    assert max(extent.x1 for extent in extents) <= frame.x1 + 3


def test_the_text_breaks_where_it_did():
    ax = plots.tokens(["a\n", "b", "\n", "c"], [1.0, 2.0, 3.0, 4.0])
    assert [int(box.get_y()) for box in ax.patches] == [0, 1, 1, 2]


def test_each_token_has_the_colour_of_its_value():
    ax = plots.tokens(["a", "b", "c", "d"], jnp.array([2.0, -2.0, 0.0, jnp.nan]))
    red, blue, white, amber = (np.array(box.get_facecolor()[:3]) for box in ax.patches)
    assert red[0] > red[2] + 0.2
    assert blue[2] > blue[0] + 0.2
    assert white.min() > 0.95
    np.testing.assert_allclose(amber, AMBER)
    assert ax.get_xlabel() == "scale ±2, largest value\n1 not finite (amber)"
    # Dark backgrounds take light letters.
    assert [text.get_color() for text in ax.texts] == ["white", "white", "black", "black"]


def test_wide_letters_take_two_columns():
    pieces, _, lines = _tokens.wrapped(["漢字", "é", "a"], [False] * 3, 5)
    assert [(p.line, p.column, p.width) for p in pieces] == [(0, 0, 4), (0, 4, 1), (1, 0, 1)]
    assert lines == 2


# ------------------------------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: plots.heatmap(np.zeros((2, 3, 4, 3))), ValueError, r"\(2, 3, 4, 3\).*plots.grid"),
        (lambda: plots.heatmap(np.zeros((0, 3))), ValueError, "at least one pixel"),
        (lambda: plots.heatmap(np.array([["a"]])), TypeError, "values must be an array of real"),
        (lambda: plots.heatmap(np.zeros((2, 2), complex)), TypeError, "complex128"),
        (
            lambda: plots.heatmap(np.zeros((2, 2)), np.zeros((4, 4))),
            ValueError,
            r"\(2, 2\).*\(4, 4\).*jax.image.resize",
        ),
        (lambda: plots.heatmap(np.zeros((2, 2)), np.zeros((2, 2, 4))), ValueError, r"\(2, 2, 4\)"),
        (lambda: plots.heatmap(VALUES, channel_axis=3), ValueError, "channel_axis.*is 3"),
        (lambda: plots.heatmap(VALUES, channel_axis=0.5), TypeError, "channel_axis"),
        (lambda: plots.heatmap(VALUES, percentile=0), ValueError, "percentile.*is 0"),
        (lambda: plots.heatmap(VALUES, percentile=np.nan), ValueError, "percentile"),
        (lambda: plots.heatmap(VALUES, alpha=1.5), ValueError, "alpha.*is 1.5"),
        (lambda: plots.heatmap(VALUES, ax=3), TypeError, "ax must be matplotlib axes.*int"),
        (lambda: plots.heatmap(VALUES, ax=[3]), TypeError, r"ax\[0\]"),
        (lambda: plots.bars(np.zeros((2, 2)), ["a", "b"]), ValueError, r"\(2, 2\).*values\[0\]"),
        (lambda: plots.bars([], []), ValueError, r"\(0,\)"),
        (lambda: plots.bars([1.0, 2.0], ["a"]), ValueError, "2 values, but there are 1"),
        (lambda: plots.bars([1.0, 2.0], "ab"), ValueError, "2 values, but there are 1"),
        (lambda: plots.bars([1.0], ["a"], errors=[1.0, 2.0]), ValueError, r"errors.*\(2,\)"),
        (lambda: plots.bars([1.0], ["a"], errors=[-1.0]), ValueError, "negative.*-1"),
        (lambda: plots.bars([1.0], ["a"], top=0), ValueError, "top must be at least 1"),
        (lambda: plots.curve([[0.0]], [[1.0]]), ValueError, r"\(1, 1\).*over_examples"),
        (lambda: plots.curve([0.0, 1.0], [[1.0, 0.0]]), ValueError, r"\(1, 2\).*over_examples"),
        (lambda: plots.curve([], []), ValueError, r"\(0,\)"),
        (lambda: plots.curve([0.0], [1.0], errors=[1.0, 1.0]), ValueError, r"errors.*\(2,\)"),
        (lambda: plots.pareto([{"l0": 1, "fvu": 1}]), TypeError, r"dict.*table\(\).*a list"),
        (lambda: plots.pareto({}), ValueError, "empty dict"),
        (lambda: plots.pareto({"a": 3}), TypeError, r"points\['a'\].*table\(\).*an? int"),
        (lambda: plots.pareto({"a": [3]}), TypeError, r"points\['a'\].*a list"),
        (lambda: plots.pareto({"a": []}), ValueError, r"points\['a'\].*empty"),
        (lambda: plots.pareto({"a": [{"l0": 1}]}), ValueError, "no 'fvu', but l0"),
        (
            lambda: plots.pareto({"a": {"l0": [1, 2], "fvu": [1]}}),
            ValueError,
            r"'fvu' of points\['a'\].*\(1,\)",
        ),
        (lambda: plots.pareto({"a": {"l0": 1, "fvu": 1}}), ValueError, r"'l0'.*\(\)"),
        (lambda: plots.pareto({"a": [{"l0": "x", "fvu": 1}]}), TypeError, "'l0' of points"),
        (
            lambda: plots.pareto({"a": [{"l0": 1, "fvu": 1, "se": -2}]}, errors="se"),
            ValueError,
            "negative.*-2",
        ),
        (lambda: plots.grid(VALUES[0], VALUES[0]), ValueError, r"images\[None\]"),
        (lambda: plots.grid(np.zeros((0, 2, 2)), np.zeros((0, 2, 2))), ValueError, "at least one"),
        (lambda: plots.grid(VALUES, VALUES[:2]), ValueError, "values.*6 images"),
        (lambda: plots.grid(VALUES, {"a": VALUES[:2]}), ValueError, r"values\['a'\]"),
        (lambda: plots.grid(VALUES, {}), ValueError, "empty dict"),
        (lambda: plots.grid(VALUES, VALUES, titles=["a"]), ValueError, "titles.*6 images"),
        (lambda: plots.tokens("ab", [1.0, 2.0]), TypeError, "cut it first"),
        (lambda: plots.tokens([1, 2], [1.0, 2.0]), TypeError, "tokenizer"),
        (lambda: plots.tokens(["a"], [[1.0]]), ValueError, r"\(1, 1\).*sum\(-1\)"),
        (lambda: plots.tokens(["a", "b"], [1.0]), ValueError, r"2 tokens.*\(1,\)"),
        (lambda: plots.tokens([], []), ValueError, r"\(0,\)"),
        (lambda: plots.tokens(["a"], [1.0], percentile=101), ValueError, "percentile.*101"),
    ],
)
def test_bad_input_is_named(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_a_missing_matplotlib_names_the_line_that_installs_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    for call in (
        lambda: plots.heatmap(VALUES),
        lambda: plots.bars([1.0], ["a"]),
        lambda: plots.tokens(["a"], [1.0]),
        lambda: plots.curve([0.0], [1.0]),
        lambda: plots.grid(VALUES, VALUES),
        lambda: plots.pareto({"a": {"l0": [1], "fvu": [1]}}),
    ):
        with pytest.raises(ImportError, match=r"pip install 'jaxplain\[plot\]'"):
            call()


def test_importing_the_room_loads_no_matplotlib():
    code = "import sys, jaxplain.plots; print(*sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "matplotlib" not in run.stdout.split()


@pytest.mark.parametrize(
    ("percent", "name"), [(1, "1st"), (11, "11th"), (92, "92nd"), (93, "93rd"), (99.5, "99.5th")]
)
def test_percentiles_are_named_in_english(percent, name):
    values = np.arange(1.0, 101.0).reshape(10, 10)
    assert plots.heatmap(values, percentile=percent).get_xlabel().endswith(f"{name} percentile")
