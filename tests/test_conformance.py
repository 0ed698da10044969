"""What every public function keeps, from one set of tables.

The walk is over `__all__` of every public module. A public function that is in none of the tables
below fails, so that none is forgotten: kernels (functions that make an explanation) go to KERNELS,
functions of arrays to FUNCTIONS, and the few that work on the host to HOST, each with its reason.
"""

import dataclasses
import functools
import inspect
import re
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.test_util import check_grads

import jaxplain
from jaxplain import (
    baselines,
    estimates,
    evaluate,
    gradients,
    masks,
    metrics,
    paths,
    perturbation,
    priors,
    qmc,
    rewrite,
    sae,
    sites,
    sobol,
    targets,
    trees,
    wavelets,
)

SECTIONS = ("Args:", "Returns:", "Raises:", "Example:", "References:")
KEY = jax.random.key(0)


# --------------------------------------------------------------------------- a model to explain


def make_params(dtype=jnp.float32):
    """Numbers that bfloat16 has, so that every dtype holds the same model."""
    keys = jax.random.split(jax.random.key(1), 2)
    first = (0.5 * jax.random.normal(keys[0], (6, 5), jnp.float32)).astype(jnp.bfloat16)
    second = jax.random.normal(keys[1], (5, 3), jnp.float32).astype(jnp.bfloat16)
    return {"first": first.astype(dtype), "second": second.astype(dtype)}


def model(x, label, params):
    """A smooth network on a vector of six."""
    hidden = jnp.tanh(jnp.dot(x, params["first"]))
    return jnp.dot(hidden, params["second"])[label]


def piecewise_linear_model(x, label, params):
    """Another, for kernels that take piecewise linear functions only."""
    hidden = jnp.abs(jnp.dot(x, params["first"]) - 0.1)
    return jnp.dot(hidden, params["second"])[label]


X = jnp.array([0.5, -1.0, 0.3, 0.9, -0.2, 0.7], jnp.bfloat16).astype(jnp.float32)
LABEL = jnp.int32(1)


# --------------------------------------------------------------------------------------- tables


class Kernel(NamedTuple):
    """How to make and call a kernel, and what it does not promise."""

    make: Callable[[Callable, int], Callable]  # f, chunk_size -> explain
    before: Callable[[Any], tuple] = lambda x: ()  # what comes before x
    after: Callable[[Any], tuple] = lambda x: ()  # and after it, ahead of *args
    modes: tuple[str, ...] = ("fwd", "rev")
    scalar: bool = True  # wants a scalar f
    vector: bool = False  # takes an f of several outputs as well
    any_dtype: bool = False  # takes x of any dtype
    pairs: bool = False  # values are for pairs of elements: a tree like x of trees like x
    leaf_is_whole: bool = False  # each leaf is a signal of its own: split, x is another input
    model: Callable = model
    bend: Callable = jnp.sin  # a function of each element that it takes too
    chunks: bool = True  # has a chunk_size
    waits: bool = False  # a loop over a batch asks whether any example goes on
    still: Callable | None = None  # as `make`, without the noise that is drawn leaf by leaf


def zeros(x):
    return jax.tree.map(jnp.zeros_like, x)


def curve_path(t, x, baseline):
    """Not straight, and not at the same pace for all elements."""

    def bend(leaf, b):
        wide, b = trees.widen(leaf), trees.widen(b)
        time = jnp.asarray(t, wide.dtype)
        return (b + (time + time * (1 - time) * jnp.cos(wide)) * (wide - b)).astype(leaf.dtype)

    return jax.tree.map(bend, x, baseline)


def importance(x):
    return jax.tree.map(
        lambda leaf: jnp.arange(leaf.size).reshape(leaf.shape).astype(leaf.dtype), x
    )


def several(x):
    """Three baselines, none of them among `variants`."""

    def stack(leaf):
        n = functools.partial(jnp.asarray, dtype=leaf.dtype)
        return jnp.stack([0 * leaf, n(-0.45) * leaf, n(0.2) + n(0.1) * leaf])

    return jax.tree.map(stack, x)


def curve(measure):
    return Kernel(
        lambda f, chunk_size: measure(f, step_size=0.3, random_orderings=2, chunk_size=chunk_size),
        before=lambda x: (KEY,),
        after=lambda x: (zeros(x), importance(x)),
        scalar=False,
    )


def about_zero(measure, **options):
    """A metric of the attribution from the zero baseline."""

    def make(f, chunk_size):
        explain = paths.integrated_gradients(f, steps=7, chunk_size=chunk_size)
        return measure(lambda x, *args: explain(x, zeros(x), *args), **options)

    return Kernel(make, before=lambda x: (KEY,))


def by_samples(method, positions, **options):
    def make(f, chunk_size, **noise):
        return method(f, samples=22, positions=positions, chunk_size=chunk_size, **options, **noise)

    return Kernel(
        make,
        before=lambda x: (KEY,),
        after=lambda x: (several(x),),
        still=functools.partial(make, noise=0.0) if method is paths.gradient_shap else None,
    )


def smoothed(method, **options):
    def make(f, chunk_size, **noise):
        return method(f, samples=7, chunk_size=chunk_size, **options, **noise)

    return Kernel(
        make,
        before=lambda x: (KEY,),
        after=lambda x: (zeros(x),) if options else (),
        still=functools.partial(make, noise=0.0),
    )


# Where the elements of X stand in the leaves that TREES splits it into, by shape.
PLACES = {(6,): slice(6), (2,): slice(2), (2, 2): slice(2, 6), (1,): slice(1), (5,): slice(1, 6)}


def in_the_order_of_the_vector():
    """One part for each element of X, numbered as there, whatever the order of the leaves."""
    of = lambda cells: lambda leaf: cells[PLACES[leaf.shape]].reshape(leaf.shape)
    return masks.Masks(lambda x: (6,), lambda cells, x: jax.tree.map(of(cells), x))


def masked(order, **options):
    def make(f, chunk_size, parts=None):
        parts = masks.elements() if parts is None else parts
        return sobol.attribution(
            f, masks=parts, samples=8, order=order, chunk_size=chunk_size, **options
        )

    return Kernel(
        make,
        before=lambda x: (KEY,),
        after=lambda x: (zeros(x),),
        vector=True,
        still=lambda f, chunk_size: make(f, chunk_size, in_the_order_of_the_vector()),
    )


def parts_by_value():
    """Three parts, by the value of each element, whatever the tree it stands in."""

    def expand(cells, x):
        def one(leaf):
            c = cells.astype(trees.wide_dtype(leaf.dtype))
            return jnp.where(leaf > 0.6, c[0], jnp.where(leaf > 0, c[1], c[2]))

        return jax.tree.map(one, x)

    return masks.Masks(lambda x: (3,), expand)


def parted(method, waits=False, **options):
    def make(f, chunk_size):
        return method(f, masks=parts_by_value(), samples=22, chunk_size=chunk_size, **options)

    return Kernel(
        make,
        before=lambda x: (KEY,),
        after=lambda x: (zeros(x),),
        vector=True,
        any_dtype=True,
        waits=waits,
    )


