"""Absorption in dictionaries for which it is known, and against numpy written out."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxplain import sae
from jaxplain.sae import _encoded

close = np.testing.assert_allclose
PARENTS = np.array([-1, 0, 0, -1, 3, -1])  # two parents, of two children and of one; one apart
FEATURES = jnp.eye(6)
CHANCE = np.array([0.5, 0.3, 0.2, 0.6, 0.4, 0.3])
DRAW = sae.synthetic.activations(FEATURES, CHANCE, parents=PARENTS)
PAIR = 0.5**0.5


def made(W_dec, W_enc):
    latents, width = W_dec.shape
    params = {"W_dec": W_dec, "W_enc": W_enc, "b_enc": jnp.zeros(latents)}
    return sae.relu(latents, 0.0), params | {"b_dec": jnp.zeros(width)}


def perfect():
    return made(FEATURES, FEATURES)


def absorbing(children=(1, 2, 4)):
    """The latent of each child is normalise(parent + child), and keeps the parent's silent.

    Codes may have any size: what is carried is a half of the activations or more.
    """
    W_dec, W_enc = np.eye(6), np.eye(6)
    for child in children:
        W_dec[child, [PARENTS[child], child]] = PAIR
        W_enc[child, child] = 2 * PAIR
        W_enc[child, PARENTS[child]] = -10
    return made(jnp.asarray(W_dec, jnp.float32), jnp.asarray(W_enc, jnp.float32))


def held(seed, n=500):
    return DRAW(jax.random.key(seed), n)


def measured(made, sample, **options):
    return sae.absorption(*made, sample.activations, FEATURES, sample.codes, PARENTS, **options)


def test_a_perfect_dictionary_absorbs_nothing():
    r = measured(perfect(), held(0))
    assert r.rate.tolist() == r.silent.tolist() == r.rate_error.tolist() == [0, 0]
    assert r.mean == (0, 0)
    assert r.parents.tolist() == r.main.tolist() == [0, 3]
    close(r.main_cosine, 1)


def test_absorbed_wherever_a_child_fires():
    """The rate is the share of the parent's firings in which a child fires, exactly."""
    sample = held(0)
    r = measured(absorbing(), sample)
    fires = np.asarray(sample.codes) > 0
    with_child = [fires[fires[:, 0], 1] | fires[fires[:, 0], 2], fires[fires[:, 3], 4]]
    close(r.rate, [own.mean() for own in with_child])
    close(r.silent, r.rate)
    close(r.rate_error, [own.std() / len(own) ** 0.5 for own in with_child], rtol=2e-3)
    close(r.mean.value, r.rate.mean())
    one = measured(absorbing([1]), sample)
    close(one.rate, [fires[fires[:, 0], 1].mean(), 0])


def test_silent_for_other_reasons_is_not_absorbed():
    sample = held(0)
    dictionary, params = absorbing()
    # Children keep the parent's latent silent, but carry nothing of it.
    r = measured((dictionary, params | {"W_dec": FEATURES}), sample)
    assert (r.silent > 0.3).all()
    assert r.rate.tolist() == [0, 0]
    # A parent of two latents, each for a half of its sizes: split, and not absorbed.
    W_dec = jnp.concatenate([FEATURES, FEATURES[:1]])
    W_enc = jnp.concatenate([FEATURES, FEATURES[:1]]).T
    wide, split = made(W_dec, W_enc)
    split["b_enc"] = split["b_enc"].at[0].set(-1.0)
    r = measured((wide, split), sample)
    assert r.silent[0] > 0.3
    assert r.rate[0] == 0


def test_the_main_latent_is_alive():
    """A latent nearer to the parent that never fires does not stand for it."""
    _, params = perfect()
    wide = {name: jnp.concatenate([leaf, leaf[..., :1]], axis=-1) for name, leaf in params.items()}
    wide |= {"W_dec": jnp.concatenate([params["W_dec"], FEATURES[:1]]), "b_dec": params["b_dec"]}
    wide["W_dec"] = wide["W_dec"].at[0, 5].set(0.1)
    wide["b_enc"] = wide["b_enc"].at[6].set(-100.0)
    r = measured((sae.relu(7, 0.0), wide), held(0))
    assert r.main.tolist() == [0, 3]
    assert r.main_cosine[0] < 1
    assert r.rate.tolist() == [0, 0]


