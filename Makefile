# Everything from one command on a machine that has Python >= 3.11, make and a package index.
# Paths are relative throughout: the folder's own name may hold spaces.
#
#   make demo        train a small network on digits, explain it, draw a figure
#   make test        the tests; those that compare with PyTorch libraries are skipped
#   make test-slow   the few that train networks or run whole studies
#   make test-peers  those comparisons, in an environment of their own
#   make lint types doctest docs bench
#   make clean       remove what was built; `make distclean` removes the environments too
#
# PYTHON=python3.12 chooses the interpreter of a new environment, WORKERS=4 the test processes,
# TESTS=tests/paths and ARGS="-k name" what is tested.

PYTHON ?= python3
WORKERS ?= 2
TESTS ?= tests
ARGS ?=
ENV := .venv
RUN := $(ENV)/bin/python
PEERS := .venv-peers

# Compiled programs are kept between runs of the tests. The library itself never sets this.
CACHE ?= $(CURDIR)/.jax_cache
CACHED := JAX_COMPILATION_CACHE_DIR="$(CACHE)" \
	JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS=0.2
PYTEST := -m pytest -n $(WORKERS) --dist worksteal

.PHONY: help demo test test-slow test-peers lint types doctest docs bench format clean distclean
.NOTPARALLEL:
.DELETE_ON_ERROR:

help:
	@sed -n 's/^#   //p' Makefile

demo: $(ENV)/.with-demo
	$(RUN) -m jaxplain demo

test: $(ENV)/.with-test
	XLA_FLAGS="$$($(RUN) tests/quick_compile.py)" \
	$(CACHED) $(RUN) $(PYTEST) -m "not slow" $(ARGS) $(TESTS)

test-slow: $(ENV)/.with-test
	$(CACHED) $(RUN) $(PYTEST) -m slow $(ARGS) $(TESTS)

test-peers: $(PEERS)/.with-peers
	$(CACHED) $(PEERS)/bin/python $(PYTEST) $(ARGS) tests/peers

lint: $(ENV)/.with-test
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .

format: $(ENV)/.with-test
	$(RUN) -m ruff check --fix .
	$(RUN) -m ruff format .

types: $(ENV)/.with-test
	$(RUN) -m mypy

doctest: $(ENV)/.with-test
	$(CACHED) $(RUN) $(PYTEST) --doctest-modules $(ARGS) jaxplain

docs: $(ENV)/.with-docs
	NO_MKDOCS_2_WARNING=1 $(RUN) -m mkdocs build --strict

bench: $(ENV)/.with-bench
	$(RUN) -m bench.integrated_gradients $(ARGS)
	$(RUN) -m bench.run
	$(RUN) -m bench.overheads
	$(RUN) -m bench.qmc
	$(RUN) -m bench.sites
	$(RUN) -m bench.dictionaries

clean:
	rm -rf build dist site demo_output sae_output .pytest_cache .mypy_cache .ruff_cache .jax_cache
	find jaxplain tests bench docs -name __pycache__ -type d -prune -exec rm -rf {} +

distclean: clean
	rm -rf $(ENV) $(PEERS)

# An environment is made once; what a target needs is installed at its first use and again
# when pyproject.toml changes.
$(ENV)/.made $(PEERS)/.made:
	@"$(PYTHON)" -c 'import sys; v = sys.version_info; \
	  sys.exit(0 if v >= (3, 11) else "jaxplain needs Python 3.11 or newer, but $(PYTHON) is %d.%d. Name another: make PYTHON=python3.12 ..." % v[:2])'
	"$(PYTHON)" -m venv $(@D)
	touch $@

$(ENV)/.with-%: pyproject.toml $(ENV)/.made
	$(RUN) -m pip install --quiet --editable ".[$*]"
	touch $@

# PyTorch goes first and alone, so that nothing else chooses its version.
$(PEERS)/.with-peers: pyproject.toml $(PEERS)/.made
	$(PEERS)/bin/python -m pip install --quiet torch==2.13.0
	$(PEERS)/bin/python -m pip install --quiet --editable ".[test,peers]"
	touch $@
