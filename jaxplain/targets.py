"""What is explained: one number of a model's output, as a function of one example.

A model is `apply(params, batch) -> outputs`. Each factory here makes of it a function of ONE
example that returns a scalar, which every gradient and path method takes; `jax.vmap` outside makes
the batch. With z the class scores (..., C) of the example x and p = softmax(z) over the last axis,

    logit            z_c
    log_probability  log p_c
    probability      p_c
    margin           z_c - z_k                for a class c against a contrast k
    entropy          - sum_j p_j log p_j      in nats
    output           y                        one number per example (regressors)
    masked_sum       sum_i m_i y_i            any outputs (segmenters, several outputs)

For outputs with a score at each position (one per token, character or pixel; (B, *positions, C))
the factories take `positions=True`: their functions then take a mask m over the positions, and
explain sum_t m_t v_t, where v_t is the value at position t. A one-hot mask is one token.

Arithmetic and result are in float32, or wider where the outputs are wider. A label is compared with
the class numbers in place of an index, which differentiates to a select, shards with any axis, and
lets a label that no class has give NaN, never another class's score.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxplain import checks, trees

__all__ = ["entropy", "log_probability", "logit", "margin", "masked_sum", "output", "probability"]


def logit(apply: Callable[..., Any], *, positions: bool = False) -> Callable[..., jax.Array]:
    """The score of a class before the softmax.

    f(x, label, params) = z_label; with positions f(x, label, mask, params) = sum_t mask_t z_(t,
    label_t).

    Args:
        apply: `apply(params, batch) -> outputs` (B, C) floats; with `positions` (B, *positions, C).
        positions: whether the outputs have a score at each of several positions.

    Returns:
        `f(x, label, params)`: `x` one example (a tree of arrays without the batch axis), `label` an
        integer scalar, `params` what `apply` takes. With `positions` `f(x, label, mask, params)`:
        `label` an integer scalar or of shape positions, `mask` numbers or booleans of shape
        positions. The scalar is in the unit of the outputs, float32 or wider; NaN for a label that
        is not in [0, C), unless its mask is 0.

    Raises:
        TypeError: `apply` is not a function, its outputs are not one float array, or the label is
            not an integer.
        ValueError: the outputs, label or mask have another shape, or a Python integer is not a
            class.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> import jaxplain
        >>> apply = lambda params, batch: batch @ params
        >>> f = jaxplain.targets.logit(apply)
        >>> params = jnp.array([[1.0, 2.0], [3.0, 4.0]])
        >>> jax.grad(f)(jnp.array([1.0, 1.0]), 1, params).tolist()
        [2.0, 4.0]

    References:
        Simonyan, Vedaldi, Zisserman 2014, "Deep inside convolutional networks", section 2 (why the
        scores and not the probabilities); Vinogradova, Dibrov, Myers 2020, "Towards interpretable
        semantic segmentation via gradient-weighted class activation mapping" (the sum over a set
        of positions).
    """
    return _of_a_class(apply, positions, _select)


def log_probability(
    apply: Callable[..., Any], *, positions: bool = False
) -> Callable[..., jax.Array]:
    """The logarithm of the probability of a class, in nats.

    f(x, label, params) = z_label - log sum_j exp z_j; with positions the sum of it, times the mask,
    over positions: for a mask of ones the log-likelihood of a sequence.

    Args:
        apply: `apply(params, batch) -> outputs` (B, C) floats, scores before the softmax; with
            `positions` (B, *positions, C).
        positions: whether the outputs have a score at each of several positions.

    Returns:
        `f(x, label, params)`, or with `positions` `f(x, label, mask, params)`, as for `logit`.

    Raises:
        TypeError: `apply` is not a function, its outputs are not one float array, or the label is
            not an integer.
        ValueError: the outputs, label or mask have another shape, or a Python integer is not a
            class.

    Example:
        >>> import jax.numpy as jnp
        >>> import jaxplain
        >>> f = jaxplain.targets.log_probability(lambda params, batch: params * batch)
        >>> round(float(f(jnp.array([0.0, jnp.log(3.0)]), 0, 1.0)), 4)
        -1.3863

    References:
        Bridle 1990, "Probabilistic interpretation of feedforward classification network outputs"
        (the softmax).
    """
    return _of_a_class(apply, positions, lambda z, label: _select(jax.nn.log_softmax(z), label))


def probability(apply: Callable[..., Any], *, positions: bool = False) -> Callable[..., jax.Array]:
    """The probability of a class.

    f(x, label, params) = exp(z_label) / sum_j exp z_j; with positions the sum of it, times the
    mask, over positions.

    Args:
        apply: `apply(params, batch) -> outputs` (B, C) floats, scores before the softmax; with
            `positions` (B, *positions, C).
        positions: whether the outputs have a score at each of several positions.

    Returns:
        `f(x, label, params)`, or with `positions` `f(x, label, mask, params)`, as for `logit`.

    Raises:
        TypeError: `apply` is not a function, its outputs are not one float array, or the label is
            not an integer.
        ValueError: the outputs, label or mask have another shape, or a Python integer is not a
            class.

    Example:
        >>> import jax.numpy as jnp
        >>> import jaxplain
        >>> f = jaxplain.targets.probability(lambda params, batch: params * batch)
        >>> round(float(f(jnp.array([0.0, jnp.log(3.0)]), 0, 1.0)), 4)
        0.25

    References:
        Bridle 1990, "Probabilistic interpretation of feedforward classification network outputs"
        (the softmax).
    """
    return _of_a_class(
        apply, positions, lambda z, label: jnp.exp(_select(jax.nn.log_softmax(z), label))
    )


def margin(apply: Callable[..., Any], *, positions: bool = False) -> Callable[..., jax.Array]:
    """How far a class is ahead of a contrast: why this and not that.

    f(x, label, contrast, params) = z_label - z_contrast = log(p_label / p_contrast); with positions
    the sum of it, times the mask, over positions.

    Args:
        apply: `apply(params, batch) -> outputs` (B, C) floats; with `positions` (B, *positions, C).
        positions: whether the outputs have a score at each of several positions.

    Returns:
        `f(x, label, contrast, params)`, or with `positions` `f(x, label, contrast, mask, params)`;
        the contrast is given as the label is, and the rest is as for `logit`.

    Raises:
        TypeError: `apply` is not a function, its outputs are not one float array, or a label is not
            an integer.
        ValueError: the outputs, a label or the mask have another shape, or a Python integer is not
            a class.

    Example:
        >>> import jax.numpy as jnp
        >>> import jaxplain
        >>> f = jaxplain.targets.margin(lambda params, batch: params * batch)
        >>> float(f(jnp.array([1.0, 5.0, 2.0]), 1, 2, 1.0))
        3.0

    References:
        Yin, Neubig 2022, "Interpreting language models with contrastive explanations"
        (the contrast of two classes; here of scores, which is that of log-probabilities).
    """
    _check_factory(apply, positions)

    def dense(x: Any, label: Any, contrast: Any, mask: Any, params: Any) -> jax.Array:
        scores = _outputs(apply, x, params, positions=True)
        mask = _mask(mask, scores.shape[:-1], scores.dtype)
        value = _select(scores, _label(label, scores, "label")) - _select(
            scores, _label(contrast, scores, "contrast")
        )
        return _masked(mask, value)

    def single(x: Any, label: Any, contrast: Any, params: Any) -> jax.Array:
        scores = _outputs(apply, x, params, positions=False)
        return _select(scores, _label(label, scores, "label")) - _select(
            scores, _label(contrast, scores, "contrast")
        )

    return dense if positions else single


def entropy(apply: Callable[..., Any], *, positions: bool = False) -> Callable[..., jax.Array]:
    """How undecided the model is: the entropy of its class probabilities, in nats.

    f(x, params) = - sum_j p_j log p_j, from 0 to log C; with positions f(x, mask, params) is the
    sum of it, times the mask, over positions. A class with a score of -inf counts nothing.

    Args:
        apply: `apply(params, batch) -> outputs` (B, C) floats, scores before the softmax; with
            `positions` (B, *positions, C).
        positions: whether the outputs have a score at each of several positions.

    Returns:
        `f(x, params)`, or with `positions` `f(x, mask, params)`, with x, mask and params as for
        `logit`.

    Raises:
        TypeError: `apply` is not a function, or its outputs are not one float array.
        ValueError: the outputs or the mask have another shape.

    Example:
        >>> import jax.numpy as jnp
        >>> import jaxplain
        >>> f = jaxplain.targets.entropy(lambda params, batch: params * batch)
        >>> round(float(f(jnp.array([1.0, 1.0]), 1.0)), 4)
        0.6931

    References:
        Shannon 1948, "A mathematical theory of communication", section 6.
    """
    _check_factory(apply, positions)

    def value(scores: jax.Array) -> jax.Array:
        logs = jax.nn.log_softmax(scores)
        possible = scores > -jnp.inf
        # 0 log 0 = 0; a NaN score is not > -inf either, and comes back through the probabilities
        return -(jnp.exp(logs) * jnp.where(possible, logs, jnp.zeros_like(logs))).sum(-1)

    def dense(x: Any, mask: Any, params: Any) -> jax.Array:
        scores = _outputs(apply, x, params, positions=True)
        return _masked(_mask(mask, scores.shape[:-1], scores.dtype), value(scores))

    def single(x: Any, params: Any) -> jax.Array:
        return value(_outputs(apply, x, params, positions=False))

    return dense if positions else single


def output(apply: Callable[..., Any]) -> Callable[..., jax.Array]:
    """The output of a model that says one number per example.

    f(x, params) = y.

    Args:
        apply: `apply(params, batch) -> outputs` (B,) or (B, 1) floats.

    Returns:
        `f(x, params)`: `x` one example, `params` what `apply` takes. The scalar is float32 or
        wider.

    Raises:
        TypeError: `apply` is not a function, or its outputs are not one float array.
        ValueError: there is more than one number per example: `masked_sum` or `logit` select.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> import jaxplain
        >>> f = jaxplain.targets.output(lambda params, batch: batch @ params)
        >>> jax.grad(f)(jnp.array([1.0, 1.0]), jnp.array([2.0, 3.0])).tolist()
        [2.0, 3.0]

    References:
        Friedman 2001, "Greedy function approximation: a gradient boosting machine", section 8 (a
        regression function as what is interpreted).
    """
    _check_apply(apply)

    def f(x: Any, params: Any) -> jax.Array:
        outputs = _one_array(apply(params, _batch_of_one(x)))
        if outputs.shape not in ((1,), (1, 1)):
            raise ValueError(
                "output explains models with one number per example: outputs (B,) or (B, 1), but "
                f"for a batch of one they have shape {outputs.shape}. Select with "
                "`targets.masked_sum(apply)` (a mask over the outputs) or, for class scores, "
                "`targets.logit(apply)`."
            )
        return outputs.reshape(())

    return f


def masked_sum(apply: Callable[..., Any]) -> Callable[..., jax.Array]:
    """A weighted sum of any outputs.

    f(x, mask, params) = sum_i mask_i y_i, over all elements of all outputs. An output that is not
    finite is left out where its mask is 0.

    Args:
        apply: `apply(params, batch) -> outputs`: a float array (B, ...) or a tree of them.

    Returns:
        `f(x, mask, params)`: `x` one example, `mask` a tree like the outputs of one example, of the
        same shapes (without the batch axis), numbers or booleans. The scalar is float32 or wider.

    Raises:
        TypeError: `apply` is not a function, or an output is not a float array.
        ValueError: an output has no batch axis of one, or the mask has another tree or shape.

    Example:
        >>> import jax.numpy as jnp
        >>> import jaxplain
        >>> f = jaxplain.targets.masked_sum(lambda params, batch: params * batch)
        >>> float(f(jnp.array([1.0, 2.0, 4.0]), jnp.array([True, False, True]), 1.0))
        5.0

    References:
        Vinogradova, Dibrov, Myers 2020, "Towards interpretable semantic segmentation via
        gradient-weighted class activation mapping" (the sum over a set of pixels).
    """
    _check_apply(apply)

    def f(x: Any, mask: Any, params: Any) -> jax.Array:
        outputs = apply(params, _batch_of_one(x))
        wanted: Any = jax.tree.structure(outputs)
        if wanted != jax.tree.structure(mask):
            raise ValueError(
                f"mask must be a tree like the outputs, {wanted}, but is "
                f"{jax.tree.structure(mask)}."
            )
        terms = []
        for leaf, weights in zip(jax.tree.leaves(outputs), jax.tree.leaves(mask), strict=True):
            leaf = _one_array(leaf)
            if leaf.ndim == 0 or leaf.shape[0] != 1:
                raise ValueError(
                    "outputs must keep the batch axis first, (1, ...) for one example, but have "
                    f"shape {leaf.shape}."
                )
            terms.append(_masked(_mask(weights, leaf.shape[1:], leaf.dtype), leaf[0]))
        if not terms:
            raise ValueError("apply returned an empty tree: there is nothing to sum.")
        dtype = trees.widest(*(term.dtype for term in terms))
        return sum((term.astype(dtype) for term in terms[1:]), terms[0].astype(dtype))

    return f


# ------------------------------------------------------------------------------------------ helpers


def _of_a_class(
    apply: Callable[..., Any],
    positions: bool,
    value: Callable[[jax.Array, jax.Array], jax.Array],
) -> Callable[..., jax.Array]:
    """f(x, label, params) or f(x, label, mask, params), for a value of the scores and a label."""
    _check_factory(apply, positions)

    def dense(x: Any, label: Any, mask: Any, params: Any) -> jax.Array:
        scores = _outputs(apply, x, params, positions=True)
        mask = _mask(mask, scores.shape[:-1], scores.dtype)
        return _masked(mask, value(scores, _label(label, scores, "label")))

    def single(x: Any, label: Any, params: Any) -> jax.Array:
        scores = _outputs(apply, x, params, positions=False)
        return value(scores, _label(label, scores, "label"))

    return dense if positions else single


def _check_apply(apply: Any) -> None:
    checks.function(apply, "apply(params, batch) (of a Flax model: `jaxplain.adapters`)")


def _check_factory(apply: Any, positions: Any) -> None:
    _check_apply(apply)
    if not isinstance(positions, bool):
        raise TypeError(f"positions must be True or False, but is {positions!r}.")


def _batch_of_one(x: Any) -> Any:
    return jax.tree.map(lambda leaf: jnp.expand_dims(leaf, 0), x)


def _one_array(outputs: Any) -> jax.Array:
    """The outputs, a float array, in float32 or wider."""
    if not (hasattr(outputs, "dtype") and hasattr(outputs, "shape")):
        raise TypeError(
            f"apply must return one array, but returned a {type(outputs).__name__}. Select what "
            "to explain, e.g. `lambda params, batch: apply(params, batch)[0]`."
        )
    if not jnp.issubdtype(outputs.dtype, jnp.floating):
        raise TypeError(
            f"apply must return real floats, but returned dtype {outputs.dtype}. Return the "
            "scores, not the predicted class; of complex outputs the real part or the modulus."
        )
    return jnp.asarray(outputs).astype(trees.wide_dtype(outputs.dtype))


def _outputs(apply: Callable[..., Any], x: Any, params: Any, *, positions: bool) -> jax.Array:
    """Scores of one example, (C,) or (*positions, C), in float32 or wider."""
    outputs = _one_array(apply(params, _batch_of_one(x)))
    shape = outputs.shape
    if positions and outputs.ndim < 3:
        raise ValueError(
            "with positions=True the outputs must be (B, *positions, C), but for a batch of one "
            f"have shape {shape}. For one prediction per example leave positions out."
        )
    if not positions and outputs.ndim > 2:
        raise ValueError(
            f"the outputs must be (B, C), but for a batch of one have shape {shape}. For scores "
            "at several positions (tokens, characters, pixels) give positions=True and a mask that "
            "selects."
        )
    if outputs.ndim < 2:
        raise ValueError(
            "the outputs must be (B, C), one score per class, but for a batch of one have shape "
            f"{shape}. For one number per example use `targets.output(apply)`; apply must keep the "
            "batch axis."
        )
    if shape[0] != 1:
        raise ValueError(
            f"apply was given a batch of one, but its outputs have shape {shape}: the batch axis "
            "must come first. x is ONE example without batch axis; `jax.vmap` over f makes the "
            "batch."
        )
    return outputs[0]


def _label(label: Any, scores: jax.Array, name: str) -> jax.Array:
    """A label as an integer array of the shape of the positions."""
    positions, classes = scores.shape[:-1], scores.shape[-1]
    if isinstance(label, int | np.integer) and not isinstance(label, bool):
        if not 0 <= label < classes:
            raise ValueError(
                f"{name} must be a class from 0 to {classes - 1}, but is {label}; the outputs "
                f"have {classes} classes."
            )
        return jnp.full(positions, label, jnp.int32)
    if not (hasattr(label, "dtype") and jnp.issubdtype(label.dtype, jnp.integer)):
        kind = f"dtype {label.dtype}" if hasattr(label, "dtype") else f"a {type(label).__name__}"
        raise TypeError(
            f"{name} must be an integer, the number of a class, but is {kind}. The class of the "
            "highest score is `jnp.argmax(scores)`."
        )
    if label.shape != () and label.shape != positions:
        allowed = (
            "a scalar" if positions == () else f"a scalar or of shape {positions}, the positions"
        )
        raise ValueError(
            f"{name} must be {allowed}, but has shape {label.shape}. f explains one example: "
            "`jax.vmap` over it for a batch."
        )
    if jnp.iinfo(label.dtype).bits < 32:  # too narrow to number the classes
        label = label.astype(jnp.int32)
    return jnp.broadcast_to(label, positions)


def _select(values: jax.Array, label: jax.Array) -> jax.Array:
    """The value of the label on the last axis, exactly; NaN where no class has that number."""
    numbers = jax.lax.broadcasted_iota(label.dtype, values.shape, values.ndim - 1)
    chosen = jnp.expand_dims(label, -1) == numbers
    value = _where(chosen, values, 0.0).sum(-1)
    # 1 or 0 / 0: a select with a constant cotangent jax 0.10.0 cannot batch on Explicit axes
    known = ((label >= 0) & (label < values.shape[-1])).astype(value.dtype)
    return value * (known / known)


def _where(condition: jax.Array, values: jax.Array, otherwise: float) -> jax.Array:
    """`jnp.where`, with the condition first brought to the sharding of the values.

    On an Explicit mesh a select wants equal shardings, but `&` lets a replicated operand follow.
    """
    condition = condition & jnp.ones_like(values, bool)
    return jnp.where(condition, values, jnp.full_like(values, otherwise))


def _mask(mask: Any, shape: tuple[int, ...], dtype: Any) -> jax.Array:
    if not hasattr(mask, "shape") and not isinstance(mask, int | float):
        raise TypeError(f"mask must be an array of shape {shape}, but is a {type(mask).__name__}.")
    mask = jnp.asarray(mask)
    if jnp.issubdtype(mask.dtype, jnp.complexfloating):
        raise TypeError(f"mask must be of numbers or booleans, but has dtype {mask.dtype}.")
    if mask.shape != shape:
        raise ValueError(
            f"mask must have shape {shape}, as the outputs of one example, but has shape "
            f"{mask.shape}. One position: `jnp.zeros(shape).at[position].set(1)`; all: "
            "`jnp.ones(shape)`."
        )
    return mask.astype(dtype)


def _masked(mask: jax.Array, values: jax.Array) -> jax.Array:
    """The sum of mask * values; what is masked out may be NaN (a label of -100 on padding)."""
    present = (mask != 0) | jnp.isfinite(values)
    # the factor changes nothing but gives the select a cotangent with the axes of the values, which
    # jax 0.10.0 needs under vmap on an Explicit mesh
    return (mask * present.astype(mask.dtype) * _where(present, values, 0.0)).sum()
