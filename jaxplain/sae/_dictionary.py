"""What a dictionary is: pure functions on a dict of arrays, as an optimiser of optax is.

    params = dictionary.init(key, sample)          (n, d) -> {"W_enc": (d, F), "W_dec": (F, d), ...}
    codes  = dictionary.encode(params, h)          (..., d) -> (..., F)
    h_hat  = dictionary.decode(params, codes)      (..., F) -> (..., d)
    loss, report = dictionary.loss(params, batch)  the squared error summed over d, mean over rows

An architecture is a function that returns one. Training asks for more than these four: what is done
to gradients and to parameters around the step of the optimiser, and what an architecture remembers
beside its parameters. They do nothing unless an architecture says so.
"""

import types
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax

Params = dict[str, jax.Array]


class Sparse(NamedTuple):
    """Codes by their largest entries.

    Attributes:
        values: (..., k), the entries, not negative; 0 where there are fewer.
        indices: (..., k) int32, the latent of each.
    """

    values: jax.Array
    indices: jax.Array


class Pair(NamedTuple):
    """A batch whose codes come from one array and are decoded to another.

    Attributes:
        inputs: (n, d), what is encoded.
        targets: (n, outputs), what the decoder is to give.
    """

    inputs: jax.Array
    targets: jax.Array


class Status(NamedTuple):
    """What training tells a loss: where in the run it is.

    Attributes:
        step: steps taken so far, int32.
        progress: the share of the run that is done, in [0, 1].
        pace: the share of the run that is one step.
        sparsity: the factor of the sparsity penalty, in [0, 1]: its warm-up.
        dead: (F,) bool, the latents that have not fired for long; None where none are told.
        memory: what the architecture remembers beside its parameters.
    """

    step: Any = 0
    progress: Any = 1.0
    pace: Any = 0.0
    sparsity: Any = 1.0
    dead: Any = None
    memory: Any = ()


UNTOLD = Status()


class Report(NamedTuple):
    """What a loss tells training.

    Attributes:
        squared_error: the squared error, summed over d, mean over the rows of the batch.
        variance: the total variance of the batch, which its mean alone leaves of the error.
        penalty: the sparsity penalty with its coefficient.
        auxiliary: the auxiliary loss for dead latents with its coefficient.
        l0: the mean number of active latents of a row.
        fired: (F,) bool, the latents that were active in the batch.
        own: a dict of what the architecture wants to remember or to show.
    """

    squared_error: jax.Array
    variance: jax.Array
    penalty: jax.Array
    auxiliary: jax.Array
    l0: jax.Array
    fired: jax.Array
    own: dict[str, jax.Array]


def _nothing(params: Params) -> Any:
    del params
    return ()


def _same_batch(batch: Any) -> Any:
    return batch


def _same_gradient(params: Params, gradient: Params) -> Params:
    del params
    return gradient


def _same_params(
    params: Params, previous: Params, report: Report, status: Status
) -> tuple[Params, Any]:
    del previous, report
    return params, status.memory


def of_its_own(dictionary: Any, what: str) -> "Dictionary":
    """The dictionary, unless it is none, or one that is to be made last."""
    if not isinstance(dictionary, Dictionary):
        raise TypeError(f"dictionary must be one of jaxplain.sae, but is {dictionary!r}.")
    for made in ("sharded", "normalised"):
        if dictionary.about.get(f"is_{made}") and (what, made) != ("sharded", "normalised"):
            raise ValueError(
                f"the dictionary is {made} already: make it first by what it is, such as a "
                "transcoder, then normalised, then sharded."
            )
    return dictionary


def latent_axis(name: str, leaf: Any, latents: int) -> int | None:
    """Which axis of a parameter is that of the latents; None where none is."""
    if name == "W_dec":
        return 0
    is_split = name.startswith(("W_enc", "b_", "r_", "threshold")) and name != "b_dec"
    has_latents = leaf.ndim > 0 and leaf.shape[-1] == latents
    return leaf.ndim - 1 if is_split and has_latents else None


class Dictionary(NamedTuple):
    """A sparse dictionary: pure functions of parameters, which are a dict of arrays.

    `encode`, `decode` and `loss` take `shards=` too, by which `jaxplain.sae.sharded` calls them on
    the part of each device.

    Attributes:
        init: `(key, sample) -> params`.
        encode: `(params, h, sparse=None) -> codes`, (..., d) to (..., F); with a number as `sparse`
            the so many largest entries of each, as `Sparse`.
        decode: `(params, codes) -> h_hat`, of dense or `Sparse` codes.
        loss: `(params, batch, status=Status()) -> (loss, Report)`.
        before: `(params, gradient) -> gradient`, ahead of the optimiser.
        after: `(params, previous, report, status) -> (params, memory)`, behind it.
        memory: `params -> memory`, what is remembered at the start.
        latents: F.
        revives: whether the loss has a part for latents that are dead.
        has_unit_norm: whether decoder rows are kept at norm 1.
        place: `batch -> batch`, on the devices where the loss takes it from.
        about: what it is, for files: "architecture" and its options, all plain values.
    """

    init: Callable[[jax.Array, Any], Params]
    encode: Callable[..., Any]
    decode: Callable[..., jax.Array]
    loss: Callable[..., tuple[jax.Array, Report]]
    before: Callable[[Params, Params], Params] = _same_gradient
    after: Callable[[Params, Params, Report, Status], tuple[Params, Any]] = _same_params
    memory: Callable[[Params], Any] = _nothing
    latents: int = 0
    revives: bool = False
    has_unit_norm: bool = False
    place: Callable[[Any], Any] = _same_batch
    about: Mapping[str, Any] = types.MappingProxyType({})