KERNELS = {
    "sobol.attribution": masked("total"),
    "sobol.attribution, interactions": masked(
        "both", interactions=True, estimator=sobol.estimators.jansen
    ),
    "paths.exact_integrated_gradients": Kernel(
        lambda f, _: paths.exact_integrated_gradients(f, max_segments=12),
        after=lambda x: (zeros(x),),
        modes=("fwd",),  # a while_loop stands in between
        model=piecewise_linear_model,
        bend=lambda x: jnp.abs(x - 0.25),
        chunks=False,
    ),
    "paths.adversarial_gradient_integration": Kernel(
        lambda f, chunk_size: paths.adversarial_gradient_integration(
            f, classes=3, steps=5, step_size=0.11, chunk_size=chunk_size
        ),
        before=lambda x: (KEY,),
    ),
    "paths.adversarial_gradient_integration, from x": Kernel(
        lambda f, chunk_size: paths.adversarial_gradient_integration(
            f, classes=3, targets=1, steps=5, progressive=False, chunk_size=chunk_size
        ),
        before=lambda x: (KEY,),
    ),
    "paths.guided_integrated_gradients": Kernel(
        lambda f, _: paths.guided_integrated_gradients(f, steps=7, max_distance=0.3),
        after=lambda x: (zeros(x),),
        chunks=False,
    ),
    "paths.ig2": Kernel(
        lambda f, chunk_size: paths.ig2(f, steps=5, step_size=0.1, chunk_size=chunk_size),
        after=lambda x: (several(x),),
    ),
    "paths.ig2, representation": Kernel(
        lambda f, chunk_size: paths.ig2(
            f,
            representation=lambda x, *_: jax.tree.map(jnp.tanh, x),
            steps=5,
            step_size=0.1,
            chunk_size=chunk_size,
        ),
        after=lambda x: (several(x),),
    ),
    "paths.mfaba": Kernel(
        lambda f, _: paths.mfaba(f, classes=3, steps=5, step_size=0.05), chunks=False
    ),
    "paths.mfaba, smooth, cosine": Kernel(
        lambda f, _: paths.mfaba(
            f, classes=3, steps=5, step_size=0.02, norm="smooth", integral="cosine"
        ),
        chunks=False,
    ),
    "paths.mfaba, accumulate": Kernel(
        lambda f, _: paths.mfaba(f, classes=3, steps=5, step_size=0.05, accumulate=True),
        chunks=False,
    ),
    "paths.mfaba, norm": Kernel(
        lambda f, _: paths.mfaba(f, classes=3, steps=5, step_size=0.05, integral="norm"),
        chunks=False,
    ),
    "paths.idg": Kernel(
        lambda f, chunk_size: paths.idg(f, steps=24, pilot_steps=5, chunk_size=chunk_size),
        after=lambda x: (zeros(x),),
    ),
    "paths.idgi": Kernel(
        lambda f, chunk_size: paths.idgi(f, steps=7, chunk_size=chunk_size),
        after=lambda x: (zeros(x),),
    ),
    "paths.integrated_gradients": Kernel(
        lambda f, chunk_size: paths.integrated_gradients(f, steps=7, chunk_size=chunk_size),
        after=lambda x: (zeros(x),),
    ),
    "paths.integrated_hessian_row": Kernel(
        lambda f, chunk_size: paths.integrated_hessian_row(f, steps=7, chunk_size=chunk_size),
        after=lambda x: (zeros(x), importance(x)),
    ),
    "paths.integrated_hessians": Kernel(
        lambda f, chunk_size: paths.integrated_hessians(f, steps=7, chunk_size=chunk_size),
        after=lambda x: (zeros(x),),
        pairs=True,
    ),
    "paths.integrated_gradients, tolerance": Kernel(
        lambda f, chunk_size: paths.integrated_gradients(
            f, tolerance=1e-9, max_steps=65, chunk_size=chunk_size
        ),
        after=lambda x: (zeros(x),),
        modes=("fwd",),  # a while_loop stands in between
    ),
    "paths.integrated_gradients, both ends": Kernel(
        lambda f, chunk_size: paths.integrated_gradients(
            f, steps=7, rule=paths.trapezoid, chunk_size=chunk_size
        ),
        after=lambda x: (zeros(x),),
    ),
    "paths.path_attribution": Kernel(
        lambda f, chunk_size: paths.path_attribution(
            f, path=curve_path, steps=7, chunk_size=chunk_size
        ),
        after=lambda x: (zeros(x),),
    ),
    "paths.path_attribution, tolerance": Kernel(
        lambda f, chunk_size: paths.path_attribution(
            f, path=curve_path, tolerance=1e-9, max_steps=65, chunk_size=chunk_size
        ),
        after=lambda x: (zeros(x),),
        modes=("fwd",),
    ),
    "paths.blur_integrated_gradients": Kernel(
        lambda f, chunk_size: paths.blur_integrated_gradients(
            f, max_sigma=1.5, steps=7, chunk_size=chunk_size
        ),
        leaf_is_whole=True,
    ),
    "paths.expected_hessian_row": by_samples(paths.expected_hessian_row, "stratified")._replace(
        after=lambda x: (several(x), importance(x))
    ),
    "paths.expected_hessians": by_samples(paths.expected_hessians, "random")._replace(pairs=True),
    "paths.expected_gradients": by_samples(paths.expected_gradients, "stratified"),
    "paths.gradient_shap": by_samples(paths.gradient_shap, "random"),
    "paths.lpi": by_samples(
        paths.lpi,
        "qmc",
        neighbours=2,
        density=np.array([1.0, 2.0, 3.0], np.float32),
        representation=lambda x, *_: jax.tree.map(jnp.tanh, x),
    ),
    # The incomplete gamma function of its p-values is a loop.
    # The median of the distances, the width unless given, jumps where few are as good as equal.
    "sobol.hsic_attribution": parted(sobol.hsic_attribution, waits=True, width=0.1),
    "sobol.main_effects": parted(sobol.main_effects, sampler=qmc.latin_hypercube),
    "perturbation.rise": parted(perturbation.rise),
    "perturbation.rise, probability": parted(perturbation.rise, normalisation="probability"),
    "gradients.smoothgrad": smoothed(gradients.smoothgrad),
    "gradients.smoothgrad_squared": smoothed(
        gradients.smoothgrad_squared, around=functools.partial(paths.integrated_gradients, steps=3)
    ),
    "gradients.vargrad": smoothed(gradients.vargrad),
    "paths.left_integrated_gradients": Kernel(
        lambda f, chunk_size: paths.left_integrated_gradients(
            f, steps=7, fraction=0.6, chunk_size=chunk_size
        ),
        after=lambda x: (zeros(x),),
    ),
    "paths.samp": Kernel(
        lambda f, _: paths.samp(f, direction="both", pixels=2),
        after=lambda x: (zeros(x),),
        modes=("fwd",),
        chunks=False,
    ),
    "paths.samp_plus_plus": Kernel(
        lambda f, _: paths.samp_plus_plus(f, constraint=0.15),
        after=lambda x: (zeros(x),),
        modes=("fwd",),
        chunks=False,
    ),
    "metrics.attribution_attack": about_zero(
        metrics.attribution_attack, epsilon=0.1, top=2, steps=5, random_start=False
    ),
    "metrics.attribution_deviation_bound": about_zero(
        metrics.attribution_deviation_bound, epsilon=0.1
    ),
    "metrics.baseline_desiderata": Kernel(
        lambda f, chunk_size: metrics.baseline_desiderata(f, steps=7, chunk_size=chunk_size),
        after=lambda x: (zeros(x),),
    ),
    "gradients.saliency": Kernel(lambda f, _: gradients.saliency(f), chunks=False),
    "gradients.saliency, signed": Kernel(
        lambda f, _: gradients.saliency(f, absolute=False), chunks=False
    ),
    "gradients.input_x_gradient": Kernel(lambda f, _: gradients.input_x_gradient(f), chunks=False),
    "metrics.deletion": curve(metrics.deletion),
    "metrics.insertion": curve(metrics.insertion),
}


