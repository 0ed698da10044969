"""A method in rounds, between which finished examples can leave the batch.

state_0 = init(*arguments);    state_{r+1} = advance(state_r, *arguments)    until done;    finish
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax


class Rounds(NamedTuple):
    """Four pure functions of one example, by which a method of uncertain length takes its steps.

    Inside one program a batch goes on until its last example is done. In rounds the host sees after
    each who is done, and goes on with the others alone: `jaxplain.run.map` does, given one of these
    in place of a function.

    Attributes:
        init: `(*arguments) -> state`, a tree of arrays.
        advance: `(state, *arguments) -> state`.
        done: `(state, *arguments) -> bool`.
        finish: `(state, *arguments) -> result`.
    """

    init: Callable[..., Any]
    advance: Callable[..., Any]
    done: Callable[..., jax.Array]
    finish: Callable[..., Any]

    def with_arguments(self, arguments: Callable[..., tuple[Any, ...]]) -> "Rounds":
        """The same of other arguments, from which `arguments` makes those of the method.

        `rounds.with_arguments(lambda x, label, params: (x, zeros_like(x), label, params))`.
        """

        def of_state(function: Callable[..., Any]) -> Callable[..., Any]:
            return lambda state, *others: function(state, *arguments(*others))

        return Rounds(
            lambda *others: self.init(*arguments(*others)),
            of_state(self.advance),
            of_state(self.done),
            of_state(self.finish),
        )
