"""Runs that go on after a kill: orbax writes a checkpoint aside and renames it when it is whole."""

import hashlib
import os
import pathlib
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxplain.sae._training import State

KEPT = 2


class Checkpoints(NamedTuple):
    """The folder of a run, open.

    Attributes:
        manager: orbax's.
        about: what the run is: a resumed one must be the same.
    """

    manager: Any
    about: dict[str, Any]


def open_folder(folder: str | os.PathLike[str], about: dict[str, Any], resume: bool) -> Checkpoints:
    """Opens, or makes, the folder of checkpoints.

    Raises FileExistsError where there are some and `resume` was not asked for, and ImportError
    where orbax is not installed.
    """
    try:
        import orbax.checkpoint as orbax
    except ImportError as error:
        raise ImportError(
            "checkpoints need the package orbax: pip install 'jaxplain[io]'"
        ) from error
    path = pathlib.Path(folder).resolve()
    options = orbax.CheckpointManagerOptions(
        max_to_keep=KEPT, create=True, enable_async_checkpointing=False
    )
    manager = orbax.CheckpointManager(path, options=options)
    if manager.latest_step() is not None and not resume:
        manager.close()
        raise FileExistsError(
            f"{folder} holds checkpoints of a run, up to step {manager.latest_step()}: go on with "
            "it by resume=True, or take another folder"
        )
    return Checkpoints(manager, about)


def save(checkpoints: Checkpoints, state: State, records: list[dict[str, float]]) -> None:
    """Writes the state after a step, with the history up to it."""
    import orbax.checkpoint as orbax

    checkpoints.manager.save(
        int(state.step),
        args=orbax.args.Composite(
            state=orbax.args.StandardSave(_plain(state)),
            about=orbax.args.JsonSave({"about": checkpoints.about, "records": records}),
        ),
    )


def latest(checkpoints: Checkpoints, like: State) -> tuple[State, list[dict[str, float]]] | None:
    """The newest state that is whole and its history, None where there is none.

    Raises ValueError where it is of another run: it says in what.
    """
    import orbax.checkpoint as orbax

    manager = checkpoints.manager
    step = manager.latest_step()
    if step is None:
        return None
    found = manager.restore(step, args=orbax.args.Composite(about=orbax.args.JsonRestore()))
    theirs = found["about"]["about"]
    for name, value in checkpoints.about.items():
        if theirs.get(name) != value:
            what = (
                "a step is another program: an option of the dictionary, of the optimiser or of "
                "training, or jax itself, is not what it was"
                if name == "step"
                else "the activations are others"
                if name == "activations"
                else f"{name} was {theirs.get(name)}, but is now {value}"
            )
            raise ValueError(
                f"the checkpoints are of another run: {what}. Go on with what it was, or take "
                "another folder"
            )
    plain = _plain(like)
    shapes = {
        name: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding)
        for name, leaf in plain.items()
    }
    restored = manager.restore(
        step, args=orbax.args.Composite(state=orbax.args.StandardRestore(shapes))
    )["state"]
    leaves = [restored[name] for name in sorted(restored)]
    return jax.tree.unflatten(jax.tree.structure(like), leaves), found["about"]["records"]


def _plain(state: State) -> dict[str, jax.Array]:
    """The arrays of a state by number: optimisers' states are trees of any kind."""
    return {f"{k:06d}": jnp.asarray(leaf) for k, leaf in enumerate(jax.tree.leaves(state))}


def digest(step: Any, state: State, batch: Any) -> str:
    """What stands for all options of a dictionary, an optimiser and of training: the program."""
    text = step.lower(state, batch).as_text()
    return hashlib.sha256(text.encode()).hexdigest()


def described(about: Any, state: State, key: jax.Array, **more: Any) -> dict[str, Any]:
    """What tells one run from another, as plain values."""
    leaves = jax.tree_util.tree_leaves_with_path(state)
    return {
        **{f"{name} of the dictionary": value for name, value in _json(dict(about)).items()},
        "state": [
            f"{jax.tree_util.keystr(path)} {leaf.dtype}{list(leaf.shape)}" for path, leaf in leaves
        ],
        "key": np.asarray(jax.random.key_data(key)).tolist(),
        **_json(more),
    }


def _json(values: dict[str, Any]) -> dict[str, Any]:
    plain = lambda value: value if isinstance(value, int | float | str | list) else str(value)
    return {name: value if value is None else plain(value) for name, value in values.items()}
