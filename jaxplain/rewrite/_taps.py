"""Reading and changing named values inside a program: the pass behind `jaxplain.sites`.

Runs of equations without a tap (`_inventory` says what that is) are evaluated whole; an equation
that holds one further in is entered, and the same construct is built again around the inner program
with what was read as further outputs:

    jit, checkpoint    the values come out as they are; policy, name and constraints are kept
    scan               one row for each iteration, in the order of the rows of its inputs
    while              the values of the last iteration, zeros if there was none; not of a batch
    cond               every branch must have the tap to be read; written where a branch has it
    shard_map          a leading axis over the shards that the value differs between

What the backward pass of `jax.checkpoint` computes again is no hit of its own: it is not read, and
changed only by what changes all hits alike.

Every hit of a name is a row: k hits of a program are arrays with a leading axis of k, whatever made
them, so that layers in a loop of Python and layers in a `scan` look the same. Rows are counted from
the start of the program; inside a `scan` the count is a tracer, and a function of one hit a branch
of a `cond`: computed for all and picked by a `where`, its infinite slopes would be others' NaNs. At
an iteration in which one hit is written the `scan` is cut: what led to it falls away.
"""

import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name
from jax.extend import core as jex

from jaxplain import trees
from jaxplain.rewrite import _interpreter
from jaxplain.rewrite._inventory import (
    AGAIN,
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
        function: `(value, row) -> value`; row is that of `rows`, or None. No function: the row is
            the value.
        hit: the number of the one that is changed; None for all.
        rows: None, or an array with a row for each hit; of one hit, what is for it.
    """

    function: Callable[[jax.Array, Any], jax.Array] | None
    hit: int | None = None
    rows: Any = None

    @property
    def is_alike(self) -> bool:
        """Whether it does the same with every hit."""
        return self.hit is None and self.rows is None

    def apply(self, value: jax.Array, row: Any) -> jax.Array:
        return row if self.function is None else self.function(value, row)


class Reading(NamedTuple):
    """What is read at a tap.

    Attributes:
        name: of the tap.
        hit: the number of the one that is read; None for all.
        reduce: of each value before it is kept; the value itself if there is none.
    """

    name: str
    hit: int | None
    reduce: Callable[[jax.Array], Any] | None

    def apply(self, value: jax.Array) -> Any:
        return value if self.reduce is None else jax.tree.map(jnp.asarray, self.reduce(value))


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
        return {key: _joined(parts) for key, parts in self.rows.items()}, self.picked

    def run(self, program: jex.ClosedJaxpr, inputs: Sequence[Any]) -> list[Any]:
        """The outputs of the program; what is read is added to what was seen."""
        return _interpreter.run_parts(program, inputs, _is_entered, self._enter)

    def _enter(self, equation: jex.JaxprEqn, values: Sequence[Any]) -> Sequence[Any]:
        if is_again(equation):
            alike = {
                name: [change for change in several if change.is_alike]
                for name, several in self.changes.items()
            }
            with jax.named_scope(AGAIN):  # which says so of what is made anew too
                return _Walk({}, alike, {}, {})._visit(equation, values)
        return self._visit(equation, values)

    def _visit(self, equation: jex.JaxprEqn, values: Sequence[Any]) -> Sequence[Any]:
        kind = equation.primitive.name
        if kind == TAP:
            return [self._tap(equation.params["name"], values[0])]
        sites, programs = inside(equation), _interpreter.programs(equation)
        asked = self._asked(sites)
        if not any(asked):
            outputs: Sequence[Any] = _interpreter.evaluate(equation, *values)
        elif kind == "scan":
            outputs = self._scan(equation, programs[0], values)
        elif kind == "while":
            outputs = self._while(equation, programs, values)
        elif kind == "cond":
            outputs = self._cond(equation, programs, values)
        elif kind == "shard_map":
            outputs = self._shard_map(equation, programs[0], values)
        elif kind in ("checkpoint", "remat", "remat2"):
            outputs = self._checkpoint(equation, programs[0], values)
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
                value = change.apply(value, None if change.rows is None else change.rows[own])
            elif isinstance(position, int):
                value = change.apply(value, change.rows) if position == change.hit else value
            else:
                value = jax.lax.cond(
                    position == change.hit,
                    lambda old, change=change: trees.place_like(
                        jnp.asarray(change.apply(old, change.rows)), old
                    ),
                    lambda old: old,
                    value,
                )
        for key, reading in self.readings.items():
            if reading.name != name:
                continue
            if reading.hit is None:
                row = jax.tree.map(lambda leaf: leaf[None], reading.apply(value))
                self.rows.setdefault(key, []).append(row)
            elif not isinstance(position, int):
                self.picked[key] = self._pick(reading, key, value, position == reading.hit)
            elif position == reading.hit:
                self.picked[key] = reading.apply(value)
        return checkpoint_name(value, name)

    def _pick(self, reading: Reading, key: str, value: jax.Array, is_it: jax.Array) -> Any:
        """What is held of a reading of one hit inside a loop, after a value has come."""
        if key not in self.picked:  # where the loop is run for its types
            return reading.apply(value)
        old = self.picked[key]
        if reading.reduce is None:
            return jnp.where(is_it, value, old)
        new = lambda value, old: trees.place_like(reading.apply(value), old)
        return jax.lax.cond(is_it, new, lambda _, old: old, value, old)

    # ------------------------------------------------------------------ inside other equations

    def _asked(
        self, sites: Mapping[str, Site], after: Mapping[str, int] | None = None
    ) -> tuple[dict[str, Reading], dict[str, list[Change]]]:
        """The readings and changes of names that a program has, with its rows of them.

        `after` is, by name, how many hits there are before the program beyond those so far.
        """
        after = after or {}

        def comes(name: str, hit: int | None) -> bool:
            before = self.position.get(name, 0)
            if hit is None or not isinstance(before, int):
                return True
            return 0 <= hit - before - after.get(name, 0) < sites[name].hits

        readings = {
            key: reading
            for key, reading in self.readings.items()
            if reading.name in sites
            and comes(reading.name, reading.hit)
            and not sites[reading.name].is_only_copied
        }
        changes: dict[str, list[Change]] = {}
        for name, site in sites.items():
            first = self.taken.get(name, 0) + after.get(name, 0)
            for change in self.changes.get(name, ()):
                if change.hit is None and change.rows is not None:
                    change = change._replace(rows=change.rows[first : first + site.hits])
                if comes(name, change.hit) and (change.is_alike or not site.is_only_copied):
                    changes.setdefault(name, []).append(change)
        return readings, changes

    def _add(self, seen: tuple[dict[str, Any], dict[str, Any]]) -> None:
        rows, picked = seen
        for key, part in rows.items():
            self.rows.setdefault(key, []).append(part)
        self.picked.update(picked)

    def _checkpoint(
        self, equation: jex.JaxprEqn, program: jex.ClosedJaxpr, values: Sequence[Any]
    ) -> Sequence[Any]:
        """The same equation around another program, so that all it says of itself is kept.

        A new `jax.checkpoint` would not be marked as that of a backward pass, and XLA would take
        what it computes again from the forward pass.
        """

        def function(*values: Any) -> Any:
            walk = _Walk(*self._asked(inventory(program)), self.position, self.picked)
            return walk.run(program, values), walk.seen()

        types = [variable.aval for variable in program.jaxpr.invars]
        whole, shapes = jax.make_jaxpr(function, return_shape=True)(*types)
        constants, inner = whole.consts, whole.jaxpr
        inputs, debug_info = [*inner.constvars, *inner.invars], program.jaxpr.debug_info
        debug_info = jex.DebugInfo(debug_info.traced_for, debug_info.func_src_info, None, None)
        jaxpr = jex.Jaxpr((), inputs, inner.outvars, inner.eqns, inner.effects, debug_info)
        params = {**equation.params, "jaxpr": jaxpr}
        if isinstance(params["prevent_cse"], tuple):  # one for each input
            params["prevent_cse"] = (False,) * len(constants) + params["prevent_cse"]
        flat = equation.primitive.bind(*constants, *values, **params)
        outputs, seen = jax.tree.unflatten(jax.tree.structure(shapes), flat)
        self._add(seen)
        return outputs

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

        walk = _Walk(*self._asked(inventory(program)), self.position, self.picked)
        outputs = walk.run(program, constrained(values, "in_shardings"))
        self._add(walk.seen())
        return constrained(outputs, "out_shardings")

    def _scan(
        self, equation: jex.JaxprEqn, program: jex.ClosedJaxpr, values: Sequence[Any]
    ) -> Sequence[Any]:
        """In one, or before, at and after each iteration in which one hit is written.

        One in reverse is not cut: its hits would come in another order than they do.
        """
        length, sites = equation.params["length"], inventory(program)
        cuts = {
            (change.hit - self.position.get(name, 0)) // sites[name].hits
            for name, several in self._asked(inside(equation))[1].items()
            for change in several
            if change.function is None
            and change.hit is not None
            and isinstance(self.position.get(name, 0), int)  # in a loop it is not known
        }
        cuts = cuts if length > 1 and not equation.params["reverse"] else set()
        ends = sorted({0, length, *cuts, *(cut + 1 for cut in cuts)})
        spans = list(itertools.pairwise(ends)) or [(0, 0)]
        first, carried = _interpreter.scan_counts(equation)
        state: Sequence[Any] = values[first : first + carried]
        slices, rows = values[first + carried :], []
        for low, high in spans:
            after = {name: low * site.hits for name, site in sites.items()}
            start = {name: self.position.get(name, 0) + after[name] for name in sites}
            hits = {n: site._replace(hits=(high - low) * site.hits) for n, site in sites.items()}
            own = slices
            if len(spans) > 1:
                own = [jax.lax.slice_in_dim(leaf, low, high) for leaf in slices]
            run = self._iteration if low in cuts else self._loop
            asked, inputs = self._asked(hits, after), (list(values[:first]), state, own)
            state, ys, seen = run(equation, program, asked, start, high - low, *inputs)
            rows.append(ys)
            self._add(seen)
        return [*state, *_joined(rows)]

    def _iteration(
        self,
        equation: jex.JaxprEqn,
        program: jex.ClosedJaxpr,
        asked: tuple[Any, Any],
        start: Mapping[str, Any],
        length: int,
        constants: Sequence[Any],
        state: Sequence[Any],
        slices: Sequence[Any],
    ) -> tuple[list[Any], list[Any], Any]:
        """One iteration of a `scan`, whose slices have a leading axis of one, outside of it."""
        del equation, length
        walk = _Walk(*asked, start, self.picked)
        row = [jax.lax.squeeze(leaf, (0,)) for leaf in slices]
        outputs = walk.run(program, [*constants, *state, *row])
        carried = len(state)
        rows = [jax.lax.expand_dims(leaf, (0,)) for leaf in outputs[carried:]]
        return outputs[:carried], rows, walk.seen()

    def _loop(
        self,
        equation: jex.JaxprEqn,
        program: jex.ClosedJaxpr,
        asked: tuple[dict[str, Reading], dict[str, list[Change]]],
        start: Mapping[str, Any],
        length: int,
        constants: Sequence[Any],
        state: Sequence[Any],
        slices: Sequence[Any],
    ) -> tuple[Sequence[Any], Sequence[Any], Any]:
        """Some iterations of a `scan` as a `scan`; `start` is the position before the first."""
        (readings, changes), sites, carried = asked, inventory(program), len(state)
        rows = {
            name: [
                None
                if change.hit is not None or change.rows is None
                else change.rows.reshape(length, sites[name].hits, *change.rows.shape[1:])
                for change in several
            ]
            for name, several in changes.items()
        }
        hits = [reading.hit for reading in readings.values()]
        hits += [change.hit for several in changes.values() for change in several]
        is_numbered = length > 1 and any(hit is not None for hit in hits)

        def body(carry: Any, per: Any) -> Any:
            (state, picked), (number, own_rows, slices) = carry, per
            here = {
                name: start[name] + number * site.hits if is_numbered else start[name]
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
            outputs = walk.run(program, [*constants, *state, *slices])
            seen, picked = walk.seen()
            return (outputs[:carried], picked), (outputs[carried:], seen)

        numbers = jnp.arange(length, dtype=jnp.int32) if is_numbered else None
        per = (numbers, rows, list(slices))
        picked = self._before_loop(readings, lambda picked: body((state, picked), _first(per)))
        (state, picked), (ys, seen) = jax.lax.scan(
            body,
            (list(state), picked),
            per,
            length=length,
            reverse=equation.params["reverse"],
            unroll=min(equation.params["unroll"], max(length, 1)),
        )
        return state, ys, (jax.tree.map(_merge, seen), picked)

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
        holds = lambda state: _interpreter.as_function(condition)(*of_condition, *state)[0]

        def body(state: Any) -> Any:  # a hit of a `while` has no index
            walk = _Walk(*asked, {}, {})
            outputs = walk.run(program, [*constants, *state])
            return outputs, walk.seen()[0]

        def batched_body(state: Any) -> Any:
            """As JAX runs it: until all examples have finished, and those that have stay."""
            is_on = holds(state)
            keep = lambda new, old: jnp.where(
                jnp.expand_dims(is_on, tuple(range(is_on.ndim, new.ndim))), new, old
            )
            return jax.tree.map(keep, body(state)[0], state), {}

        is_batched = bool(condition.jaxpr.outvars[0].aval.shape)  # then nothing is read
        _, types = jax.eval_shape(body, state)
        state, seen = jax.lax.while_loop(
            lambda carry: jnp.any(holds(carry[0])),
            lambda carry: (batched_body if is_batched else body)(carry[0]),
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

        # The axis over shards, where there is one, comes after the one over hits. Rows that a
        # function is told beside the value are numbers of hits, the same on each shard.
        def spec(name: str, has_rows: bool) -> jax.P:
            if not varying[name]:
                return jax.P()
            return jax.P(None, varying[name]) if has_rows else jax.P(varying[name])

        def spec_of(name: str, change: Change) -> Any:
            if change.rows is None:
                return None
            return spec(name, change.hit is None) if change.function is None else jax.P()

        def shards(tree: Any, name: str, axis: int, change: Callable[..., Any]) -> Any:
            return jax.tree.map(lambda leaf: change(leaf, axis), tree) if varying[name] else tree

        rows = {name: [change.rows for change in several] for name, several in changes.items()}
        rows_specs = {n: [spec_of(n, each) for each in several] for n, several in changes.items()}
        picked = {key: value for key, value in self.picked.items() if key in readings}
        picks = {key: spec(readings[key].name, False) for key in picked}

        def function(values: Sequence[Any], rows: Any, picked: Any) -> Any:
            own = {
                name: [
                    change._replace(rows=row)
                    if row is None or change.function is not None
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


def _joined(parts: Sequence[Any]) -> Any:
    """Trees of rows one after another."""
    return jax.tree.map(lambda *rows: jnp.concatenate(rows), *parts) if parts[1:] else parts[0]


def _merge(rows: jax.Array) -> jax.Array:
    return rows.reshape(rows.shape[0] * rows.shape[1], *rows.shape[2:])


def _first(tree: Any) -> Any:
    """One slice of what is scanned over; of no iterations, a type of one."""
    return jax.tree.map(lambda leaf: jnp.zeros(leaf.shape[1:], leaf.dtype), tree)