def sensitivity(method, **options):
    """Of the smooth network, by its six inputs."""
    return method(model, sobol.uniform(-jnp.ones(6), 1.0), **{"samples": 64, **options})


def network(params, batch):
    return jnp.tanh(batch @ params["first"]) @ params["second"]


def dense(params, batch):
    """Scores at two positions."""
    return jnp.stack([network(params, batch), network(params, 2 * batch)], axis=1)


IMAGE = jax.random.normal(KEY, (5, 6, 2))
SAMPLES = jax.random.normal(jax.random.key(3), (12, 4))
MASK = jnp.array([1.0, 0.5])
MOMENTS = lambda v: estimates.update(estimates.init_moments(v[0]), v)
PAIRS = lambda v: estimates.update(estimates.init_covariance(v[0]), (v, v**2))
MATRIX = lambda v: estimates.update(estimates.init_covariance_matrix(v[0]), v)


def rounded(make):
    """A state without its low parts, which are rounding and nothing else."""
    return lambda v: make(v)._replace(compensation=None)


def batch_model(x, label, params):
    scores = network(params, x)
    return jnp.take_along_axis(scores, label[:, None], axis=1)[:, 0]


def across_axis(values):
    """`merge_across` needs a named axis: two halves of the samples."""
    halves = values.reshape(2, -1, *values.shape[1:])
    merged = jax.vmap(lambda v: estimates.merge_across(MOMENTS(v), "halves"), axis_name="halves")(
        halves
    )
    return jax.tree.map(lambda leaf: leaf[0], merged)


def coefficients(x):
    return wavelets.decompose(x, wavelet="db2", levels=2)


# name -> (a function of arrays, its arguments), all of which can be mapped over but the shared.
def tagged(x):
    return jnp.sum(2 * sites.tag(jnp.sin(x), "hidden"), axis=-1)


ROWS = jax.random.normal(jax.random.key(8), (10, 6))


def learnt(dictionary, take=lambda rows: rows):
    """A dictionary as a function of a key and a sample: its start, codes, loss and gradient."""

    def function(key, rows):
        batch = take(rows)
        params = dictionary.init(key, batch)
        h = batch[0] if isinstance(batch, tuple) else batch
        codes = dictionary.encode(params, h)
        loss, gradient = jax.value_and_grad(lambda p: dictionary.loss(p, batch)[0])(params)
        return params, codes, loss, gradient

    return function


def folded_codes(key, rows):
    inner = sae.topk(8, 2)
    dictionary = sae.normalised(inner)
    return inner.encode(sae.folded(dictionary, dictionary.init(key, rows)), rows)


def one_step(key, rows):
    run = sae.training(sae.relu(6, 0.1), optax.sgd(0.1))
    return run.step(run.init(sae.relu(6, 0.1).init(key, rows)), rows)


