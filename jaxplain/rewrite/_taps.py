"""Reading and changing named values inside a program: the pass behind `jaxplain.sites`.

Runs of equations without a tap (`_inventory` says what that is) are evaluated whole; an equation
that holds one further in is entered, and the same construct is built again around the inner program
with what was read as further outputs:

    jit, checkpoint    the values come out as they are; policy, name and constraints are kept
    scan               one row for each iteration, in the order of the rows of its inputs
    while              the values of the last iteration, zeros if there was none
    cond               every branch must have the tap to be read; written where a branch has it
    shard_map          a leading axis over the shards that the value differs between

What the backward pass of `jax.checkpoint` computes again is no hit of its own: it is not read, and
changed only by what changes all hits alike.

Every hit of a name is a row: k hits of a program are arrays with a leading axis of k, whatever made
them, so that layers in a loop of Python and layers in a `scan` look the same. Rows are counted from
the start of the program; inside a `scan` the count is a tracer.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name
from jax.extend import core as jex

from jaxplain import trees
from jaxplain.rewrite import _interpreter
from jaxplain.rewrite._inventory import (
    CUSTOM,
    TAP,
    Site,
    has_tap,
    inside,
    inventory,
    is_again,
    varying_of,
)


class Change(NamedTuple):
    """What becomes of the value at a tap.

    Attributes:
        function: `(value, row) -> value`; row is that of `rows`, or None.
        hit: the number of the one that is changed; None for all.
        rows: None, or an array with a row for each hit; of one hit, what is for it.
    """

    function: Callable[[jax.Array, Any], jax.Array]
    hit: int | None = None
    rows: Any = None


class Reading(NamedTuple):
    """What is read at a tap.

    Attributes:
        name: of the tap.
        hit: the number of the one that is read; None for all.
        reduce: of each value before it is kept.
    """

    name: str
    hit: int | None
    reduce: Callable[[jax.Array], Any]


def tapped(
    program: jex.ClosedJaxpr,
    inputs: Sequence[Any],
    readings: Mapping[str, Reading],
    changes: Mapping[str, Sequence[Change]],
) -> tuple[list[Any], dict[str, Any]]:
    """Evaluates a program with values changed and read on the way.

    Args:
        program: what to evaluate.
        inputs: one array for each input of the program.
        readings: what is read, by a key of the caller's.
        changes: what is changed, by the name of the tap; before it is read.

    Returns:
        The outputs, flat, and by key what was read: of readings of all hits with a leading axis
        over hits, whatever their number.
    """
    walk = _Walk(readings, changes, {}, {})
    outputs = walk.run(program, inputs)
    rows, picked = walk.seen()
    return outputs, {**rows, **picked}


class _Walk:
    """One evaluation of a program, or of one inside it: what is asked, and what was seen so far.

    Attributes:
        readings: by key.
        changes: by name; their rows are those of this program.
        position: by name the number of hits so far, in all; an int, or a tracer inside a loop.
        picked: by key, of readings of one hit, its value; absent before any has come.
        rows: by key, of readings of all hits, arrays with a leading axis over hits.
        taken: by name the number of hits of this program so far.
    """

    def __init__(
        self,
        readings: Mapping[str, Reading],
        changes: Mapping[str, Sequence[Change]],
        position: Mapping[str, Any],
        picked: Mapping[str, Any],
    ) -> None:
        self.readings, self.changes = readings, changes
        self.position, self.picked = dict(position), dict(picked)
        self.rows: dict[str, list[Any]] = {}
        self.taken: dict[str, int] = {}

    def seen(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """The rows as one array for each key, and what was picked."""
        join = lambda *parts: parts[0] if len(parts) == 1 else jnp.concatenate(parts)
        rows = {key: jax.tree.map(join, *parts) for key, parts in self.rows.items()}
        return rows, self.picked

    def run(self, program: jex.ClosedJaxpr, inputs: Sequence[Any]) -> list[Any]:
        """The outputs of the program; what is read is added to what was seen."""
        return _interpreter.run_parts(program, inputs, _is_entered, self._enter)

    def _enter(self, equation: jex.JaxprEqn, values: Sequence[Any]) -> Sequence[Any]:
        kind, params = equation.primitive.name, equation.params
        if kind == TAP:
            return [self._tap(params["name"], values[0])]
        sites, programs = inside(equation), _interpreter.programs(equation)
        if is_again(equation):
            return self._again(equation, programs[0], values)
        if kind in CUSTOM:  # only where nothing in it is asked for
            return _interpreter.evaluate(equation, *values)
        if kind == "scan":
            outputs = self._scan(equation, programs[0], values)
        elif kind == "while":
            outputs = self._while(equation, programs, values)
        elif kind == "cond":
            outputs = self._cond(equation, programs, values)
        elif kind == "shard_map":
            outputs = self._shard_map(equation, programs[0], values)
        elif kind in ("checkpoint", "remat", "remat2"):
            again = lambda function: jax.checkpoint(
                function, policy=params["policy"], prevent_cse=params["prevent_cse"]
            )
            outputs = self._call(programs[0], values, again)
        else:
            outputs = self._jit(equation, programs[0], values)
        for name, site in sites.items():
            self.position[name] = self.position.get(name, 0) + site.hits
            self.taken[name] = self.taken.get(name, 0) + site.hits
        return outputs

    # --------------------------------------------------------------------------------- at a tap

    def _tap(self, name: str, value: jax.Array) -> jax.Array:
        position, own = self.position.get(name, 0), self.taken.get(name, 0)
        self.position[name], self.taken[name] = position + 1, own + 1
        for change in self.changes.get(name, ()):
            if change.hit is None:
                row = None if change.rows is None else change.rows[own]
                value = change.function(value, row)
            elif isinstance(position, int):
                is_it = position == change.hit
                value = change.function(value, change.rows) if is_it else value
            else:
                changed = change.function(value, change.rows)
                value = jnp.where(position == change.hit, changed, value)
        for key, reading in self.readings.items():
            if reading.name != name:
                continue
            if reading.hit is None:
                row = jax.tree.map(lambda leaf: jnp.asarray(leaf)[None], reading.reduce(value))
                self.rows.setdefault(key, []).append(row)
            elif isinstance(position, int):
                if position == reading.hit:
                    self.picked[key] = reading.reduce(value)
            else:
                new = jax.tree.map(jnp.asarray, reading.reduce(value))
                old, here = self.picked.get(key, new), position == reading.hit
                self.picked[key] = jax.tree.map(
                    lambda new, old, here=here: jnp.where(here, new, old), new, old
                )
        return checkpoint_name(value, name)

    # ------------------------------------------------------------------ inside other equations

    def _asked(self, sites: Mapping[str, Site]) -> tuple[dict[str, Reading], dict[str, Any]]:
        """The readings and changes of names that a program has, with its rows of them."""

        def comes(name: str, hit: int | None) -> bool:
            before = self.position.get(name, 0)
            if hit is None or not isinstance(before, int):
                return True
            return before <= hit < before + sites[name].hits

        readings = {
            key: reading
            for key, reading in self.readings.items()
            if reading.name in sites and comes(reading.name, reading.hit)
        }
        changes: dict[str, list[Change]] = {}
        for name, site in sites.items():
            first = self.taken.get(name, 0)
            for change in self.changes.get(name, ()):
                if change.hit is None and change.rows is not None:
                    change = change._replace(rows=change.rows[first : first + site.hits])
                if comes(name, change.hit):
                    changes.setdefault(name, []).append(change)
        return readings, changes

    def _add(self, seen: tuple[dict[str, Any], dict[str, Any]]) -> None:
        rows, picked = seen
        for key, part in rows.items():
            self.rows.setdefault(key, []).append(part)
        self.picked.update(picked)

    def _call(
        self,
        program: jex.ClosedJaxpr,
        values: Sequence[Any],
        around: Callable[[Any], Any] = lambda function: function,
    ) -> Sequence[Any]:
        asked = self._asked(inventory(program))

        def function(values: Sequence[Any], picked: dict[str, Any]) -> Any:
            walk = _Walk(*asked, self.position, picked)
            return walk.run(program, values), walk.seen()

        outputs, seen = around(function)(list(values), self.picked)
        self._add(seen)
        return outputs

    def _again(
        self, equation: jex.JaxprEqn, program: jex.ClosedJaxpr, values: Sequence[Any]
    ) -> Sequence[Any]:
        """Nothing is read; the hits are not known, and only what changes all of them is done.

        The same equation is bound again: as a new `jax.checkpoint` it would not be marked as one of
        a backward pass, and XLA would take what it computes again from the forward pass.
        """
        changes = {
            name: [change for change in several if change.hit is None and change.rows is None]
            for name, several in self.changes.items()
        }
        if not any(changes.get(name) for name in inventory(program)):
            return _interpreter.evaluate(equation, *values)
        run = lambda *values: _Walk({}, changes, {}, {}).run(program, values)
        again = jax.make_jaxpr(run)(*(variable.aval for variable in program.jaxpr.invars))
        whole, old = again.jaxpr, equation.params["jaxpr"]
        inputs = [*whole.constvars, *whole.invars]
        opened = jex.Jaxpr((), inputs, whole.outvars, whole.eqns, whole.effects, old.debug_info)
        return equation.primitive.bind(
            *again.consts, *values, **{**equation.params, "jaxpr": opened}
        )

    def _jit(
        self, equation: jex.JaxprEqn, program: jex.ClosedJaxpr, values: Sequence[Any]
    ) -> Sequence[Any]:
        """In place: XLA would do so. The shardings that it asks for are asked for."""

        def constrained(arrays: Sequence[Any], which: str) -> list[Any]:
            shardings = equation.params.get(which, [None] * len(arrays))
            return [
                jax.lax.with_sharding_constraint(array, sharding)
                if isinstance(sharding, jax.sharding.Sharding)
                else array
                for array, sharding in zip(arrays, shardings, strict=True)
            ]

        outputs = self._call(program, constrained(values, "in_shardings"))
        return constrained(outputs, "out_shardings")

    def _scan(
        self, equation: jex.JaxprEqn, program: jex.ClosedJaxpr, values: Sequence[Any]
    ) -> Sequence[Any]:
        constants, carried = _interpreter.scan_counts(equation)
        length, sites = equation.params["length"], inventory(program)
        readings, changes = self._asked(inside(equation))
        rows = {
            name: [
                None
                if change.hit is not None or change.rows is None
                else change.rows.reshape(length, sites[name].hits, *change.rows.shape[1:])
                for change in several
            ]
            for name, several in changes.items()
        }
        is_numbered = any(r.hit is not None for r in readings.values()) or any(
            change.hit is not None for several in changes.values() for change in several
        )

        def body(carry: Any, per: Any) -> Any:
            (state, picked), (number, own_rows, slices) = carry, per
            here = {
                name: self.position.get(name, 0) + number * site.hits if is_numbered else 0
                for name, site in sites.items()
            }
            own = {
                name: [
                    change if change.hit is not None else change._replace(rows=row)
                    for change, row in zip(changes[name], own_rows[name], strict=True)
                ]
                for name in changes
            }
            walk = _Walk(readings, own, here, picked)
            outputs = walk.run(program, [*values[:constants], *state, *slices])
            seen, picked = walk.seen()
            return (outputs[:carried], picked), (outputs[carried:], seen)

        numbers = jnp.arange(length, dtype=jnp.int32) if is_numbered else None
        state = list(values[constants : constants + carried])
        per = (numbers, rows, list(values[constants + carried :]))
        picked = self._before_loop(readings, lambda picked: body((state, picked), _first(per)))
        (state, picked), (ys, seen) = jax.lax.scan(
            body,
            (state, picked),
            per,
            length=length,
            reverse=equation.params["reverse"],
            unroll=equation.params["unroll"],
        )
        self._add((jax.tree.map(_merge, seen), picked))
        return [*state, *ys]

    def _before_loop(self, readings: Mapping[str, Reading], body: Callable[..., Any]) -> Any:
        """What readings of one hit hold before a loop: zeros of the type that it gives them."""
        if all(reading.hit is None for reading in readings.values()):
            return {}
        known = {key: value for key, value in self.picked.items() if key in readings}
        (_, types), _ = jax.eval_shape(body, known)
        return {**jax.tree.map(_zeros, types), **known}

    def _while(
        self,
        equation: jex.JaxprEqn,
        programs: Sequence[jex.ClosedJaxpr],
        values: Sequence[Any],
    ) -> Sequence[Any]:
        condition, program = programs
        first = equation.params["cond_nconsts"]
        second = first + equation.params["body_nconsts"]
        of_condition, constants, state = (
            list(values[:first]),
            list(values[first:second]),
            list(values[second:]),
        )
        asked = self._asked(inventory(program))
        holds = _interpreter.as_function(condition)

        def body(state: Any) -> Any:  # a hit of a `while` has no index
            walk = _Walk(*asked, {}, {})
            outputs = walk.run(program, [*constants, *state])
            return outputs, walk.seen()[0]

        _, types = jax.eval_shape(body, state)
        state, seen = jax.lax.while_loop(
            lambda carry: holds(*of_condition, *carry[0])[0],
            lambda carry: body(carry[0]),
            (state, jax.tree.map(_zeros, types)),
        )
        self._add((seen, {}))
        return state

    def _cond(
        self,
        equation: jex.JaxprEqn,
        programs: Sequence[jex.ClosedJaxpr],
        values: Sequence[Any],
    ) -> Sequence[Any]:
        def branch(program: jex.ClosedJaxpr) -> Callable[..., Any]:
            asked = self._asked(inventory(program))

            def function(*values: Any) -> Any:
                walk = _Walk(*asked, self.position, self.picked)
                return walk.run(program, values), walk.seen()

            return function

        branches = [branch(program) for program in programs]
        platforms = equation.params.get("branches_platforms")
        if platforms is None:
            outputs, seen = jax.lax.switch(values[0], branches, *values[1:])
        else:
            of_platform = {
                name: function
                for names, function in zip(platforms, branches, strict=True)
                for name in names or ("default",)
            }
            outputs, seen = jax.lax.platform_dependent(*values[1:], **of_platform)
        self._add(seen)
        return outputs

    def _shard_map(
        self, equation: jex.JaxprEqn, program: jex.ClosedJaxpr, values: Sequence[Any]
    ) -> Sequence[Any]:
        params = equation.params
        sites, varying = inventory(program), varying_of(program, equation)
        readings, changes = self._asked(sites)

        # The axis over shards, where there is one, comes after the one over hits.
        def spec(name: str, has_rows: bool) -> jax.P:
            if not varying[name]:
                return jax.P()
            return jax.P(None, varying[name]) if has_rows else jax.P(varying[name])

        def shards(tree: Any, name: str, axis: int, change: Callable[..., Any]) -> Any:
            return jax.tree.map(lambda leaf: change(leaf, axis), tree) if varying[name] else tree

        rows = {name: [change.rows for change in several] for name, several in changes.items()}
        rows_specs = {
            name: [None if c.rows is None else spec(name, c.hit is None) for c in several]
            for name, several in changes.items()
        }
        picked = {key: value for key, value in self.picked.items() if key in readings}
        picks = {key: spec(readings[key].name, False) for key in picked}

        def function(values: Sequence[Any], rows: Any, picked: Any) -> Any:
            own = {
                name: [
                    change
                    if change.rows is None
                    else change._replace(
                        rows=shards(row, name, int(change.hit is None), jnp.squeeze)
                    )
                    for change, row in zip(changes[name], rows[name], strict=True)
                ]
                for name in changes
            }
            picked = {k: shards(v, readings[k].name, 0, jnp.squeeze) for k, v in picked.items()}
            walk = _Walk(readings, own, self.position, picked)
            outputs = walk.run(program, values)
            seen, picked = walk.seen()
            expand = lambda tree, key, axis: shards(tree, readings[key].name, axis, jnp.expand_dims)
            return (
                outputs,
                {key: expand(value, key, 1) for key, value in seen.items()},
                {key: expand(value, key, 0) for key, value in picked.items()},
            )

        all_rows = {key: spec(r.name, True) for key, r in readings.items() if r.hit is None}
        all_picks = {key: spec(r.name, False) for key, r in readings.items() if r.hit is not None}
        outputs, seen, picked = jax.shard_map(
            function,
            mesh=params["mesh"],
            in_specs=(list(params["in_specs"]), rows_specs, picks),
            out_specs=(list(params["out_specs"]), all_rows, all_picks),
            axis_names=set(params.get("newly_manual_axes") or params["manual_axes"]),
            check_vma=params["check_vma"],
        )(list(values), rows, picked)
        self._add((seen, picked))
        return outputs


def _is_entered(equation: jex.JaxprEqn) -> bool:
    return equation.primitive.name == TAP or has_tap(equation)


def _zeros(like: Any) -> jax.Array:
    return trees.place_like(jnp.zeros(like.shape, like.dtype), like)


def _merge(rows: jax.Array) -> jax.Array:
    return rows.reshape(rows.shape[0] * rows.shape[1], *rows.shape[2:])


def _first(tree: Any) -> Any:
    """One slice of what is scanned over; of no iterations, a type of one."""
    return jax.tree.map(lambda leaf: jnp.zeros(leaf.shape[1:], leaf.dtype), tree)
