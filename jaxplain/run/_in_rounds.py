"""A batch in rounds: after each, examples that are done leave, and the others go on alone.

The others are gathered into the smallest batch of `devices * 2^k` that holds them, so that there is
one program for each such size and not for each number of examples.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxplain.evaluate import Rounds


class BatchInRounds:
    """The compiled programs of `Rounds` over batches of one size.

    Called with a key or None, global indices, the examples' arguments and what they share, as the
    compiled program of a plain function is.
    """

    def __init__(
        self,
        rounds: Rounds,
        over: Callable[[Callable[..., Any]], Callable[..., Any]],
        arguments: tuple[Any, ...],
        size: int,
        devices: int,
        by_example: jax.NamedSharding,
    ) -> None:
        key, index, rows, shared = arguments

        def program(function: Callable[..., Any]) -> Any:
            return jax.jit(over(function), out_shardings=by_example)

        def of_state(function: Callable[..., Any]) -> Any:
            if key is None:
                return program(function)
            return program(lambda key, state, *rest: function(state, key, *rest))

        def advanced(state: Any, *rest: Any) -> tuple[Any, jax.Array]:
            # A bucket may hold examples that are done; they stay as they are.
            done = rounds.done(state, *rest)
            state = jax.tree.map(
                lambda old, new: jnp.where(done, old, new), state, rounds.advance(state, *rest)
            )
            return state, rounds.done(state, *rest)

        self._size, self._devices = size, devices
        self._advance = of_state(advanced)
        init = program(rounds.init).lower(*arguments)
        place = lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=by_example)
        with_state = key, index, (jax.tree.map(place, init.out_info), *rows), shared
        advance = self._advance.lower(*with_state)
        finish = of_state(rounds.finish).lower(*with_state)
        self._text = "\n".join(part.as_text() for part in (init, advance, finish))
        self.out_info = finish.out_info
        self._init, self._finish = init.compile(), finish.compile()
        self._compiled = advance.compile()
        self._gather = jax.jit(
            lambda tree, places: jax.tree.map(lambda leaf: leaf[places], tree),
            out_shardings=by_example,
        )
        self._scatter = jax.jit(
            lambda tree, places, rows: jax.tree.map(
                lambda leaf, row: leaf.at[places].set(row), tree, rows
            ),
            out_shardings=by_example,
        )

    def as_text(self) -> str:
        """The programs' texts."""
        return self._text

    def memory_analysis(self) -> Any:
        """The memory of the largest program: a round of the whole batch."""
        return self._compiled.memory_analysis()

    def __call__(self, key: Any, index: jax.Array, rows: tuple[Any, ...], shared: Any) -> Any:
        states = self._init(key, index, rows, shared)
        states, done = self._compiled(key, index, (states, *rows), shared)
        left = np.flatnonzero(~np.asarray(done))
        while left.size:
            places = self._bucket(left)
            if places.size == self._size:
                states, done = self._compiled(key, index, (states, *rows), shared)
                done = np.asarray(done)[left]
            else:
                own_index, own = self._gather((index, (states, *rows)), places)
                own, done = self._advance(key, own_index, own, shared)
                states = self._scatter(states, places, own)
                done = np.asarray(done)[: left.size]
            left = left[~done]
        return self._finish(key, index, (states, *rows), shared)

    def _bucket(self, left: np.ndarray) -> np.ndarray:
        """Their places, filled up with copies of the first one to a size that has a program."""
        size = self._devices
        while size < left.size:
            size *= 2
        if size >= self._size:
            return np.arange(self._size)
        return np.concatenate([left, np.full(size - left.size, left[0])])
