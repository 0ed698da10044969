"""How honest the error estimate of the tolerance form is, on MNIST digits with a trained LeNet.

    JAXPLAIN_DATA=... python -m bench.error_estimate [--digits 1000] [--tolerance 0.05]

The truth is 1,024 Gauss-Legendre nodes in float64. The bar: at least the true error on 99 % of
1,000 digits, and at most four times it in the median. About half a second a digit on one core.
"""

import argparse
import gzip
import os
import pathlib

import jax
import jax.numpy as jnp
import numpy as np

import jaxplain


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--digits", type=int, default=1000)
    parser.add_argument("--tolerance", type=float, default=0.05)
    options = parser.parse_args()
    folder = pathlib.Path(os.environ["JAXPLAIN_DATA"]) / "mnist_lenet"
    model = jaxplain.models.LeNet.from_safetensors(folder / "lenet_mnist.safetensors")
    raw = gzip.decompress((folder / "t10k-images-idx3-ubyte.gz").read_bytes())
    images = np.frombuffer(raw, np.uint8, offset=16).reshape(-1, 28, 28)[: options.digits]
    apply, params = jaxplain.adapters.nnx(model)
    x = jaxplain.models.LeNet.preprocess(images)
    labels = jnp.argmax(apply(params, x), axis=1)
    f = jaxplain.targets.logit(apply)

    def explain(kernel, x, params):
        mapped = jax.jit(jax.vmap(kernel, (0, None, 0, None)))
        return jax.device_get(mapped(x, jnp.zeros_like(x[0]), labels, params))

    kernel = jaxplain.integrated_gradients(f, tolerance=options.tolerance, chunk_size=1)
    result = explain(kernel, x, params)
    with jax.enable_x64(True):
        wide = lambda tree: jax.tree.map(lambda a: jnp.asarray(np.asarray(a), jnp.float64), tree)
        reference = jaxplain.integrated_gradients(f, steps=1024, chunk_size=1)
        exact = explain(reference, wide(x), wide(params)).values
    flat = lambda a: np.asarray(a, np.float64).reshape(len(images), -1)
    size = np.linalg.norm(flat(exact), axis=1)
    true = np.linalg.norm(flat(result.values) - flat(exact), axis=1) / size
    print(f"covered {np.mean(result.error >= true):.3f} (bar 0.99)")
    print(f"median of estimate over truth {np.median(result.error / true):.2f} (bar 4)")
    print(f"tolerance met on {np.mean(result.error <= options.tolerance):.3f}")


if __name__ == "__main__":
    main()
