"""One step of training as a pure function: yours to jit, donate, shard and scan.

    (loss, report), gradient = value_and_grad(dictionary.loss)(params, batch, status)
    gradient = dictionary.before(params, gradient)
    params   = dictionary.after(params + optimizer(gradient), ...)

A step whose loss or gradient is not finite changes nothing and is counted.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from jaxplain import checks, trees
from jaxplain.sae import _ground, _resampling, _shards
from jaxplain.sae._dictionary import Dictionary, Params, Status

# Where the counters of tokens stop: int32 holds no more.
MOST_TOKENS = 2**30


class State(NamedTuple):
    """All that one step hands to the next.

    Attributes:
        params: the parameters, a dict of arrays.
        optimizer: the state of the optimiser.
        memory: what the architecture remembers.
        average: the moving average of the parameters, None where none is kept.
        silent: (F,) int32, the examples since each latent was active, up to 2^30.
        step: the steps taken, int32.
        skipped: how many of them changed nothing, since something was not finite, int32.
    """

    params: Params
    optimizer: Any
    memory: Any
    average: Any
    silent: jax.Array
    step: jax.Array
    skipped: jax.Array


class Training(NamedTuple):
    """A training run as two pure functions.

    Attributes:
        init: `(params) -> State`.
        step: `(state, batch) -> (State, metrics)`, metrics a dict of scalars.
        resample: `(key, state, batch) -> State`, in which latents that are dead start anew in the
            directions of examples that are explained badly; for dictionaries of one value.
    """

    init: Callable[[Params], State]
    step: Callable[[State, Any], tuple[State, dict[str, jax.Array]]]
    resample: Callable[[jax.Array, State, Any], State]


def training(
    dictionary: Dictionary,
    optimizer: Any,
    *,
    steps: int | None = None,
    sparsity_warm_up: int = 0,
    dead_after: int = 10_000_000,
    average: float | None = None,
    compute_dtype: Any = None,
) -> Training:
    """The steps that train a dictionary, as pure functions.

        state = training.init(params);    state, metrics = training.step(state, batch)

    Args:
        dictionary: what is trained.
        optimizer: an `optax.GradientTransformation`; schedules, warm-up, decay and the clipping of
            gradients are its own: `optax.chain(optax.clip_by_global_norm(1.0), optax.adam(...))`.
        steps: how many steps the run has, for what changes along it (p-annealing).
        sparsity_warm_up: over how many steps the sparsity penalty rises from 0.
        dead_after: a latent is dead that was active on none of so many examples (tokens): the
            auxiliary loss is for these.
        average: the decay of a moving average of the parameters, 0.999 in the paper of TopK; none
            unless given.
        compute_dtype: what the matrix products are made in, such as `jnp.bfloat16`; parameters,
            biases, thresholds and sums stay as they are.

    Returns:
        `Training(init, step, resample)`. The metrics of a step: loss, squared_error, penalty,
        auxiliary, fvu, l0, dead (the share of latents), gradient_norm, skipped (in all), and what
        the architecture remembers that is one number.

    Raises:
        TypeError: `dictionary` or `optimizer` is none.
        ValueError: a number is out of range.

    Example:
        >>> import jax, optax
        >>> from jaxplain import sae
        >>> h = jax.random.normal(jax.random.key(0), (256, 8))
        >>> dictionary = sae.topk(latents=32, k=4)
        >>> training = sae.training(dictionary, optax.adam(1e-2))
        >>> state = training.init(dictionary.init(jax.random.key(1), h))
        >>> step = jax.jit(training.step, donate_argnums=0)
        >>> state, first = step(state, h)
        >>> for _ in range(50):
        ...     state, metrics = step(state, h)
        >>> bool(metrics["fvu"] < first["fvu"]), int(state.step)
        (True, 51)

    References:
        docs/sae.md.
    """
    if not isinstance(dictionary, Dictionary):
        raise TypeError(f"dictionary must be one of jaxplain.sae, but is {dictionary!r}.")
    if not (hasattr(optimizer, "init") and hasattr(optimizer, "update")):
        raise TypeError(f"optimizer must be optax's, such as optax.adam, but is {optimizer!r}.")
    if steps is not None:
        steps = checks.integer(steps, "steps")
    elif dictionary.about.get("architecture") == "p_annealed":
        raise ValueError("p falls along the run: training a p_annealed dictionary needs steps=.")
    sparsity_warm_up = checks.integer(sparsity_warm_up, "sparsity_warm_up", minimum=0)
    dead_after = checks.integer(dead_after, "dead_after")
    if compute_dtype is not None:
        try:
            compute_dtype = jnp.dtype(compute_dtype)
        except TypeError:
            raise TypeError(
                f"compute_dtype must be a dtype such as jnp.bfloat16, but is {compute_dtype!r}."
            ) from None
    if average is not None:
        checks.number(average, "average", at_least=0, below=1)

    def init(params: Params) -> State:
        state = State(
            params,
            optimizer.init(params),
            dictionary.memory(params),
            None if average is None else params,
            jnp.zeros_like(_ground.norms(params), jnp.int32),  # split over devices as they are
            jnp.zeros((), jnp.int32),
            jnp.zeros((), jnp.int32),
        )
        # Of its own, each number once: a donated step would delete what the caller holds too.
        state = jax.tree.map(jnp.copy, state)
        where = getattr(params["b_dec"], "sharding", None)
        if isinstance(params["b_dec"], jax.core.Tracer) or not isinstance(where, jax.NamedSharding):
            return state
        # What is made anew, such as counts of steps, belongs on all devices of the mesh.
        everywhere = jax.NamedSharding(where.mesh, jax.P())
        is_there = lambda leaf: isinstance(leaf.sharding, jax.NamedSharding)
        place = lambda leaf: leaf if is_there(leaf) else _shards.placed(leaf, everywhere)
        return jax.tree.map(place, state)

    def are_dead(state: State) -> jax.Array:
        return state.silent >= min(dead_after, MOST_TOKENS)

    def status_of(state: State) -> Status:
        wide = state.params["b_dec"].dtype
        step = state.step.astype(wide)
        warm = jnp.minimum(1, (step + 1) / sparsity_warm_up) if sparsity_warm_up else 1.0
        progress = 1.0 if steps is None else jnp.minimum(step / steps, 1)
        pace = 0.0 if steps is None else 1 / steps
        return Status(state.step, progress, pace, warm, are_dead(state), state.memory)

    def loss(params: Params, batch: Any, status: Status) -> Any:
        if compute_dtype is not None:
            is_factor = lambda name: name.startswith("W_")
            cast = lambda name, leaf: leaf.astype(compute_dtype) if is_factor(name) else leaf
            params = {name: cast(name, leaf) for name, leaf in params.items()}
        return dictionary.loss(params, batch, status)

    graded = jax.value_and_grad(loss, has_aux=True)

    def step(state: State, batch: Any) -> tuple[State, dict[str, jax.Array]]:
        status, params = status_of(state), state.params
        examples = len(jax.tree.leaves(batch)[0])
        with_dead = lambda: graded(params, batch, status)
        without = lambda: graded(params, batch, status._replace(dead=None))
        (value, report), gradient = (
            jax.lax.cond(_any_of_all(status.dead), with_dead, without)
            if dictionary.revives
            else without()
        )
        size = trees.norm(gradient)
        is_finite = jnp.isfinite(value) & jnp.isfinite(size) & trees.finite(batch)

        def moved(state: State) -> State:
            direction = dictionary.before(state.params, gradient)
            updates, own = optimizer.update(direction, state.optimizer, state.params)
            add = lambda old, update: old + update.astype(old.dtype)
            new, memory = dictionary.after(
                jax.tree.map(add, state.params, updates), state.params, report, status
            )
            silent = jnp.where(report.fired, 0, jnp.minimum(state.silent + examples, MOST_TOKENS))
            taken = state.step - state.skipped
            averaged = _averaged(state.average, new, average, taken)
            return State(new, own, memory, averaged, silent, state.step, state.skipped)

        # A choice between all old and all new numbers by `where` would keep both of each.
        after = jax.lax.cond(is_finite, moved, lambda state: state, state)
        skipped = state.skipped + (~is_finite).astype(jnp.int32)
        after = after._replace(step=state.step + 1, skipped=skipped)
        scalars = after.memory.items() if isinstance(after.memory, dict) else ()
        return after, {
            "loss": value,
            "squared_error": report.squared_error,
            "penalty": report.penalty,
            "auxiliary": report.auxiliary,
            "fvu": report.squared_error / report.variance,
            "l0": report.l0,
            "dead": jnp.mean(status.dead.astype(value.dtype)),
            "gradient_norm": size,
            "skipped": skipped,
            **{name: leaf for name, leaf in scalars if leaf.ndim == 0},
        }

    def resample(key: jax.Array, state: State, batch: Any) -> State:
        dead = are_dead(state)
        params = _resampling.resampled(key, dictionary, state.params, batch, dead)
        anew = _resampling.of_latents(params, dead)
        forget = lambda moment, mask: jnp.where(mask, 0, moment)
        try:
            own = optax.tree.map_params(optimizer, forget, state.optimizer, anew)
            jax.tree.map(_same_shape, own, state.optimizer)
        except (TypeError, ValueError) as error:
            raise ValueError(
                "resampling sets the moments of latents that start anew to zero, but the state of "
                f"this optimiser is no tree of moments like the parameters ({error}). Take one "
                "such as optax.adam, or no resampling"
            ) from error
        averaged = state.average
        if averaged is not None:
            take = lambda old, new, mask: jnp.where(mask, new, old)
            averaged = jax.tree.map(take, averaged, params, anew)
        silent = jnp.where(dead, 0, state.silent)
        return state._replace(params=params, optimizer=own, average=averaged, silent=silent)

    return Training(init, step, resample)


@jax.custom_batching.custom_vmap
def _any_of_all(flags: jax.Array) -> jax.Array:
    """Whether any is true, of all that is mapped over too: so that a `cond` on it stays one."""
    return jnp.any(flags)


@_any_of_all.def_vmap
def _(size: int, batched: Any, flags: jax.Array) -> tuple[jax.Array, bool]:
    del size, batched
    return _any_of_all(flags), False


def _averaged(old: Any, new: Params, decay: Any, step: jax.Array) -> Any:
    """The moving average; the mean of what there was while the steps are few, not of the start.

    A threshold of whole batches is a mean already.
    """
    if old is None:
        return None
    rate = jnp.maximum(1 - decay, 1 / (1 + step.astype(float)))
    moved = lambda old, new: old + rate.astype(old.dtype) * (new - old)
    averaged = jax.tree.map(moved, old, new)
    if "threshold" in new and new["threshold"].ndim == 0:
        averaged["threshold"] = new["threshold"]
    return averaged


def _same_shape(new: Any, old: Any) -> None:
    if jnp.shape(new) != jnp.shape(old):
        raise ValueError(f"a leaf of the shape {jnp.shape(old)} is of no parameter")
