"""HSIC attribution: how much an output depends on whether a part of the example is there.

HSIC_i = 2 m_i' Lc m_i / n^2,    m_i the masks of cell i,  Lc the centred Gram matrix of the outputs
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxplain import checks, qmc, trees
from jaxplain import masks as masks_
from jaxplain.evaluate import evaluate, stack
from jaxplain.masked import Example, explanation
from jaxplain.qmc._sampler import Sampler
from jaxplain.sobol import _hsic_estimates

GRID = masks_.grid(7, 7)
WIDTHS = ("distances", "outputs")


class HSICAttribution(NamedTuple):
    """The dependence of each output on each part of an example, and how surely it is there.

    Attributes:
        values: tree of x, leaves (*output, *leaf of x), dtype of x (float32 where x is not float):
            `cells`, at each element of its cell.
        cells: shape (*output, *cells): the HSIC of each cell with the output, 0 where there is
            none. It is at most 1/4 (binary).
        p_values: shape of `cells`: how often a cell without influence has as large a value.
        normalised: shape of `cells`, within [0, 1]: R2-HSIC, HSIC(x, y) over the root of
            HSIC(x, x) HSIC(y, y), which can be compared between outputs.
        interactions: None unless asked for. Shape (*output, *cells, *cells): the HSIC of each pair
            beyond those of its two cells; 0 for a cell with itself.
        total_order: None unless asked for. Shape of `cells`: the share of the dependence on all
            cells together that each has a part in.
        width: shape of the output: the width of the kernel of the outputs.
        output: f at x.
        baseline_output: f where all cells are 0.
        evaluations: the number of masks, int32.
        is_constant: shape of the output: whether it does not vary; its values are then 0, and its
            p-values 1.
        finite: whether x, the baseline, the outputs and the values are free of NaN and infinity.
    """

    values: Any
    cells: jax.Array
    p_values: jax.Array
    normalised: jax.Array
    interactions: jax.Array | None
    total_order: jax.Array | None
    width: jax.Array
    output: jax.Array
    baseline_output: jax.Array
    evaluations: jax.Array
    is_constant: jax.Array
    finite: jax.Array


def hsic_attribution(
    f: Callable[..., Any],
    *,
    masks: masks_.Masks = GRID,
    samples: int = 500,
    perturbation: masks_.Perturbation = masks_.replace,
    kernel: str = "binary",
    width: str | float | jax.Array = "distances",
    interactions: bool = False,
    total_order: bool = False,
    sampler: Sampler = qmc.latin_hypercube,
    chunk_size: int = 16,
) -> Callable[..., HSICAttribution]:
    """How much each output depends on each part of an example, from few masks, with a test.

        HSIC_i = 2 m_i' Lc m_i / n^2,    m_i in {0, 1}^n,    Lc = H L H,
        L_ab = exp(-(y_a - y_b)^2 / (2 width^2)),    H = I - 1/n

    HSIC is zero if and only if the output is independent of the cell: it sees any dependence, of
    the spread as well as of the mean, where a Sobol index sees variance. All outputs of f and all
    cells come from the same masks.

    Args:
        f: `f(x, *args) -> output`, a float array of any shape, such as the scores of all classes:
            a map for each. Parameters belong among `args`, never closed over.
        masks: the parts of the example, from `jaxplain.masks`.
        samples: n, the number of masks, at least 4. The estimate takes n^2 numbers for one output
            at a time. Static.
        perturbation: what becomes of what is masked, from `jaxplain.masks`.
        kernel: of the cells. "binary": each is there or not, with probability 1/2. "sobolev": masks
            are uniform on [0, 1], with the kernel B2(|u - u'|)/2 + (u - 1/2)(u' - 1/2). Static.
        width: of the Gaussian kernel of the outputs, in their units: "distances", the median of
            |y_a - y_b| over the pairs that differ, which follows any affine change of the output;
            "outputs", |median of y|, which depends on its zero (the authors' code; where it is 0,
            "distances"); or a positive number, which may be traced.
        interactions: whether to estimate those of all pairs of cells. Static.
        total_order: whether to estimate the share that each cell has a part in. The product kernel
            it rests on sees little beyond some tens of cells. Static.
        sampler: of the cells, from `jaxplain.qmc`. The p-values are right for `latin_hypercube` and
            `monte_carlo`, whose columns are independent.
        chunk_size: masks evaluated at once. It changes memory and speed, and the result only by
            rounding. Under `vmap` the masks in flight are `chunk_size` times the batch.

    Returns:
        `explain(key, x, baseline, *args) -> HSICAttribution`, a pure function, jitted inside. `key`
        is a typed key; give each example of a batch its own. `x` is any tree of arrays (token ids
        too, where cells are binary), `baseline` the same tree; `*args` are arrays or trees of
        arrays. Beside the masks f is evaluated at x and where all
        cells are 0.

    Raises:
        TypeError: f, perturbation or sampler is not a function; masks are not `Masks`; the key is
            not typed; f does not return one float array; a number is not one.
        ValueError: the baseline does not match x; samples is below 4; kernel or width is none of
            those above; the masks do not fit x.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from jaxplain import masks, sobol
        >>> f = lambda x: 3 * x[0] + x[1] + 0 * x[2]
        >>> explain = sobol.hsic_attribution(f, masks=masks.elements(), samples=200)
        >>> result = explain(jax.random.key(0), jnp.ones(3), jnp.zeros(3))
        >>> result.values.argsort().tolist(), (result.p_values < 0.01).tolist()
        ([2, 1, 0], [True, True, False])

    References:
        Novello, Fel and Vigouroux, "Making Sense of Dependence: Efficient Black-box Explanations
        Using Dependence Measure", NeurIPS 2022; da Veiga, "Kernel-based ANOVA decomposition and
        Shapley effects", arXiv:2101.05487 (2021), the Sobolev kernel; p-values: Kazi-Aoual,
        Hitier, Sabatier and Lebreton, Comput. Stat. Data Anal. 1995, the moments over permutations.
        Deviations: 1. the collapsed form above, exact, in place of products of n x n matrices.
        2. Divided by n^2, the estimate of HSIC, where the authors' code divides by n. 3. `width`.
        4. p-values, from a gamma distribution of three moments. 5. Without bicubic upsampling.
    """
    checks.function(sampler, "sampler")
    samples = checks.integer(samples, "samples", 4)
    chunk_size = checks.integer(chunk_size, "chunk_size")
    if kernel not in _hsic_estimates.KERNELS:
        raise ValueError(f'kernel must be "binary" or "sobolev", but is {kernel!r}.')
    if not isinstance(width, str):
        checks.number(width, "width", above=0)
    elif width not in WIDTHS:
        raise ValueError(f'width must be "distances", "outputs" or a number, but is {width!r}.')
    of_cells = _hsic_estimates.KERNELS[kernel]

    def compute(key: jax.Array, example: Example) -> HSICAttribution:
        block = sampler(key, example.dimensions, samples, 1)

        def point(index: jax.Array) -> tuple[jax.Array, jax.Array]:
            u = block(index)[0]
            cells = (u >= 0.5).astype(u.dtype) if of_cells.is_binary else u
            return example.outputs(cells), cells

        y, cells = evaluate(point, samples, stack(samples), chunk_size=chunk_size)
        cells = cells.astype(y.dtype)
        moments = _hsic_estimates.cell_moments(cells, of_cells)

        def of_output(number: jax.Array) -> _hsic_estimates.Dependence:
            return _hsic_estimates.dependence(
                y[:, number],
                cells,
                moments,
                kernel=of_cells,
                width=width,
                interactions=bool(interactions),
                total_order=bool(total_order),
            )

        count = y.shape[1]
        found = evaluate(of_output, count, stack(count), chunk_size=1)
        shape = example.output.shape
        values = example.spread(found.hsic)
        pairs = found.interactions
        if pairs is not None:
            pairs = pairs.reshape(*shape, *example.cells, *example.cells)
        return HSICAttribution(
            values,
            example.like_cells(found.hsic),
            example.like_cells(found.p_values),
            example.like_cells(found.normalised),
            pairs,
            None if found.total_order is None else example.like_cells(found.total_order),
            found.width.reshape(shape),
            example.output,
            example.baseline_output,
            jnp.int32(samples),
            found.is_constant.reshape(shape),
            trees.finite(
                example.x, example.baseline, example.output, example.baseline_output, values
            ),
        )

    return explanation(f, masks, perturbation, compute)
