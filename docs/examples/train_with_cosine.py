"""Explanations that hold still: the cosine regulariser of attribution protection on clothes.

A network is trained on 10,000 images of Fashion-MNIST. The term asks that the attribution of an
image and that of the image with a little noise point the same way. Published (Wang and Kong 2022,
IGR): rank correlation and cosine between attributions before and after a perturbation rise, also
under an attack on the attribution, at near equal accuracy. They do here. (The paper's perturbed
image in training is an adversarial one; here it has random signs, which costs no gradient.)

    JAXPLAIN_DATA=... python -m docs.examples.train_with_cosine
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import scipy.stats

import jaxplain
from docs.examples.training import data_folder, show, train
from jaxplain import priors

STRENGTH = 5.0
RADIUS = 0.1  # of a perturbation, in any pixel; pixels go from 0 to 1
HIDDEN = 128
JUDGED = 60  # test images whose attribution is attacked


def clothes(part):
    """Images (n, 784) in [0, 1], and labels."""
    with np.load(data_folder() / "fashion_mnist" / f"fashion_mnist_{part}.npz") as file:
        images, labels = file["images"], file["labels"]
    return jnp.asarray(images.reshape(-1, 784) / 255, jnp.float32), jnp.asarray(labels, jnp.int32)


def init(key):
    first, second = jax.random.split(key)
    return {
        "w": jax.random.normal(first, (784, HIDDEN)) * np.sqrt(2 / 784),
        "b": jnp.zeros(HIDDEN),
        "v": jax.random.normal(second, (HIDDEN, 10)) * np.sqrt(1 / HIDDEN),
    }


def apply(params, images):
    return jax.nn.gelu(images @ params["w"] + params["b"]) @ params["v"]


def f(image, label, params):
    return apply(params, image[None])[0, label]


def attribution(steps):
    """Integrated Gradients from black."""
    explain = jaxplain.integrated_gradients(f, steps=steps, chunk_size=1)
    return lambda image, label, params: explain(image, 0 * image, label, params).values


def within(image, changed):
    """The changed image, brought back into the ball and into the range of pixels."""
    return jnp.clip(jnp.clip(changed, image - RADIUS, image + RADIUS), 0, 1)


def noisy(key, image):
    return within(image, image + RADIUS * jax.random.rademacher(key, image.shape, image.dtype))


def attacked(key, image, label, params):
    """Ten steps of signed gradient ascent on the angle between the attributions."""
    explain = attribution(4)
    before = explain(image, label, params)
    angle = lambda z: priors.cosine(explain(z, label, params), before)
    move = lambda z, _: (within(image, z + 0.25 * RADIUS * jnp.sign(jax.grad(angle)(z))), None)
    return jax.lax.scan(move, noisy(key, image), length=10)[0]


def error(params, key, images, labels):
    del key
    scores = apply(params, images)
    return optax.softmax_cross_entropy_with_integer_labels(scores, labels).mean()


def error_and_angle(params, key, images, labels):
    explain = jax.vmap(attribution(3), in_axes=(0, 0, None))
    before = explain(images, labels, params)
    after = explain(noisy(key, images), labels, params)
    return (
        error(params, key, images, labels)
        + STRENGTH * jax.vmap(priors.cosine)(before, after).mean()
    )


def run(seeds=4, steps=600):
    """{"without": {figure: (seeds,)}, "with": ...}: the same start and batches for both."""
    data, (test, labels) = clothes("train10k"), clothes("test2k")
    some, their_labels = test[:JUDGED], labels[:JUDGED]
    explain = jax.jit(jax.vmap(attribution(16), in_axes=(0, 0, None)))
    attack = jax.jit(jax.vmap(attacked, in_axes=(0, 0, 0, None)))
    keys = jax.random.split(jax.random.key(1), JUDGED)
    figures = {}
    for name, loss in (("without", error), ("with", error_and_angle)):
        rows = []
        for seed in range(seeds):
            first, second = jax.random.split(jax.random.key(seed))
            params = train(
                loss, init(first), second, data, steps=steps, batch_size=64, learning_rate=1e-3
            )
            row = {"accuracy": jnp.mean(apply(params, test).argmax(1) == labels)}
            before = np.asarray(explain(some, their_labels, params))
            for change, images in (
                ("noise", jax.vmap(noisy)(keys, some)),
                ("attack", attack(keys, some, their_labels, params)),
            ):
                after = np.asarray(explain(images, their_labels, params))
                row[f"cosine, {change}"] = np.mean(1 - jax.vmap(priors.cosine)(before, after))
                row[f"Kendall, {change}"] = np.mean(
                    [
                        scipy.stats.kendalltau(a, b).statistic
                        for a, b in zip(before, after, strict=True)
                    ]
                )
            rows.append(row)
        figures[name] = {key: np.array([row[key] for row in rows]) for key in rows[0]}
    return figures


def main():
    figures = run()
    for key, without in figures["without"].items():
        print(f"{key}:")
        show("without the term", without)
        show("with it", figures["with"][key])
        show("gain", figures["with"][key] - without)


if __name__ == "__main__":
    main()
