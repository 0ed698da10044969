"""Many dictionaries in one program and one pass over the data: seeds, rates, coefficients.

step of all members = map over members of (their settings, their state, the same batch)
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxplain import checks
from jaxplain.sae._dictionary import Dictionary, Params
from jaxplain.sae._source import batches, finite_rows
from jaxplain.sae._training import State, training


class Sweep(NamedTuple):
    """What a sweep gives; every array has a leading axis over members.

    Attributes:
        params: the parameters of all members.
        state: the states of all members.
        history: a dict of arrays (members, records), one for each metric of
            `jaxplain.sae.training`; "step" is (records,).
        settings: the settings of each member, as they came.
    """

    params: Params
    state: State
    history: dict[str, np.ndarray]
    settings: dict[str, np.ndarray]

    def member(self, number: int) -> Params:
        """The parameters of one member."""
        return jax.tree.map(lambda leaf: leaf[number], self.params)

    def table(self, last: int = 1) -> list[dict[str, float]]:
        """A row for each member: its settings, and its metrics, means over the `last` records."""
        members = len(next(iter(self.settings.values())))
        metrics = {k: v[:, -last:].mean(axis=1) for k, v in self.history.items() if k != "step"}
        columns = {**self.settings, **metrics}
        return [{k: float(v[m]) for k, v in columns.items()} for m in range(members)]


def sweep(
    key: jax.Array,
    make: Callable[[dict[str, jax.Array]], tuple[Dictionary, Any]],
    settings: Mapping[str, Any],
    source: Any,
    *,
    steps: int,
    batch_size: int | None = None,
    mapping: str = "auto",
    sparsity_warm_up: int = 0,
    dead_after: int = 10_000_000,
    compute_dtype: Any = None,
    record_every: int = 100,
) -> Sweep:
    """Trains one dictionary for each setting, all on the same batches.

        make({"l1": c_m, "rate": r_m}) -> (dictionary, optimizer),    for each member m

    Args:
        key: a typed key; each member starts from its own fold of it, the data come from one.
        make: `settings -> (dictionary, optimizer)` for one member, whose settings are traced
            scalars: `lambda s: (sae.relu(4096, s["l1"]), optax.adam(s["rate"]))`. What shapes
            depend on (`latents`, `k`) is the same for all.
        settings: a dict of arrays (members,). For seeds alone `{"seed": jnp.arange(5)}`: members
            differ by their number.
        source: as for `jaxplain.sae.train`.
        steps: how many steps.
        batch_size: rows of a batch, for an array.
        mapping: "map" (one member after another inside a step), "vmap" (all at once), or "auto":
            "map" on a CPU, where it was measured to be no slower and often twice as fast, "vmap"
            elsewhere, where nothing was measured.
        sparsity_warm_up: see `jaxplain.sae.training`, as the next two.
        dead_after: after how many examples without firing a latent is dead.
        compute_dtype: of the matrix products.
        record_every: metrics are taken from the device every so many steps, and at the last one.

    Returns:
        `Sweep`.

    Raises:
        TypeError: an argument is of the wrong kind.
        ValueError: settings differ in length; `mapping` is unknown; batches are too large; no step
            of any member was finite.

    Example:
        >>> import jax, jax.numpy as jnp, optax
        >>> from jaxplain import sae
        >>> h = jax.random.normal(jax.random.key(0), (512, 8))
        >>> found = sae.sweep(
        ...     jax.random.key(1),
        ...     lambda s: (sae.relu(32, s["l1"]), optax.adam(3e-3)),
        ...     {"l1": jnp.array([0.01, 1.0])},
        ...     h,
        ...     steps=100,
        ...     batch_size=128,
        ... )
        >>> few, many = (row["l0"] for row in found.table()[::-1])
        >>> few < many
        True

    References:
        docs/sae.md.
    """
    checks.key(key)
    steps = checks.integer(steps, "steps")
    record_every = checks.integer(record_every, "record_every")
    if mapping not in ("auto", "map", "vmap"):
        raise ValueError(f'mapping must be "auto", "map" or "vmap", but is {mapping!r}.')
    if not isinstance(settings, Mapping) or not settings:
        raise TypeError("settings must be a dict of arrays, one number for each member.")
    arrays = {name: jnp.asarray(value) for name, value in settings.items()}
    shapes = {name: value.shape for name, value in arrays.items()}
    if len(set(shapes.values())) != 1 or any(len(shape) != 1 for shape in shapes.values()):
        raise ValueError(f"settings must be arrays of one length (members,), but are {shapes}.")
    members = next(iter(shapes.values()))[0]
    one_by_one = mapping == "map" or (mapping == "auto" and jax.default_backend() == "cpu")

    def run_of(own: dict[str, jax.Array]) -> Any:
        dictionary, optimizer = make(own)
        return dictionary, training(
            dictionary,
            optimizer,
            steps=steps,
            sparsity_warm_up=sparsity_warm_up,
            dead_after=dead_after,
            compute_dtype=compute_dtype,
        )

    for_start, for_data = jax.random.split(key)
    sample, batch_at = batches(source, for_data, batch_size)

    @jax.jit
    def start(arrays: dict[str, jax.Array], sample: Any) -> State:
        def one(given: Any) -> State:
            own, number = given
            dictionary, run = run_of(own)
            return run.init(dictionary.init(jax.random.fold_in(for_start, number), sample))

        return jax.lax.map(one, (arrays, jnp.arange(members)))

    def step(arrays: dict[str, jax.Array], states: State, batch: Any) -> Any:
        one = lambda given: run_of(given[0])[1].step(given[1], batch)
        if one_by_one:
            return jax.lax.map(one, (arrays, states))
        return jax.vmap(one)((arrays, states))

    step = jax.jit(step, donate_argnums=1)
    states, records, at = start(arrays, finite_rows(sample)), [], []
    for t in range(steps):
        states, metrics = step(arrays, states, batch_at(t))
        if t == 0 and (clash := sorted(set(arrays) & set(metrics))):
            raise ValueError(f"settings have names that metrics have: {', '.join(clash)}.")
        if (t + 1) % record_every == 0 or t + 1 == steps:
            records.append(jax.device_get(metrics))
            at.append(t + 1)
            if t + 1 == steps and np.all(records[-1]["skipped"] == steps):
                raise ValueError(
                    f"no member had a finite loss and gradient in {steps} steps: are the "
                    "activations finite?"
                )
    history = {name: np.stack([r[name] for r in records], axis=1) for name in records[0]}
    history["step"] = np.array(at)
    given = {name: np.asarray(value) for name, value in arrays.items()}
    return Sweep(states.params, states, history, given)
