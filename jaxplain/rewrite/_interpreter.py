"""The one interpreter of jaxprs that every pass shares.

A pass is a mapping from a primitive's name to a rule

    rule(platform, *inputs, **params) -> output | list of outputs | None

where None says "not this one: keep the equation as it is", and `platform` is what is known of the
place of the equation: "cpu" or "other" inside a branch of `jax.lax.platform_dependent`, else None.
Equations without a rule are evaluated whole, with their context (source line, mesh, metadata).
Equations that hold programs of their own
(`jit`, `scan`, `while`, `cond`, `checkpoint`, custom derivatives, `shard_map`) are entered where,
and only where, something inside them has a rule: their inner program is interpreted into a new one
of the same types, and the same primitive is bound to it. So every option of the equation (sharding,
donation, the remat policy, the user's custom derivative) is kept without being named here.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
from jax.extend import core as jex

Rules = Mapping[str, Callable[..., Any]]

# Equations whose inner programs may be replaced by equal ones. Others that hold programs (a Pallas
# kernel, a custom linear solve) are left alone: their inner programs obey rules of their own.
_ENTERED = frozenset(
    {
        "checkpoint",
        "closed_call",
        "cond",
        "core_call",
        "custom_jvp_call",
        "custom_vjp_call",
        "custom_vmap_call",
        "eval_jaxpr",
        "jit",
        "pjit",
        "remat",
        "remat2",
        "scan",
        "shard_map",
        "while",
    }
)


def stage(function: Callable[..., Any], *arguments: Any) -> tuple[jex.ClosedJaxpr, Any]:
    """The program of `function` at these arguments (arrays or shapes), and its output's shapes."""
    return jax.make_jaxpr(function, return_shape=True)(*arguments)


def interpret(
    program: jex.ClosedJaxpr, rules: Rules, *inputs: Any, platform: str | None = None
) -> list[Any]:
    """Evaluates a program, with `rules` in place of the primitives they name.

    Args:
        program: what to evaluate; its constants may be tracers of an enclosing trace.
        rules: from the name of a primitive to its rule, see the top of this file.
        *inputs: one array for each input of the program.
        platform: "cpu" or "other" where the program is a branch for that platform.

    Returns:
        The list of outputs, flat.
    """
    environment: dict[Any, Any] = {}
    environment.update(zip(program.jaxpr.constvars, program.consts, strict=True))
    environment.update(zip(program.jaxpr.invars, inputs, strict=True))
    for equation in program.jaxpr.eqns:
        values = [read(environment, atom) for atom in equation.invars]
        rule = rules.get(equation.primitive.name)
        outputs = None if rule is None else rule(platform, *values, **equation.params)
        if outputs is None:
            outputs = _evaluate_equation(equation, rules, values, platform)
        elif not isinstance(outputs, list):
            outputs = [outputs]
        environment.update(zip(equation.outvars, outputs, strict=True))
    return [read(environment, atom) for atom in program.jaxpr.outvars]


def opened(program: jex.ClosedJaxpr) -> jex.ClosedJaxpr:
    """The same program with its `jit`s opened, however nested, into one list of equations.

    A `jit` that asks for shardings is kept whole: opened it would lose them.
    """

    def open_jit(platform: str | None, *inputs: Any, **params: Any) -> list[Any] | None:
        shardings = (*params["in_shardings"], *params["out_shardings"])
        if any(isinstance(sharding, jax.sharding.Sharding) for sharding in shardings):
            return None
        return interpret(params["jaxpr"], rules, *inputs)

    rules = {"jit": open_jit, "pjit": open_jit}
    abstract = [variable.aval for variable in program.jaxpr.invars]
    return jax.make_jaxpr(lambda *inputs: interpret(program, rules, *inputs))(*abstract)


def live(jaxpr: jex.Jaxpr) -> list[jex.JaxprEqn]:
    """The equations that the outputs depend on, and those with effects."""
    wanted, kept = set(_variables(jaxpr.outvars)), []
    for equation in reversed(jaxpr.eqns):
        if equation.effects or any(out in wanted for out in equation.outvars):
            wanted.update(_variables(equation.invars))
            kept.append(equation)
    return kept[::-1]


def run(equations: Sequence[jex.JaxprEqn], environment: Mapping[Any, Any]) -> dict[Any, Any]:
    """The environment, a value for each variable, after these equations."""
    environment = dict(environment)
    for equation in equations:
        values = [read(environment, atom) for atom in equation.invars]
        outputs = _evaluate_equation(equation, {}, values, None)
        environment.update(zip(equation.outvars, outputs, strict=True))
    return environment


