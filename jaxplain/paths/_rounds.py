"""Integrated Gradients to a tolerance, in rounds: the form in which examples leave a batch.

round 1: 33 gradients;    round r: as many again,    until error <= tolerance
"""

from collections.abc import Callable
from typing import Any

import jax

from jaxplain import checks
from jaxplain.evaluate import Rounds
from jaxplain.paths._integrand import Path
from jaxplain.paths._kernel import in_rounds
from jaxplain.paths._result import checked, placed
from jaxplain.paths._straight_line import straight_line


def rounds(
    f: Callable[..., Any],
    *,
    path: Path = straight_line,
    tolerance: float | jax.Array,
    max_steps: int | None = None,
    chunk_size: int = 16,
    hoist: bool = True,
) -> Rounds:
    """The tolerance form of `integrated_gradients` in rounds, for `jaxplain.run.map`.

    The values are those of `integrated_gradients(f, tolerance=...)`, up to rounding. Inside one
    program a batch takes as many gradients as its hardest example; in rounds `run.map` goes on with
    the unfinished examples alone.

    Args:
        f: `f(x, *args) -> scalar`. Parameters belong among `args`, never closed over.
        path: `path(t, x, baseline) -> point`; the straight line unless given. Static.
        tolerance: the relative error of the vector of values to stop at, in the Euclidean norm.
        max_steps: the most gradients, 2**k + 1; 257 unless given.
        chunk_size: points evaluated at once; see `integrated_gradients`.
        hoist: as in `integrated_gradients`. Static.

    Returns:
        `Rounds(init, advance, done, finish)`, pure functions of one example and its arguments `x,
        baseline, *args`; `finish` returns a `PathAttribution`.

    Raises:
        TypeError: f or path is not a function; x is not float; an argument is not an array.
        ValueError: f does not return a scalar; baseline does not match x; an option is out of
            range.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> steps = rounds(lambda x: jnp.sum(jnp.exp(x)), tolerance=1e-3)
        >>> arguments = jnp.array([0.0, 1.0]), jnp.zeros(2)
        >>> state = steps.init(*arguments)
        >>> while not steps.done(state, *arguments):
        ...     state = steps.advance(state, *arguments)
        >>> [round(float(value), 4) for value in steps.finish(state, *arguments).values]
        [0.0, 1.7183]

    References:
        As `integrated_gradients`; docs/architecture.md, "To a tolerance".
    """
    checks.function(f, "f")
    checks.function(path, "path")
    chunk_size = checks.integer(chunk_size, "chunk_size")
    scalar = checks.scalar(f)
    _, steps = in_rounds(
        scalar,
        path,
        tolerance=tolerance,
        max_steps=max_steps,
        chunk_size=chunk_size,
        hoist=hoist,
    )

    def with_state(function: Callable[..., Any]) -> Callable[..., Any]:
        @jax.jit
        def program(state: Any, x: Any, baseline: Any, *args: Any) -> Any:
            return function(state, *placed(scalar, x, baseline, args), *args)

        return lambda state, *arguments: program(state, *checked(*arguments))

    @jax.jit
    def init(x: Any, baseline: Any, *args: Any) -> Any:
        return steps.init(*placed(scalar, x, baseline, args), *args)

    return Rounds(
        init=lambda *arguments: init(*checked(*arguments)),
        advance=with_state(steps.advance),
        done=with_state(steps.done),
        finish=with_state(steps.finish),
    )
