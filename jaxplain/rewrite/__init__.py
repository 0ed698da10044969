"""Rewriting a user's function as a program: the interpreter of jaxprs and its passes.

This package is the only place that touches `jax.extend`. A pass is a table of rules, one per
primitive; whatever has no rule passes through whole.
"""

from jaxplain.rewrite._fast import fast

__all__ = ["fast"]
