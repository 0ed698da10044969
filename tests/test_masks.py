"""Masks against loops in numpy, and what becomes of masked parts at the ends and in between."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxplain import baselines, masks

KEY = jax.random.key(0)
IMAGE = jax.random.normal(KEY, (7, 9, 3))


def cells_of(*shape):
    return jax.random.uniform(jax.random.key(1), shape)


# ---------------------------------------------------------------------------------- the parts


@pytest.mark.parametrize(
    ("sizes", "axes"),
    [((2, 3), None), ((7, 9), None), ((1, 1), None), ((3, 2), (1, 0)), ((2, 3), (-2, -1)),
     ((4,), (1,)), ((2, 3, 3), None)],
)  # fmt: skip
def test_a_grid_is_a_loop_over_elements(sizes, axes):
    made = masks.grid(*sizes, axes=axes)
    cells = cells_of(*made.shape(IMAGE))
    mask = np.broadcast_to(made.expand(cells, IMAGE), IMAGE.shape)
    axes = range(len(sizes)) if axes is None else axes
    for place in np.ndindex(*IMAGE.shape):
        at = tuple(
            place[axis] * size // IMAGE.shape[axis] for axis, size in zip(axes, sizes, strict=True)
        )
        assert mask[place] == cells[at]


def test_a_bilinear_grid_is_linear_between_the_centres_of_cells():
    cells = cells_of(2, 3)
    mask = masks.grid(2, 3, upsampling="bilinear").expand(cells, IMAGE)

    def weights(length, size):
        place = (np.arange(length) + 0.5) * size / length - 0.5
        distance = np.abs(np.clip(place, 0, size - 1)[:, None] - np.arange(size))
        return np.maximum(1 - distance, 0)

    expected = weights(7, 2) @ np.asarray(cells) @ weights(9, 3).T
    np.testing.assert_allclose(mask[:, :, 0], expected, atol=1e-6)
    assert mask.shape == (7, 9, 1)


def test_windows_are_stretches_of_equal_length():
    sound = jnp.zeros((2, 10))
    cells = cells_of(4)
    mask = masks.windows(4, axis=1).expand(cells, sound)
    np.testing.assert_array_equal(mask, cells[jnp.array([[0, 0, 0, 1, 1, 2, 2, 2, 3, 3]])])
    lengths = [np.sum(np.arange(10) * 4 // 10 == k) for k in range(4)]
    assert max(lengths) - min(lengths) <= 1
    smooth = masks.windows(2, axis=1, upsampling="bilinear").expand(jnp.array([0.0, 1.0]), sound)
    np.testing.assert_allclose(smooth[0], np.clip(np.arange(-2, 8) / 5, 0, 1)[:10], atol=0.11)


@pytest.mark.parametrize("axis", [0, 1, -1])
def test_tokens_are_positions(axis):
    x = {"a": jnp.zeros((5, 5, 5)), "b": jnp.zeros((5, 5))}
    made = masks.tokens(axis=axis)
    assert made.shape(x) == (5,)
    cells = cells_of(5)
    for leaf, mask in zip(jax.tree.leaves(x), jax.tree.leaves(made.expand(cells, x)), strict=True):
        full = np.moveaxis(np.broadcast_to(mask, leaf.shape), axis, 0)
        for position in range(5):
            assert np.all(full[position] == cells[position])


def test_elements_are_numbered_in_the_order_of_the_leaves():
    x = {"b": jnp.zeros((2, 2)), "a": jnp.zeros(()), "c": (jnp.zeros(1),)}
    made = masks.elements()
    assert made.shape(x) == (6,)
    mask = made.expand(jnp.arange(6.0), x)
    np.testing.assert_array_equal(
        np.concatenate([m.ravel() for m in jax.tree.leaves(mask)]), range(6)
    )
    assert mask["b"].tolist() == [[1.0, 2.0], [3.0, 4.0]]


def test_each_leaf_by_itself():
    x = {"b": jnp.zeros((4, 6)), "a": (jnp.zeros((2, 3, 2)),)}
    made, cells = masks.each(masks.grid(2, 3)), cells_of(12)
    assert made.shape(x) == (12,)
    mask = made.expand(cells, x)
    of_leaf = masks.grid(2, 3).expand
    np.testing.assert_array_equal(mask["a"][0], of_leaf(cells[:6].reshape(2, 3), x["a"][0]))
    np.testing.assert_array_equal(mask["b"], of_leaf(cells[6:].reshape(2, 3), x["b"]))


def test_segments_are_looked_up():
    labels = jax.random.randint(KEY, (7, 9), 0, 5)
    made, cells = masks.segments(labels, 5), cells_of(5)
    assert made.shape(IMAGE) == (5,)
    mask = np.broadcast_to(made.expand(cells, IMAGE), IMAGE.shape)
    for place in np.ndindex(*IMAGE.shape):
        assert mask[place] == cells[labels[place[:2]]]
    # One array of labels for all leaves, or a tree with its own for each.
    both = made.expand(cells, {"x": IMAGE, "y": IMAGE[..., 0]})
    np.testing.assert_array_equal(both["x"][..., 0], both["y"])
    own = masks.segments({"x": labels, "y": jnp.array([4, 0])}, 5)
    mask = own.expand(cells, {"x": IMAGE, "y": jnp.zeros((2, 3))})
    np.testing.assert_array_equal(mask["y"], cells[jnp.array([[4], [0]])])


def test_labels_can_be_traced():
    """Superpixels that a program makes: one compiled program for all of them."""
    use = jax.jit(lambda labels, cells: masks.segments(labels, 3).expand(cells, IMAGE))
    labels = jax.random.randint(KEY, (7, 9), 0, 3)
    cells = cells_of(3)
    np.testing.assert_array_equal(use(labels, cells)[..., 0], cells[labels])


@pytest.mark.parametrize(
    "made",
    [masks.grid(2, 3), masks.grid(2, 3, upsampling="bilinear"), masks.windows(4),
     masks.tokens(), masks.elements(), masks.segments(jnp.arange(7), 7)],
    ids=["grid", "bilinear", "windows", "tokens", "elements", "segments"],
)  # fmt: skip
def test_every_mask_is_linear_keeps_all_with_ones_and_none_with_zeros(made):
    shape = made.shape(jax.ShapeDtypeStruct(IMAGE.shape, IMAGE.dtype))
    a, b = cells_of(*shape), jax.random.normal(KEY, shape)
    expand = lambda cells: np.asarray(made.expand(cells, IMAGE))
    np.testing.assert_allclose(expand(a + 2 * b), expand(a) + 2 * expand(b), atol=1e-5)
    np.testing.assert_allclose(expand(jnp.ones(shape)), 1, atol=1e-6)
    np.testing.assert_array_equal(expand(jnp.zeros(shape)), 0)
    assert np.broadcast_shapes(expand(a).shape, IMAGE.shape) == IMAGE.shape


# ----------------------------------------------------------------------------- perturbations


def test_replacement_is_exact_at_both_ends():
    baseline = 1e6 + IMAGE
    perturbed = masks.replace({"x": IMAGE}, {"x": baseline})
    np.testing.assert_array_equal(perturbed({"x": jnp.ones((7, 9, 1))})["x"], IMAGE)
    np.testing.assert_array_equal(perturbed({"x": jnp.zeros((7, 9, 1))})["x"], baseline)
    mask = jax.random.uniform(KEY, (7, 9, 1))
    expected = np.asarray(mask, float) * IMAGE + (1 - np.asarray(mask, float)) * baseline
    np.testing.assert_allclose(perturbed({"x": mask})["x"], expected, rtol=1e-6)


def test_amplitude_adds_around_x():
    mask = jax.random.uniform(KEY, (7, 9, 1))
    got = masks.amplitude(0.3)(IMAGE, None)(mask)
    np.testing.assert_allclose(got, IMAGE + 0.3 * (np.asarray(mask) - 0.5), atol=1e-6)
    swept = jax.vmap(lambda scale: masks.amplitude(scale)(IMAGE, None)(mask))
    np.testing.assert_allclose(swept(jnp.array([0.1, 0.3]))[1], got, atol=1e-6)


def test_blur_is_the_pyramid_at_its_levels_and_linear_between():
    perturbed = masks.blur(2.0, levels=4)(IMAGE, None)
    at = lambda level: np.asarray(perturbed(jnp.full((7, 9, 1), 1 - level / 4)))
    np.testing.assert_array_equal(at(0), IMAGE)
    for level in (1, 2, 3, 4):
        expected = baselines.blurred(IMAGE, sigma=level / 2)
        np.testing.assert_allclose(at(level), expected, atol=1e-5)
    np.testing.assert_allclose(at(2.5), (at(2) + at(3)) / 2, atol=1e-5)
    # Each place by its own mask.
    mask = jnp.zeros((7, 9, 1)).at[:, 4:].set(1.0)
    both = perturbed(mask)
    np.testing.assert_array_equal(both[:, 4:], IMAGE[:, 4:])
    np.testing.assert_allclose(both[:, :4], at(4)[:, :4], atol=1e-6)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16, jnp.float32])
@pytest.mark.parametrize(
    "perturbation", [masks.replace, masks.amplitude(0.3), masks.blur(2.0)], ids=["r", "a", "b"]
)
def test_perturbed_examples_have_the_dtype_of_x_and_are_made_wide(perturbation, dtype):
    x, mask = IMAGE.astype(dtype), jax.random.uniform(KEY, (7, 9, 1))
    got = perturbation(x, jnp.zeros_like(x))(mask)
    assert got.dtype == dtype
    wide = x.astype(jnp.float32)
    expected = perturbation(wide, jnp.zeros_like(wide))(mask)
    np.testing.assert_allclose(
        got.astype(jnp.float32), expected, atol=4 * float(jnp.finfo(dtype).eps)
    )


# ------------------------------------------------------------------------------------- errors


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: masks.grid(), ValueError, "grid(8, 8)"),
        (lambda: masks.grid(2, 0), ValueError, "each size of the grid must be at least 1"),
        (lambda: masks.grid(2.0), TypeError, "each size of the grid must be a Python integer"),
        (lambda: masks.grid(2, 2, axes=(0,)), ValueError, "2 sizes for 1 axes"),
        (lambda: masks.grid(2, upsampling="cubic"), ValueError, '"nearest" or "bilinear"'),
        (lambda: masks.windows("4"), TypeError, "count must be a Python integer"),
        (lambda: masks.segments(jnp.array([0.5]), 2), TypeError, "labels must be integers"),
        (lambda: masks.segments(jnp.array([0, 2]), 2), ValueError, "span 0 to 2"),
        (lambda: masks.segments(jnp.array([-1]), 2), ValueError, "span -1 to -1"),
        (lambda: masks.segments("a", 2), TypeError, "labels must be an array"),
        (lambda: masks.amplitude("a"), TypeError, "scale must be one real number"),
        (lambda: masks.blur(1.0, levels=0), ValueError, "levels must be at least 1"),
    ],
)
def test_bad_options_are_named(make, error, message):
    with pytest.raises(error, match=re.escape(message)):
        make()


@pytest.mark.parametrize(
    ("made", "x", "message"),
    [
        (masks.grid(2, 2), jnp.zeros(4), "over axis 1, but x has shape (4,)"),
        (masks.grid(8, 8), jnp.zeros((4, 9)), "8 cells along axis 0, but x has 4"),
        (masks.tokens(axis=1), jnp.zeros(4), "along axis 1, but x has shape (4,)"),
        (masks.tokens(), (jnp.zeros(4), jnp.zeros(5)), "one length, but x has [4, 5]"),
        (masks.segments(jnp.zeros(5, int), 1), jnp.zeros((4, 5)), "(5,) where x has (4, 5)"),
    ],
)
def test_masks_that_do_not_fit_are_named(made, x, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        made.expand(jnp.zeros(made.shape(x)), x)
