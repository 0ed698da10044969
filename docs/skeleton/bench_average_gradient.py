"""`average_gradient` against its floor: the same number of pure gradients in one jitted loop.

python -m bench.average_gradient        (a copy of this file under that name)
"""

import json

from bench import harness

if __name__ == "__main__":
    harness.pin()  # before jax starts its threads

import jax
import jax.numpy as jnp
from average_gradient import average_gradient  # in the library: from jaxplain.<family> import ...


def main(*, samples: int = 256, width: int = 512, rounds: int = 9) -> dict:
    """Times both, in interleaved rounds, the kernel under two names for the A/A spread."""
    key = jax.random.key(0)
    weights = jax.random.normal(key, (width, width)) / width**0.5
    x = jnp.ones(width)

    def f(x, weights):
        return jnp.sum(jnp.tanh(weights @ x))

    def floor(x, weights):
        def body(total, index):  # differing points: else one would be hoisted
            return total + jax.grad(f)(x * (1 + index / samples), weights), None

        return jax.lax.scan(body, jnp.zeros_like(x), jnp.arange(samples, dtype=x.dtype))[0]

    kernel = harness.compile_program(average_gradient(f, samples=samples), key, x, weights)
    pure = harness.compile_program(floor, x, weights)
    timed = harness.interleave(
        {
            "kernel": lambda: kernel.call(key, x, weights),
            "kernel again": lambda: kernel.call(key, x, weights),
            "floor": lambda: pure.call(x, weights),
        },
        rounds=rounds,
    )
    return {
        "environment": harness.environment(),
        "compile_seconds": kernel.compile_seconds,
        "over_floor": harness.ratio(timed["kernel"].cpu, timed["floor"].cpu),
        "same_program_twice": harness.ratio(timed["kernel again"].cpu, timed["kernel"].cpu),
        "records": harness.record(timed),
    }


if __name__ == "__main__":
    print(json.dumps(main(), indent=1))
