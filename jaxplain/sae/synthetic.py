"""Activations whose features are known, and how many of them a dictionary has found.

h = sum_i s_i m_i f_i,    s_i fires with probability p_i,    m_i = ReLU(N(mean, deviation^2))

What fires may depend on what else does: by a Gaussian copula (features of one factor come together)
or by a hierarchy (a feature fires only where its parent does).
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import scipy.optimize

from jaxplain import checks

__all__ = [
    "Activations",
    "Recovery",
    "Superposition",
    "activations",
    "features",
    "recovery",
    "superposition",
    "zipf",
]

STEPS, RATE = 500, 0.01  # of the descent that makes features orthogonal


class Activations(NamedTuple):
    """A batch of activations with what they are made of.

    Attributes:
        activations: (n, d).
        codes: (n, features), the magnitudes; 0 where a feature does not fire.
    """

    activations: jax.Array
    codes: jax.Array


class Superposition(NamedTuple):
    """Toy models that hold more features than they have dimensions.

    Attributes:
        W: (models, features, width), the direction of each feature; `W @ W.T` is the Gram matrix.
        b: (models, features).
        loss: (models,), the mean over the last tenth of the steps.
    """

    W: jax.Array
    b: jax.Array
    loss: jax.Array


class Recovery(NamedTuple):
    """How well a dictionary has the features of its data.

    Attributes:
        max_cosine: the mean over features of the cosine with the nearest decoder row (MMCS).
        matched_cosine: the mean absolute cosine of the best assignment of one row to each feature
            (MCC); features beyond the number of rows count 0.
        share_found: the share of features whose nearest row has a cosine above 0.9.
        nearest: (features,) int32, that row.
        precision: (features,), the share of a nearest latent's firings in which the feature fires,
            where codes were given, else None; NaN where the latent never fires.
        recall: (features,), the share of a feature's firings in which that latent fires.
    """

    max_cosine: float
    matched_cosine: float
    share_found: float
    nearest: np.ndarray
    precision: np.ndarray | None
    recall: np.ndarray | None


def features(key: jax.Array, count: int, width: int) -> jax.Array:
    """Unit vectors, as nearly orthogonal as a descent from random ones makes them.

        minimise sum_{i != j} (f_i . f_j)^2

    Args:
        key: a typed key.
        count: how many; may be more than `width`.
        width: d.

    Returns:
        (count, width).

    Raises:
        TypeError: the key is no typed key, or a number no integer.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from jaxplain import sae
        >>> f = sae.synthetic.features(jax.random.key(0), 8, 8)
        >>> bool(jnp.max(jnp.abs(f @ f.T - jnp.eye(8))) < 0.05)
        True

    References:
        As the synthetic data of SAELens, https://github.com/decoderesearch/SAELens
    """
    checks.key(key)
    count, width = checks.integer(count, "count"), checks.integer(width, "width")

    def unit(rows: jax.Array) -> jax.Array:
        return rows / jnp.linalg.norm(rows, axis=-1, keepdims=True)

    def overlap(rows: jax.Array) -> jax.Array:
        return jnp.sum(jnp.square(rows @ rows.T - jnp.eye(count, dtype=rows.dtype)))

    step = lambda rows, _: (unit(rows - RATE * jax.grad(overlap)(rows)), None)
    return jax.lax.scan(step, unit(jax.random.normal(key, (count, width))), None, length=STEPS)[0]


def zipf(count: int, mean_l0: float, exponent: float = 0.5) -> jax.Array:
    """Probabilities of firing that fall as a power of the rank.

        p_i = min(c / i^exponent, 1),    c such that they sum to `mean_l0` where none is cut off

    Args:
        count: how many features.
        mean_l0: how many fire on average.
        exponent: 0 for equal ones.

    Returns:
        (count,).

    Raises:
        ValueError: `mean_l0` is not positive or above `count`.

    Example:
        >>> from jaxplain import sae
        >>> p = sae.synthetic.zipf(100, mean_l0=4.0)
        >>> round(float(p.sum()), 3), bool(p[0] > 5 * p[-1])
        (4.0, True)

    References:
        As the synthetic data of SAELens, https://github.com/decoderesearch/SAELens
    """
    count = checks.integer(count, "count")
    checks.number(mean_l0, "mean_l0", above=0, at_most=count)
    weights = jnp.arange(1, count + 1, dtype=float) ** -exponent
    return jnp.minimum(mean_l0 * weights / jnp.sum(weights), 1)


def activations(
    features: jax.Array,
    probability: Any,
    *,
    mean: float = 1.0,
    deviation: float = 0.15,
    loadings: jax.Array | None = None,
    parents: Any = None,
    noise: float = 0.0,
) -> Callable[[jax.Array, int], Activations]:
    """Draws activations of known features.

        h = sum_i s_i m_i f_i + noise,    s_i ~ Bernoulli(p_i),    m_i = ReLU(N(mean, deviation^2))

    Args:
        features: (features, d).
        probability: of firing, one number or (features,); of a feature with a parent the
            probability where its parent fires.
        mean: of the magnitudes.
        deviation: their standard deviation.
        loadings: (features, factors), rows of norm at most 1: features fire where `loadings @ z +
            sqrt(1 - |loadings|^2) e` is low, with z and e standard normal. Those with loadings on
            one factor come together. Independent unless given.
        parents: (features,) integers, the feature without which one does not fire, -1 for none;
            a parent comes before its children. No hierarchy unless given.
        noise: the standard deviation of normal noise on each element of h.

    Returns:
        `draw(key, n) -> Activations`, pure; n is static.

    Raises:
        ValueError: shapes do not match; a parent does not come before its child.

    Example:
        >>> import jax
        >>> from jaxplain import sae
        >>> f = sae.synthetic.features(jax.random.key(0), 16, 8)
        >>> draw = sae.synthetic.activations(f, 0.1)
        >>> draw(jax.random.key(1), 100).activations.shape
        (100, 8)

    References:
        As the synthetic data of SAELens, https://github.com/decoderesearch/SAELens
    """
    checks.arrays(features, "features")
    features = jnp.asarray(features)
    if features.ndim != 2:
        raise ValueError(f"features must have the shape (features, d), but have {features.shape}.")
    count = features.shape[0]
    probability = jnp.broadcast_to(jnp.asarray(probability, features.dtype), (count,))
    if loadings is not None and (jnp.ndim(loadings) != 2 or len(loadings) != count):
        raise ValueError(
            f"loadings must have the shape ({count}, factors), but have {jnp.shape(loadings)}."
        )
    depth = 0
    if parents is not None:
        parents = np.asarray(parents)
        if parents.shape != (count,) or np.any(parents >= np.arange(count)):
            raise ValueError(
                f"parents must be {count} integers, each below the feature's own number, or -1."
            )
        depths = np.zeros(count, int)
        for child in np.flatnonzero(parents >= 0):
            depths[child] = depths[parents[child]] + 1
        depth = int(depths.max(initial=0))

    def fires(key: jax.Array, n: int) -> jax.Array:
        if loadings is None:
            own = jax.random.uniform(key, (n, count), features.dtype) < probability[None]
        else:
            first, second = jax.random.split(key)
            z = jax.random.normal(first, (n, loadings.shape[1]), features.dtype)
            rest = jnp.sqrt(jnp.maximum(1 - jnp.sum(jnp.square(loadings), axis=-1), 0))
            e = jax.random.normal(second, (n, count), features.dtype)
            score = z @ loadings.T + rest[None] * e
            own = score < jax.scipy.stats.norm.ppf(probability)[None]
        fired = own
        for _ in range(depth):  # each time one generation further down is right
            fired = own & jnp.where(parents[None] >= 0, fired[:, parents], True)
        return fired

    def draw(key: jax.Array, n: int) -> Activations:
        for_firing, for_size, for_noise = jax.random.split(key, 3)
        normal = jax.random.normal(for_size, (n, count), features.dtype)
        sizes = jax.nn.relu(mean + deviation * normal)
        codes = jnp.where(fires(for_firing, n), sizes, 0)
        h = codes @ features
        if noise:
            h = h + noise * jax.random.normal(for_noise, h.shape, h.dtype)
        return Activations(h, codes)

    return draw


def superposition(
    key: jax.Array,
    probability: Any,
    *,
    features: int = 5,
    width: int = 2,
    importance: Any = 1.0,
    steps: int = 5000,
    batch_size: int = 1024,
    learning_rate: float = 1e-2,
) -> Superposition:
    """Trains toy models of superposition, all in one program.

        x_hat = ReLU(x W W^T + b),    loss = sum_i I_i (x_i - x_hat_i)^2
        x_i ~ U(0, 1) with probability p, else 0

    Args:
        key: a typed key; each model has its own start and its own data.
        probability: (models,), p of each: of several seeds the same number several times.
        features: how many features there are.
        width: how many dimensions they are squeezed into.
        importance: I, one number or (features,).
        steps: of Adam, whose rate falls to 0 along a cosine.
        batch_size: examples of a step.
        learning_rate: where the rate starts.

    Returns:
        `Superposition`; the best of several seeds is that of the least loss.

    Raises:
        TypeError: the key is no typed key, or a number no integer.
        ValueError: `probability` is no vector.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from jaxplain import sae
        >>> toy = sae.synthetic.superposition(jax.random.key(0), jnp.full(2, 0.05), steps=20)
        >>> toy.W.shape, toy.loss.shape
        ((2, 5, 2), (2,))

    References:
        Elhage et al., "Toy Models of Superposition", 2022,
        https://transformer-circuits.pub/2022/toy_model
    """
    checks.key(key)
    features, width = checks.integer(features, "features"), checks.integer(width, "width")
    steps, batch_size = checks.integer(steps, "steps"), checks.integer(batch_size, "batch_size")
    probability = jnp.asarray(probability, float)
    if probability.ndim != 1:
        raise ValueError(f"probability must be (models,), but has the shape {probability.shape}.")
    weights = jnp.broadcast_to(jnp.asarray(importance, float), (features,))[None]
    optimizer = optax.adam(optax.cosine_decay_schedule(learning_rate, steps))

    def loss(params: Any, x: jax.Array) -> jax.Array:
        x_hat = jax.nn.relu(x @ params["W"] @ params["W"].T + params["b"][None])
        return jnp.mean(jnp.sum(weights * jnp.square(x - x_hat), axis=-1))

    def train(key: jax.Array, probability: jax.Array) -> tuple[Any, jax.Array]:
        for_start, for_data = jax.random.split(key)
        W = jax.random.normal(for_start, (features, width)) / jnp.sqrt(float(features))
        start = {"W": W, "b": jnp.zeros(features)}

        def step(carry: Any, t: jax.Array) -> Any:
            params, state = carry
            first, second = jax.random.split(jax.random.fold_in(for_data, t))
            shape = (batch_size, features)
            fires = jax.random.uniform(first, shape) < probability
            x = jnp.where(fires, jax.random.uniform(second, shape), 0)
            value, gradient = jax.value_and_grad(loss)(params, x)
            updates, state = optimizer.update(gradient, state, params)
            return (optax.apply_updates(params, updates), state), value

        (params, _), values = jax.lax.scan(step, (start, optimizer.init(start)), jnp.arange(steps))
        return params, jnp.mean(values[-max(steps // 10, 1) :])

    keys = jax.random.split(key, len(probability))
    params, last = jax.jit(jax.vmap(train))(keys, probability)
    return Superposition(params["W"], params["b"], last)


def recovery(
    features: Any, decoder: Any, true_codes: Any = None, codes: Any = None, least: float = 0.9
) -> Recovery:
    """How many features a dictionary has found, by the directions of its decoder rows.

    Args:
        features: (features, d), the truth.
        decoder: (F, d), W_dec; rows of zeros match nothing.
        true_codes: (n, features), of some examples.
        codes: (n, F), what the dictionary makes of the same examples.
        least: the cosine above which a feature counts as found.

    Returns:
        `Recovery`.

    Raises:
        ValueError: the widths differ, or only one of the two codes is given.

    Example:
        >>> import jax
        >>> from jaxplain import sae
        >>> f = sae.synthetic.features(jax.random.key(0), 4, 8)
        >>> round(sae.synthetic.recovery(f, 3 * f[::-1]).max_cosine, 4)
        1.0

    References:
        Mean max cosine similarity: Sharkey, Braun and Millidge, "Taking features out of
        superposition with sparse autoencoders", 2022. Assignment: `scipy.optimize`.
    """
    truth, rows = np.asarray(features, float), np.asarray(decoder, float)
    if truth.ndim != 2 or rows.ndim != 2 or truth.shape[1] != rows.shape[1]:
        raise ValueError(
            f"features and decoder must be matrices of one width, but are {truth.shape} and "
            f"{rows.shape}."
        )
    if (true_codes is None) != (codes is None):
        raise ValueError("give true_codes and codes, or neither.")
    unit = lambda m: m / np.maximum(np.linalg.norm(m, axis=-1, keepdims=True), 1e-30)
    cosines = unit(truth) @ unit(rows).T
    nearest = np.argmax(cosines, axis=1).astype(np.int32)
    best = cosines[np.arange(len(truth)), nearest]
    pairs = scipy.optimize.linear_sum_assignment(np.abs(cosines), maximize=True)
    matched = float(np.abs(cosines[pairs]).sum() / len(truth))
    precision = recall = None
    if codes is not None:
        fired, is_there = np.asarray(codes)[:, nearest] > 0, np.asarray(true_codes) > 0
        both = (fired & is_there).sum(axis=0)
        with np.errstate(invalid="ignore"):
            precision, recall = both / fired.sum(axis=0), both / is_there.sum(axis=0)
    return Recovery(
        float(best.mean()), matched, float((best > least).mean()), nearest, precision, recall
    )