FUNCTIONS = {
    "sae.batch_topk": (learnt(sae.batch_topk(8, 2)), (KEY, ROWS)),
    "sae.crosscoder": (
        learnt(sae.crosscoder(sae.relu(8, 0.1)), lambda h: jnp.stack([h, 2 * h], axis=1)),
        (KEY, ROWS),
    ),
    "sae.folded": (folded_codes, (KEY, ROWS)),
    "sae.gated": (learnt(sae.gated(8, 0.1)), (KEY, ROWS)),
    "sae.geometric_median": (sae.geometric_median, (ROWS,)),
    "sae.jumprelu": (learnt(sae.jumprelu(8, 0.1)), (KEY, ROWS)),
    "sae.matryoshka": (learnt(sae.matryoshka(8, 2, sizes=(4, 8))), (KEY, ROWS)),
    "sae.normalised": (learnt(sae.normalised(sae.topk(8, 2), has_centre=True)), (KEY, ROWS)),
    "sae.p_annealed": (learnt(sae.p_annealed(8, 0.1)), (KEY, ROWS)),
    "sae.relu": (learnt(sae.relu(8, 0.1)), (KEY, ROWS)),
    "sae.synthetic.activations": (
        lambda key: sae.synthetic.activations(jnp.eye(6), 0.5)(key, 4),
        (KEY,),
    ),
    "sae.synthetic.features": (lambda key: sae.synthetic.features(key, 6, 4), (KEY,)),
    "sae.topk": (learnt(sae.topk(8, 2)), (KEY, ROWS)),
    "sae.training": (one_step, (KEY, ROWS)),
    "sae.transcoder": (
        learnt(sae.transcoder(sae.topk(8, 2), has_skip=True), lambda h: (h, jnp.sin(h))),
        (KEY, ROWS),
    ),
    "baselines.black_and_white": (baselines.black_and_white, (IMAGE,)),
    "baselines.blurred": (lambda x: baselines.blurred(x, sigma=1.0), (IMAGE,)),
    "baselines.constant": (lambda x: baselines.constant(x, 0.5), (IMAGE,)),
    "baselines.maximum_distance": (baselines.maximum_distance, (IMAGE,)),
    "baselines.mean": (baselines.mean, (SAMPLES,)),
    "baselines.samples": (lambda k, d: baselines.samples(k, d, 3), (KEY, SAMPLES)),
    "baselines.uniform": (baselines.uniform, (KEY, IMAGE)),
    "baselines.zeros": (baselines.zeros, (IMAGE,)),
    "gradients.grad_cam": (
        lambda x: gradients.grad_cam(lambda x: tagged(x).sum(), "hidden")(x),
        (SAMPLES,),
    ),
    "paths.conductance": (
        lambda x: paths.conductance(lambda x: tagged(x).sum(), "hidden", steps=3)(x, x / 2),
        (SAMPLES,),
    ),
    "paths.internal_influence": (
        lambda x: paths.internal_influence(lambda x: tagged(x).sum(), "hidden", steps=3)(x, x / 2),
        (SAMPLES,),
    ),
    "sites.at": (lambda x: sites.at(tagged, "hidden")(x, x), (SAMPLES,)),
    "sites.edit": (lambda x: sites.edit(tagged, {"hidden": lambda h: h / 2})(x), (SAMPLES,)),
    "sites.read": (sites.read(tagged, "hidden"), (SAMPLES,)),
    "sites.tag": (lambda x: sites.tag(x, "hidden"), (SAMPLES,)),
    "sites.write": (lambda x: sites.write(tagged, "hidden")({"hidden": x}, x), (SAMPLES,)),
    "estimates.batch_means": (lambda v: estimates.batch_means(v, 3), (SAMPLES,)),
    "estimates.bootstrap_interval": (
        lambda k, v: estimates.bootstrap_interval(k, v, resamples=20),
        (KEY, SAMPLES),
    ),
    "estimates.correlation": (lambda v: estimates.correlation(PAIRS(v)), (SAMPLES,)),
    "estimates.covariance": (lambda v: estimates.covariance(MATRIX(v)), (SAMPLES,)),
    "estimates.init_covariance": (lambda v: PAIRS(v).sum_of_products, (SAMPLES,)),
    "estimates.init_covariance_matrix": (rounded(MATRIX), (SAMPLES,)),
    "estimates.init_moments": (estimates.init_moments, (SAMPLES,)),
    "estimates.mean": (lambda v: estimates.mean(MOMENTS(v)), (SAMPLES,)),
    "estimates.merge": (
        rounded(lambda v: estimates.merge(MOMENTS(v), MOMENTS(2 * v))),
        (SAMPLES,),
    ),
    "estimates.merge_across": (rounded(across_axis), (SAMPLES,)),
    "estimates.normal_interval": (estimates.normal_interval, (SAMPLES, jnp.abs(SAMPLES))),
    "estimates.standard_error": (lambda v: estimates.standard_error(MOMENTS(v)), (SAMPLES,)),
    "estimates.student_interval": (
        lambda m, e: estimates.student_interval(m, e, degrees_of_freedom=4),
        (SAMPLES, jnp.abs(SAMPLES)),
    ),
    "estimates.update": (rounded(MOMENTS), (SAMPLES,)),
    "estimates.variance": (lambda v: estimates.variance(MOMENTS(v)), (SAMPLES,)),
    "evaluate.batched": (evaluate.batched(batch_model, (0, 0, None)), (X, LABEL, make_params())),
    "evaluate.evaluate": (
        lambda x: evaluate.evaluate(
            lambda k: x[k] ** 2, 12, evaluate.weighted_sum(jnp.ones(12)), chunk_size=5
        ),
        (SAMPLES,),
    ),
    "evaluate.both": (
        lambda x: evaluate.evaluate(
            lambda k: (x[k, 0], x[k]),
            12,
            evaluate.both(evaluate.stack(12), evaluate.weighted_sum(jnp.ones(12))),
            chunk_size=5,
        ),
        (SAMPLES,),
    ),
    "evaluate.stack": (
        lambda x: evaluate.evaluate(lambda k: x[k] ** 2, 12, evaluate.stack(12), chunk_size=5),
        (SAMPLES,),
    ),
    "evaluate.walk": (
        lambda x: evaluate.walk(x, lambda s, k: (jnp.sin(s), s.sum()), 4),
        (SAMPLES,),
    ),
    "evaluate.weighted_sum": (
        lambda x: evaluate.evaluate(lambda k: x[k], 12, evaluate.weighted_sum(x[:, 0])),
        (SAMPLES,),
    ),
    "metrics.attribution_deviation_bound, linf": (
        metrics.attribution_deviation_bound(
            gradients.input_x_gradient(model), epsilon=0.1, norm="linf", iterations=3
        ),
        (KEY, X, LABEL, make_params()),
    ),
    "metrics.disparity": (
        lambda k, v: metrics.disparity(
            k, v[:, 0], jnp.arange(12) % 3, number_of_groups=4, permutations=20
        ),
        (KEY, SAMPLES),
    ),
    "metrics.modality_shares": (
        lambda v, w: metrics.modality_shares({"image": v, "text": (w, v)}),
        (SAMPLES, MASK),
    ),
    "metrics.modality_summary": (
        lambda v: metrics.modality_summary(
            metrics.ModalityShares({"a": v[:, 0]}, {"a": v[:, 1]}, {"a": v[:, 2]}, v[:, 0] < 9)
        ),
        (SAMPLES,),
    ),
    "masks.amplitude": (lambda x, m: masks.amplitude(0.5)(x, x)(m), (IMAGE, 0.1 * IMAGE)),
    "masks.blur": (lambda x: masks.blur(2.0)(x, x)(jax.nn.sigmoid(x)), (IMAGE,)),
    "masks.each": (
        lambda c: masks.each(masks.grid(2, 3)).expand(c, {"x": IMAGE, "y": SAMPLES}),
        (SAMPLES[:, 0],),
    ),
    "masks.elements": (lambda c: masks.elements().expand(c, {"x": IMAGE}), (IMAGE.ravel(),)),
    "masks.grid": (lambda c: masks.grid(3, 4).expand(c, IMAGE), (SAMPLES[:3],)),
    "masks.grid, bilinear": (
        lambda c: masks.grid(3, 4, upsampling="bilinear").expand(c, IMAGE),
        (SAMPLES[:3],),
    ),
    "masks.replace": (lambda x, b, m: masks.replace(x, b)(m), (IMAGE, 2 + IMAGE, 0.1 * IMAGE)),
    "masks.segments": (
        lambda c: masks.segments(jnp.arange(30).reshape(5, 6) % 12, 12).expand(c, IMAGE),
        (SAMPLES[:, 0],),
    ),
    "masks.tokens": (lambda c: masks.tokens().expand(c, SAMPLES), (SAMPLES[:, 0],)),
    "masks.windows": (lambda c: masks.windows(4).expand(c, SAMPLES), (SAMPLES[0],)),
    "metrics.over_examples": (
        lambda v: metrics.over_examples(
            metrics.Curve(v, v[:, 0], 2 * v, 3 * v[:, 1], v[:, 0], jnp.abs(v))
        ),
        (SAMPLES,),
    ),
    "priors.cosine": (priors.cosine, (SAMPLES, IMAGE[:, :, 0].ravel()[:12, None] * SAMPLES)),
    "priors.l1": (priors.l1, (SAMPLES,)),
    "priors.smoothness": (priors.smoothness, (IMAGE,)),
    "priors.sparsity": (priors.sparsity, (SAMPLES,)),
    "paths.blur": (lambda x: paths.blur(max_sigma=2.0)(0.3, x, x), (IMAGE,)),
    "paths.product": (
        lambda x: paths.product({"a": paths.blur(), "b": curve_path})(
            0.3, {"a": x, "b": x}, {"a": 0 * x, "b": 0 * x}
        ),
        (IMAGE,),
    ),
    "paths.straight_line": (lambda x: paths.straight_line(0.3, x, 0 * x), (IMAGE,)),
    "qmc.halton": (lambda k: qmc.halton(k, 3, 12, 5)(1), (KEY,)),
    "qmc.latin_hypercube": (lambda k: qmc.latin_hypercube(k, 3, 12, 5)(1), (KEY,)),
    "qmc.monte_carlo": (lambda k: qmc.monte_carlo(k, 3, 12, 5)(1), (KEY,)),
    "qmc.points": (lambda k: qmc.points(qmc.sobol, k, 3, 12), (KEY,)),
    "qmc.sobol": (lambda k: qmc.sobol(k, 3, 12, 4)(1), (KEY,)),
    "qmc.sobol, owen": (lambda k: qmc.sobol(k, 3, 12, 4, scramble="owen")(1), (KEY,)),
    "rewrite.fast": (rewrite.fast(jax.grad(model)), (X, LABEL, make_params())),
    "sobol.indices": (sensitivity(sobol.indices, samples=1024), (KEY, LABEL, make_params())),
    "sobol.indices, scrambles": (
        sensitivity(
            sobol.indices, samples=2048, errors="scrambles", replicates=2, second_order=True
        ),
        (KEY, LABEL, make_params()),
    ),
    "sobol.inverse_cdf": (
        lambda u: sobol.inverse_cdf(jnp.square, (12, 4)).inverse_cdf(u),
        (SAMPLES,),
    ),
    "sobol.normal": (
        lambda v: sobol.normal(v, 1 + v**2).inverse_cdf(jax.nn.sigmoid(v)),
        (SAMPLES,),
    ),
    "sobol.uniform": (
        lambda v: sobol.uniform(v - 1, v**2).inverse_cdf(jax.nn.sigmoid(v)),
        (SAMPLES,),
    ),
    "sobol.aggregated": (
        lambda v: sobol.aggregated(
            sobol.Indices(v, v**2, v / 3, v / 4, *[None] * 4, *[v[:, 0] ** 2] * 7, v[:, 1] ** 2)
        ),
        (jnp.abs(SAMPLES),),
    ),
    "sobol.dgsm": (sensitivity(sobol.dgsm, sampler=qmc.monte_carlo), (KEY, LABEL, make_params())),
    "sobol.intrinsic_contributions": (
        sobol.intrinsic_contributions(
            {"x": lambda _, n, p: n, "y": lambda v, n, p: v["x"] @ p["first"][0] + jnp.sin(n)},
            {"x": sobol.normal(jnp.zeros(5), 1.0), "y": sobol.uniform(0.0, 1.0)},
            samples=64,
            sampler=qmc.monte_carlo,
        ),
        (KEY, make_params()),
    ),
    "sobol.polynomial_chaos": (
        lambda x: sobol.polynomial_chaos(
            x, jnp.sin(x[:, 0]) * x[:, 1], sobol.normal(jnp.zeros(4), 1.0), degree=2, ridge=0.1
        ),
        (SAMPLES,),
    ),
    "sobol.rank_based": (
        lambda x: sobol.rank_based(x, jnp.stack([x[:, 0] * x[:, 1], x[:, 1]], axis=1)),
        (jnp.concatenate([SAMPLES, 2 + SAMPLES * SAMPLES]),),
    ),
    "sobol.shapley_effects": (
        sensitivity(sobol.shapley_effects, sampler=qmc.monte_carlo),
        (KEY, LABEL, make_params()),
    ),
    "sobol.structural_model": (
        lambda x: sobol.structural_model({"x": lambda _, n: n, "y": lambda v, n: v["x"] * n})(
            {"x": x, "y": jnp.sin(x)}
        ),
        (SAMPLES,),
    ),
    "targets.entropy": (targets.entropy(network), (X, make_params())),
    "targets.log_probability": (targets.log_probability(network), (X, LABEL, make_params())),
    "targets.logit": (targets.logit(network), (X, LABEL, make_params())),
    "targets.logit, positions": (
        targets.logit(dense, positions=True),
        (X, LABEL, MASK, make_params()),
    ),
    "targets.margin": (targets.margin(network), (X, LABEL, jnp.int32(2), make_params())),
    "targets.masked_sum": (targets.masked_sum(dense), (X, jnp.ones((2, 3)), make_params())),
    "targets.output": (targets.output(lambda p, x: (x @ p["first"])[:, 0]), (X, make_params())),
    "targets.probability": (targets.probability(network), (X, LABEL, make_params())),
    "wavelets.band_sums": (lambda x: wavelets.band_sums(coefficients(x)), (IMAGE,)),
    "wavelets.decompose": (coefficients, (IMAGE,)),
    "wavelets.reconstruct": (
        lambda x: wavelets.reconstruct(jax.tree.map(jnp.sin, coefficients(x))),
        (IMAGE,),
    ),
    "wavelets.spatial_maps": (
        lambda x: wavelets.spatial_maps(coefficients(x), conserve=True),
        (IMAGE,),
    ),
    "sobol.wavelet_attribution": (
        lambda k, x: sobol.wavelet_attribution(
            lambda v: jnp.sum(jnp.sin(v) * v), levels=1, cells=(2,), samples=8
        )(k, x, jnp.zeros_like(x)),
        (KEY, X),
    ),
}

