"""How honest the error estimate of the tolerance form is, on real images and trained networks.

    JAXPLAIN_DATA=... python -m bench.error_estimate [--only digits] [--tolerance 0.02] [--out FILE]

The truth is 1,024 Gauss-Legendre nodes in float64. The bar: at least the true error on 99 % of
1,000 digits and of 48 CIFAR images, and at most four times it in the median. About ten minutes for
the digits and half an hour for the images on one core.
"""

import argparse
import gzip
import json
import os
import pathlib

import jax
import jax.numpy as jnp
import numpy as np

import jaxplain
from bench import harness


def digits(folder: pathlib.Path) -> tuple[object, jax.Array]:
    folder /= "mnist_lenet"
    model = jaxplain.models.LeNet.from_safetensors(folder / "lenet_mnist.safetensors")
    raw = gzip.decompress((folder / "t10k-images-idx3-ubyte.gz").read_bytes())
    images = np.frombuffer(raw, np.uint8, offset=16).reshape(-1, 28, 28)[:1000]
    return model, jaxplain.models.LeNet.preprocess(images)


def cifar(folder: pathlib.Path) -> tuple[object, jax.Array]:
    folder /= "cifar10_resnet20"
    model = jaxplain.models.ResNet20.from_safetensors(folder / "resnet20.safetensors")
    images = np.load(folder / "cifar10_train4000.npz")["images"][:48]
    return model, jaxplain.models.ResNet20.preprocess(images)


CASES = {"digits": digits, "cifar": cifar}


def explain(kernel, x, labels, params, batch=16):
    """The kernel over batches, with a black baseline; what comes back is numpy."""
    mapped = jax.jit(jax.vmap(kernel, (0, None, 0, None)))
    black = jnp.zeros_like(x[0])
    parts = []
    for first in range(0, len(x), batch):
        here = slice(first, first + batch)
        parts.append(jax.device_get(mapped(x[here], black, labels[here], params)))
        print(f"\r  {min(first + batch, len(x))} of {len(x)}", end="", flush=True)
    print("\r", end="")
    return jax.tree.map(lambda *leaves: np.concatenate(leaves), *parts)


def measure(case, tolerances):
    model, x = CASES[case](pathlib.Path(os.environ["JAXPLAIN_DATA"]))
    apply, params = jaxplain.adapters.nnx(model)
    labels = jnp.argmax(jax.jit(apply)(params, x), axis=1)
    f = jaxplain.targets.logit(apply)
    with jax.enable_x64(True):
        wide = lambda tree: jax.tree.map(lambda a: jnp.asarray(np.asarray(a), jnp.float64), tree)
        reference = jaxplain.integrated_gradients(f, steps=1024, chunk_size=1)
        exact = explain(reference, wide(x), labels, wide(params)).values.reshape(len(x), -1)
    records = []
    for tolerance in tolerances:
        kernel = jaxplain.integrated_gradients(f, tolerance=tolerance, chunk_size=1)
        result = explain(kernel, x, labels, params)
        wrong = np.asarray(result.values, np.float64).reshape(len(x), -1) - exact
        true = np.linalg.norm(wrong, axis=1) / np.linalg.norm(exact, axis=1)
        ratio = result.error / true
        records.append(
            {
                "case": case,
                "examples": len(x),
                "tolerance": tolerance,
                "covered": float(np.mean(ratio >= 1)),
                "median_ratio": float(np.median(ratio)),
                "smallest_ratio": float(np.min(ratio)),
                "within_tolerance": float(np.mean(true <= tolerance)),
                "claimed_within": float(np.mean(result.error <= tolerance)),
                "mean_gradients": float(np.mean(result.evaluations)),
            }
        )
        print(json.dumps(records[-1]))
    return records


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", choices=CASES, help="one of the two cases")
    parser.add_argument("--tolerance", type=float, nargs="+", default=[0.05, 0.02, 0.01])
    parser.add_argument("--out", type=pathlib.Path, help="write the records, JSON, to this file")
    options = parser.parse_args()
    cases = [options.only] if options.only else list(CASES)
    records = [r for case in cases for r in measure(case, options.tolerance)]
    if options.out:
        harness.write(options.out, {"jax": jax.__version__, "records": records})


if __name__ == "__main__":
    main()
