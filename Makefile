# Everything works on a fresh machine with Python 3.11+ and make: the environment is made on demand.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
# Tests that load other inference runtimes, which get a process of their own.
APART := tests/export tests/cli/test_export.py
# Files of tests are dealt out whole, as their fixtures are shared, and in order.
SPREAD := --numprocesses auto --dist loadfile --no-loadscope-reorder

.PHONY: help demo test test-slow lint types imports unit package format clean

help:
	@echo "make demo       the whole job on the model that qkit brings along"
	@echo "make test       everything that checks the project"
	@echo "make test-slow  the tests that take minutes"
	@echo "make format     format and mend what ruff can"
	@echo "make clean      remove the environment and caches"

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt torch torchvision
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[dev]"
	@touch $@

demo: $(STAMP)
	$(BIN)/qkit demo

test: lint types imports package unit

lint: $(STAMP)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

types: $(STAMP)
	$(BIN)/mypy

imports: $(STAMP)
	$(BIN)/lint-imports

package: $(STAMP)
	rm -rf dist
	$(BIN)/python -m build --no-isolation --outdir dist . > /dev/null
	@find dist -name '*.whl' -size -20000k | grep . || (echo "the wheel is too large"; exit 1)

# A process a core, a thread each; the backends' tests have all threads.
unit: $(STAMP)
	OMP_NUM_THREADS=1 $(BIN)/pytest $(SPREAD) -m "not slow and not gpu and not backends" $(APART:%=--ignore=%)
	$(BIN)/pytest -m "not slow and not gpu and backends"

test-slow: $(STAMP)
	$(BIN)/pytest -m "slow and not gpu"

format: $(STAMP)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean:
	rm -rf $(VENV) dist build .*_cache .hypothesis
