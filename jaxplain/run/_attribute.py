"""Explain a dataset with a method: a store of attributions, and beside it how good they are.

label_i  = the one given, or the class that the model predicts
result_i = explain(scale * example_i, baseline, label_i, params)        for all examples
quality  = deletion and insertion against random orderings              for a sample of them
"""

import inspect
import pathlib
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxplain import metrics, paths, run, store, targets
from jaxplain.evaluate import Rounds

# The scores that can be explained, and whether they want a label.
SCORES = {"logit": True, "log_probability": True, "probability": True, "output": False}
QUALITY = "quality"


class Request(NamedTuple):
    """What is to be explained, and how.

    Attributes:
        apply, params: the model, `apply(params, batch) -> outputs`.
        examples: an array that is read by slicing, or None where `batches` makes an iterator.
        batches: a new iterator of batches at each call, or None.
        method: a factory of the library, such as `jaxplain.integrated_gradients`.
        options: its keyword arguments.
        chunk_size: points at once in each example, for methods that have it.
        score: a name in `SCORES`.
        target: "predicted", one class for all, or an array with a class for each example.
        baseline: "zeros", "mean" of the examples, or an array; for methods that want one.
        baselines: how many examples, spread over the data, or an array with one in each row; for
            methods that want several.
        seed: of the key, for methods that draw.
        scale: what the examples are multiplied by, in float32; None leaves them as they are.
        quality: how many examples are tested by deletion and insertion.
        about: what else is recorded.
    """

    apply: Callable[..., Any]
    params: Any
    examples: Any
    batches: Callable[[], Iterator[Any]] | None
    method: Callable[..., Any]
    options: dict[str, Any]
    chunk_size: int = 1
    score: str = "logit"
    target: Any = "predicted"
    baseline: Any = "zeros"
    baselines: Any = 64
    seed: int = 0
    scale: float | None = None
    quality: int = 64
    about: dict[str, Any] | None = None


def attribute(
    request: Request,
    out: pathlib.Path,
    *,
    batch_size: int | None = None,
    resume: bool = False,
    progress: bool = True,
) -> run.Summary:
    """Explains all examples into the store `out`, and tests a sample in `out/quality`."""
    work = _work(request)
    summary = run.map(
        work.function,
        work.source(),
        out,
        shared=work.shared,
        key=work.key,
        batch_size=batch_size,
        resume=resume,
        about=_about(request),
        progress=progress,
    )
    count = min(request.quality, summary.examples)
    if count:
        _measure(request, out, count, resume=resume, progress=progress)
    return summary


def plan(request: Request, *, batch_size: int | None = None) -> run.Plan:
    """What `attribute` would do."""
    work = _work(request)
    return run.plan(
        work.function, work.source(), shared=work.shared, key=work.key, batch_size=batch_size
    )


class _Work(NamedTuple):
    """The function of one example, the examples, what they share, and a key where one is wanted."""

    function: Callable[..., Any] | Rounds
    source: Callable[[], Any]
    shared: tuple[Any, ...]
    key: jax.Array | None


def _work(request: Request) -> _Work:
    dtype = getattr(request.examples, "dtype", None)
    dtype = getattr(dtype, "numpy_dtype", dtype)
    if dtype is not None and request.scale is None and not jnp.issubdtype(dtype, jnp.floating):
        raise ValueError(
            f"the data has dtype {dtype}, but must be float to be differentiated: give --scale, "
            "which makes it so: 1/255 for the bytes of pixels, 1 for anything else."
        )
    f, options = _score(request), _options(request)
    explain = request.method(f, **options)
    names = inspect.signature(explain).parameters
    wants_label = SCORES[request.score]
    labels = request.target if isinstance(request.target, np.ndarray) else None
    # What the method compares with: one baseline, or a set of rows of the data.
    compared: Any = None
    if "baseline" in names:
        compared = _baseline(request)
    elif many := [name for name in ("baselines", "references") if name in names]:
        compared = _several(request, many[0])

    def arguments(x: Any, *rest: Any) -> tuple[Any, ...]:
        label, (compared, params) = (rest[0], rest[1:]) if labels is not None else (None, rest)
        x = _scaled(x, request.scale)
        after: tuple[Any, ...] = (params,)
        if wants_label:
            after = (_label(request, x, params) if label is None else label, params)
        if "baseline" in names:
            after = (_start(compared, x, request.scale), *after)
        elif compared is not None:
            after = (_scaled(compared, request.scale), *after)
        return x, *after

    def finish(result: Any, arguments: tuple[Any, ...]) -> dict[str, Any]:
        return {**result._asdict(), "target": arguments[-2]} if wants_label else result._asdict()

    function: Callable[..., Any] | Rounds
    if request.method is paths.integrated_gradients and "tolerance" in options:
        rounds = paths.rounds(f, **options).with_arguments(arguments)
        function = rounds._replace(
            finish=lambda state, *given: finish(rounds.finish(state, *given), arguments(*given))
        )
    elif "key" in names:

        def function(key: jax.Array, *given: Any) -> dict[str, Any]:
            made = arguments(*given)
            return finish(explain(key, *made), made)
    else:

        def function(*given: Any) -> dict[str, Any]:
            made = arguments(*given)
            return finish(explain(*made), made)

    def source() -> Any:
        if request.batches is not None:
            return request.batches()
        return request.examples if labels is None else (request.examples, labels)

    key = jax.random.key(request.seed) if "key" in names else None
    return _Work(function, source, (compared, request.params), key)


