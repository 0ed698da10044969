"""All estimators at once, on the same rows: one program for each function."""

import jax
import pytest

from jaxplain import qmc
from jaxplain.sobol import _design, _indices, estimators
from jaxplain.sobol._factors import factors

FORMULAS = {
    f"{name}.{order}": getattr(getattr(estimators, name), order)
    for name in ("jansen", "saltelli2010", "janon_monod", "martinez", "azzini", "owen", "homma")
    for order in ("first_order", "total_order")
    if getattr(getattr(estimators, name), order) is not None
}


@pytest.fixture(scope="session")
def formulas():
    return FORMULAS


@pytest.fixture(scope="session")
def every_estimate():
    """`make(f, inputs, samples, sampler) -> (key -> Estimates)` of vectors, with all formulas."""

    def make(f, inputs, samples, sampler=qmc.monte_carlo, chunk_size=None, pairs=False):
        layout = factors(inputs)
        names, all_formulas = tuple(FORMULAS), tuple(FORMULAS.values())
        options = _indices.Options(names, all_formulas, pairs, sampler, "delta", 1, 0.95)
        plan = _design.design(layout, all_formulas, pairs, samples, chunk_size)
        program = _indices._Program(plan, options, _design.flat(f, layout), samples)

        @jax.jit
        def run(key):
            return program.run(key, None)[0]

        return run

    return make