def test_grandchildren_absorb_too():
    parents = np.array([-1, 0, 1])
    draw = sae.synthetic.activations(jnp.eye(3), 0.5, parents=parents)
    sample = draw(jax.random.key(0), 400)
    W_dec = jnp.array([[1.0, 0, 0], [0, 1, 0], [PAIR, 0, PAIR]])  # the parent is in the last
    W_enc = jnp.array([[1.0, 0, 0], [0, 1, 0], [-10, 0, 2 * PAIR]]).T
    r = sae.absorption(*made(W_dec, W_enc.T), *sample[:1], jnp.eye(3), sample.codes, parents)
    fires = np.asarray(sample.codes) > 0
    close(r.rate, [fires[fires[:, 0], 2].mean(), 0])


@pytest.mark.parametrize("seed", range(3))
def test_by_hand(seed, monkeypatch):
    """Of random dictionaries, with features that are neither orthogonal nor of norm 1."""
    monkeypatch.setattr(_encoded, "ROWS", 64)
    random = np.random.default_rng(seed)
    features = random.normal(size=(6, 5)) * [[2], [1], [1], [0.5], [1], [1]]
    draw = sae.synthetic.activations(jnp.asarray(features, jnp.float32), CHANCE, parents=PARENTS)
    sample = draw(jax.random.key(seed), 300)
    # Some rows of the decoder are features or pairs of them, so that all cases come up.
    pairs = features[[1, 2, 4]] + features[[0, 0, 3]]
    rows = np.concatenate([features, pairs, random.normal(size=(4, 5))])
    W_dec = jnp.asarray(rows, jnp.float32)
    W_enc = W_dec.T / jnp.sum(jnp.square(W_dec), axis=1)[None]
    dictionary, params = made(W_dec, W_enc)
    params["b_enc"] = params["b_enc"].at[jnp.array([0, 3])].set(-1.1)  # silent on many rows
    least_share, least_cosine, length = 0.3, 0.5, 3
    r = sae.absorption(
        dictionary,
        params,
        sample.activations,
        features,
        sample.codes,
        PARENTS,
        least_share=least_share,
        least_cosine=least_cosine,
        sequence_length=length,
    )
    h, fires = np.asarray(sample.activations, float), np.asarray(sample.codes) > 0
    codes = np.asarray(dictionary.encode(params, sample.activations), float)
    unit = features / np.linalg.norm(features, axis=1, keepdims=True)
    alive = (codes > 0).any(0)
    rates, influence = [], []
    for place, (parent, children) in enumerate(((0, [1, 2]), (3, [4]))):
        cosine = rows @ unit[parent] / np.linalg.norm(rows, axis=1)
        main = max(np.flatnonzero(alive), key=lambda j: cosine[j])
        assert r.main[place] == main
        close(r.main_cosine[place], cosine[main], rtol=1e-5)
        absorbed = np.zeros(len(h))
        for i in np.flatnonzero(fires[:, parent]):
            top = np.argmax(codes[i] * (rows @ unit[parent]))

            def carries(feature, i=i, top=top):
                needed = least_share * (h[i] @ unit[feature])
                return needed > 0 and codes[i, top] * (rows[top] @ unit[feature]) >= needed

            absorbed[i] = (
                codes[i, main] == 0
                and cosine[top] >= least_cosine
                and carries(parent)
                and any(fires[i, child] and carries(child) for child in children)
            )
        n = fires[:, parent].sum()
        rates.append(absorbed.sum() / n)
        left = (absorbed - rates[-1] * fires[:, parent]).reshape(-1, length).sum(1) / n
        influence.append(left * (len(left) / (len(left) - 1)) ** 0.5)
        close(r.silent[place], (codes[fires[:, parent], main] == 0).mean())
    close(r.rate, rates)
    close(r.rate_error, np.linalg.norm(influence, axis=1), atol=1e-12)
    close(r.mean.value, np.mean(rates))
    close(r.mean.standard_error, np.linalg.norm(np.mean(influence, axis=0)), atol=1e-12)
    assert max(rates) > 0


def sequences(seed, count=60, length=8):
    """Activations whose rows of one sequence are alike: children fire in half of the sequences."""
    random = np.random.default_rng(seed)
    fires = random.random((count, length, 6)) < [0.9, 0.6, 0.5, 0.9, 0.8, 0.3]
    fires[:, :, [1, 2, 4]] &= random.random((count, 1, 1)) < 0.5
    for child in (1, 2, 4):
        fires[:, :, child] &= fires[:, :, PARENTS[child]]
    codes = fires.reshape(-1, 6).astype(np.float32)
    return sae.synthetic.Activations(codes, codes)  # the features are the axes


