"""A structural causal model as a function of its noises, and what each of them contributes.

    X_j = f_j(X_1, ..., X_(j-1), N_j)      the noises N_j independent

What X_j contributes to the variance of a target, beyond what it hands on from its causes, is the
share of N_j: the Shapley effect of N_j on the target as a function of all noises.
"""

from collections.abc import Callable, Mapping
from typing import Any

import jax

from jaxplain import checks, qmc
from jaxplain.qmc._sampler import Sampler
from jaxplain.sobol._distributions import Distribution
from jaxplain.sobol._shapley import ShapleyEffects, shapley_effects


def structural_model(
    equations: Mapping[str, Callable[..., Any]], *, target: str | None = None
) -> Callable[..., Any]:
    """A structural causal model as a function of its noises, for any method of this module.

        X_j = equations[j]({X_i of the equations before}, N_j, *args)

    Args:
        equations: for each variable, causes before effects, a function of the variables before
            it (a dict by name), its noise, and what is passed through.
        target: the variable that is returned; the last one unless given. The layers of a network
            may be such variables.

    Returns:
        `f(noises, *args) -> value of the target`, noises a dict by name.

    Raises:
        TypeError: an equation is not a function.
        ValueError: there are none, or target is none of them.

    Example:
        >>> model = structural_model({"x": lambda _, n: n, "y": lambda v, n: 3 * v["x"] + n})
        >>> model({"x": 2.0, "y": 0.5})
        6.5

    References:
        Pearl, "Causality", 2009, section 1.4 (structural equations).
    """
    for name, equation in equations.items():
        checks.function(equation, f"the equation of {name!r}")
    names = list(equations)
    if not names or target not in (None, *names):
        raise ValueError(f"target must be one of the equations {names}, but is {target!r}.")

    def model(noises: Mapping[str, Any], *args: Any) -> Any:
        values: dict[str, Any] = {}
        for name, equation in equations.items():
            values[name] = equation(dict(values), noises[name], *args)
        return values[names[-1] if target is None else target]

    return model


def intrinsic_contributions(
    equations: Mapping[str, Callable[..., Any]],
    noises: Mapping[str, Any],
    *,
    target: str | None = None,
    samples: int | None = None,
    sampler: Sampler = qmc.sobol,
    chunk_size: int | None = None,
) -> Callable[..., ShapleyEffects]:
    """What each variable of a structural causal model adds of its own to a target's variance.

        the Shapley effect of noise N_j on the target as a function of all noises

    Args:
        equations: as in `structural_model`.
        noises: a dict with a tree of distributions for each variable. All noises of a variable are
            one player.
        target: the variable whose variance is shared out; the last one unless given.
        samples: as in `shapley_effects`, which has more options: of `structural_model(equations)`.
        sampler: as in `shapley_effects`.
        chunk_size: as in `shapley_effects`.

    Returns:
        `analyse(key, *args) -> ShapleyEffects`: arrays (*outputs, variables) in the order of the
        equations. Times `variance` they are in the units of the target, squared.

    Raises:
        TypeError: as `structural_model` and `shapley_effects`.
        ValueError: as `structural_model`; noises are not of the same names as the equations.

    Example:
        >>> import jax
        >>> from jaxplain import sobol
        >>> equations = {"x": lambda _, n: n, "y": lambda v, n: 2 * v["x"] + n}
        >>> noises = {"x": sobol.normal(0.0, 1.0), "y": sobol.normal(0.0, 1.0)}
        >>> s = sobol.intrinsic_contributions(equations, noises)(jax.random.key(0))
        >>> [round(float(share), 1) for share in s.effects]
        [0.8, 0.2]

    References:
        Janzing, Bloebaum, Mastakouri, Faller, Minorics and Budhathoki, "Quantifying intrinsic
        causal contributions via structure preserving interventions", AISTATS 2024 (arXiv
        2007.00714), definition 2 with the variance as uncertainty; Saha et al., arXiv 2505.09660
        (networks as structural models). Deviation: walks of independent noises (Goda 2021), whose
        mean is that over all orders.
    """
    if set(noises) != set(equations):
        raise ValueError(
            f"noises must have the names of the equations, {sorted(equations)}, but have "
            f"{sorted(noises)}."
        )
    is_leaf = lambda node: isinstance(node, Distribution)
    number = {name: place for place, name in enumerate(equations)}
    groups = {
        name: jax.tree.map(lambda _, name=name: number[name], noises[name], is_leaf=is_leaf)
        for name in noises
    }
    return shapley_effects(
        structural_model(equations, target=target),
        dict(noises),
        samples=samples,
        sampler=sampler,
        groups=groups,
        chunk_size=chunk_size,
    )
