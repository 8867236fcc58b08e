# Every target sets up what it needs in a virtual environment of its own: Python and make are enough.
# The set-up runs again only when setup.cfg or constraints.txt has changed.
PYTHON ?= python3
VENV ?= .venv
OUT ?= demo_output
DOCS_OUT ?= docs/_build/html
DIST ?= dist
CONSTRAINTS ?= constraints.txt
PYTEST_ARGS ?=
QUICK ?=
FUZZ ?= 6000
UPSTREAM ?= .venv-upstream

# Tests start Python dozens of times: it need not compile the package anew each time.
export PYTHONDONTWRITEBYTECODE =

BIN := $(VENV)/bin
INSTALL := $(BIN)/python -m pip install --quiet --no-input --disable-pip-version-check -c $(CONSTRAINTS)

.DEFAULT_GOAL := help
.PHONY: help demo test thorough fuzz lint docs dist bench clean

help:
	@echo "make demo      simulate stars, fit them, compare with the truth; tables and plots go to $(OUT)/"
	@echo "make test      run the tests and the examples in the docstrings, but for the slowest"
	@echo "make thorough  the slowest: they sample, kill and repeat"
	@echo "make fuzz      look for inputs that are answered wrongly, for some minutes"
	@echo "make lint      ruff and mypy"
	@echo "make docs      build the documentation into $(DOCS_OUT)/"
	@echo "make dist      build the wheel and the source distribution into $(DIST)/, and try the wheel"
	@echo "make bench     run the benchmarks beside the JAX reference implementation (hours);"
	@echo "               QUICK=1: only see that they run (minutes)"
	@echo "make clean     remove what the other targets made"

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.test: setup.cfg $(CONSTRAINTS) | $(BIN)/python
	@echo "Installing into $(VENV) (PyTorch is large: this can take minutes, once)"
	$(INSTALL) -e ".[test]"
	@touch $@

$(VENV)/.tools: setup.cfg $(CONSTRAINTS) | $(BIN)/python
	$(INSTALL) -e ".[test,dev,docs]"
	@touch $@

# The JAX reference implementation lives in an environment of its own.
$(UPSTREAM)/.upstream: setup.cfg constraints.txt
	$(PYTHON) -m venv $(UPSTREAM)
	$(UPSTREAM)/bin/python -m pip install --quiet --no-input --disable-pip-version-check \
		-c constraints.txt -e ".[test,upstream]"
	@touch $@

demo: $(VENV)/.test
	MPLBACKEND=Agg $(BIN)/torusimaging-torch demo --out $(OUT)

test thorough: $(VENV)/.test
	MPLBACKEND=Agg OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 -m "$(if $(filter test,$@),not )slow" $(PYTEST_ARGS)

# FUZZ is shared out among what is tried of each function: some thousands take minutes.
fuzz: $(VENV)/.test
	FUZZ_EXAMPLES=$(FUZZ) MPLBACKEND=Agg OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 tests/fuzz

lint: $(VENV)/.tools
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

docs: $(VENV)/.tools
	OMP_NUM_THREADS=1 $(BIN)/python -m sphinx -W --keep-going -q -b html docs $(DOCS_OUT)
	@echo "Open $(DOCS_OUT)/index.html"

# What was packed works without the checkout: it is unpacked and run elsewhere.
dist: $(VENV)/.tools
	rm -rf $(DIST)
	$(BIN)/python -m build --outdir $(DIST)
	$(BIN)/twine check --strict $(DIST)/*
	$(BIN)/python -m pip install --quiet --no-deps --disable-pip-version-check --target $(DIST)/unpacked $(DIST)/*.whl
	cd $(DIST)/unpacked && MPLBACKEND=Agg PYTHONPATH=$$PWD $(abspath $(BIN))/python -c \
		"import torusimaging_torch as oti; assert 'unpacked' in oti.__file__, oti.__file__; print(oti.__version__)"
	cd $(DIST)/unpacked && MPLBACKEND=Agg PYTHONPATH=$$PWD $(abspath $(BIN))/python -m torusimaging_torch \
		demo --n-stars 20000 --quiet --out ../demo >../demo.txt || { cat ../demo.txt; exit 1; }
	@echo "Built and tried: $$(ls $(DIST)/*.whl $(DIST)/*.tar.gz)"

ifdef QUICK
bench: $(VENV)/.test
	$(BIN)/python benchmarks/run_all.py --quick
else
bench: $(VENV)/.test $(UPSTREAM)/.upstream
	$(BIN)/python benchmarks/run_all.py --upstream $(UPSTREAM)/bin/python
endif

clean:
	rm -rf $(VENV) $(UPSTREAM) $(OUT) $(DIST) docs/_build docs/api build *.egg-info
	rm -rf .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
