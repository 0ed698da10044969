"""What accuracy costs: every quadrature rule and the tolerance form, by gradients spent.

    JAXPLAIN_DATA=... python -m bench.cost_for_accuracy [--only relu_mlp] [--quick] [--out FOLDER]

For each network, rule and number of gradients (8 to 256): the completeness gap relative to
|f(x) - f(b)|, and the error of the vector of values relative to its Euclidean norm; the median and
the 95th percentile over the examples. The truth is 1,024 Gauss-Legendre nodes in float64, the rules
run in float32. For the tolerance form: the gradients it took, whether the vector met the tolerance,
and beside it the smallest count of a fixed Gauss-Legendre rule that would have met it on the same
example, known only afterwards. Nothing is timed.

The MLPs and the transformer are trained here on scikit-learn's digits, from fixed seeds; LeNet and
ResNet-20 are the real networks of the data folder.
"""

import argparse
import json
import os
import pathlib
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

import jaxplain
from bench import error_estimate, harness, networks
from jaxplain import paths

GRADIENTS = (8, 16, 32, 64, 128, 256)
TOLERANCES = (0.1, 0.05, 0.02, 0.01)
RULES: dict[str, Callable[[int], tuple[np.ndarray, np.ndarray]]] = {
    "left_riemann": paths.left_riemann,
    "right_riemann": paths.right_riemann,
    "midpoint": paths.midpoint,
    "trapezoid": paths.trapezoid,
    "gauss_legendre": paths.gauss_legendre,
    "clenshaw_curtis": paths.clenshaw_curtis,
    "gauss_kronrod": lambda n: paths.gauss_kronrod(n - 1),  # of odd counts only: one fewer
    "gauss_legendre, 4 panels": lambda n: paths.composite(paths.gauss_legendre, 4)(n),
}


def trained_on_digits(
    model: nnx.Module, shape: tuple[int, ...], steps: int = 600
) -> tuple[nnx.Module, jax.Array]:
    """The model after some steps of Adam on scikit-learn's digits, and the first 1,000 of them."""
    from sklearn.datasets import load_digits

    data = load_digits()
    images = jnp.asarray(data.images / 16, jnp.float32).reshape(-1, *shape)
    labels = jnp.asarray(data.target)
    graph, params = nnx.split(model)
    optimizer = optax.adam(3e-3)

    def loss(params: nnx.State, images: jax.Array, labels: jax.Array) -> jax.Array:
        scores = nnx.merge(graph, params)(images)
        return optax.softmax_cross_entropy_with_integer_labels(scores, labels).mean()

    @jax.jit
    def train(params: nnx.State) -> nnx.State:
        def step(state, key):
            params, moments = state
            rows = jax.random.choice(key, len(images), (128,))
            gradient = jax.grad(loss)(params, images[rows], labels[rows])
            updates, moments = optimizer.update(gradient, moments)
            return (optax.apply_updates(params, updates), moments), None

        keys = jax.random.split(jax.random.key(0), steps)
        (params, _), _ = jax.lax.scan(step, (params, optimizer.init(params)), keys)
        return params

    model = nnx.merge(graph, train(params))
    model.eval()
    return model, images[:1000]


