"""The main job on real input, small: train, explain every example in batches, measure, look.

    digits (1797, 8, 8) -> a CNN in Flax NNX -> (apply, params) -> Integrated Gradients by vmap
                        -> completeness, deletion and insertion -> arrays, a picture, a table

Everything here is what a user would write; nothing is special to the demo.
"""

import pathlib
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import flax.nnx as nnx
import jax
import jax.numpy as jnp
import matplotlib.figure
import numpy as np
import optax
import rich.console
import rich.progress
import rich.table
import sklearn.datasets
import sklearn.model_selection

import jaxplain
from jaxplain import checks, metrics, rewrite, targets


class CNN(nnx.Module):
    """Two convolutions and a max-pool: some 20,000 parameters, over 97 % of unseen digits right."""

    def __init__(self, rngs: nnx.Rngs):
        self.first = nnx.Conv(1, 16, (3, 3), rngs=rngs)
        self.second = nnx.Conv(16, 32, (3, 3), rngs=rngs)
        self.hidden = nnx.Linear(4 * 4 * 32, 32, rngs=rngs)
        self.scores = nnx.Linear(32, 10, rngs=rngs)

    def __call__(self, images: jax.Array) -> jax.Array:
        """Images (batch, 8, 8, 1) in [0, 1] to scores (batch, 10)."""
        x = nnx.relu(self.first(images))
        x = nnx.max_pool(nnx.relu(self.second(x)), (2, 2), (2, 2))
        x = nnx.relu(self.hidden(x.reshape(x.shape[0], -1)))
        return self.scores(x)


class Digits(NamedTuple):
    """The digits of scikit-learn: images (examples, 8, 8, 1) in [0, 1], labels, and the split."""

    images: np.ndarray
    labels: np.ndarray
    train: np.ndarray
    test: np.ndarray


def digits() -> Digits:
    """All 1,797 digits, a quarter of them held out."""
    data = sklearn.datasets.load_digits()
    images = (data.images / 16).astype(np.float32)[..., None]
    train, test = sklearn.model_selection.train_test_split(
        np.arange(len(images)), test_size=0.25, random_state=0, stratify=data.target
    )
    return Digits(images, data.target.astype(np.int32), train, test)


def train(data: Digits, *, epochs: int = 25, batch_size: int = 64, seed: int = 0) -> CNN:
    """Trains the network with Adam; one compiled loop over each epoch. Returns it in evaluation."""
    model = CNN(nnx.Rngs(seed))
    graph, weights = nnx.split(model)
    optimizer = optax.adam(2e-3)
    images, labels = jnp.asarray(data.images[data.train]), jnp.asarray(data.labels[data.train])
    steps = len(images) // batch_size

    def loss(weights: Any, images: jax.Array, labels: jax.Array) -> jax.Array:
        scores = nnx.merge(graph, weights)(images)
        return optax.softmax_cross_entropy_with_integer_labels(scores, labels).mean()

    # A loop of one's own: outermost `rewrite.fast` keeps its backward convolutions fast.
    gradient = rewrite.fast(jax.grad(loss))

    @jax.jit
    def epoch(state: Any, order: jax.Array) -> Any:
        def step(state: Any, chosen: jax.Array) -> tuple[Any, None]:
            weights, moments = state
            slope = gradient(weights, images[chosen], labels[chosen])
            change, moments = optimizer.update(slope, moments, weights)
            return (optax.apply_updates(weights, change), moments), None

        return jax.lax.scan(step, state, order)[0]

    state = (weights, optimizer.init(weights))
    shuffle = np.random.default_rng(seed)
    for _ in range(epochs):
        order = shuffle.permutation(len(images))[: steps * batch_size].reshape(steps, batch_size)
        state = epoch(state, jnp.asarray(order))
    model = nnx.merge(graph, state[0])
    model.eval()
    return model


def batches(count: int, size: int) -> Iterator[tuple[np.ndarray, int]]:
    """The indices of each batch; the last is filled up, so that all have one compiled shape."""
    for start in range(0, count, size):
        index = np.arange(start, min(start + size, count))
        yield np.pad(index, (0, size - len(index)), mode="edge"), len(index)


def in_batches(
    compute: Callable[..., Any], arrays: Any, size: int, progress: rich.progress.Progress, name: str
) -> tuple[Any, float, float]:
    """Maps a jitted function of a batch over all examples; the result, compile s and run s."""
    count = len(jax.tree.leaves(arrays)[0])
    task = progress.add_task(name, total=count)
    take = lambda index: jax.tree.map(lambda a: a[index], arrays)
    started = time.perf_counter()
    compiled = jax.jit(compute).lower(*take(np.zeros(size, np.int32))).compile()
    compile_seconds = time.perf_counter() - started
    parts = []
    started = time.perf_counter()
    for index, real in batches(count, size):
        result = jax.block_until_ready(compiled(*take(index)))
        parts.append(jax.tree.map(lambda leaf, n=real: np.asarray(leaf[:n]), result))
        progress.advance(task, real)
    seconds = time.perf_counter() - started
    return jax.tree.map(lambda *leaves: np.concatenate(leaves), *parts), compile_seconds, seconds


