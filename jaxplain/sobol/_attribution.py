"""Sobol indices of the masks over parts of one example: which parts an output depends on.

    y = f(x'),    x' = perturbation(x, baseline)(mask),    mask = expand(cells),    cells ~ U(0, 1)
    T_i = E Var(y | all cells but i) / Var y,    S_i = Var E(y | cell i) / Var y

A row of the design is two points A, B of the cells and what the estimator needs beside f(A): A with
cell i from B for each i, and so on (`estimators`). The rows are made in blocks, and the evaluations
of a block in chunks, each mask from its index inside the loop:

    evaluation e of a block  ->  row e // per_row, place e % per_row
    cells = where(cell == swapped[place], points[row, other[place]], points[row, base[place]])
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxplain import checks, qmc, trees
from jaxplain import masks as _masks
from jaxplain.evaluate import evaluate, stack
from jaxplain.qmc._sampler import Sampler
from jaxplain.sobol import _statistics
from jaxplain.sobol._statistics import PAIRS, Known, Layout
from jaxplain.sobol.estimators import Estimator, Formula, jansen_importance, jansen_regression

ORDERS = {
    "total": ("total_order",),
    "first": ("first_order",),
    "both": ("total_order", "first_order"),
}
# Statistics of a block of rows that are held at once, whatever the number of outputs.
NUMBERS_IN_FLIGHT = 2**20


class MaskAttribution(NamedTuple):
    """An attribution by masks over parts, and how good it is.

    `outputs` stands for the axes of what f returns, none where it is a scalar; `cells` for the
    shape of the cells: (8, 8) for `jaxplain.masks.grid(8, 8)`.

    Attributes:
        values: tree and dtype of x, shapes (*outputs, *leaf): the index of each element's cell, as
            the masks spread cells.
        standard_error: as values, in float32 or wider: the standard error of the index.
        cells: shape (*outputs, *cells): the indices themselves, of the order asked for.
        cells_error: their standard errors, by the delta method; under a quasi-random sampler and
            many samples an upper bound.
        first_order: None, or where asked for the first-order indices, shape (*outputs, *cells).
        first_order_error: their standard errors.
        interactions: None, or where asked for the second-order indices of all pairs of cells, shape
            (*outputs, *cells, *cells): the share of the variance that two cells explain together
            beyond what both explain by themselves; 0 for a cell with itself.
        interactions_error: their standard errors, upper bounds.
        output: f(x).
        baseline_output: f where all cells are 0.
        variance: shape of the outputs: the variance of f under the masks.
        evaluations: the masks that f was evaluated on, int32.
        not_finite: how many of the outputs there were NaN or infinite, int32; the rows with them
            are left out.
        is_constant: shape of the outputs: whether f does not vary; its indices are then 0.
        finite: whether x, all outputs and the values are free of NaN and infinity.
    """

    values: Any
    standard_error: Any
    cells: jax.Array
    cells_error: jax.Array
    first_order: Any
    first_order_error: Any
    interactions: Any
    interactions_error: Any
    output: jax.Array
    baseline_output: jax.Array
    variance: jax.Array
    evaluations: jax.Array
    not_finite: jax.Array
    is_constant: jax.Array
    finite: jax.Array


def attribution(
    f: Callable[..., Any],
    *,
    masks: _masks.Masks | None = None,
    samples: int = 16,
    perturbation: Callable[[Any, Any], Callable[[Any], Any]] = _masks.replace,
    sampler: Sampler = qmc.sobol,
    estimator: Estimator | None = None,
    order: str = "total",
    interactions: bool = False,
    chunk_size: int = 64,
) -> Callable[..., MaskAttribution]:
    """Sobol indices of masked parts of one example, for all outputs of a function at once.

        T_i = E Var(y | all cells but i) / Var y,    y = f(perturbed x),    cells ~ U(0, 1)

    The total index of a part is the share of the variance of f under random masks that it has a
    hand in, alone or with others; the first-order index what it explains by itself. Needs values of
    f only. Indices of all outputs come from the same evaluations: f may return the scores of all
    classes, for a map of each.

    Args:
        f: `f(x, *args) -> output`, a float scalar or array. Parameters belong among `args`, never
            closed over.
        masks: the parts: `jaxplain.masks.grid`, `windows`, `tokens`, `segments`, `elements`;
            `grid(8, 8)` unless given.
        samples: N, the rows of the design, at least 2: f is evaluated N (G + 1) times for G cells,
            N (G + 2) for first-order indices, N (2 G + 2) with interactions. A power of two, or a
            multiple of a large one: rows are evaluated in blocks of one. Static.
        perturbation: what becomes of masked parts, `(x, baseline) -> (mask -> x')`:
            `jaxplain.masks.replace`, `blur(sigma)`, `amplitude(scale)` or a function of this form.
        sampler: `jaxplain.qmc.sobol` or another; options by `functools.partial`.
        estimator: one of `jaxplain.sobol.estimators`: `jansen`, `jansen_regression`,
            `jansen_importance`, or `jansen_ratio`, which can be worse where f is not monotone in
            the masks. None for `jansen_importance` where total indices alone are asked for, else
            `jansen_regression`. docs/sobol.md compares them.
        order: which indices `values` are: "total", "first", or "both" for total indices and the
            field `first_order`. Static.
        interactions: whether to estimate second-order indices of all pairs of cells. Static.
        chunk_size: masks evaluated at once, at most. It changes memory and speed, and the result
            only by rounding. Under `vmap` those in flight are `chunk_size` times the batch: take 1
            to 4.

    Returns:
        `explain(key, x, baseline, *args) -> MaskAttribution`, a pure function, jitted inside.
        `key` is a typed key; give each example of a batch its own. `x` is any tree of float arrays,
        `baseline` the same tree with the same shapes and dtypes, which the perturbation is given.
        Beside the masks f is evaluated at x and where all cells are 0. Under a user's `jit` that
        returns `cells` the maps of the size of x are not made.

    Raises:
        TypeError: f is not a function; masks are none; key is not typed; x is not float; f does not
            return one float array; an argument is no array; an option is of another type.
        ValueError: baseline or the perturbed example does not match x; the masks do not fit x; an
            option is out of its range; the estimator has no form of the order.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from jaxplain import masks, sobol
        >>> f = lambda image: image[:2].sum() + 2 * image[2:].sum()  # variances 1 and 4
        >>> explain = sobol.attribution(f, masks=masks.grid(2, 1), samples=64)
        >>> r = explain(jax.random.key(0), jnp.ones((4, 4)), jnp.zeros((4, 4)))
        >>> [round(float(share), 1) for share in r.cells.ravel()], r.values.shape
        ([0.2, 0.8], (4, 4))

    References:
        Fel, Cadene, Chalvidal, Cord, Vigouroux and Serre, "Look at the Variance! Efficient
        Black-box Explanations with Sobol-based Sensitivity Analysis", NeurIPS 2021, section 3; the
        first-order indices are those of Saltelli 2010, the second-order ones of Saltelli 2002.
        Deviations: 1. the estimator is Jansen's with importance sampling of B (or a control
        variate), and V is taken over all evaluations; f(B) is not evaluated where no formula reads
        it. 2. The Sobol' sequence is
        scrambled by the key. 3. Maps are the cells as the masks spread them; the authors' code
        resizes the grid of indices to the image by cubic interpolation. 4. Standard errors. The
        authors' own numbers: `estimator=jaxplain.sobol.estimators.jansen_of_base(samples)`,
        `sampler=functools.partial(jaxplain.qmc.sobol, scramble=None, order="gray")` and a baseline
        of zeros.
    """
    checks.function(f, "f")
    samples = checks.integer(samples, "samples", 2)
    chunk_size = checks.integer(chunk_size, "chunk_size")
    formulas = _formulas(estimator, order, interactions)
    masks = _masks.grid(8, 8) if masks is None else masks
    if not isinstance(masks, _masks.Masks):
        raise TypeError(
            "masks must be parts of an example, such as `jaxplain.masks.grid(8, 8)`, but are a "
            f"{type(masks).__name__}."
        )
    checks.function(perturbation, "perturbation")
    checks.function(sampler, "sampler")

    @jax.jit
    def kernel(key: Any, x: Any, baseline: Any, *args: Any) -> MaskAttribution:
        shape = tuple(masks.shape(x))
        perturbed = perturbation(x, baseline)

        def masked(cells: jax.Array) -> Any:
            return checks.like(
                perturbed(masks.expand(cells.reshape(shape), x)), x, "what the perturbation makes"
            )

        def output(x: Any) -> jax.Array:
            return _one_array(f(x, *args))

        count = int(np.prod(shape, dtype=np.int64))
        dtype = jnp.result_type(float)
        two = jax.tree.map(lambda a, b: jnp.stack([a, b]), x, masked(jnp.zeros(count, dtype)))
        ends = jax.vmap(output)(two)
        plan = _plan(formulas, interactions, count, samples, ends[0].size, chunk_size)
        block = sampler(key, plan.points * count, samples, plan.rows)
        flat = lambda cells: trees.widen(output(masked(cells))).reshape(-1)

        def outputs(number: jax.Array) -> Any:
            return _outputs(plan, flat, block(number))

        reduction = _statistics.reduction(plan.layout, formulas, pairs=interactions)
        keep_state = reduction._replace(finish=lambda state: state)
        state = evaluate(outputs, samples // plan.rows, keep_state, chunk_size=1)
        found = reduction.finish(state)

        def grid(array: Any, times: int = 1) -> jax.Array:
            return array.reshape(*ends.shape[1:], *(shape * times))

        def spread(cells: jax.Array) -> Any:
            """Each output's cells, as a tree like x."""

            def of_one(own: jax.Array) -> Any:
                full = lambda mask, leaf: jnp.broadcast_to(mask, leaf.shape)
                tree = jax.tree.map(full, masks.expand(own.reshape(shape), x), x)
                return trees.place_like(tree, x)

            tree = jax.vmap(of_one)(cells)
            return jax.tree.map(lambda leaf: leaf.reshape(*ends.shape[1:], *leaf.shape[1:]), tree)

        shown = "first_order" if order == "first" else "total_order"
        values = trees.cast_like(spread(found.values[shown]), x)
        has_first = order != "total"
        return MaskAttribution(
            values,
            spread(found.errors[shown]),
            grid(found.values[shown]),
            grid(found.errors[shown]),
            grid(found.values["first_order"]) if has_first else None,
            grid(found.errors["first_order"]) if has_first else None,
            grid(found.values[PAIRS], 2) if interactions else None,
            grid(found.errors[PAIRS], 2) if interactions else None,
            ends[0],
            ends[1],
            found.variance.reshape(ends.shape[1:]),
            jnp.int32(samples * plan.layout.evaluations),
            state.not_finite,
            found.is_constant.reshape(ends.shape[1:]),
            trees.finite(x, ends, found.values[shown]) & (state.not_finite == 0),
        )

    def explain(key: Any, x: Any, baseline: Any, *args: Any) -> MaskAttribution:
        checks.key(key)
        x = checks.explained(x, is_masked=True)
        baseline = checks.like(baseline, x, "baseline")
        checks.arrays(args, "each argument after baseline")
        return kernel(key, x, baseline, *args)

    return explain


