"""What the training examples share: a loop by optax, and figures with their standard errors."""

import functools
import os
import pathlib

import jax
import numpy as np
import optax

from jaxplain import rewrite


def data_folder():
    """The folder of data sets, named by JAXPLAIN_DATA."""
    return pathlib.Path(os.environ["JAXPLAIN_DATA"])


@functools.partial(jax.jit, static_argnames=("loss", "steps", "batch_size", "learning_rate"))
def train(loss, params, key, data, *, steps, batch_size=None, learning_rate):
    """Minimises `loss(params, key, *batch)` by Adam over random batches of `data`, or all of it.

    The loss holds a gradient (the attribution), and this takes the gradient of that. `rewrite.fast`
    stands outside of both, since it mends the convolutions that it can see.
    """
    gradient = rewrite.fast(jax.grad(loss))
    optimizer = optax.adam(learning_rate)
    size = jax.tree.leaves(data)[0].shape[0]

    def step(state, key):
        params, moments = state
        batch_key, key = jax.random.split(key)
        batch = data
        if batch_size is not None:
            rows = jax.random.randint(batch_key, (batch_size,), 0, size)
            batch = jax.tree.map(lambda array: array[rows], data)
        updates, moments = optimizer.update(gradient(params, key, *batch), moments)
        return (optax.apply_updates(params, updates), moments), None

    state = params, optimizer.init(params)
    (params, _), _ = jax.lax.scan(step, state, jax.random.split(key, steps))
    return params


def mean_and_error(values):
    """The mean over seeds, the leading axis, and its standard error."""
    values = np.asarray(values, np.float64)
    return values.mean(0), values.std(0, ddof=1) / np.sqrt(len(values))


def show(name, values):
    """One line of the report."""
    mean, error = mean_and_error(values)
    print(f"  {name:36} {mean:8.4f} +- {error:.4f}")