def run_parts(
    program: jex.ClosedJaxpr,
    inputs: Sequence[Any],
    is_entered: Callable[[jex.JaxprEqn], bool],
    enter: Callable[[jex.JaxprEqn, Sequence[Any]], Sequence[Any]],
) -> list[Any]:
    """Evaluates a program: some of its equations by `enter`, the runs between them whole."""
    jaxpr = program.jaxpr
    parts: list[tuple[list[jex.JaxprEqn], bool]] = []
    for equation in jaxpr.eqns:
        alone = is_entered(equation)
        if alone or not parts or parts[-1][1]:
            parts.append(([equation], alone))
        else:
            parts[-1][0].append(equation)

    used = set(_variables(jaxpr.outvars))
    runs = []
    for equations, alone in reversed(parts):
        made = {variable for equation in equations for variable in equation.outvars}
        runs.append((equations, alone, [variable for variable in made if variable in used]))
        for equation in equations:
            used.update(_variables(equation.invars))

    environment: dict[Any, Any] = dict(zip(jaxpr.constvars, program.consts, strict=True))
    environment.update(zip(jaxpr.invars, inputs, strict=True))
    for equations, alone, wanted in reversed(runs):
        if alone:
            values = [read(environment, atom) for atom in equations[0].invars]
            outputs = enter(equations[0], values)
            environment.update(zip(equations[0].outvars, outputs, strict=True))
            continue
        made = {variable for equation in equations for variable in equation.outvars}
        needed = dict.fromkeys(
            atom
            for equation in equations
            for atom in _variables(equation.invars)
            if atom not in made
        )
        effects = frozenset().union(*(equation.effects for equation in equations))
        debug_info = jex.DebugInfo("rewrite", "run", None, None)
        whole = jex.Jaxpr((), list(needed), wanted, equations, effects, debug_info)
        values = [environment[atom] for atom in needed]
        outputs = jex.jaxpr_as_fun(jex.ClosedJaxpr(whole, ()))(*values)
        environment.update(zip(wanted, outputs, strict=True))
    return [read(environment, atom) for atom in jaxpr.outvars]


def read(environment: Mapping[Any, Any], atom: Any) -> Any:
    """The value of an operand, which may be a literal."""
    return atom.val if isinstance(atom, jex.Literal) else environment[atom]


def look_up(table: Mapping[Any, Any], atom: Any, of_literal: Any) -> Any:
    """What a table of variables says of an operand; `of_literal` for a literal."""
    return of_literal if isinstance(atom, jex.Literal) else table[atom]


def _variables(atoms: Sequence[Any]) -> list[Any]:
    return [atom for atom in atoms if not isinstance(atom, jex.Literal)]


def contains(jaxpr: jex.Jaxpr, rules: Rules) -> bool:
    """Whether any equation, at any depth that the interpreter enters, has a rule."""
    return any(
        equation.primitive.name in rules
        or any(contains(inner, rules) for inner in _inner(equation))
        for equation in jaxpr.eqns
    )


def _inner(equation: jex.JaxprEqn) -> Iterator[jex.Jaxpr]:
    """The programs inside an equation, if it is one that is entered."""
    if equation.primitive.name not in _ENTERED:
        return
    for value in equation.params.values():
        for item in value if isinstance(value, tuple) else (value,):
            if isinstance(item, jex.ClosedJaxpr):
                yield item.jaxpr
            elif isinstance(item, jex.Jaxpr):
                yield item


def _evaluate_equation(
    equation: jex.JaxprEqn, rules: Rules, values: Sequence[Any], platform: str | None
) -> list[Any]:
    if any(contains(inner, rules) for inner in _inner(equation)):
        if equation.primitive.name == "shard_map":
            return _shard_map(equation, rules, values, platform)
        equation = _replace_inner(equation, rules, platform)
    # One equation as a program of its own: JAX evaluates it with all that belongs to it.
    atoms = [atom for atom in equation.invars if not isinstance(atom, jex.Literal)]
    arrays = [
        value
        for atom, value in zip(equation.invars, values, strict=True)
        if not isinstance(atom, jex.Literal)
    ]
    known = dict(zip(atoms, arrays, strict=True))  # an atom used twice is one input
    debug_info = jex.DebugInfo("rewrite", equation.primitive.name, None, None)
    alone = jex.Jaxpr(
        (), list(known), list(equation.outvars), [equation], equation.effects, debug_info
    )
    return jex.jaxpr_as_fun(jex.ClosedJaxpr(alone, ()))(*known.values())


def _replace_inner(equation: jex.JaxprEqn, rules: Rules, platform: str | None) -> jex.JaxprEqn:
    def replace(value: Any, platform: str | None = platform) -> Any:
        if isinstance(value, jex.ClosedJaxpr):
            return _rewrite(value, rules, platform)
        if isinstance(value, jex.Jaxpr):
            return _rewrite(jex.ClosedJaxpr(value, ()), rules, platform).jaxpr
        return value

    params = {name: replace(value) for name, value in equation.params.items()}
    if equation.primitive.name == "cond":
        places = _platforms(equation.params.get("branches_platforms"), platform)
        branches = equation.params["branches"]
        places = [platform] * len(branches) if places is None else places
        params["branches"] = tuple(map(replace, branches, places))
    return equation.replace(params=params)


