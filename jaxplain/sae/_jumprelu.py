"""JumpReLU: a threshold for each latent, learnt through the pseudo-derivatives of a step.

pi    = h W_enc + b_enc,    codes_i = pi_i 1[pi_i > theta_i],    h_hat = codes W_dec + b_dec
loss  = |h - h_hat|^2 + c sum_i 1[pi_i > theta_i]

d codes / d pi    =  1[pi > theta]                     d step / d pi    =  0
d codes / d theta = -(theta / eps) K((pi - theta) / eps)    d step / d theta = -(1 / eps) K(...)
                                                       K(u) = 1[|u| < 1/2], sums over the batch
"""

import math
from typing import Any

import jax
import jax.numpy as jnp

from jaxplain import checks
from jaxplain.sae import _ground, _initial
from jaxplain.sae._dictionary import UNTOLD, Dictionary, Params, Report, Status
from jaxplain.sae._shards import ALONE, Shards

# The controller of the coefficient: its gain by the error as it is and by its sum over steps, in
# logarithms, the most that an error counts in each, and how far the coefficient may go from where
# it started, either way. The sum takes larger errors, which come of a start that is far off.
PROPORTIONAL, INTEGRAL, LIMIT = 1.0, 0.002, math.log(1e4)
MOST, MOST_IN_SUM = 1.0, 3.0


@jax.custom_vjp
def step(pi: jax.Array, theta: jax.Array, eps: jax.Array) -> jax.Array:
    """1[pi > theta] for rows of pre-activations, with a derivative by theta alone."""
    del eps
    return (pi > theta[None]).astype(pi.dtype)


def _near(pi: jax.Array, theta: jax.Array, eps: jax.Array) -> jax.Array:
    return (jnp.abs(pi - theta[None]) < eps / 2).astype(pi.dtype)


def _step_forward(pi: jax.Array, theta: jax.Array, eps: jax.Array) -> tuple[jax.Array, Any]:
    return step(pi, theta, eps), (pi, theta, eps)


def _step_backward(saved: Any, g: jax.Array) -> tuple[jax.Array, ...]:
    pi, theta, eps = saved
    by_theta = -jnp.sum(g * _near(pi, theta, eps), axis=0) / eps
    return jnp.zeros_like(pi), by_theta, jnp.zeros_like(eps)


step.defvjp(_step_forward, _step_backward)


@jax.custom_vjp
def jump(pi: jax.Array, theta: jax.Array, eps: jax.Array) -> jax.Array:
    """The codes pi 1[pi > theta] for rows of pre-activations."""
    del eps
    return jnp.where(pi > theta[None], pi, 0)


def _jump_forward(pi: jax.Array, theta: jax.Array, eps: jax.Array) -> tuple[jax.Array, Any]:
    return jump(pi, theta, eps), (pi, theta, eps)


def _jump_backward(saved: Any, g: jax.Array) -> tuple[jax.Array, ...]:
    pi, theta, eps = saved
    by_theta = -theta / eps * jnp.sum(g * _near(pi, theta, eps), axis=0)
    return jnp.where(pi > theta[None], g, 0), by_theta, jnp.zeros_like(eps)


jump.defvjp(_jump_forward, _jump_backward)


