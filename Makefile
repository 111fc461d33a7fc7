# Everything runs in .venv, which the first target that needs it creates. Python 3.11 or newer as PYTHON.
PYTHON ?= python3
BIN := .venv/bin
INSTALL := $(BIN)/uv pip install --quiet --python $(BIN)/python --constraint constraints.txt

.PHONY: setup quickstart test test-slow lint format bench bench-gpu results clean

setup: .venv/dev  ## Create .venv with everything for development

.venv/bin/uv:
	@$(PYTHON) -c 'import sys; sys.exit("make: Python 3.11 or newer is needed, $(PYTHON) is " + sys.version.split()[0] + "; set PYTHON=") if sys.version_info < (3, 11) else None'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet uv

.venv/run: .venv/bin/uv pyproject.toml constraints.txt
	$(INSTALL) --editable .
	@touch $@

.venv/dev: .venv/run
	$(INSTALL) --editable '.[dev]'
	@touch $@

quickstart: .venv/run  ## Train on handwritten digits, nothing to download: minutes on a laptop
	$(BIN)/alexnet train quickstart

test: .venv/dev  ## The fast tests
	$(BIN)/python -m pytest

test-slow: .venv/dev  ## The tests that take minutes
	$(BIN)/python -m pytest -m slow

lint: .venv/dev  ## Style, types and the direction of imports
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: .venv/dev
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: .venv/run  ## This project beside the usual way, on this machine
	$(BIN)/python benchmarks/compare.py --json results/compare-$(shell uname -m)-cpu.json

clean:
	rm -rf .venv build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis src/*.egg-info