def _platforms(
    branches: Sequence[Sequence[str] | None] | None, platform: str | None
) -> list[str | None] | None:
    """What is known of the platform in each branch of a switch over platforms."""
    if branches is None or platform is not None:
        return None

    def of(names: Sequence[str] | None) -> str | None:
        if names is None:  # the default: whatever no other branch names
            return "other" if any("cpu" in named for named in branches if named) else None
        if "cpu" not in names:
            return "other"
        return "cpu" if len(names) == 1 else None

    return [of(names) for names in branches]


def _rewrite(program: jex.ClosedJaxpr, rules: Rules, platform: str | None) -> jex.ClosedJaxpr:
    """A program of the same types, with the rules applied."""
    if not contains(program.jaxpr, rules):
        return program
    # The abstract values themselves are the arguments: they carry weak types and shardings.
    abstract = [variable.aval for variable in program.jaxpr.invars]
    return jax.make_jaxpr(lambda *inputs: interpret(program, rules, *inputs, platform=platform))(
        *abstract
    )


def _shard_map(
    equation: jex.JaxprEqn, rules: Rules, values: Sequence[Any], platform: str | None
) -> list[Any]:
    """Entered through the public function, which sets up the manual axes for the inner trace."""
    params = equation.params
    inner = jex.ClosedJaxpr(params["jaxpr"], ())
    mapped = jax.shard_map(
        lambda *inputs: tuple(interpret(inner, rules, *inputs, platform=platform)),
        mesh=params["mesh"],
        in_specs=tuple(params["in_specs"]),
        out_specs=tuple(params["out_specs"]),
        axis_names=set(params.get("newly_manual_axes") or params["manual_axes"]),
        check_vma=params["check_vma"],
    )
    return list(mapped(*values))


def reinterpret(
    program: jex.ClosedJaxpr,
    visit: Callable[..., Sequence[Any]],
    *inputs: Any,
    wanted: Sequence[bool] | None = None,
) -> list[Any]:
    """Evaluates a program in another meaning, whose values may be anything.

    Args:
        program: its constants and literals are given to `visit` as they are.
        visit: `visit(equation, wanted, *values) -> outputs`, for each equation that a wanted output
            depends on; `wanted` says which of its outputs are (the others may be anything).
            `evaluate` gives an equation's plain meaning, `programs` what it holds.
        *inputs: one value for each input of the program.
        wanted: which outputs are wanted; all unless given.

    Returns:
        The outputs, flat; None in place of those that are not wanted.
    """
    jaxpr = program.jaxpr
    wanted = [True] * len(jaxpr.outvars) if wanted is None else wanted
    results = [atom for atom, is_wanted in zip(jaxpr.outvars, wanted, strict=True) if is_wanted]
    used = set(_variables(results))
    visits = []
    for equation in reversed(jaxpr.eqns):
        uses = [variable in used for variable in equation.outvars]
        if any(uses):
            visits.append((equation, uses))
            used.update(_variables(equation.invars))

    environment: dict[Any, Any] = {}
    environment.update(zip(jaxpr.constvars, program.consts, strict=True))
    environment.update(zip(jaxpr.invars, inputs, strict=True))
    for equation, uses in reversed(visits):
        values = [read(environment, atom) for atom in equation.invars]
        outputs = visit(equation, uses, *values)
        environment.update(zip(equation.outvars, outputs, strict=True))
    return [
        read(environment, atom) if is_wanted else None
        for atom, is_wanted in zip(jaxpr.outvars, wanted, strict=True)
    ]


def evaluate(equation: jex.JaxprEqn, *values: Any) -> list[Any]:
    """The outputs of one equation in its plain meaning."""
    return _evaluate_equation(equation, {}, values, None)


def programs(equation: jex.JaxprEqn) -> list[jex.ClosedJaxpr]:
    """The programs that an equation holds, if it is one that may be entered."""
    return held(equation) if equation.primitive.name in _ENTERED else []


def held(equation: jex.JaxprEqn) -> list[jex.ClosedJaxpr]:
    """The programs that an equation holds, whether or not it may be entered."""
    found = []
    for value in equation.params.values():
        for item in value if isinstance(value, tuple) else (value,):
            if isinstance(item, jex.ClosedJaxpr):
                found.append(item)
            elif isinstance(item, jex.Jaxpr):
                found.append(jex.ClosedJaxpr(item, ()))
    return found


def scan_counts(equation: jex.JaxprEqn) -> tuple[int, int]:
    """How many constants a `scan` has, which come first, and how long its carry is.

    Read off the ranks: rows have one axis less inside. The parameters that say so were renamed
    between jax 0.10 and 0.12.
    """
    (program,) = programs(equation)

    def same(outside: Sequence[Any], inside: Sequence[Any]) -> int:
        pairs = zip(outside, inside, strict=True)
        return sum(len(o.aval.shape) == len(i.aval.shape) for o, i in pairs)

    carry = same(equation.outvars, program.jaxpr.outvars)
    return same(equation.invars, program.jaxpr.invars) - carry, carry


def as_function(program: jex.ClosedJaxpr) -> Callable[..., list[Any]]:
    """The program as a function of its inputs, to be called inside a trace and differentiated."""
    return jex.jaxpr_as_fun(program)
