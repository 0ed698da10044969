"""p-annealing: an L_p penalty whose p falls from 1 towards 0 while the dictionary is trained.

    codes = ReLU((h - b_dec) W_enc + b_enc)
    loss  = |h - h_hat|^2 + c_s sum_i codes_i^p_s        s the stage of the run

At each new stage c is rescaled so that the penalty over the last ten batches stays what it was.
"""

from typing import Any

import jax
import jax.numpy as jnp

from jaxplain import checks
from jaxplain.sae import _ground, _initial
from jaxplain.sae._dictionary import UNTOLD, Dictionary, Params, Report, Status
from jaxplain.sae._shards import ALONE, Shards

WINDOW = 10  # batches over which the penalty is kept equal


def p_annealed(
    latents: int,
    sparsity_coefficient: Any,
    *,
    last_p: float = 0.2,
    stages: int = 10,
    start: float = 0.2,
    end: float = 0.9,
    is_centred: bool = True,
) -> Dictionary:
    """A dictionary whose penalty comes nearer to the number of active latents as it is trained.

        loss = |h - h_hat|^2 + c_s sum_i codes_i^p_s

    p is 1 until the share `start` of the run, and falls in equal stages to `last_p` at `end`. At
    each new stage c is rescaled so that the penalty over the last ten batches stays as it was.
    Decoder rows have norm 1.

    Args:
        latents: F, how many there are.
        sparsity_coefficient: c of the first stage, for a squared error that is summed over d. May
            be a traced number.
        last_p: the p of the last stage, above 0 and at most 1.
        stages: how many times p falls.
        start: the share of the run until which p is 1.
        end: the share of the run from which p is `last_p`.
        is_centred: whether b_dec is taken from h before it is encoded.

    Returns:
        `jaxplain.sae.Dictionary`; parameters as those of `jaxplain.sae.relu`. Outside of training
        its loss is that of the last stage with the first coefficient.

    Raises:
        TypeError: a number is no number.
        ValueError: p or the shares are out of range.

    Example:
        >>> import jax
        >>> from jaxplain import sae
        >>> dictionary = sae.p_annealed(latents=32, sparsity_coefficient=0.1)
        >>> h = jax.random.normal(jax.random.key(0), (100, 8))
        >>> dictionary.encode(dictionary.init(jax.random.key(1), h), h).shape
        (100, 32)

    References:
        Karvonen, Wright, Rager, Angell, Brinkmann, Smith, Verdun, Bau and Marks, "Measuring
        Progress in Dictionary Learning for Language Model Interpretability with Board Game Models",
        NeurIPS 2024, section 3, https://arxiv.org/abs/2408.00113
    """
    latents = _ground.latents(latents)
    stages = checks.integer(stages, "stages")
    checks.number(last_p, "last_p", above=0, at_most=1)
    checks.number(start, "start", at_least=0, below=1)
    checks.number(end, "end", above=start, at_most=1)

    def init(key: jax.Array, sample: Any) -> Params:
        return _initial.tied(key, sample, latents)

    def codes_of(params: Params, rows: jax.Array, takes_bias: bool) -> jax.Array:
        return jax.nn.relu(_ground.pre_activations(params, rows, takes_bias))

    def encode(params: Params, h: Any, sparse: int | None = None, *, shards: Shards = ALONE) -> Any:
        codes = lambda rows: codes_of(params, rows, is_centred)
        return _ground.encode(params, h, codes, sparse, shards=shards)

    def stage_of(progress: Any) -> jax.Array:
        share = (jnp.asarray(progress, float) - start) / (end - start)
        return jnp.clip(jnp.floor(share * stages), 0, stages).astype(jnp.int32)

    def loss(
        params: Params, batch: Any, status: Status = UNTOLD, *, shards: Shards = ALONE
    ) -> tuple[jax.Array, Report]:
        inputs, targets, takes_bias = _ground.split(batch, is_centred)
        codes = codes_of(params, inputs, takes_bias)
        squared = _ground.mean_square(_ground.error(params, codes, targets, shards), shards)
        stage = status.memory["stage"] if status.memory else stage_of(status.progress)
        size, following = (
            _ground.mean_sum(_powers(codes, _power(s, last_p, stages)), shards)
            for s in (stage, stage + 1)
        )
        coefficient = status.memory["coefficient"] if status.memory else sparsity_coefficient
        penalty = coefficient * status.sparsity * size
        sizes = jax.lax.stop_gradient(jnp.stack([size, following]))
        loss, report = _ground.reported(targets, squared, penalty, codes, shards=shards)
        return loss, report._replace(own={"sizes": sizes})

    def memory(params: Params) -> Any:
        dtype = params["b_enc"].dtype
        return {
            "coefficient": jnp.asarray(sparsity_coefficient, dtype),
            "stage": jnp.zeros((), jnp.int32),
            "seen": jnp.zeros((), jnp.int32),
            "sizes": jnp.zeros((WINDOW, 2), dtype),
        }

    def after(
        params: Params, previous: Params, report: Report, status: Status
    ) -> tuple[Params, Any]:
        params, memory = _ground.unit_norm(params, previous, report, status)
        if not memory:
            return params, memory
        sizes = memory["sizes"].at[memory["seen"] % WINDOW].set(report.own["sizes"])
        seen = memory["seen"] + 1
        old, new = jnp.sum(sizes, axis=0)
        is_new = stage_of(status.progress + status.pace) > memory["stage"]
        ratio = jnp.where(is_new & (new > 0), old / jnp.where(new > 0, new, 1), 1)
        return params, {
            "coefficient": memory["coefficient"] * ratio,
            "stage": memory["stage"] + is_new.astype(jnp.int32),
            "seen": jnp.where(is_new, 0, seen),
            "sizes": jnp.where(is_new, 0, sizes),
        }

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
        about={"architecture": "p_annealed", "is_centred": is_centred},
    )


def _power(stage: jax.Array, last: float, stages: int) -> jax.Array:
    return 1 - (1 - last) * jnp.minimum(stage, stages).astype(float) / stages


def _powers(codes: jax.Array, p: jax.Array) -> jax.Array:
    """The p-th powers; what is 0 has the slope 0, not infinity."""
    active = codes > 0
    return jnp.where(active, jnp.where(active, codes, 1) ** p.astype(codes.dtype), 0)
