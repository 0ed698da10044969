"""Splits a function into its affine prefix and the rest: f(x) = rest(prefix(x)), prefix affine.

Along a straight line an affine map need not be applied at each point: with y0 = prefix(b) and
y1 = prefix(x),

    f(b + t (x - b)) = rest(y0 + t (y1 - y0)),    grad_x = prefix's transpose applied to grad_y rest

and since the transpose is linear, it is applied once, to the integral over t. So the first layer of
a network costs two evaluations and one transpose in place of one of each for every point. Exact:
the values differ by rounding only.

Found on the program of the function, with its `jit`s opened: every intermediate value is constant,
affine in x, or neither, by one rule for each primitive. The prefix is cut where an affine value
meets an equation that is not affine.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxplain.rewrite import _interpreter

_CONSTANT, _AFFINE, _OTHER = range(3)

# Operands are counted by kind; an operand that is neither constant nor affine has been ruled out.
_Rule = Callable[[Sequence[int]], bool]


def _each(kinds: Sequence[int]) -> bool:
    return True


def _one(kinds: Sequence[int]) -> bool:
    return kinds.count(_AFFINE) == 1


def _only(*places: int) -> _Rule:
    return lambda kinds: all(k == _CONSTANT for i, k in enumerate(kinds) if i not in places)


def _all_but_first(kinds: Sequence[int]) -> bool:
    return kinds[0] == _CONSTANT


_RULES: Mapping[str, _Rule] = {
    **dict.fromkeys(("add", "add_any", "concatenate", "pad", "sub"), _each),
    **dict.fromkeys(("conv_general_dilated", "dot_general", "mul"), _one),
    **dict.fromkeys(("div", "dynamic_slice", "gather"), _only(0)),
    "dynamic_update_slice": _only(0, 1),
    "select_n": _all_but_first,
    **dict.fromkeys(
        (
            "broadcast_in_dim",
            "convert_element_type",
            "copy",
            "copy_p",
            "cumsum",
            "expand_dims",
            "name",
            "neg",
            "reduce_sum",
            "reduce_window_sum",
            "reshape",
            "rev",
            "slice",
            "squeeze",
            "transpose",
        ),
        _each,
    ),
}


class Split(NamedTuple):
    """`f(x) = rest(prefix(x))`.

    Attributes:
        prefix: from x to the list of arrays at the cut; affine.
        rest: from that list to f's output.
        flops: multiplications and additions of the contractions in the prefix.
        elements: of x.
        cut_elements: of the arrays at the cut.
    """

    prefix: Callable[[Any], list[jax.Array]]
    rest: Callable[[list[jax.Array]], Any]
    flops: int
    elements: int
    cut_elements: int


def split(function: Callable[[Any], Any], x: Any) -> Split | None:
    """The affine prefix of `function` at arguments like `x`; None where it holds no contraction.

    What the function closes over is constant and may be tracers; what depends on that alone is
    evaluated here, once.
    """
    leaves, structure = jax.tree.flatten(x)
    program, output = _interpreter.stage(
        lambda *leaves: function(jax.tree.unflatten(structure, leaves)), *leaves
    )
    program = _interpreter.opened(program)
    jaxpr = program.jaxpr
    inputs = dict.fromkeys(jaxpr.invars, _AFFINE)
    equations = _interpreter.live(jaxpr)
    made_by = {out: equation for equation in equations for out in equation.outvars}
    kinds = {**dict.fromkeys(jaxpr.constvars, _CONSTANT), **inputs}
    for equation in equations:
        kind = _kind([_interpreter.look_up(kinds, a, _CONSTANT) for a in equation.invars], equation)
        kinds.update(dict.fromkeys(equation.outvars, kind))
    cut = _cut(jaxpr, equations, kinds, made_by)
    prefix = _of_kind(_AFFINE, equations, kinds)
    flops = sum(_contraction_flops(equation) for equation in prefix)
    if not flops:
        return None
    constants = _of_kind(_CONSTANT, equations, kinds)
    others = _of_kind(_OTHER, equations, kinds)
    known = dict(zip(jaxpr.constvars, program.consts, strict=True))
    known = _interpreter.run(constants, known)

    def apply_prefix(x: Any) -> list[jax.Array]:
        environment = known | dict(zip(jaxpr.invars, jax.tree.leaves(x), strict=True))
        environment = _interpreter.run(prefix, environment)
        return [environment[variable] for variable in cut]

    def rest(values: list[jax.Array]) -> Any:
        environment = _interpreter.run(others, known | dict(zip(cut, values, strict=True)))
        outputs = [_interpreter.read(environment, atom) for atom in jaxpr.outvars]
        return jax.tree.unflatten(jax.tree.structure(output), outputs)

    return Split(apply_prefix, rest, flops, _size(jaxpr.invars), _size(cut))


def _kind(kinds: Sequence[int], equation: Any) -> int:
    if all(kind == _CONSTANT for kind in kinds) and not equation.effects:
        return _CONSTANT
    rule = _RULES.get(equation.primitive.name)
    if rule is None or _OTHER in kinds or equation.effects or not rule(kinds):
        return _OTHER
    is_float = all(jnp.issubdtype(out.aval.dtype, jnp.floating) for out in equation.outvars)
    return _AFFINE if is_float else _OTHER


def _of_kind(kind: int, equations: Sequence[Any], kinds: Mapping[Any, int]) -> list[Any]:
    """The equations whose outputs are of this kind; one without outputs has effects."""
    of = lambda equation: kinds[equation.outvars[0]] if equation.outvars else _OTHER
    return [equation for equation in equations if of(equation) == kind]


def _cut(jaxpr: Any, equations: Sequence[Any], kinds: dict[Any, int], made_by: Any) -> list[Any]:
    """The affine values that the rest reads; `kinds` is changed where the cut moves back.

    What stands at the cut but is larger than what the last contractions before it (or x) left, by
    a broadcast or a padding, is made by the rest: the line is drawn between the smaller arrays.
    """
    read = [atom for equation in _of_kind(_OTHER, equations, kinds) for atom in equation.invars]
    cut = _affine_variables([*read, *jaxpr.outvars], kinds)
    for variable in cut:
        sources, between = _sources(variable, kinds, made_by)
        if between and _size(sources - set(cut)) < _size([variable]):
            for equation in between:
                kinds.update(dict.fromkeys(equation.outvars, _OTHER))
            return _cut(jaxpr, equations, kinds, made_by)
    return cut


def _sources(variable: Any, kinds: Mapping[Any, int], made_by: Any) -> tuple[set[Any], list[Any]]:
    """The outputs of contractions, or of x, that an affine value is made of without another one."""
    sources, between, pending = set(), [], [variable]
    while pending:
        variable = pending.pop()
        equation = made_by.get(variable)
        if equation is None or _contraction_flops(equation):
            sources.add(variable)
        else:
            between.append(equation)
            pending += _affine_variables(equation.invars, kinds)
    return sources, between


def _affine_variables(atoms: Iterable[Any], kinds: Mapping[Any, int]) -> list[Any]:
    is_affine = lambda atom: _interpreter.look_up(kinds, atom, _CONSTANT) == _AFFINE
    return list(dict.fromkeys(atom for atom in atoms if is_affine(atom)))


def _size(variables: Iterable[Any]) -> int:
    return sum(math.prod(variable.aval.shape) for variable in variables)


def _contraction_flops(equation: Any) -> int:
    """Two for each multiplication of a matrix product or a convolution; 0 for anything else."""
    name, params = equation.primitive.name, equation.params
    if name == "dot_general":
        (contracted, _), _ = params["dimension_numbers"]
        shape = equation.invars[0].aval.shape
        each = math.prod(shape[axis] for axis in contracted)
    elif name == "conv_general_dilated":
        kernel, spec = equation.invars[1].aval.shape, params["dimension_numbers"].rhs_spec
        each = math.prod(kernel) // kernel[spec[0]]  # spec: output features, input features, ...
    else:
        return 0
    return 2 * each * math.prod(equation.outvars[0].aval.shape)