class RowTransformer(nnx.Module):
    """The rows of an image as tokens: a projection and a learnt position, then the blocks."""

    def __init__(self, width: int, *, rngs: nnx.Rngs) -> None:
        self.project = nnx.Linear(8, width, rngs=rngs)
        self.position = nnx.Param(0.3 * jax.random.normal(rngs.params(), (8, width)))
        self.blocks = networks.Transformer(width=width, heads=2, depth=2, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.blocks(self.project(x) + self.position[...])


def case(name: str) -> tuple[nnx.Module, jax.Array]:
    """The network, and the examples."""
    rngs = nnx.Rngs(0)
    if name in ("relu_mlp", "gelu_mlp"):
        activation = {"relu_mlp": nnx.relu, "gelu_mlp": nnx.gelu}[name]
        model = networks.MLP(widths=(64, 64, 64, 10), activation=activation, rngs=rngs)
        return trained_on_digits(model, (64,))
    if name.startswith("transformer"):
        # Without a projection the first LayerNorm sees the line from zero itself: it turns round in
        # an interval of about 1e-3 next to the baseline.
        bare = networks.Transformer(width=8, heads=2, depth=2, rngs=rngs)
        model = bare if "LayerNorm" in name else RowTransformer(32, rngs=rngs)
        model, images = trained_on_digits(model, (8, 8), steps=1500)
        return model, images[:48]
    loaders = {"digits_cnn": error_estimate.digits, "resnet20": error_estimate.cifar}
    return loaders[name](pathlib.Path(os.environ["JAXPLAIN_DATA"]))


CASES = (
    "relu_mlp",
    "gelu_mlp",
    "digits_cnn",
    "resnet20",
    "transformer",
    "transformer_LayerNorm_at_zero",
)


def count_or_none(count: float) -> float | None:
    """A number of gradients for a JSON file, which knows no infinity."""
    return float(count) if np.isfinite(count) else None


def measure(
    name: str, examples: int | None, gradients: tuple[int, ...], batch: int = 16
) -> dict[str, object]:
    model, x = case(name)
    x = x[:examples]
    apply, params = jaxplain.adapters.nnx(model)
    labels = jnp.argmax(jax.jit(apply)(params, x), axis=1)
    f = jaxplain.targets.logit(apply)
    with jax.enable_x64(True):
        wide = lambda tree: jax.tree.map(lambda a: jnp.asarray(np.asarray(a), jnp.float64), tree)
        reference = jaxplain.integrated_gradients(f, steps=1024, chunk_size=1)
        exact = error_estimate.explain(reference, wide(x), labels, wide(params), batch)
    rise = np.asarray(exact.output - exact.baseline_output)
    exact = np.asarray(exact.values).reshape(len(x), -1)

    def errors(kernel):
        result = error_estimate.explain(kernel, x, labels, params, batch)
        wrong = np.asarray(result.values, np.float64).reshape(len(x), -1) - exact
        vector = np.linalg.norm(wrong, axis=1) / np.linalg.norm(exact, axis=1)
        return result, vector, np.abs(result.completeness_gap / rise)

    spread = lambda v: {"median": float(np.median(v)), "p95": float(np.percentile(v, 95))}
    rules, of_gauss = [], {}
    for rule, function in RULES.items():
        for count in gradients:
            kernel = jaxplain.integrated_gradients(f, steps=count, rule=function, chunk_size=1)
            result, vector, gap = errors(kernel)
            record = {
                "rule": rule,
                "gradients": int(result.evaluations[0]),
                "gap": spread(gap),
                "vector_error": spread(vector),
            }
            print(json.dumps({"case": name, **record}))
            rules.append(record)
            if rule == "gauss_legendre":
                of_gauss[count] = vector
    tolerances = []
    for tolerance in TOLERANCES:
        kernel = jaxplain.integrated_gradients(f, tolerance=tolerance, chunk_size=1)
        result, vector, gap = errors(kernel)
        # The smallest fixed count that is enough for the example, if somebody had known it.
        enough = np.full(len(x), np.inf)
        for count in sorted(of_gauss, reverse=True):
            enough = np.where(of_gauss[count] <= tolerance, count, enough)
        # And the smallest that is enough for 99 % of them, if one count must do for all.
        for_all = [c for c in sorted(of_gauss) if np.mean(of_gauss[c] <= tolerance) >= 0.99]
        record = {
            "tolerance": tolerance,
            "met": float(np.mean(vector <= tolerance)),
            "claimed": float(np.mean(result.error <= tolerance)),
            "met_of_claimed": float(np.mean(vector[result.error <= tolerance] <= tolerance)),
            "gradients": {**spread(result.evaluations), "mean": float(result.evaluations.mean())},
            "vector_error": spread(vector),
            "gap": spread(gap),
            "fixed_enough_for_each": {  # None: none of the counts tried is
                "median": count_or_none(np.median(enough)),
                "p95": count_or_none(np.percentile(enough, 95, method="higher")),
            },
            "fixed_enough_for_99_percent": for_all[0] if for_all else None,
        }
        print(json.dumps({"case": name, **record}))
        tolerances.append(record)
    return {"case": name, "examples": len(x), "rules": rules, "tolerances": tolerances}


def figure(results: list[dict], path: pathlib.Path) -> None:
    """The error of the vector by gradients spent: a panel for each network."""
    import matplotlib

    matplotlib.use("agg")
    import matplotlib.pyplot as plt

    rows = -(-len(results) // 3)
    drawing, axes = plt.subplots(
        rows, 3, figsize=(12, 3.6 * rows), squeeze=False, layout="constrained"
    )
    for axis in axes.flat[len(results) :]:
        axis.set_axis_off()
    for axis, result in zip(axes.flat, results, strict=False):
        for number, rule in enumerate(RULES):
            of_rule = [r for r in result["rules"] if r["rule"] == rule]
            counts = [r["gradients"] for r in of_rule]
            middle = [r["vector_error"]["median"] for r in of_rule]
            axis.plot(counts, middle, color=f"C{number}", label=rule, marker=".", linewidth=1)
        axis.plot(
            [r["gradients"]["mean"] for r in result["tolerances"]],
            [r["vector_error"]["median"] for r in result["tolerances"]],
            color="black",
            linestyle="--",
            marker="o",
            label="to a tolerance",
        )
        axis.set(
            xscale="log",
            yscale="log",
            title=f"{result['case']} ({result['examples']} examples)",
            xlabel="gradients",
        )
        axis.grid(alpha=0.3)
    for row in axes:
        row[0].set_ylabel("error of the vector, median")
    axes.flat[0].legend(fontsize=7)
    path.parent.mkdir(parents=True, exist_ok=True)
    drawing.savefig(path, dpi=120)
    plt.close(drawing)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--quick", action="store_true", help="4 examples, 8 and 16 gradients")
    parser.add_argument("--batch", type=int, default=16, help="examples at once")
    parser.add_argument("--out", type=pathlib.Path, help="folder of the JSON files and the figure")
    options = parser.parse_args(arguments)
    examples, gradients = (4, (8, 16)) if options.quick else (None, GRADIENTS)
    folder = options.out
    if folder is None and not options.quick:
        folder = pathlib.Path(__file__).parent / "results"
    for name in options.only:
        result = measure(name, examples, gradients, options.batch)
        if folder is not None:
            about = {"benchmark": "cost_for_accuracy", "environment": harness.environment()}
            harness.write(folder / f"cost_for_accuracy_{name}.json", about | result)
    if folder is not None:
        files = [folder / f"cost_for_accuracy_{name}.json" for name in CASES]
        results = [harness.read(file) for file in files if file.exists()]
        figure(results, folder / "cost_for_accuracy.png")


if __name__ == "__main__":
    main()