# Not functions of arrays, so only their docstrings are walked; each has tests of its own.
HOST = {
    "sae.absorption": "runs on the host",
    "sae.evaluate": "runs on the host",
    "sae.formats.load_dictionary_learning": "disk",
    "sae.formats.load_gemma_scope": "disk",
    "sae.formats.load_saelens": "disk",
    "sae.formats.load_sparsify": "disk",
    "sae.formats.save_dictionary_learning": "disk",
    "sae.formats.save_saelens": "disk",
    "sae.formats.save_sparsify": "disk",
    "sae.harvested": "runs on the host",
    "sae.loss_recovered": "runs on the host",
    "sae.max_cosines": "numpy on the host",
    "sae.separation": "runs on the host",
    "sae.sharded": "tested in sae/test_sharded.py: it puts arrays on a mesh",
    "sae.sparse_probing": "runs on the host",
    "sae.synthetic.recovery": "numpy and scipy on the host",
    "sae.synthetic.superposition": "trains, by optax",
    "sae.synthetic.zipf": "of numbers",
    "sae.stored": "disk",
    "sae.sweep": "runs on the host",
    "sae.train": "runs on the host",
    "sites.names": "traces, and computes nothing",
    "adapters.equinox": "takes an Equinox model",
    "adapters.haiku": "takes a Haiku function",
    "adapters.linen": "takes a Flax module",
    "adapters.nnx": "takes a Flax model",
    "models.LeNet": "a Flax model",
    "models.ResNet20": "a Flax model",
    "models.SqueezeNet": "a Flax model",
    "paths.clenshaw_curtis": "a rule: numpy on the host",
    "paths.composite": "a rule: numpy on the host",
    "paths.gauss_kronrod": "a rule: numpy on the host",
    "paths.gauss_legendre": "a rule: numpy on the host",
    "paths.left_riemann": "a rule: numpy on the host",
    "paths.midpoint": "a rule: numpy on the host",
    "paths.right_riemann": "a rule: numpy on the host",
    "paths.rounds": "for run.map, with its tests",
    "paths.trapezoid": "a rule: numpy on the host",
    "plots.bars": "matplotlib",
    "plots.curve": "matplotlib",
    "plots.grid": "matplotlib",
    "plots.heatmap": "matplotlib",
    "plots.pareto": "matplotlib",
    "plots.tokens": "matplotlib",
    "report.write": "reads stores, writes a page",
    "run.map": "runs on the host",
    "run.plan": "runs on the host",
    "sobol.analyse": "reads the outputs of a simulator on the host",
    "sobol.design": "points for a simulator on the host",
    "sobol.estimators.jansen_of_base": "a formula",
    "sobol.estimators.ratio": "in every formula",
    "sobol.estimators.variance_of": "in every formula",
    "store.create": "disk",
    "store.exists": "disk",
    "store.fingerprint": "reads arrays on the host",
    "store.finished_batches": "disk",
    "store.names": "names of a tree",
    "store.open": "disk",
    "store.reopen": "disk",
    "store.update_manifest": "disk",
    "store.write": "disk",
    "wavelets.daubechies": "a filter: numpy on the host",
}