def _score(request: Request) -> Callable[..., Any]:
    """The function of one example that is explained."""
    score: Callable[..., Any] = getattr(targets, request.score)(request.apply)
    return score


def _options(request: Request) -> dict[str, Any]:
    """The keyword arguments of the method."""
    options = dict(request.options)
    names = inspect.signature(request.method).parameters
    if "chunk_size" in names:
        options["chunk_size"] = request.chunk_size
    if "classes" in names:
        options["classes"] = _classes(request)
    return options


def _classes(request: Request) -> int:
    """How many scores the model gives."""
    if not SCORES[request.score]:
        raise ValueError(
            f"the method compares classes, but --score {request.score} has none: take --score "
            "logit, log_probability or probability."
        )
    x = jax.tree.map(lambda row: jnp.asarray(row[0]), _first_rows(request, 1))
    of_one = lambda x, params: _outputs(request, _scaled(x, request.scale), params)
    return int(jax.eval_shape(of_one, x, request.params).shape[0])


def _first_rows(request: Request, count: int) -> Any:
    """Rows spread over the examples; of an iterator, the first ones of its first batch."""
    if request.examples is not None:
        total = request.examples.shape[0]
        chosen = np.unique(np.linspace(0, total - 1, min(count, total)).astype(np.int64))
        return np.stack([np.asarray(request.examples[int(k)]) for k in chosen])
    assert request.batches is not None
    batch = next(iter(request.batches()))
    batch = batch[0] if isinstance(batch, tuple) else batch
    return jax.tree.map(lambda leaf: np.asarray(leaf)[:count], batch)


def _several(request: Request, name: str) -> Any:
    """What each example is compared with: several rows, before scaling."""
    if isinstance(request.baselines, np.ndarray):
        shape = None if request.examples is None else tuple(request.examples.shape[1:])
        if shape is not None and request.baselines.shape[1:] != shape:
            raise ValueError(
                f"the {name} must have the shape of one example, {shape}, after their number, but "
                f"have shape {request.baselines.shape}."
            )
        return request.baselines
    return _first_rows(request, request.baselines)


def _label(request: Request, x: Any, params: Any) -> jax.Array:
    """The class that is explained: the one given, or the one predicted."""
    if request.target != "predicted":
        return jnp.int32(request.target)
    return jnp.argmax(_outputs(request, x, params)).astype(jnp.int32)


def _outputs(request: Request, x: Any, params: Any) -> jax.Array:
    outputs = request.apply(params, jax.tree.map(lambda leaf: leaf[None], x))
    if not isinstance(outputs, jax.Array) or outputs.ndim != 2:
        raise ValueError(
            "a class is predicted where the model returns scores (batch, classes), but it returned "
            f"{jax.tree.map(jnp.shape, outputs)} for a batch of one. For one number per example: "
            "--score output."
        )
    return outputs[0]


def _scaled(x: Any, scale: float | None) -> Any:
    if scale is None:
        return x
    return jax.tree.map(lambda leaf: leaf.astype(jnp.float32) * jnp.float32(scale), x)


def _start(baseline: Any, x: Any, scale: float | None) -> Any:
    """The baseline of one example: zeros like it where None, else in the units of the data."""
    return jax.tree.map(jnp.zeros_like, x) if baseline is None else _scaled(baseline, scale)


