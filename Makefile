# `make demo` and `make test` need Python 3.11 or newer, make and the package registry; everything else is installed into .venv.

PYTHON ?= python3
VENV ?= .venv
DEMO_ARGS ?=
FAULTS_ARGS ?=
PYTEST_ARGS ?=
JOBS ?= 2

BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --quiet --disable-pip-version-check

# One stamp for each stage of the environment: a stage runs again only when pyproject.toml is newer than its stamp.
MADE := $(VENV)/.stamp-venv
RUN := $(VENV)/.stamp-run
DEV := $(VENV)/.stamp-dev

.PHONY: help demo test lint types format docs conformance conformance-asyncpg faults bench-relay bench-predict bench-build clean

help:
	@echo "make demo           the main job end to end: embedded PostgreSQL, real images, BUILD MODEL, PREDICT USING"
	@echo "make test           the test suite (PYTEST_ARGS='-k wire' for a part of it, JOBS=4 for more at once)"
	@echo "make lint           ruff: rules and format"
	@echo "make types          mypy --strict"
	@echo "make format         rewrite the sources in ruff's format"
	@echo "make docs           write the tables of docs/ anew from the code"
	@echo "make conformance    PostgreSQL's regression and isolation suites, directly and through the proxy (Debian, a C compiler)"
	@echo "make conformance-asyncpg   asyncpg's own tests in the same way"
	@echo "make faults         kill -9 of every kind of process at random moments, 200 times (FAULTS_ARGS='--kills 20 --seed 2')"
	@echo "make bench-relay    what the proxy costs ordinary SQL"
	@echo "make bench-predict  images per second of PREDICT USING"
	@echo "make bench-build    images per second of BUILD MODEL"
	@echo "make clean          remove .venv, caches and build outputs"

demo: $(RUN)
	@$(BIN)/thanoproxy demo $(DEMO_ARGS)

# pytest's 5 is "no tests": with PYTEST_ARGS one of the two halves may have none.
test: $(DEV)
	@$(BIN)/python -m pytest -n $(JOBS) --dist loadfile --max-worker-restart 0 -m "not alone" $(PYTEST_ARGS) || [ $$? -eq 5 ]
	@$(BIN)/python -m pytest -m alone $(PYTEST_ARGS) || [ $$? -eq 5 ]

lint: $(DEV)
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .

types: $(DEV)
	@$(BIN)/mypy

format: $(DEV)
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

docs: $(DEV)
	@$(BIN)/python -m tests.test_docs

conformance: $(DEV)
	@$(BIN)/python -m tests.conformance

conformance-asyncpg: $(DEV)
	@$(BIN)/python -m tests.conformance.asyncpg

faults: $(DEV)
	@$(BIN)/python -m tests.faults $(FAULTS_ARGS)

# The module comes first: a benchmark that does not exist is told at once, not after minutes of installing.
bench-relay bench-predict bench-build: bench-%: tests/bench/%.py $(DEV)
	@$(BIN)/python -m tests.bench.$*

tests/bench/%.py:
	$(error this checkout has no benchmark $@)

clean:
	rm -rf $(VENV) build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find thanoproxy tests -name __pycache__ -type d -prune -exec rm -rf {} +

# --clear: a venv that was left half-made (no pip, another Python) is made anew.
$(MADE):
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || \
	  { echo "thanoproxy needs Python 3.11 or newer: '$(PYTHON)' is older or missing (make PYTHON=/path/to/python3.12 ...)" >&2; exit 1; }
	@$(PYTHON) -m venv --clear $(VENV)
	@$(PIP) install --upgrade 'pip>=25.1'
	@touch $@

$(RUN): pyproject.toml | $(MADE)
	@echo "installing into $(VENV) (PyTorch with its CUDA libraries is several GB the first time)" >&2
	@$(PIP) install --editable '.[demo,notebook,remote]'
	@touch $@

$(DEV): pyproject.toml $(RUN) | $(MADE)
	@$(PIP) install --group test --group lint
	@touch $@
