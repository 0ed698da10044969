"""The loop around the step: batches in, a trained dictionary out.

Where step t takes its batch from is a function of the key and of t alone, so that a run that goes
on from a state is the run that was not interrupted.
"""

import contextlib
import os
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxplain import checks, store
from jaxplain.sae import _checkpoints, _ground
from jaxplain.sae._dictionary import Dictionary, Params
from jaxplain.sae._source import batches, finite_rows, is_iterator
from jaxplain.sae._training import State, training

HOPELESS = 10  # steps, none of which was finite
ROWS = 64  # of the sample, by which a checkpoint knows its activations


class Trained(NamedTuple):
    """What a run gives.

    Attributes:
        params: the parameters, or their moving average where one was kept.
        state: all that another run needs to go on from here.
        history: a dict of arrays, one for each metric of `jaxplain.sae.training`, with the steps
            they were taken at as "step".
    """

    params: Params
    state: State
    history: dict[str, np.ndarray]


def train(
    key: jax.Array,
    dictionary: Dictionary,
    source: Any,
    *,
    optimizer: Any,
    steps: int,
    batch_size: int | None = None,
    state: State | None = None,
    sparsity_warm_up: int = 0,
    dead_after: int = 10_000_000,
    average: float | None = None,
    compute_dtype: Any = None,
    resample_every: int | None = None,
    record_every: int = 100,
    on_record: Callable[[Mapping[str, float]], None] | None = None,
    checkpoint: str | os.PathLike[str] | None = None,
    checkpoint_every: int = 1000,
    resume: bool = False,
) -> Trained:
    """Trains a dictionary on activations.

    Args:
        key: a typed key: for the start, the order of the activations, and what `source` draws.
        dictionary: `jaxplain.sae.topk(...)` or another; of `jaxplain.sae.sharded` the run is over
            its devices.
        source: activations: an array (n, d), taken in a new order in each pass; a pure function
            `key -> batch`; `jaxplain.sae.stored(path)`, those on disk; `jaxplain.sae.harvested(
            function, inputs)`, those of a model; or an iterable of batches. In place of an array a
            pair of arrays for a transcoder.
        optimizer: an `optax.GradientTransformation`.
        steps: how many steps the run has, with those that `state` has taken.
        batch_size: rows of a batch, for an array; at most n.
        state: of an earlier run, to go on from; the source must be the same. (An iterable goes on
            from where it is.)
        sparsity_warm_up: see `jaxplain.sae.training`, as the next three.
        dead_after: after how many examples without firing a latent is dead.
        average: the decay of a moving average of the parameters.
        compute_dtype: of the matrix products.
        resample_every: after every so many steps, but not in the last fifth of the run, dead
            latents start anew, from the examples of a batch that are explained worst, and their
            moments from 0: for optimisers whose state holds moments. Never unless given.
        record_every: metrics are taken from the device every so many steps, and at the last one.
        on_record: called with the metrics then, as numbers; to show progress, or to stop by an
            exception, after which the state is lost but for the checkpoint.
        checkpoint: a folder: the state is written there every so many steps and at the last one,
            by orbax. The newest two are kept; one that was interrupted does not count. None for no
            checkpoints.
        checkpoint_every: after how many steps.
        resume: whether to go on from the newest checkpoint in the folder, if there is one. The
            result is that of a run that was not interrupted, to the last bit, on the same devices
            and versions; an iterable must be at the batch where the run is.

    Returns:
        `Trained(params, state, history)`.

    Raises:
        TypeError: an argument is of the wrong kind.
        ValueError: batches are empty or too large, an iterable ends before the run, no step was
            finite, or the checkpoints are of another run (the message says in what).
        FileExistsError: the folder holds checkpoints, and `resume` was not given.
        ImportError: checkpoints are asked for, and orbax is not installed.

    Example:
        >>> import jax, optax
        >>> from jaxplain import sae
        >>> f = sae.synthetic.features(jax.random.key(0), 16, 8)
        >>> draw = sae.synthetic.activations(f, 0.1)
        >>> result = sae.train(
        ...     jax.random.key(1),
        ...     sae.topk(latents=16, k=2),
        ...     lambda key: draw(key, 256).activations,
        ...     optimizer=optax.adam(1e-2),
        ...     steps=200,
        ... )
        >>> bool(result.history["fvu"][-1] < result.history["fvu"][0])
        True

    References:
        docs/sae.md.
    """
    checks.key(key)
    steps = checks.integer(steps, "steps")
    record_every = checks.integer(record_every, "record_every")
    if resample_every is not None:
        resample_every = checks.integer(resample_every, "resample_every")
    run = training(
        dictionary,
        optimizer,
        steps=steps,
        sparsity_warm_up=sparsity_warm_up,
        dead_after=dead_after,
        average=average,
        compute_dtype=compute_dtype,
    )
    checkpoint_every = checks.integer(checkpoint_every, "checkpoint_every")
    for_start, for_data, for_resampling = jax.random.split(key, 3)
    needs_sample = state is None or checkpoint is not None
    sample, batch_at = batches(source, for_data, batch_size, needs_sample)
    if state is None:
        state = run.init(dictionary.init(for_start, finite_rows(sample)))
    elif (state.average is None) != (average is None):
        raise ValueError(
            f"the state is of a run {'without' if state.average is None else 'with'} an average of "
            f"the parameters, but average is {average}."
        )
    else:
        state = jax.tree.map(jnp.copy, state)  # the steps are donated theirs
    if resample_every:
        _check_resampling(dictionary, optimizer, state)
    step = jax.jit(run.step, donate_argnums=0)
    renew = jax.jit(run.resample, donate_argnums=1)
    records: list[dict[str, float]] = []
    saved = None
    if checkpoint is not None:
        about = _checkpoints.described(
            dictionary.about,
            state,
            key,
            steps=steps,
            batch_size=batch_size,
            resample_every=resample_every,
            activations=None if is_iterator(source) else store.fingerprint(sample, rows=ROWS),
            step=_checkpoints.digest(step, state, dictionary.place(_first(sample, batch_size))),
        )
        saved = _checkpoints.open_folder(checkpoint, about, resume)
        state, records = _checkpoints.latest(saved, state) or (state, records)
    with contextlib.closing(saved.manager) if saved else contextlib.nullcontext():
        for t in range(int(state.step), steps):
            batch = dictionary.place(batch_at(t))
            state, metrics = step(state, batch)
            is_last = t + 1 == steps
            if resample_every and (t + 1) % resample_every == 0 and t + 1 <= 0.8 * steps:
                state = renew(jax.random.fold_in(for_resampling, t), state, batch)
            if (t + 1) % record_every == 0 or is_last:
                record = {name: float(value) for name, value in jax.device_get(metrics).items()}
                records.append({"step": t + 1, **record})
                if on_record is not None:
                    on_record(records[-1])
                if record["skipped"] == t + 1 and (is_last or t + 1 >= HOPELESS):
                    raise ValueError(
                        f"none of {t + 1} steps had a finite loss and gradient: are the "
                        "activations finite?"
                    )
            if saved is not None and ((t + 1) % checkpoint_every == 0 or is_last):
                _checkpoints.save(saved, state, records)
    params = state.params if state.average is None else state.average
    if state.average is not None and dictionary.has_unit_norm:
        params = _ground.renormalised(params)  # a mean of directions is shorter than they are
    names = records[0] if records else {}
    return Trained(params, state, {name: np.array([r[name] for r in records]) for name in names})


def _first(sample: Any, rows: int | None) -> Any:
    return jax.tree.map(lambda leaf: leaf[:rows], sample)


def _check_resampling(dictionary: Dictionary, optimizer: Any, state: State) -> None:
    """Raises ValueError, before the run, where latents could not start anew in it."""
    if dictionary.about.get("is_transcoder") or dictionary.about.get("is_crosscoder"):
        raise ValueError("resample_every is for dictionaries of one value.")
    if int(state.step):
        return
    starts: list[jax.Array] = []
    with contextlib.suppress(TypeError, ValueError):  # of those that `resample` itself refuses
        optax.tree.map_params(optimizer, starts.append, state.optimizer)
    if any(bool(jnp.any(leaf != 0)) for leaf in starts):
        raise ValueError(
            "resample_every sets the state of the optimiser for latents that start anew to 0, but "
            "that of this one does not start from 0: take one of moments, such as optax.adam."
        )
