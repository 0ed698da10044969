"""GradientSHAP and SmoothGrad's family against Captum, on identical weights.

Both sides draw at random. The same distribution is sampled on either side (`positions="random"`,
noise in units of x), so the variance of the difference is known from our standard error and the
numbers of samples: var = se^2 (1 + ours / theirs). Over thousands of elements the differences must
be standard normal: hardly any beyond four, and a mean square of 1.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxplain
from jaxplain import gradients, paths

torch = pytest.importorskip("torch", reason="torch is not installed: run `make test-peers`")
captum = pytest.importorskip("captum.attr", reason="captum is not installed: `make test-peers`")

from tests.peers import test_captum as twins  # noqa: E402

pytestmark = pytest.mark.peers

NAMES = ["relu_mlp", "gelu_mlp", "cnn"]
BATCH, OURS, THEIRS, NOISE = 2, 1000, 1000, 0.2
LABELS = np.array([7, 0])


@functools.cache
def setting(name):
    model, twin, example = twins.NETWORKS[name]()
    generator = np.random.default_rng(7)
    x = generator.uniform(size=(BATCH, *example)).astype(np.float32)
    baselines = (0.5 * generator.uniform(size=(5, *example))).astype(np.float32)
    apply, params = jaxplain.adapters.nnx(model)
    return twin(model), jaxplain.targets.logit(apply), params, x, baselines


def assert_standard_normal(ours, theirs, error):
    """`error` is that of one side with as many samples as ours."""
    used = error > 0
    assert used.mean() > 0.9
    z = (ours - theirs)[used] / (error[used] * (1 + OURS / THEIRS) ** 0.5)
    assert (np.abs(z) > 4).sum() <= max(2, 6e-4 * z.size)  # one in 16,000 is expected
    # Elements share the samples: their squares are far from independent.
    assert 0.8 < np.mean(z**2) < 1.2


@pytest.mark.parametrize("name", NAMES)
def test_gradient_shap(name):
    forward, f, params, x, baselines = setting(name)
    torch.manual_seed(1)
    np.random.seed(1)
    theirs = captum.GradientShap(forward).attribute(
        torch.tensor(x),
        torch.tensor(baselines),
        n_samples=THEIRS,
        stdevs=NOISE,
        target=torch.tensor(LABELS),
    )
    explain = paths.gradient_shap(
        f, samples=OURS, noise=NOISE, relative=False, positions="random", chunk_size=4
    )
    keys = jax.random.split(jax.random.key(3), BATCH)
    ours = jax.vmap(explain, (0, 0, None, 0, None))(keys, x, jnp.asarray(baselines), LABELS, params)
    error = np.asarray(ours.standard_error)
    assert_standard_normal(np.asarray(ours.values), theirs.detach().numpy(), error)
    # Balanced samples estimate the same, with less spread.
    balanced = paths.gradient_shap(f, samples=OURS, noise=NOISE, relative=False, chunk_size=4)
    other = jax.vmap(balanced, (0, 0, None, 0, None))(
        keys, x, jnp.asarray(baselines), LABELS, params
    )
    z = (np.asarray(other.values) - theirs.detach().numpy()) / np.hypot(
        error, np.asarray(other.standard_error)
    )
    assert (np.abs(z[error > 0]) > 4).mean() <= 6e-4


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("kind", ["smoothgrad", "smoothgrad_squared", "vargrad"])
def test_noise_tunnel(name, kind):
    forward, f, params, x, _ = setting(name)
    torch.manual_seed(2)
    theirs = captum.NoiseTunnel(captum.Saliency(forward)).attribute(
        torch.tensor(x),
        nt_type=kind.replace("_squared", "_sq"),
        nt_samples=THEIRS,
        nt_samples_batch_size=100,
        stdevs=NOISE,
        target=torch.tensor(LABELS),
        abs=False,
    )
    explain = getattr(gradients, kind)(f, samples=OURS, noise=NOISE, relative=False, chunk_size=4)
    keys = jax.random.split(jax.random.key(4), BATCH)
    ours = jax.vmap(explain, (0, 0, 0, None))(keys, x, LABELS, params)
    values = np.asarray(ours.values)
    if kind == "vargrad":
        values = values * (OURS - 1) / OURS  # Captum divides by n
    assert_standard_normal(values, theirs.detach().numpy(), np.asarray(ours.standard_error))


def test_noise_tunnel_around_integrated_gradients():
    forward, f, params, x, baselines = setting("gelu_mlp")
    torch.manual_seed(5)
    theirs = captum.NoiseTunnel(captum.IntegratedGradients(forward)).attribute(
        torch.tensor(x),
        nt_type="smoothgrad",
        nt_samples=THEIRS,
        nt_samples_batch_size=100,
        stdevs=NOISE,
        baselines=torch.tensor(baselines[:1]),
        target=torch.tensor(LABELS),
        n_steps=6,
        method="gausslegendre",
    )
    around = functools.partial(jaxplain.integrated_gradients, steps=6)
    explain = gradients.smoothgrad(
        f, around=around, samples=OURS, noise=NOISE, relative=False, chunk_size=4
    )
    keys = jax.random.split(jax.random.key(4), BATCH)
    ours = jax.vmap(explain, (0, 0, None, 0, None))(
        keys, x, jnp.asarray(baselines[0]), LABELS, params
    )
    assert_standard_normal(
        np.asarray(ours.values), theirs.detach().numpy(), np.asarray(ours.standard_error)
    )