def run(out: pathlib.Path, *, steps: int = 32, batch_size: int = 128) -> None:
    """The demo: writes `digits.npz` and `digits.png` into `out` and prints a table."""
    steps = checks.integer(steps, "steps")
    batch_size = checks.integer(batch_size, "batch_size")
    if out.exists() and not out.is_dir():
        raise ValueError(f"the output goes to a folder, but {out} is a file: name another.")
    out.mkdir(parents=True, exist_ok=True)
    console = rich.console.Console()
    data = digits()
    started = time.perf_counter()
    with console.status("training a small network on 1,347 digits"):
        model = train(data)
    apply, params = jaxplain.adapters.nnx(model)
    training_seconds = time.perf_counter() - started
    scores = np.asarray(jax.jit(apply)(params, jnp.asarray(data.images)))
    predicted = scores.argmax(axis=1).astype(np.int32)
    right = predicted == data.labels
    console.print(
        f"trained in {training_seconds:.1f} s: {right[data.test].mean():.1%} of "
        f"{len(data.test)} unseen digits right"
    )

    # What is explained: the score of the predicted class, against an image without ink.
    explain = jaxplain.integrated_gradients(targets.logit(apply), steps=steps, chunk_size=1)
    baseline = jnp.zeros(data.images.shape[1:])
    explain_batch = jax.vmap(explain, in_axes=(0, None, 0, None))
    # And tested on the probability, one pixel in thirty-two at a time.
    probability = targets.probability(apply)
    measures = [
        jax.vmap(measure(probability, step_size=1 / 32, chunk_size=1), (0, 0, None, 0, 0, None))
        for measure in (metrics.deletion, metrics.insertion)
    ]
    columns = ("{task.description}", rich.progress.BarColumn(), "{task.completed}/{task.total}")
    with rich.progress.Progress(
        *columns, rich.progress.TimeRemainingColumn(), console=console
    ) as progress:
        result, compile_seconds, seconds = in_batches(
            lambda x, label: explain_batch(x, baseline, label, params),
            (data.images, predicted),
            batch_size,
            progress,
            "Integrated Gradients",
        )
        keys = jax.random.split(jax.random.key(0), len(data.images))
        curves, _, _ = in_batches(
            lambda key, x, values, label: [
                measure(key, x, baseline, values, label, params) for measure in measures
            ],
            (keys, data.images, result.values, predicted),
            batch_size,
            progress,
            "deletion and insertion",
        )
    deletion, insertion = (metrics.over_examples(curve) for curve in curves)

    np.savez(
        out / "digits.npz",
        images=data.images,
        labels=data.labels,
        predicted=predicted,
        held_out=np.isin(np.arange(len(data.images)), data.test),
        deletion_area=curves[0].area,
        insertion_area=curves[1].area,
        **result._asdict(),
    )
    picture(data, predicted, result.values).savefig(out / "digits.png", dpi=150)

    gap = np.abs(result.completeness_gap) / np.abs(result.output - result.baseline_output)
    table = rich.table.Table(title=f"{len(data.images)} digits explained", show_header=False)
    table.add_row("examples per second", f"{len(data.images) / seconds:,.0f}")
    table.add_row("compile seconds", f"{compile_seconds:.2f}")
    table.add_row(
        "completeness gap, relative",
        f"median {np.median(gap):.1e}, 95 % below {np.quantile(gap, 0.95):.1e}",
    )
    for name, better, curve in (("deletion", "less", deletion), ("insertion", "more", insertion)):
        table.add_row(
            f"{name} area ({better} is better)",
            f"{curve.area:.3f} ± {curve.area_error:.3f}; "
            f"random {curve.random_area:.3f} ± {curve.random_area_error:.3f}",
        )
    table.add_row("arrays", str(out / "digits.npz"))
    table.add_row("picture", str(out / "digits.png"))
    console.print(table)


def picture(data: Digits, predicted: np.ndarray, values: np.ndarray) -> matplotlib.figure.Figure:
    """One unseen digit of each class, and two that the network gets wrong, with their maps."""
    unseen = data.test
    right = predicted[unseen] == data.labels[unseen]
    shown = [unseen[right & (data.labels[unseen] == label)][0] for label in range(10)]
    shown += list(unseen[~right][:2])
    columns = len(shown)
    figure = matplotlib.figure.Figure(figsize=(1.25 * columns, 3.4), layout="constrained")
    axes = figure.subplots(2, columns)
    for column, example in enumerate(shown):
        top, bottom = axes[:, column]
        heat = values[example, ..., 0]
        limit = float(np.abs(heat).max()) or 1.0
        top.imshow(data.images[example, ..., 0], cmap="gray_r")
        bottom.imshow(heat, cmap="RdBu_r", vmin=-limit, vmax=limit)
        color = "black" if predicted[example] == data.labels[example] else "firebrick"
        top.set_title(f"{data.labels[example]} → {predicted[example]}", color=color, fontsize=10)
        for axis in (top, bottom):
            axis.set_xticks([])
            axis.set_yticks([])
    axes[0, 0].set_ylabel("unseen digit\n(true → predicted)", fontsize=8)
    axes[1, 0].set_ylabel("Integrated\nGradients", fontsize=8)
    figure.suptitle(
        "What made the network say so: red ink for the predicted digit, blue against it "
        "(each map scaled by its largest value)",
        fontsize=10,
    )
    return figure