def jumprelu(
    latents: int,
    l0_coefficient: Any,
    *,
    target_l0: Any = None,
    bandwidth: Any = 0.001,
    threshold: Any = 0.001,
    is_centred: bool = False,
) -> Dictionary:
    """A dictionary with a learnt threshold for each latent, penalised by how many are active.

        codes_i = pi_i 1[pi_i > theta_i],    pi = h W_enc + b_enc
        loss    = |h - h_hat|^2 + c sum_i 1[pi_i > theta_i]

    A step has no derivative: that of its expectation by theta is estimated from the pre-activations
    within `bandwidth` of it. The thresholds are held in float32 or wider, directly (their logarithm
    under Adam moves by theta times the learning rate, and stalls), and not below 0.

    Args:
        latents: F, how many there are.
        l0_coefficient: c, for a squared error that is summed over d. May be a traced number.
        target_l0: how many latents are to be active on average: c then starts from
            `l0_coefficient` and is moved by a controller until they are, by a factor of at most
            400 in 1,000 steps. What it is stands in the metrics of training as `coefficient`, and
            whether it has come to the end of its range, 1e-4 to 1e4 times the start, as
            `is_saturated`. Thresholds fall more slowly than they rise: more latents than the
            data has features cannot be had. May be a traced number.
        bandwidth: eps, as a share of the root mean square of |h| over the batch.
        threshold: where theta starts, as the same share over the sample.
        is_centred: whether b_dec is taken from h before it is encoded; not in the paper. Worth it
            where activations have a large mean, unless `jaxplain.sae.normalised` takes it from
            them: docs/sae.md has figures.

    Returns:
        `jaxplain.sae.Dictionary` whose parameters are W_enc (d, F), b_enc (F,), threshold (F,),
        W_dec (F, d) with rows of norm 1, b_dec (d,).

    Raises:
        TypeError: `latents` is no integer.
        ValueError: the target, the coefficient it starts from or the bandwidth is not positive, or
            the target is more than `latents`, where they are known.

    Example:
        >>> import jax
        >>> from jaxplain import sae
        >>> dictionary = sae.jumprelu(latents=32, l0_coefficient=0.01, target_l0=4)
        >>> h = jax.random.normal(jax.random.key(0), (100, 8))
        >>> params = dictionary.init(jax.random.key(1), h)
        >>> params["threshold"].shape, sorted(dictionary.memory(params))
        ((32,), ['coefficient', 'is_saturated', 'sum'])

    References:
        Rajamanoharan, Lieberum, Sonnerat, Conmy, Varma, Kramar and Nanda, "Jumping Ahead: Improving
        Reconstruction Fidelity with JumpReLU Sparse Autoencoders", 2024, equations 8 to 12,
        https://arxiv.org/abs/2407.14435. The paper holds log theta, and gives the bandwidth for
        activations of root mean square norm 1.
    """
    latents = _ground.latents(latents)
    checks.number(bandwidth, "bandwidth", above=0)
    checks.number(threshold, "threshold", at_least=0)
    if target_l0 is None:
        checks.number(l0_coefficient, "l0_coefficient", at_least=0)
    else:
        checks.number(target_l0, "target_l0", above=0, at_most=latents)
        checks.number(l0_coefficient, "l0_coefficient, which target_l0 starts from,", above=0)

    def init(key: jax.Array, sample: Any) -> Params:
        params = _initial.tied(key, sample, latents)
        start = threshold * _scale(_ground.wide(_initial.rows(sample)))
        return {**params, "threshold": jnp.broadcast_to(start, (latents,))}

    def encode(params: Params, h: Any, sparse: int | None = None, *, shards: Shards = ALONE) -> Any:
        def codes(rows: jax.Array) -> jax.Array:
            pi = _ground.pre_activations(params, rows, is_centred)
            return jnp.where(pi > params["threshold"][None].astype(pi.dtype), pi, 0)

        return _ground.encode(params, h, codes, sparse, shards=shards)

    def loss(
        params: Params, batch: Any, status: Status = UNTOLD, *, shards: Shards = ALONE
    ) -> tuple[jax.Array, Report]:
        inputs, targets, takes_bias = _ground.split(batch, is_centred)
        pi = _ground.pre_activations(params, inputs, takes_bias)
        theta = params["threshold"].astype(pi.dtype)
        scale = _scale(_ground.wide(inputs), shards)
        eps = (bandwidth * jnp.where(scale > 0, scale, 1)).astype(pi.dtype)
        eps = shards.like(eps, pi)
        codes = jump(pi, theta, eps)
        squared = _ground.mean_square(_ground.error(params, codes, targets, shards), shards)
        known = status.memory["coefficient"] if status.memory else l0_coefficient
        penalty = known * status.sparsity * _ground.mean_sum(step(pi, theta, eps), shards)
        return _ground.reported(targets, squared, penalty, codes, shards=shards)

    def memory(params: Params) -> Any:
        if target_l0 is None:
            return ()
        dtype = params["b_enc"].dtype
        return {
            "coefficient": jnp.asarray(l0_coefficient, dtype),
            "is_saturated": jnp.zeros((), bool),
            "sum": jnp.zeros((), dtype),
        }

    def after(
        params: Params, previous: Params, report: Report, status: Status
    ) -> tuple[Params, Any]:
        params, memory = _ground.unit_norm(params, previous, report, status)
        params = {**params, "threshold": jnp.maximum(params["threshold"], 0)}
        if not memory:
            return params, memory
        return params, _controlled(memory, report.l0, l0_coefficient, target_l0)

    return Dictionary(
        init,
        encode,
        _ground.decode,
        loss,
        _ground.project_gradient,
        after,
        memory,
        latents,
        has_unit_norm=True,
        about={"architecture": "jumprelu", "is_centred": is_centred},
    )


def _scale(rows: jax.Array, shards: Shards = ALONE) -> jax.Array:
    """The root mean square norm."""
    return jnp.sqrt(_ground.mean_square(jax.lax.stop_gradient(rows), shards))


def _controlled(memory: Any, l0: jax.Array, start: Any, target: Any) -> Any:
    """The coefficient for the next step: log c = log start + P error + I sum of errors."""
    dtype = memory["sum"].dtype
    error = jnp.log(jnp.maximum(l0.astype(dtype), 1e-3) / target)
    moved = memory["sum"] + INTEGRAL * jnp.clip(error, -MOST_IN_SUM, MOST_IN_SUM)
    total = jnp.clip(moved, -LIMIT, LIMIT)  # a sum that went on would be slow to return
    now = PROPORTIONAL * jnp.clip(error, -MOST, MOST)
    coefficient = start * jnp.exp(jnp.clip(total + now, -LIMIT, LIMIT))
    return {
        "coefficient": coefficient.astype(dtype),
        "is_saturated": jnp.abs(moved) >= LIMIT,
        "sum": total,
    }