def test_standard_errors_over_samples():
    """z of 150 samples against the closed form: the mean of z^2 is 1 within 0.5, four of its
    standard deviations; of rows taken as independent it is far above."""
    truth = np.array([(1 - 0.4 * 0.5) / 2, 0.8 / 2])
    dictionary = absorbing()
    found = {8: [], 1: []}
    for seed in range(150):
        for length, z in found.items():
            r = measured(dictionary, sequences(seed), sequence_length=length)
            own = [*((r.rate - truth) / r.rate_error)]
            z.append([*own, (r.mean.value - truth.mean()) / r.mean.standard_error])
    squares = {length: np.mean(np.square(z), axis=0) for length, z in found.items()}
    assert (np.abs(squares[8] - 1) < 0.5).all()
    assert (squares[1] > 1.6).all()


def test_a_parent_that_never_fires():
    sample = held(0)
    codes = sample.codes.at[:, 3:5].set(0)
    sample = sae.synthetic.Activations(codes @ FEATURES, codes)
    r = measured(absorbing(), sample)
    assert np.isnan([r.rate[1], r.rate_error[1], r.silent[1]]).all()
    close(r.mean, [r.rate[0], r.rate_error[0]])
    one = measured(absorbing(), sample, sequence_length=500)
    assert np.isnan(one.rate_error).all()


def test_bfloat16():
    sample = held(0)
    small = sample._replace(activations=sample.activations.astype(jnp.bfloat16))
    close(measured(absorbing(), small).rate, measured(absorbing(), sample).rate)


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2])
def test_what_training_does(seed):
    """Sparsity absorbs parents, the more the stronger; latents of an inner dictionary less so.

    Four parents of three children each. Over two seeds: topk 0.30 and 0.26, matryoshka 0.00 and
    0.04, relu 0.06 and 0.05 with a penalty of 0.1, 0.13 twice with one of 0.3.
    """
    parents = np.array([-1] * 4 + [k // 3 for k in range(12)])
    features = sae.synthetic.features(jax.random.key(0), 16, 24)
    probability = np.where(parents < 0, 0.25, 0.2)
    draw = sae.synthetic.activations(features, probability, parents=parents)
    sample = draw(jax.random.key(9), 4000)

    def rate(dictionary):
        params = sae.train(
            jax.random.key(seed),
            dictionary,
            lambda key: draw(key, 512).activations,
            optimizer=optax.adam(3e-3),
            steps=1500,
            dead_after=20_000,
        ).params
        of = (sample.activations, features, sample.codes, parents)
        return sae.absorption(dictionary, params, *of).mean.value

    with jax.numpy_dtype_promotion("standard"):  # optax itself promotes dtypes
        assert rate(sae.topk(16, 2)) > 0.15 + rate(sae.matryoshka(16, 2, sizes=(4, 16)))
        assert rate(sae.relu(16, 0.3)) > 0.04 + rate(sae.relu(16, 0.1)) > 0.04


def test_what_is_refused():
    dictionary, params = perfect()
    sample = held(0)
    h = sample.activations
    good = {"h": h, "features": FEATURES, "true_codes": sample.codes, "parents": PARENTS}
    for changed, error, message in (
        ({"h": h.at[3, 2].set(jnp.nan)}, ValueError, "h holds numbers that are not finite"),
        ({"h": h[:0], "true_codes": sample.codes[:0]}, ValueError, "h has no rows"),
        ({"features": FEATURES[:, :5]}, ValueError, r"shape \(features, 6\), but have \(6, 5\)"),
        ({"true_codes": sample.codes[:9]}, ValueError, r"true_codes must have the shape \(500, 6"),
        ({"parents": PARENTS[:5]}, ValueError, "parents must be 6 integers"),
        ({"parents": PARENTS[::-1]}, ValueError, "each below the feature's own number"),
        ({"parents": np.full(6, -1)}, ValueError, "parents are all -1"),
        ({"parents": np.full(6, -1.0)}, TypeError, "parents must be integers"),
        ({"least_share": 0.0}, ValueError, "least_share must be finite and above 0"),
        ({"least_cosine": 2.0}, ValueError, "least_cosine must be at least -1 and at most 1"),
        ({"sequence_length": 7}, ValueError, "500 rows of h are no whole number"),
    ):
        with pytest.raises(error, match=message):
            sae.absorption(dictionary, params, **{**good, **changed})
    for other, kind in ((sae.transcoder, "transcoder"), (sae.crosscoder, "crosscoder")):
        with pytest.raises(ValueError, match=f"but this is a {kind}"):
            sae.absorption(other(dictionary), params, **good)