def of_module(area, module):
    """The public names of a module and of those in it; of constants, the tests are elsewhere."""
    assert module.__all__ == sorted(set(module.__all__)), f"{area}.__all__ is not in order"
    found = {}
    for name in module.__all__:
        value = getattr(module, name)
        if inspect.ismodule(value):
            found |= of_module(f"{area}.{name}", value)
        elif callable(value):
            found[f"{area}.{name}"] = value
    return found


def public():
    """Every public name, with its object: `area.name`, headline names by their area."""
    found = {}
    for area in jaxplain.__all__:
        module = getattr(jaxplain, area)
        if inspect.ismodule(module):
            found |= of_module(area, module)
        else:
            home = [n for n in found if found[n] is module]
            later = module.__module__.split(".")[1]
            assert home or module.__name__ in getattr(jaxplain, later).__all__, area
    return found


def is_result(value):
    return inspect.isclass(value) and (issubclass(value, tuple) or dataclasses.is_dataclass(value))


# --------------------------------------------------------------------------------- the surface


def test_every_public_function_is_in_a_table():
    tables = {name.split(",")[0] for table in (KERNELS, FUNCTIONS, HOST) for name in table}
    functions = {name for name, value in public().items() if not is_result(value)}
    assert functions - tables == set(), "public, but in no table of tests/test_conformance.py"
    assert tables - functions == set(), "in a table, but not public"


@pytest.mark.parametrize("name", sorted(public()))
def test_docstrings(name):
    value = public()[name]
    text = inspect.getdoc(value)
    assert text, f"{name} has no docstring"
    if is_result(value):
        return  # what the fields hold is the business of "Returns:" and of the class
    without = inspect.isfunction(value) and not inspect.signature(value).parameters
    places = [text.find(f"\n{section}\n") for section in SECTIONS]
    places[0] = 0 if without else places[0]
    assert -1 not in places, dict(zip(SECTIONS, places, strict=True))
    assert places == sorted(places), f"the sections of {name} are not in the order {SECTIONS}"
    assert ">>>" in text[places[3] : places[4]]
    assert re.search(r"\d{4}|https://|docs/|jaxplain|jax\.", text[places[4] :])


def test_the_surface_is_what_is_imported():
    assert set(jaxplain.__all__) <= set(dir(jaxplain))
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = jaxplain.nothing


# ------------------------------------------------------------------------ helpers of the tests


def call(kernel, x, label=LABEL, params=None, f=None, chunk_size=3, explain=None):
    params = make_params() if params is None else params
    f = kernel.model if f is None else f
    explain = kernel.make(f, chunk_size) if explain is None else explain
    return explain(*kernel.before(x), x, *kernel.after(x), label, params)


def one_argument(kernel, chunk_size=3):
    """The kernel as a function of x alone, for `vmap` and derivatives."""
    params, explain = make_params(), kernel.make(kernel.model, chunk_size)
    return lambda x: explain(*kernel.before(x), x, *kernel.after(x), LABEL, params)


@functools.cache
def of_one(name):
    """The same, compiled: what most tests compare with, so that it compiles once for them all."""
    return jax.jit(one_argument(KERNELS[name]))


def assert_close(got, expected, tolerance=1e-5):
    """Equal to `tolerance` of the largest number in the result."""
    assert jax.tree.structure(got) == jax.tree.structure(expected)
    numbers = [np.asarray(leaf, np.float64) for leaf in jax.tree.leaves(expected)]
    largest = max((np.abs(n[np.isfinite(n)]).max(initial=0) for n in numbers), default=0)
    for a, b in zip(jax.tree.leaves(got), numbers, strict=True):
        assert a.shape == b.shape
        np.testing.assert_allclose(
            np.asarray(a, np.float64), b, atol=tolerance * largest, rtol=0, equal_nan=True
        )


def variants(tree, number):
    """A batch: the tree, and others like it."""

    def several(leaf):
        if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            return jax.random.split(leaf, number)
        if not jnp.issubdtype(leaf.dtype, jnp.floating):
            return jnp.stack([leaf] * number)
        return jnp.stack([leaf * (1 - 0.3 * k) for k in range(number)])

    return jax.tree.map(several, tree)


def pick(tree, index):
    return jax.tree.map(lambda leaf: leaf[index], tree)


def loop(function, batch, count):
    return jax.tree.map(
        lambda *leaves: jnp.stack(leaves), *(function(*pick(batch, k)) for k in range(count))
    )


# One kernel of each kind of loop and of design: these also run on the oldest and the newest jax.
PINNED = {
    "gradients.saliency",
    "metrics.deletion",
    "paths.expected_gradients",
    "paths.guided_integrated_gradients",
    "paths.integrated_gradients",
    "paths.integrated_gradients, tolerance",
    "paths.integrated_hessians",
    "perturbation.rise",
    "sobol.hsic_attribution",
}


def pinned(names):
    is_pinned = lambda name: name in PINNED or name.split(".")[0] in ("estimates", "evaluate")
    return [pytest.param(n, marks=pytest.mark.pins) if is_pinned(n) else n for n in names]


kernels = pytest.mark.parametrize("name", KERNELS)
kernels_pinned = pytest.mark.parametrize("name", pinned(KERNELS))


def kernels_and(argument, variants, few):
    """Pinned kernels in all variants, the others, which share their loops, in a few."""
    rows = [
        pytest.param(name, variant, marks=[pytest.mark.pins] if name in PINNED else [])
        for name in KERNELS
        for variant in (variants if name in PINNED else few)
    ]
    return pytest.mark.parametrize(("name", argument), rows)


# -------------------------------------------------------------------------- every pure function


