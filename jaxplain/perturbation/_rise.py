"""RISE: the mean output over random masks that keep an element.

values_e = sum_k m_ke f(x masked by m_k) / sum_k m_ke,    m_k random cells, upsampled and shifted
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxplain import checks, qmc, trees
from jaxplain import masks as masks_
from jaxplain.evaluate import Reduction, evaluate
from jaxplain.evaluate._moments import root
from jaxplain.evaluate._reductions import compensated
from jaxplain.masked import Example, explanation

HIGHEST = jax.lax.Precision.HIGHEST
GRID = masks_.grid(7, 7, upsampling="bilinear")
NORMALISATIONS = ("mask", "probability")


class RiseAttribution(NamedTuple):
    """Mean outputs over random masks, for each element.

    Attributes:
        values: tree of x, leaves (*output, *leaf of x), dtype of x (float32 where x is not float):
            the mean output over masks, each weighted by how much it keeps of the element; 0 for an
            element that no mask has kept.
        standard_error: as values, in float32 or wider: the Monte Carlo standard error, by the delta
            method; NaN for an element that no mask has kept, or with one mask.
        mean_output: shape of the output: the mean over all masks, about which the values vary.
        output: f at x.
        baseline_output: f where all cells are 0.
        evaluations: the number of masks, int32.
        finite: whether x, the baseline, the outputs and the values are free of NaN and infinity.
    """

    values: Any
    standard_error: Any
    mean_output: jax.Array
    output: jax.Array
    baseline_output: jax.Array
    evaluations: jax.Array
    finite: jax.Array


class _Sums(NamedTuple):
    """Sums over masks m with centred outputs h; m as a mask, m h as (outputs, *mask)."""

    m: Any
    mm: Any
    mh: Any
    mmh: Any
    mmhh: Any
    h: jax.Array


def rise(
    f: Callable[..., Any],
    *,
    masks: masks_.Masks = GRID,
    samples: int = 4000,
    probability: float | jax.Array = 0.5,
    perturbation: masks_.Perturbation = masks_.replace,
    normalisation: str = "mask",
    chunk_size: int = 16,
) -> Callable[..., RiseAttribution]:
    """The mean output over random masks that keep an element: RISE, with standard errors.

        values_e = sum_k m_ke f(x_k) / sum_k m_ke,    x_k = x masked by m_k

    Each cell is kept with `probability`, alone. Where the masks can be shifted (bilinear grids and
    windows), the cells are spread over one cell more than x, and each mask is a window on them that
    begins at a random place within a cell, so that no edge of a cell stays where it is. Sums are
    taken as the masks come: memory depends on `chunk_size`, not on `samples`.

    Args:
        f: `f(x, *args) -> output`, a float array of any shape, such as the scores of all classes:
            a map for each. Parameters belong among `args`, never closed over.
        masks: the parts of the example, from `jaxplain.masks`.
        samples: the number of masks. Static.
        probability: that a cell is kept, between 0 and 1. May be a traced array.
        perturbation: what becomes of what is masked, from `jaxplain.masks`.
        normalisation: "mask", the formula above: a mean of outputs, in their units; "probability",
            sum_k m_ke f(x_k) / (samples * probability), unbiased, the paper's, whose values vary
            with how often an element happened to be kept. Static.
        chunk_size: masks evaluated at once. It changes memory and speed, and the result only by
            rounding. Under `vmap` the masks in flight are `chunk_size` times the batch.

    Returns:
        `explain(key, x, baseline, *args) -> RiseAttribution`, a pure function, jitted inside. `key`
        is a typed key; give each example of a batch its own. `x` is any tree of arrays, `baseline`
        the same tree; `*args` are arrays or trees of arrays. Beside the masks f is evaluated at x
        and where all cells are 0.

    Raises:
        TypeError: f or perturbation is not a function; masks are not `Masks`; the key is not typed;
            f does not return one float array; a number is not one.
        ValueError: the baseline does not match x; samples is below 1; probability is not between 0
            and 1; normalisation is neither of the two; the masks do not fit x.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from jaxplain import masks, perturbation
        >>> f = lambda x: 2 * x[0] + x[1]
        >>> explain = perturbation.rise(f, masks=masks.elements(), samples=2000)
        >>> result = explain(jax.random.key(0), jnp.ones(3), jnp.zeros(3))
        >>> bool((abs(result.values - jnp.array([2.5, 2.0, 1.5])) < 0.1).all())
        True

    References:
        Petsiuk, Das and Saenko, "RISE: Randomized Input Sampling for Explanation of Black-box
        Models", BMVC 2018, equations 4 to 6 and section 3.2. Deviations: 1. divided by the sum of
        the masks, which takes out the noise in how often an element is kept (`normalisation`; as
        Xplique, whose 1e-4 in the denominator we leave out). 2. Standard errors. 3. At the border
        the outermost cell goes on, where the authors' resize mirrors the cells.
    """
    samples = checks.integer(samples, "samples")
    chunk_size = checks.integer(chunk_size, "chunk_size")
    checks.number(probability, "probability", above=0, below=1)
    if normalisation not in NORMALISATIONS:
        raise ValueError(
            f'normalisation must be "mask" or "probability", but is {normalisation!r}.'
        )

    def compute(key: jax.Array, example: Example) -> RiseAttribution:
        parts, d = example.parts, example.dimensions
        shifts = len(example.cells) if parts.shifted else 0
        block = qmc.monte_carlo(key, d + shifts, samples, 1)
        # Outputs are centred, about where they are: squares of numbers far from 0 lose digits.
        ends = [end.reshape(-1) for end in (example.output, example.baseline_output)]
        ends = [end.astype(trees.wide_dtype(end.dtype)) for end in ends]
        centre = jax.lax.stop_gradient((ends[0] + ends[1]) / 2)

        def point(index: jax.Array) -> tuple[jax.Array, Any]:
            u = block(index)[0]
            kept = u[:d] < jnp.asarray(probability).astype(u.dtype)
            cells = kept.astype(u.dtype).reshape(example.cells)
            if parts.shifted:
                mask = parts.shifted(cells, example.x, u[d:])
            else:
                mask = parts.expand(cells, example.x)
            h = example.outputs_of_mask(mask) - centre
            return h, jax.tree.map(lambda leaf: leaf.astype(h.dtype), mask)

        sums = evaluate(point, samples, _over_masks(), chunk_size=chunk_size)
        p = jnp.asarray(probability).astype(centre.dtype)
        of_leaf = _by_mask if normalisation == "mask" else _by_probability

        def of_mask(m: Any, mm: Any, mh: Any, mmh: Any, mmhh: Any) -> Any:
            return of_leaf(_Sums(m, mm, mh, mmh, mmhh, sums.h), centre, samples, p)

        pairs = jax.tree.map(of_mask, sums.m, sums.mm, sums.mh, sums.mmh, sums.mmhh)
        split = lambda i: jax.tree.map(lambda _, pair: pair[i], sums.m, pairs)
        values = example.like_x(split(0))
        shape = example.output.shape
        return RiseAttribution(
            values,
            example.like_x(root(split(1)), as_x=False),
            (centre + sums.h / samples).reshape(shape),
            example.output,
            example.baseline_output,
            jnp.int32(samples),
            trees.finite(
                example.x, example.baseline, example.output, example.baseline_output, values
            ),
        )

    return explanation(f, masks, perturbation, compute)


def _over_masks() -> Reduction:
    """The reduction of (h, mask) to their `_Sums`."""

    def terms(h: jax.Array, mask: Any) -> _Sums:
        def outer(h: jax.Array) -> Callable[[jax.Array], jax.Array]:
            return lambda m: jnp.tensordot(h, m, axes=(0, 0), precision=HIGHEST)

        total = lambda m: jnp.sum(m, axis=0)
        squares = jax.tree.map(jnp.square, mask)
        return _Sums(
            jax.tree.map(total, mask),
            jax.tree.map(total, squares),
            jax.tree.map(outer(h), mask),
            jax.tree.map(outer(h), squares),
            jax.tree.map(outer(h**2), squares),
            jnp.sum(h, axis=0),
        )

    def init(value: Any) -> Any:
        chunk = jax.tree.map(lambda v: jax.ShapeDtypeStruct((1, *v.shape), v.dtype), value)
        zeros = jax.tree.map(
            lambda v: jnp.zeros(v.shape, v.dtype), jax.eval_shape(lambda v: terms(*v), chunk)
        )
        return zeros, zeros

    def update(state: Any, index: jax.Array, values: Any) -> Any:
        sums, lost = state
        return compensated(sums, lost, terms(*values))

    return Reduction(init, update, lambda state: state[0])


def _by_mask(s: _Sums, centre: jax.Array, n: int, p: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The mean of f weighted by m, and the variance of this ratio of means."""
    is_kept = s.m > 0
    m = jnp.where(is_kept, s.m, 1)[None]
    mean = s.mh / m
    # sum m^2 (h - mean)^2, which rounding may take below 0.
    spread = jnp.maximum(s.mmhh - 2 * mean * s.mmh + mean**2 * s.mm[None], 0)
    variance = spread / m**2 * _unbiased(n)
    centre = centre.reshape(-1, *(1,) * s.m.ndim)
    return jnp.where(is_kept[None], centre + mean, 0), jnp.where(is_kept[None], variance, jnp.nan)


def _by_probability(
    s: _Sums, centre: jax.Array, n: int, p: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """The mean of m f over p, and the variance of this mean."""
    centre = centre.reshape(-1, *(1,) * s.m.ndim)
    mean = (s.mh + centre * s.m[None]) / n
    square = (s.mmhh + 2 * centre * s.mmh + centre**2 * s.mm[None]) / n
    variance = jnp.maximum(square - mean**2, 0) / n * _unbiased(n)
    return mean / p, variance / p**2


def _unbiased(n: int) -> float:
    return n / (n - 1) if n > 1 else float("nan")