def _baseline(request: Request) -> Any:
    """What all examples are compared with, before scaling; None for zeros like each example."""
    if isinstance(request.baseline, np.ndarray):
        shape = None if request.examples is None else tuple(request.examples.shape[1:])
        if shape is not None and request.baseline.shape != shape:
            raise ValueError(
                f"the baseline must have the shape of one example, {shape}, but has "
                f"{request.baseline.shape}."
            )
        return request.baseline
    if request.baseline == "zeros":
        return None
    if request.baseline != "mean":
        raise ValueError(
            f"the baseline must be zeros, mean or an array, but is {request.baseline!r}."
        )
    if request.examples is None:
        raise ValueError(
            "the mean as a baseline needs the examples as an array, not as an iterator."
        )
    total, count = 0.0, request.examples.shape[0]
    for start in range(0, count, 1024):
        rows = np.asarray(request.examples[start : min(start + 1024, count)])
        total = total + rows.sum(axis=0, dtype=np.float64)
    return (total / count).astype(np.float32)


def _about(request: Request) -> dict[str, Any]:
    method = f"{request.method.__module__.rpartition('._')[0]}.{request.method.__name__}"
    options = {key: _described(value) for key, value in _options(request).items()}
    describe = lambda value: f"an array {value.shape}" if isinstance(value, np.ndarray) else value
    return {
        "method": method,
        "options": options,
        "score": request.score,
        "target": describe(request.target),
        "baseline": describe(request.baseline),
        "baselines": describe(request.baselines),
        "seed": request.seed,
        "scale": request.scale,
        **(request.about or {}),
    }


def _described(value: Any) -> Any:
    """An option as it can stand in a manifest: what is no text or number, by its name or type."""
    if callable(value):
        return f"{value.__module__}.{value.__name__}"
    if isinstance(value, str | int | float | list | dict | None):
        return value
    if type(value) is tuple:
        return list(value)
    return f"{type(value).__module__}.{type(value).__name__}"


def _measure(
    request: Request,
    out: pathlib.Path,
    count: int,
    *,
    resume: bool,
    progress: bool,
) -> None:
    """Deletion and insertion of evenly spaced examples, with the examples, into `out/quality`."""
    done = store.open(out)
    total = done.arrays["output"].shape[0]
    chosen = np.unique(np.linspace(0, total - 1, count).astype(np.int64))
    x = _rows(request, chosen)
    pick = lambda name: np.stack([np.asarray(done.arrays[name][int(k)]) for k in chosen])
    named = {name: pick(name) for name in done.arrays if name.split("/")[0] == "values"}
    values = named["values"] if "values" in named else _like(x, named)
    wants_label = SCORES[request.score]
    measured = targets.probability if wants_label else targets.output
    score = measured(request.apply)
    images = not isinstance(x, dict | tuple | list) and x.ndim == 4
    measures = {
        name: make(score, channel_axis=-1 if images else None, chunk_size=request.chunk_size)
        for name, make in (("deletion", metrics.deletion), ("insertion", metrics.insertion))
    }

    def of_one(
        key: Any, example: Any, x: Any, values: Any, label: Any, baseline: Any, params: Any
    ) -> Any:
        x = _scaled(x, request.scale)
        start = _start(baseline, x, request.scale)
        arguments = (label, params) if wants_label else (params,)
        curves = {
            name: measure(key, x, start, values, *arguments)._asdict()
            for name, measure in measures.items()
        }
        result = {"example": example, "x": x, "values": values, **curves}
        if wants_label:
            result |= {"target": label, "logits": _outputs(request, x, params)}
        return result

    labels = pick("target") if wants_label else np.zeros(len(chosen), np.int32)
    run.map(
        of_one,
        (chosen.astype(np.int32), x, values, labels),
        out / QUALITY,
        shared=(_baseline(request), request.params),
        key=jax.random.key(0),
        resume=resume,
        about={"quality of": _about(request)["method"]},
        progress=progress,
    )


def _rows(request: Request, chosen: np.ndarray) -> Any:
    """The examples of these numbers, in their order."""
    if request.examples is not None:
        return np.stack([np.asarray(request.examples[int(k)]) for k in chosen])
    assert request.batches is not None
    wanted, start, parts = list(chosen), 0, []
    for batch in request.batches():
        batch = batch[0] if isinstance(batch, tuple) else batch
        size = len(jax.tree.leaves(batch)[0])
        here = [k - start for k in wanted if start <= k < start + size]
        if here:
            parts.append(jax.tree.map(lambda leaf, rows=here: np.asarray(leaf)[rows], batch))
        start += size
    return jax.tree.map(lambda *leaves: np.concatenate(leaves), *parts)


def _like(x: Any, named: dict[str, Any]) -> Any:
    """The values of a tree from the names of its leaves."""
    names = [f"values/{name}" for name in store.names(x)]
    return jax.tree.unflatten(jax.tree.structure(x), [named[name] for name in names])
