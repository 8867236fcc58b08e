# Every target sets up what it needs in a virtual environment of its own: Python and make are enough.
# The set-up runs again only when setup.cfg or constraints.txt has changed.
PYTHON ?= python3
VENV ?= .venv
OUT ?= demo_output
DOCS_OUT ?= docs/_build/html
PYTEST_ARGS ?=

BIN := $(VENV)/bin
INSTALL := $(BIN)/python -m pip install --quiet --no-input --disable-pip-version-check -c constraints.txt

.DEFAULT_GOAL := help
.PHONY: help demo test lint docs bench clean

help:
	@echo "make demo   simulate stars, fit them, compare with the truth; tables and plots go to $(OUT)/"
	@echo "make test   run the tests and the examples in the docstrings"
	@echo "make lint   ruff and mypy"
	@echo "make docs   build the documentation into $(DOCS_OUT)/"
	@echo "make bench  run the benchmarks (also installs the JAX reference implementation)"
	@echo "make clean  remove what the other targets made"

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.test: setup.cfg constraints.txt | $(BIN)/python
	@echo "Installing into $(VENV) (PyTorch is large: this can take minutes, once)"
	$(INSTALL) -e ".[test]"
	@touch $@

$(VENV)/.tools: setup.cfg constraints.txt | $(BIN)/python
	$(INSTALL) -e ".[test,dev,docs]"
	@touch $@

$(VENV)/.upstream: setup.cfg constraints.txt | $(BIN)/python
	$(INSTALL) -e ".[test,upstream]"
	@touch $@

demo: $(VENV)/.test
	MPLBACKEND=Agg $(BIN)/torusimaging-torch demo --out $(OUT)

test: $(VENV)/.test
	MPLBACKEND=Agg OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 $(PYTEST_ARGS)

lint: $(VENV)/.tools
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

docs: $(VENV)/.tools
	$(BIN)/python -m sphinx -W --keep-going -q -b html docs $(DOCS_OUT)
	@echo "Open $(DOCS_OUT)/index.html"

bench: $(VENV)/.upstream
	@set -e; for script in benchmarks/*.py; do echo "== $$script"; $(BIN)/python $$script; done

clean:
	rm -rf $(VENV) $(OUT) docs/_build docs/api build dist *.egg-info
	rm -rf .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
