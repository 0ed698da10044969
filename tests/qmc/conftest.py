"""The samplers, by name, and all points of one from blocks of any size."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from jaxplain import qmc

SOBOL = {
    f"sobol, {scramble}, {order}": functools.partial(qmc.sobol, scramble=scramble, order=order)
    for scramble, order in (
        ("linear", "natural"),
        ("linear", "gray"),
        ("owen", "natural"),
        ("shift", "gray"),
        (None, "natural"),
    )
}
SAMPLERS = SOBOL | {
    "halton": qmc.halton,
    "halton, None": functools.partial(qmc.halton, scramble=False),
    "latin_hypercube": qmc.latin_hypercube,
    "monte_carlo": qmc.monte_carlo,
}
RANDOM = [name for name in SAMPLERS if "None" not in name]


def from_blocks(sampler, key, dimensions, samples, block_size):
    """As a method does it: one loop over the numbers of the blocks, in one program."""

    @jax.jit
    def run(key):
        block = sampler(key, dimensions, samples, block_size)
        numbers = jnp.arange(-(-samples // block_size))
        return jax.lax.scan(lambda state, k: (state, block(k)), 0, numbers)[1]

    return np.asarray(run(key)).reshape(-1, dimensions)[:samples]


def one_block(sampler, key, dimensions, samples, block_size, number):
    """In one program: eager calls compile each operation for itself."""
    make = lambda key: sampler(key, dimensions, samples, block_size)(number)
    return np.asarray(jax.jit(make)(key))


def over_keys(sampler, keys, dimensions, samples):
    """Designs of as many keys: (keys, samples, dimensions), float64 numpy."""
    keys = jax.random.split(jax.random.key(11), keys)
    design = lambda key: qmc.points(sampler, key, dimensions, samples)
    return np.asarray(jax.jit(jax.vmap(design))(keys), np.float64)