@pytest.mark.parametrize(
    "name",
    [*pinned(KERNELS), *pinned(FUNCTIONS)],
)
def test_transformations_agree(name):
    """`jit`, `vmap` and `vmap` of `vmap`, compiled and not, give what single calls give."""
    if name in KERNELS:
        function, arguments, single = one_argument(KERNELS[name]), (X,), of_one(name)
    else:
        function, arguments = FUNCTIONS[name]
        single = jax.jit(function)
    if name == "evaluate.batched":  # which compiles by itself, in blocks
        whole, arguments = function, arguments[:-1]
        single = function = lambda *own: whole(*own, make_params())

    batch = variants(arguments, 3)
    expected = loop(single, batch, 3)
    compiled = (lambda f: f) if name == "evaluate.batched" else jax.jit
    whole_programs = name in KERNELS or name.split(".")[0] in ("metrics", "qmc", "sobol")
    if name in PINNED or not whole_programs:  # the others are jitted inside: they compile the same
        assert_close(function(*arguments), single(*arguments))
        assert_close(compiled(jax.vmap(function))(*batch), expected)
    twice = jax.tree.map(lambda leaf: jnp.stack([leaf, leaf[::-1]]), batch)
    expected = jax.tree.map(lambda leaf: jnp.stack([leaf, leaf[::-1]]), expected)
    assert_close(compiled(jax.vmap(jax.vmap(function)))(*twice), expected)


# ------------------------------------------------------------------------------- every kernel


@kernels_pinned
def test_a_second_call_traces_nothing(name):
    """Nor does it change what the kernel gives when it is compiled into something else."""
    kernel = KERNELS[name]
    for wrap in (lambda explain: explain, jax.jit) if name in PINNED else (lambda e: e,):
        traces = []

        def f(*args, traces=traces):
            traces.append(1)
            return kernel.model(*args)

        explain = wrap(kernel.make(f, 3))
        assert_close(call(kernel, X, explain=explain), of_one(name)(X))
        first = len(traces)
        assert 1 <= first <= 3, "f is traced for its gradient, its outputs, and no more"
        for x, label in ((X, LABEL), (2 * X, jnp.int32(0))):
            call(kernel, x, label, explain=explain)
        assert len(traces) == first


@kernels
def test_derivatives(name, x64):
    """The derivative of a function of the result, against finite differences, by x and params."""
    kernel = KERNELS[name]
    params = make_params(jnp.float64)
    x = jnp.asarray(np.asarray(X), jnp.float64)
    explain = kernel.make(kernel.model, 3)

    def of_result(x, params):
        first = explain(*kernel.before(x), x, *kernel.after(x), LABEL, params)[0]
        return jnp.sum(jnp.sin(first))

    if "tolerance" in name:  # compare with the closed derivative: the number of nodes is data
        path = curve_path if "path_attribution" in name else paths.straight_line
        many = paths.path_attribution(model, path=path, steps=65, rule=paths.clenshaw_curtis)
        same = lambda x, p: jnp.sum(jnp.sin(many(x, *kernel.after(x), LABEL, p)[0]))
        tangents = (jnp.ones_like(x), jax.tree.map(jnp.ones_like, params))
        got = jax.jvp(of_result, (x, params), tangents)
        assert_close(got, jax.jvp(same, (x, params), tangents), 1e-12)
        with pytest.raises(ValueError, match="Reverse-mode differentiation does not work"):
            jax.grad(of_result)(x, params)
        return
    # The reverse mode holds the forward mode, which is transposed.
    modes = kernel.modes if name in PINNED else kernel.modes[-1:]
    check_grads(jax.jit(of_result), (x, params), order=1, modes=modes, eps=1e-6)


@kernels_and("chunk_size", [1, 2, 5, 16, 1000], few=[5])
def test_chunk_size_changes_rounding_only(name, chunk_size):
    kernel = KERNELS[name]
    assert_close(call(kernel, X, chunk_size=chunk_size), of_one(name)(X), 1e-6)


@kernels_pinned
def test_dtypes(name):
    """Results have the dtype of x; a narrow x is computed wide."""
    kernel = KERNELS[name]
    with jax.enable_x64(True):
        wide = jnp.asarray(np.asarray(X, np.float64))
        expected = call(kernel, wide, params=make_params(jnp.float64))
        for leaf in jax.tree.leaves(expected[0]):
            assert leaf.dtype == jnp.float64
        expected = jax.device_get(expected)
    for dtype, tolerance in ((jnp.float32, 1e-5), (jnp.bfloat16, 3e-2)):
        if dtype == jnp.float32:
            got = of_one(name)(X)
        else:
            got = call(kernel, X.astype(dtype), params=make_params(dtype))
        for leaf in jax.tree.leaves(got[0]):
            assert leaf.dtype == dtype
        assert_close(got[0], expected[0], tolerance)


TREES = {
    "dict": (lambda x: {"b": x[:2], "a": x[2:].reshape(2, 2)},
             lambda t: jnp.concatenate([t["b"], t["a"].reshape(4)])),
    "tuple": (lambda x: (x[:1], (x[1:],)), lambda t: jnp.concatenate([t[0], t[1][0]])),
    "with a scalar": (lambda x: [x[0], x[1:]], lambda t: jnp.concatenate([t[0][None], t[1]])),
}  # fmt: skip


def join_pairs(join, values, x):
    """A tree like x of trees like x as a matrix: the inner trees joined, then the outer."""

    def joined(leaf, inner):
        flat = jax.tree.map(lambda v: v.reshape(leaf.size, *v.shape[leaf.ndim :]), inner)
        return jax.vmap(join)(flat).reshape(*leaf.shape, -1)

    outer = jax.tree.map(joined, x, values)
    return jax.vmap(join, in_axes=-1, out_axes=-1)(outer)


@kernels_and("tree", TREES, few=["dict"])
def test_trees_give_what_the_vector_gives(name, tree):
    kernel = KERNELS[name]
    split, join = TREES[tree]
    f = lambda x, label, params: kernel.model(join(x), label, params)
    make = kernel.still or kernel.make
    explain = make(f, 3)
    x = split(X)
    # The arguments are the vector's, split: the ranks of a metric follow the order of the leaves.
    after = tuple(jax.vmap(split)(a) if a.ndim > X.ndim else split(a) for a in kernel.after(X))
    got = explain(*kernel.before(x), x, *after, LABEL, make_params())
    expected = call(kernel, X, explain=make(kernel.model, 3)) if kernel.still else of_one(name)(X)
    if kernel.scalar and not kernel.pairs:
        assert jax.tree.structure(got.values) == jax.tree.structure(x)
    if kernel.leaf_is_whole:
        return
    if kernel.scalar:
        alike = lambda field, tree: jax.tree.structure(field) == jax.tree.structure(tree)
        whole = lambda field: (
            join(field)
            if alike(field, x)
            else join_pairs(join, field, x)
            if kernel.pairs and alike(field, got.values)
            else field
        )
        assert_close(tuple(map(whole, got)), tuple(expected))
    else:  # the random orderings differ: leaves are drawn in the order of the tree
        assert_close(got.scores, expected.scores)


@kernels
def test_a_scalar_input(name):
    kernel = KERNELS[name]
    f = lambda x, label, params: kernel.bend(x) * params["first"][0, 0]
    explain = kernel.make(f, 3)
    got = call(kernel, jnp.float32(0.7), explain=explain)
    vector = lambda x, label, params: f(x[0], label, params)
    expected = call(kernel, jnp.array([0.7]), f=vector)
    if kernel.scalar:
        assert got.values.shape == ()
        assert_close(got.values.reshape(expected.values.shape), expected.values)
        python = call(kernel, 0.7, explain=explain) if not kernel.after(X) else None
        if python is not None:
            assert_close(python, got)
    else:
        assert_close(got, expected)


