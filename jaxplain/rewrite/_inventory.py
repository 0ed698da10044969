"""The named values of a program: what can be read and changed, and why not.

A tap is an equation `name[name=...]`, which `jax.ad_checkpoint.checkpoint_name` leaves. A name that
comes several times is one site with several hits; an equation that holds programs shows the sites
in them as they are seen from outside.

What the backward pass of `jax.checkpoint` computes again is no hit. The program looks the same
there; it is told by the name of the place, which JAX gives to each equation.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

from jax.extend import core as jex

from jaxplain.rewrite import _interpreter

TAP = "name"
CUSTOM = ("custom_jvp_call", "custom_vjp_call", "custom_vmap_call")
AGAIN = "rematted_computation"


class Site(NamedTuple):
    """What a program says of a name.

    Attributes:
        shape: of one hit.
        dtype: of one hit.
        hits: how many there are; of a `while`, those of one iteration.
        is_stacked: whether values come with a leading axis over hits: there are several, or a scan.
        is_open: whether it is in a `while`: hits have no index, and the last ones are read.
        is_used: whether anything uses the value of one: else a change of it changes nothing.
        is_copied: whether a backward pass computes it again, in addition to the hits.
        trouble: why it cannot be used, or "".
        unread: why it cannot be read, or "".
        unwritten: why its hits cannot be changed one by one, or "".
    """

    shape: tuple[int, ...]
    dtype: Any
    hits: int
    is_stacked: bool
    is_open: bool = False
    is_used: bool = True
    is_copied: bool = False
    trouble: str = ""
    unread: str = ""
    unwritten: str = ""

    @property
    def is_only_copied(self) -> bool:
        """Whether there is no hit of it here."""
        return self.is_copied and not self.hits

    @property
    def whole(self) -> tuple[int, ...]:
        """The shape of all hits together, as they are read and written."""
        return (self.hits, *self.shape) if self.is_stacked else self.shape


def inventory(program: jex.ClosedJaxpr) -> dict[str, Site]:
    """The names of a program, in the order of their first hits."""
    found: dict[str, Site] = {}
    jaxpr = program.jaxpr
    read = {id(atom) for equation in jaxpr.eqns for atom in equation.invars}
    read.update(id(atom) for atom in jaxpr.outvars)
    for equation in jaxpr.eqns:
        if equation.primitive.name == TAP:
            variable = equation.outvars[0]
            site = Site(variable.aval.shape, variable.aval.dtype, 1, False)
            site = site._replace(is_used=id(variable) in read)
            _add(found, equation.params["name"], _copy(site) if is_again(equation) else site)
        elif _interpreter.held(equation):
            for name, site in inside(equation).items():
                _add(found, name, site)
    return found


def inside(equation: jex.JaxprEqn) -> dict[str, Site]:
    """The names inside an equation, as they are seen from outside."""
    found = _inside(equation)
    return {name: _copy(site) for name, site in found.items()} if is_again(equation) else found


def _inside(equation: jex.JaxprEqn) -> dict[str, Site]:
    kind = equation.primitive.name
    inner = [inventory(program) for program in _interpreter.held(equation)]
    if not _interpreter.programs(equation):
        why = f"it is inside a `{kind}`, which cannot be entered. Tag what goes in or comes out"
        return {name: site._replace(trouble=why) for sites in inner for name, site in sites.items()}
    if kind == "scan":
        length = equation.params["length"]
        return {
            name: site._replace(hits=length * site.hits, is_stacked=True)
            for name, site in inner[0].items()
        }
    if kind == "while":
        condition, body = inner
        for name in condition:
            why = "it is in the condition of a `while`, which runs once more than its body"
            body[name] = condition[name]._replace(trouble=why)
        why = ""
        if _interpreter.programs(equation)[0].jaxpr.outvars[0].aval.shape:
            why = (
                "it is inside a `while` that runs for a batch, each example as often as it needs. "
                "Map the reading, `jax.vmap(jaxplain.sites.read(f, names))`"
            )
        return {
            name: site._replace(is_open=True, unread=site.unread or why)
            for name, site in body.items()
        }
    if kind == "cond":
        names = dict.fromkeys(name for sites in inner for name in sites)
        return {name: _of_branches([sites.get(name) for sites in inner]) for name in names}
    if kind == "shard_map":
        program = _interpreter.programs(equation)[0]
        varying = varying_of(program, equation)
        return {
            name: site._replace(shape=(_shards(equation, varying[name]), *site.shape))
            if varying[name]
            else site
            for name, site in inner[0].items()
        }
    if kind in CUSTOM:
        rule = kind.removesuffix("_call")
        why = (
            f"it is inside a `jax.{rule}`, whose rule would be lost. Tag what goes in or comes out"
        )
        return {name: site._replace(trouble=why) for name, site in inner[0].items()}
    return inner[0]


def is_again(equation: jex.JaxprEqn) -> bool:
    """Whether a backward pass computes it again, because its forward pass did not keep it."""
    return AGAIN in str(equation.source_info.name_stack)


def _copy(site: Site) -> Site:
    return site._replace(hits=0, is_copied=True)


def _of_branches(sites: Sequence[Site | None]) -> Site:
    """What branches say of one name together; None where a branch does not have it."""
    own = [site for site in sites if site is not None]
    hit = [site for site in own if not site.is_only_copied]
    unread, unwritten = (
        next(filter(None, texts), "")
        for texts in ((s.unread for s in own), (s.unwritten for s in own))
    )
    layouts = {(s.shape, s.dtype, s.hits, s.is_stacked, s.is_open) for s in hit}
    if len(layouts) > 1:
        why = "the branches of a `cond` have it in different shapes or dtypes, or not as often"
        unread, unwritten = unread or why, unwritten or why
    elif hit and len(hit) < len(sites):
        unread = unread or "not every branch of a `cond` has it"
    return max(own, key=lambda site: site.hits)._replace(
        is_open=any(site.is_open for site in own),
        is_used=any(site.is_used for site in own),
        is_copied=any(site.is_copied for site in own),
        trouble=next((site.trouble for site in own if site.trouble), ""),
        unread=unread,
        unwritten=unwritten,
    )


def _add(found: dict[str, Site], name: str, site: Site) -> None:
    if name not in found:
        found[name] = site
        return
    first = found[name]
    trouble = first.trouble or site.trouble
    if not trouble and (first.shape, first.dtype) != (site.shape, site.dtype):
        trouble = (
            f"it names values of several kinds, {first.dtype}{list(first.shape)} and "
            f"{site.dtype}{list(site.shape)}. Two places of the model that share the name are to "
            "be tagged differently. Of one place that is called with a mapped value and with one "
            "that is not, map the reading, `jax.vmap(jaxplain.sites.read(f, names))`; in a loop "
            "that cuts its input (`lax.map` with a `batch_size` and a rest), name what comes out"
        )
    several = first.is_stacked or site.is_stacked or first.hits + site.hits > 1
    found[name] = first._replace(
        hits=first.hits + site.hits,
        is_stacked=several,
        is_open=first.is_open or site.is_open,
        is_used=first.is_used or site.is_used,
        is_copied=first.is_copied or site.is_copied,
        trouble=trouble,
        unread=first.unread or site.unread,
        unwritten=first.unwritten or site.unwritten,
    )


def has_tap(equation: jex.JaxprEqn) -> bool:
    """Whether there is one inside."""
    return any(
        inner.primitive.name == TAP or has_tap(inner)
        for program in _interpreter.programs(equation)
        for inner in program.jaxpr.eqns
    )


def varying_of(program: jex.ClosedJaxpr, equation: jex.JaxprEqn) -> dict[str, tuple[str, ...]]:
    """For each name inside a `shard_map` the axes of the mesh over which its values differ."""
    names = equation.params["mesh"].axis_names
    manual = equation.params.get("newly_manual_axes") or equation.params["manual_axes"]
    found: dict[str, set[str]] = {}

    def look(jaxpr: jex.Jaxpr) -> None:
        for inner in jaxpr.eqns:
            if inner.primitive.name == TAP:
                # Where types do not say what varies, everything may.
                kind: Any = getattr(inner.outvars[0].aval, "manual_axis_type", None)
                is_known = equation.params["check_vma"] and kind is not None
                axes = kind.varying if is_known else manual
                found.setdefault(inner.params["name"], set()).update(axes)
            for deeper in _interpreter.programs(inner):
                look(deeper.jaxpr)

    look(program.jaxpr)
    return {
        name: tuple(axis for axis in names if axis in axes and axis in manual)
        for name, axes in found.items()
    }


def _shards(equation: jex.JaxprEqn, axes: Sequence[str]) -> int:
    count = 1
    for axis in axes:
        count *= equation.params["mesh"].shape[axis]
    return count
