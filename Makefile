# Everything runs in a virtual environment of its own, .venv, which each target sets up as far as it needs.
#   make PYTHON=python3.12 test     another interpreter
#   make test PEERS=1               with the tests that compare with PyTorch, Haiku and Equinox
PYTHON ?= python3
PEERS ?=
FULL  ?=

VENV   := .venv
BIN    := $(VENV)/bin
PIP    := $(BIN)/python -m pip install -qq --disable-pip-version-check
PYTEST := $(BIN)/python -m pytest --quiet
TWO    := -n 2 --no-loadscope-reorder
TORCH   = $(shell sed -n 's/.*"\(torch==[^"]*\)".*/\1/p' pyproject.toml)

NOTEBOOKS  := $(wildcard notebooks/*.ipynb)
TESTING    := $(if $(PEERS),$(VENV)/peers.stamp,$(VENV)/test.stamp)

.DEFAULT_GOAL := help
.PHONY: help report test test-full pytest lint format types doctest tables pictures docs examples notebook benchmarks clean
# Two installations into one environment at a time would get in each other's way.
.NOTPARALLEL:

help: ## this list
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1|\2/p' Makefile | awk -F'|' '{ printf "%-18s %s\n", $$1, $$2 }'

report: $(VENV)/report.stamp ## how gradients travel: LSTM, GRU, Elman and LRU compared, as a page in report/
	@$(BIN)/seqjax gradients --overwrite --out report

test: lint types doctest pytest ## the fast checks: style, types, examples in docstrings, tests

pytest: $(TESTING)
	@echo "pytest: the fast tests"
	@$(PYTEST) $(TWO) -m "not slow"

test-full: $(TESTING) ## every test, the slow ones included
	@echo "pytest: all tests"
	@$(PYTEST) $(TWO)

lint: $(TESTING) ## ruff: rules and format
	@echo "ruff: rules and format"
	@$(BIN)/ruff check --quiet .
	@$(BIN)/ruff format --check --quiet . || { echo "Not formatted: run 'make format'." >&2; exit 1; }

format: $(TESTING) ## rewrite the files as ruff wants them
	@$(BIN)/ruff check --fix --quiet . ; $(BIN)/ruff format .

types: $(TESTING) ## mypy
	@echo "mypy: types"
	@$(BIN)/mypy --no-error-summary

doctest: $(TESTING) ## the examples in the docstrings
	@echo "pytest: examples in docstrings"
	@$(PYTEST) -n 2 -p tests.helpers.quick_compilation --doctest-modules seqjax

tables: $(TESTING) ## rewrite the generated tables of docs/ and the options of the command line
	@$(BIN)/python -m seqjax.report.documents
	@$(BIN)/python -m seqjax.cli.describe
	@$(BIN)/python -m benchmarks.applications.table

pictures: $(TESTING) ## draw the pictures of docs/instruments.md again
	@PYTHONPATH=docs $(BIN)/python -m pictures

docs: $(VENV)/docs.stamp ## build the documentation site in build/site/; a warning is an error
	@echo "sphinx: build/site/index.html"
	@$(BIN)/python -m sphinx --quiet --jobs auto --fail-on-warning -c docs . build/site

notebook: $(VENV)/notebook.stamp ## fetch data and run the notebooks at toy size; FULL=1: as committed
	@test -n "$(NOTEBOOKS)" || { echo "make notebook: no notebooks/*.ipynb here." >&2; exit 1; }
	@echo "notebooks: $(NOTEBOOKS)"
	@$(BIN)/python -m benchmarks.applications.notebooks $(if $(FULL),--full)

examples: $(TESTING) ## run the programs of examples/ at toy size, and the examples of the documents
	@echo "pytest: examples/, and the examples of docs/"
	@$(PYTEST) $(TWO) -p tests.helpers.quick_compilation tests/test_examples.py tests/test_document_examples.py

benchmarks: $(VENV)/peers.stamp ## all that benchmarks/results/ has, on an idle machine; but for learning, which takes a GPU
	@for name in peers models methods levers profiles lyapunov algorithms scaling fit; do $(BIN)/python -m benchmarks $$name || exit 1; done

clean: ## remove the environment, caches and the report
	@rm -rf $(VENV) .cache .pytest_cache .ruff_cache .mypy_cache .hypothesis build dist report
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +

# A stamp is older than pyproject.toml when the requirements may have changed: then pip looks again.
$(VENV)/python.stamp:
	@command -v "$(PYTHON)" >/dev/null || { echo "make: no '$(PYTHON)' here. Install Python 3.11 or later, or name one: make PYTHON=/path/to/python3" >&2; exit 1; }
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "make: $$("$(PYTHON)" -V 2>&1) is too old, seqjax needs 3.11 or later. Name one: make PYTHON=/path/to/python3" >&2; exit 1; }
	@"$(PYTHON)" -c 'import venv, ensurepip' 2>/dev/null || { echo "make: $$("$(PYTHON)" -V 2>&1) has no venv module. On Debian and Ubuntu: apt install python3-venv" >&2; exit 1; }
	@echo "Setting up a virtual environment in $(VENV) with $$("$(PYTHON)" -V)"
	@"$(PYTHON)" -m venv --clear $(VENV)
	@touch $@

$(VENV)/report.stamp: pyproject.toml | $(VENV)/python.stamp
	@echo "Installing seqjax[report] into $(VENV) (a minute or two)"
	@$(PIP) --editable '.[report]'
	@touch $@

$(VENV)/notebook.stamp: pyproject.toml | $(VENV)/python.stamp
	@echo "Installing seqjax[notebook] into $(VENV) (a minute or two)"
	@$(PIP) --editable '.[notebook]'
	@touch $@

$(VENV)/docs.stamp: pyproject.toml | $(VENV)/python.stamp
	@echo "Installing seqjax[docs] into $(VENV) (a minute or two)"
	@$(PIP) --editable '.[docs]'
	@touch $@

$(VENV)/test.stamp: pyproject.toml | $(VENV)/python.stamp
	@echo "Installing seqjax[test,report,dev,notebook] into $(VENV) (a minute or two)"
	@$(PIP) --editable '.[test,report,dev,notebook]'
	@touch $@

# torch by itself and first: a build for the CPU, where one is offered, is then kept by the second command.
$(VENV)/peers.stamp: $(VENV)/test.stamp
	@echo "Installing $(TORCH), dm-haiku and equinox into $(VENV) (a few minutes)"
	@$(PIP) $(TORCH)
	@$(PIP) --editable '.[test,report,dev,notebook,peers]'
	@touch $@