@kernels_and("size", [0, 1], few=[0])
def test_a_batch_of_none_and_of_one(name, size):
    kernel = KERNELS[name]
    got = jax.jit(jax.vmap(one_argument(kernel)))(jnp.stack([X])[:size])
    expected = jax.tree.map(lambda leaf: leaf[None][:size], of_one(name)(X))
    assert_close(got, expected)


@kernels_and("axis_type", ["Auto", "Explicit"], few=["Explicit"])
def test_a_sharded_batch_stays_sharded(name, axis_type):
    kernel = KERNELS[name]
    axis_types = (getattr(jax.sharding.AxisType, axis_type),)
    mesh = jax.make_mesh((8,), ("data",), axis_types=axis_types)
    batch = variants(X, 16)
    expected = loop(of_one(name), (batch,), 16)
    with jax.set_mesh(mesh):
        batch = jax.device_put(batch, jax.P("data"))
        mapped = jax.jit(jax.vmap(one_argument(kernel))).lower(batch).compile()
        text = mapped.as_text()
        assert not re.search("all-(gather|to-all)|collective-permute", text)
        # A while_loop over a batch asks whether any example goes on: one bit, and no other.
        reduced = re.findall(r"= (\S+) all-reduce(?:-start)?\(", text)
        assert set(reduced) <= ({"pred[]"} if kernel.waits or "rev" not in kernel.modes else set())
        got = mapped(batch)
        for leaf in jax.tree.leaves(got):
            if leaf.sharding.is_fully_replicated:
                continue  # what no example decides, such as the number of gradients
            assert leaf.sharding.is_equivalent_to(jax.NamedSharding(mesh, jax.P("data")), leaf.ndim)
        first = jax.tree.leaves(got[0])[0]
        assert not first.sharding.is_fully_replicated
    assert_close(jax.device_get(got), jax.device_get(expected))


@kernels_and("varies", ["x", "the params"], few=["the params"])
def test_inside_shard_map(name, varies):
    """With the check of what varies over devices: loops start as varying as they end."""
    kernel = KERNELS[name]
    mesh = jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    explain = kernel.make(kernel.model, 3)
    apply = lambda x, params: explain(*kernel.before(X), x, *kernel.after(X), LABEL, params)
    axes, specs = {
        "x": ((0, None), (jax.P("data"), jax.P())),
        "the params": ((None, 0), (jax.P(), jax.P("data"))),
    }[varies]
    x = variants(X, 8) if varies == "x" else X
    params = make_params() if varies == "x" else variants(make_params(), 8)
    mapped = jax.vmap(apply, axes)
    inside = jax.jit(jax.shard_map(mapped, mesh=mesh, in_specs=specs, out_specs=jax.P("data")))
    assert_close(jax.device_get(inside(x, params)), jax.device_get(mapped(x, params)))


@kernels_pinned
def test_one_example_sharded_over_its_features(name):
    """On a mesh of Explicit axes, where every intermediate array has a sharding in its type."""
    kernel = KERNELS[name]
    if not kernel.scalar:
        pytest.skip("a ranking of all features needs them in one place")
    f = lambda x, label, params: jnp.sum(kernel.bend(x) * params["first"][:, label])
    expected = call(kernel, X, f=f)
    mesh = jax.make_mesh((2,), ("features",), axis_types=(jax.sharding.AxisType.Explicit,))
    with jax.set_mesh(mesh):
        got = call(kernel, jax.device_put(X, jax.P("features")), f=f)
        assert got.values.sharding.spec[-1] == "features"
    assert_close(jax.device_get(got), jax.device_get(expected))


@kernels
def test_results_are_trees_and_survive_orbax(name, tmp_path):
    import orbax.checkpoint as ocp

    result = of_one(name)(X)
    leaves, structure = jax.tree.flatten(result)
    again = jax.tree.unflatten(structure, leaves)
    assert type(again) is type(result)
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(tmp_path / "result", result)
        checkpointer.wait_until_finished()
        restored = checkpointer.restore(tmp_path / "result", result)
    assert jax.tree.structure(restored) == structure
    for a, b in zip(jax.tree.leaves(restored), leaves, strict=True):
        np.testing.assert_array_equal(a, b)


# ----------------------------------------------------------------------------------- bad input


@kernels
def test_bad_input_is_named(name):
    kernel = KERNELS[name]
    if kernel.scalar:
        if not kernel.vector:
            with pytest.raises(ValueError, match=r"shape \(3,\).*lambda x: f\(x\)\[label\]"):
                call(kernel, X, f=lambda x, label, p: jnp.tanh(x @ p["first"]) @ p["second"])
        one = "one array" if kernel.vector else "one scalar array"
        with pytest.raises(TypeError, match=f"f must return {one}.* returned a tuple"):
            call(kernel, X, f=lambda x, *args: (x[0], x[1]))
    with pytest.raises(TypeError, match="f must return a float"):
        call(kernel, X, f=lambda x, *args: jnp.argmax(x))
    if kernel.scalar and not kernel.any_dtype:
        with pytest.raises(TypeError, match=r"dtype int32.*sites\.at\(f, \"embedding\"\)"):
            call(kernel, jnp.arange(6))
    with pytest.raises(TypeError, match=r"leaf at \[\d\] is a str \('mode'\).*functools.partial"):
        call(kernel, X, label="mode")
    with pytest.raises(ValueError, match="at least one array"):
        call(kernel, {})
    with pytest.raises(TypeError, match="f must be a function, but is a int"):
        kernel.make(3, 3)
    for after in (kernel.after(X),) if kernel.after(X) else ():
        explain = kernel.make(model, 3)
        for place, wrong in enumerate(after):
            for bad, error, message in (
                (wrong[..., :3], ValueError, r"must have the shape of x, \(6,\), but has \(3,\)"),
                ({"x": wrong}, ValueError, "must be the same tree as x"),
                (jnp.ones_like(wrong, bool), TypeError, "dtype of x, float32|must be float"),
                ("black", TypeError, r"is a str \('black'\)"),
            ):
                changed = [*after]
                changed[place] = bad
                with pytest.raises(error, match=message):
                    explain(*kernel.before(X), X, *changed, LABEL, make_params())
    if kernel.chunks:
        for chunk_size, error in ((0, ValueError), (2.5, TypeError), (True, TypeError)):
            with pytest.raises(error, match="chunk_size must be"):
                kernel.make(model, chunk_size)


@pytest.mark.parametrize("name", [n for n, k in KERNELS.items() if k.scalar])
def test_what_is_not_finite_is_flagged(name):
    kernel = KERNELS[name]
    assert bool(of_one(name)(X).finite)
    hides = lambda x, label, params: jnp.sum(jnp.where(jnp.isfinite(x), x, 0.0) * 2)
    hidden = kernel.make(hides, 3)  # even where the model hides it
    for bad in (jnp.nan, jnp.inf):
        assert not bool(of_one(name)(X.at[2].set(bad)).finite)
        assert not bool(call(kernel, X.at[2].set(bad), explain=hidden).finite)