class _Plan(NamedTuple):
    """How the rows of a design are evaluated.

    Attributes:
        layout: which evaluations a row holds.
        rows: rows of a block, a power of two that divides all.
        points: independent points of a row: A, B and, where needed, C.
        chunk_size: evaluations at once.
        chunks: of a block. The last may run over its end, by less than a chunk.
    """

    layout: Layout
    rows: int
    points: int
    chunk_size: int
    chunks: int


def _plan(
    formulas: dict[str, Formula],
    pairs: bool,
    cells: int,
    samples: int,
    outputs: int,
    chunk_size: int,
) -> _Plan:
    needs = {need for formula in formulas.values() for need in formula.needs}
    layout = Layout(frozenset(needs | ({"b", "ab", "ba"} if pairs else set())), cells)
    rows = 1
    most = min(samples, chunk_size, NUMBERS_IN_FLIGHT // (cells * outputs))
    while 2 * rows <= most and samples % (2 * rows) == 0:
        rows *= 2
    total = rows * layout.evaluations
    # The size of at most chunk_size, and more than half of it, that wastes the fewest evaluations:
    # mostly none. A remainder would be a second copy of the model to compile.
    largest = min(chunk_size, total)
    sizes = range(largest, largest // 2, -1)
    size = min(sizes, key=lambda size: -(-total // size) * size)
    return _Plan(layout, rows, 3 if "ac" in layout.needs else 2, size, -(-total // size))


def _outputs(
    plan: _Plan, f: Callable[[jax.Array], jax.Array], u: jax.Array
) -> tuple[jax.Array, Known]:
    """The outputs of a block, (evaluations, outputs, rows), and what is known of it."""
    layout, cells = plan.layout, plan.layout.groups
    points, weight = u.reshape(plan.rows, plan.points, cells), None
    if "weight" in layout.needs:
        b, weight = _importance(points[:, 0], points[:, 1])
        points = points.at[:, 1].set(b)
    # Per place in a row: the point that it starts from, and the cell that another gives it.
    places = [(0, 0, -1)]
    places += [(1, 1, -1)] if "b" in layout.needs else []
    for name, base, other in (("ab", 0, 1), ("ba", 1, 0), ("ac", 0, 2)):
        places += [(base, other, i) for i in range(cells)] if name in layout.needs else []
    bases, others, swapped = (jnp.asarray(column, jnp.int32) for column in np.transpose(places))

    def point(index: jax.Array) -> jax.Array:
        row = jnp.minimum(index // layout.evaluations, plan.rows - 1)
        place = index % layout.evaluations
        is_swapped = jnp.arange(cells, dtype=jnp.int32) == swapped[place]
        return f(jnp.where(is_swapped, points[row, others[place]], points[row, bases[place]]))

    many = plan.chunks * plan.chunk_size
    y = evaluate(point, many, stack(many), chunk_size=plan.chunk_size)
    y = y[: plan.rows * layout.evaluations].reshape(plan.rows, layout.evaluations, -1)
    of_cells = lambda array: None if array is None else array.T[:, None].astype(y.dtype)
    known = Known(of_cells(points[:, 1] - points[:, 0]), of_cells(weight))
    return jnp.moveaxis(y, 0, 2), known


def _importance(a: jax.Array, u: jax.Array) -> tuple[jax.Array, jax.Array]:
    """From a and u uniform on [0, 1], b of density |b - a| / z given a, and its weight z / |b - a|.

    Its distribution function is (a^2 -+ (b - a)^2) / 2 z, z = (a^2 + (1 - a)^2) / 2.
    """
    twice = a**2 + (1 - a) ** 2
    beyond = u * twice - a**2
    step = jnp.sqrt(jnp.abs(beyond))
    b = jnp.clip(a + jnp.sign(beyond) * step, 0, 1)
    return b, twice / 2 / jnp.maximum(step, jnp.finfo(a.dtype).tiny ** 0.5)


def _one_array(output: Any) -> jax.Array:
    """What f returned, checked: one float array."""
    if len(jax.tree.leaves(output)) != 1 or not hasattr(output, "dtype"):
        raise TypeError(
            "f must return one array, a scalar or a vector of outputs, but returned a "
            f"{type(output).__name__}. Stack several outputs: `jnp.stack([...])`."
        )
    output = jnp.asarray(output)
    if not jnp.issubdtype(output.dtype, jnp.floating):
        raise TypeError(
            f"f must return a float, but returned dtype {output.dtype}: return scores, e.g. "
            "`logits`, or whether a class is predicted as `.astype(jnp.float32)`."
        )
    return output


def _formulas(estimator: Any, order: Any, interactions: Any) -> dict[str, Formula]:
    if order not in ORDERS:
        raise ValueError(f"order must be one of {', '.join(ORDERS)}, but is {order!r}.")
    if not isinstance(interactions, bool):
        raise TypeError(f"interactions must be True or False, but is {interactions!r}.")
    if estimator is None:
        alone = order == "total" and not interactions
        estimator = jansen_importance if alone else jansen_regression
    if not isinstance(estimator, Estimator):
        raise TypeError(
            "estimator must be one of `jaxplain.sobol.estimators`, such as `jansen_regression`, "
            f"but is a {type(estimator).__name__}."
        )
    formulas = {name: getattr(estimator, name) for name in ORDERS[order]}
    for name, formula in formulas.items():
        if formula is None:
            raise ValueError(f"this estimator has no form of {name} indices: take another.")
        if "weight" in formula.needs and interactions:
            raise ValueError(
                "interactions need parts drawn uniformly, which this estimator does not: take "
                "`jaxplain.sobol.estimators.jansen_regression`."
            )
    return formulas
