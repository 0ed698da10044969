"""The main job on real input, small: train, explain every example in batches, measure, look.

    digits (1797, 8, 8) -> a CNN in Flax NNX -> (apply, params)
        -> `attribute` by Integrated Gradients and by input x gradient, two stores
        -> completeness, deletion and insertion -> a page that compares them, a picture, a table

Everything here is what a user would write or `jaxplain attribute` does; nothing is special to the
demo.
"""

import pathlib
import shutil
import time
from typing import Any, NamedTuple

import flax.nnx as nnx
import jax
import jax.numpy as jnp
import matplotlib.figure
import numpy as np
import optax
import rich.console
import rich.table
import sklearn.datasets
import sklearn.model_selection

import jaxplain
from jaxplain import checks, metrics, report, rewrite, store
from jaxplain.run._attribute import QUALITY, Request, attribute


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


def run(out: pathlib.Path, *, steps: int = 32, batch_size: int = 128) -> None:
    """The demo: writes two stores, a picture and a page into `out`, and prints a table."""
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
    predicted = np.asarray(jax.jit(apply)(params, jnp.asarray(data.images))).argmax(axis=1)
    right = predicted == data.labels
    console.print(
        f"trained in {training_seconds:.1f} s: {right[data.test].mean():.1%} of "
        f"{len(data.test)} unseen digits right"
    )

    # What is explained: the score of the predicted class, against an image without ink.
    methods = {
        "integrated_gradients": (jaxplain.integrated_gradients, {"steps": steps}),
        "input_x_gradient": (jaxplain.input_x_gradient, {}),
    }
    stores = []
    for name, (method, options) in methods.items():
        request = Request(
            apply,
            params,
            examples=data.images,
            batches=None,
            method=method,
            options=options,
            quality=len(data.images),
            about={"model": "jaxplain.demo:CNN", "data": "scikit-learn's digits"},
        )
        path = _fresh(out / f"{name}.zarr")
        attribute(request, path, batch_size=_whole(batch_size))
        stores.append(path)
    page = report.write(stores, out / "report.html", title="Digits, explained by two methods")
    values = np.asarray(store.open(stores[0]).arrays["values"])
    picture(data, predicted, values).savefig(out / "digits.png", dpi=150)
    console.print(_table(stores))
    console.print(f"the page that compares them: {page}")


def _fresh(path: pathlib.Path) -> pathlib.Path:
    """The path, with an earlier demo's store removed; anything else that lies there stays."""
    if path.exists():
        store.open(path)  # refuses what is no store
        shutil.rmtree(path)
    return path


def _whole(batch_size: int) -> int:
    """The batch size as a multiple of the devices."""
    devices = jax.local_device_count()
    return -(-batch_size // devices) * devices


def _table(stores: list[pathlib.Path]) -> rich.table.Table:
    opened = [store.open(path) for path in stores]
    table = rich.table.Table("", *(path.stem for path in stores))
    row = lambda name, figure: table.add_row(name, *(figure(one) for one in opened))
    seconds = lambda one: one.manifest["seconds"]
    row(
        "examples per second",
        lambda one: f"{one.manifest['computed_examples'] / seconds(one)['run']:,.0f}",
    )
    row("compile seconds", lambda one: f"{seconds(one)['compile']:.2f}")
    row("completeness gap, relative", _gap)
    for name, better in (("deletion", "less"), ("insertion", "more")):
        row(f"{name} area ({better} is better)", lambda one, name=name: _area(one, name))
    row("arrays", lambda one: str(one.path))
    return table


def _gap(one: store.Store) -> str:
    if "completeness_gap" not in one.arrays:
        return "-"
    gap, output, start = (
        np.asarray(one.arrays[name]) for name in ("completeness_gap", "output", "baseline_output")
    )
    relative = np.abs(gap) / np.abs(output - start)
    return f"median {np.median(relative):.1e}, 95 % below {np.quantile(relative, 0.95):.1e}"


def _area(one: store.Store, name: str) -> str:
    arrays = store.open(one.path / QUALITY).arrays
    field = lambda kind: jnp.asarray(np.asarray(arrays[f"{name}/{kind}"]))
    curve = metrics.over_examples(metrics.Curve(*map(field, metrics.Curve._fields)))
    return (
        f"{curve.area:.3f} ± {curve.area_error:.3f}; "
        f"random {curve.random_area:.3f} ± {curve.random_area_error:.3f}"
    )


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
