"""Which latents tell two sets of examples apart.

first_j = share of the rows of the first set on which latent j is active,    second_j likewise
score_j = first_j - second_j

Rows of one sequence are not independent: each standard error is of sums over sequences.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxplain import checks
from jaxplain.sae import _encoded
from jaxplain.sae._dictionary import Dictionary, Params


class Separation(NamedTuple):
    """How well each latent tells two sets of examples apart.

    Attributes:
        score: (F,), `first - second`: 1 of a latent that is active on all of the first set and on
            none of the second, -1 the other way.
        score_error: (F,), its standard error.
        first: (F,), the share of rows of the first set on which each latent is active.
        first_error: (F,), its standard error; NaN of a single sequence.
        second: (F,), the share of rows of the second set.
        second_error: (F,), its standard error.
        ranking: (F,), the latents by score: `ranking[0]` is strongest for the first set,
            `ranking[-1]` for the second.
    """

    score: np.ndarray
    score_error: np.ndarray
    first: np.ndarray
    first_error: np.ndarray
    second: np.ndarray
    second_error: np.ndarray
    ranking: np.ndarray


def separation(
    dictionary: Dictionary,
    params: Params,
    first: Any,
    second: Any,
    *,
    sequence_length: int = 1,
) -> Separation:
    """Compares how often each latent is active on two sets of examples.

        score_j = share of first rows with codes_j > 0  -  share of second rows with codes_j > 0

    The largest of many scores is too large by chance: choose a latent on some rows, and take its
    score on others.

    Args:
        dictionary: what encodes; of a transcoder the inputs are what is encoded.
        params: its parameters.
        first: activations (n, d), such as of entities that a model knows.
        second: activations (m, d), such as of those that it does not know.
        sequence_length: how many rows that follow each other are of one sequence. No sequence is in
            both sets.

    Returns:
        `Separation`, numpy on the host.

    Raises:
        TypeError: activations are no floats.
        ValueError: there are no rows, or no whole number of sequences; a number is not finite.

    Example:
        Of several pairs of sets, MaxMin is the latent whose least score is largest: one that is
        general to all of them.

        >>> import jax, jax.numpy as jnp, numpy as np
        >>> from jaxplain import sae
        >>> dictionary = sae.relu(latents=4, l1_coefficient=0.0)
        >>> params = {"W_enc": jnp.eye(4), "b_enc": jnp.zeros(4)}
        >>> params |= {"W_dec": jnp.eye(4), "b_dec": jnp.zeros(4)}
        >>> known = [jnp.array([[1.0, 0, 1, 0]]), jnp.array([[0.0, 1, 1, 0]])]  # of two types
        >>> unknown = [jnp.array([[0.0, 0, 0, 1]]), jnp.array([[0.0, 0, 0, 1]])]
        >>> pairs = zip(known, unknown, strict=True)
        >>> of_types = [sae.separation(dictionary, params, *pair) for pair in pairs]
        >>> [r.score.tolist() for r in of_types]
        [[1.0, 0.0, 1.0, -1.0], [0.0, 1.0, 1.0, -1.0]]
        >>> int(np.argmax(np.min([r.score for r in of_types], axis=0)))  # MaxMin
        2

    References:
        Ferrando, Obeso, Rajamanoharan and Nanda, "Do I Know This Entity? Knowledge Awareness and
        Hallucinations in Language Models", ICLR 2025, https://arxiv.org/abs/2411.14257, section 4.
        Latents that are active on more than 2 % of any tokens are left out there: `density` of
        `jaxplain.sae.evaluate` says which.
    """
    sequence_length = checks.integer(sequence_length, "sequence_length")
    sets = {"first": first, "second": second}
    for name, h in sets.items():
        _encoded.rows(dictionary, h, name, sequence_length)
    (share, error), (other, other_error) = (
        _shares(dictionary, params, h, name, sequence_length) for name, h in sets.items()
    )
    score = share - other
    ranking = np.argsort(-score, kind="stable")
    return Separation(
        score, np.hypot(error, other_error), share, error, other, other_error, ranking
    )


def _shares(
    dictionary: Dictionary, params: Params, h: Any, name: str, sequence_length: int
) -> tuple[np.ndarray, np.ndarray]:
    """The share of rows on which each latent is active, and its standard error."""
    sums: Any = 0.0
    squares: Any = 0.0
    for _, _, codes in _encoded.batches(dictionary, params, h, name, sequence_length):
        counts = codes.reshape(-1, sequence_length, codes.shape[-1])
        batch = jax.device_get(_moments(counts))
        sums, squares = (np.float64(a) + b for a, b in zip((sums, squares), batch, strict=True))
    sequences = len(h) // sequence_length
    spread = np.maximum(squares - sums**2 / sequences, 0)
    many = sequences / (sequences - 1) if sequences > 1 else np.nan
    return sums / len(h), np.sqrt(spread * many) / len(h)


@jax.jit
def _moments(codes: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Of the number of active rows of a sequence, over the sequences: the sum and that of squares.

    Both are whole numbers below 2^24 in a batch of usual size, which float32 has exactly.
    """
    active = jnp.sum(codes > 0, axis=1).astype(jnp.float32)
    return jnp.sum(active, axis=0), jnp.sum(jnp.square(active), axis=0)
