# Everything runs in .venv, which the first target that needs it creates. Python 3.11 or newer as PYTHON.
PYTHON ?= python3
BIN := .venv/bin
INSTALL := $(BIN)/uv pip install --quiet --python $(BIN)/python --constraint constraints.txt

.PHONY: setup quickstart test test-slow lint format results bench faults bench-gpu accuracy-gpu clean

setup: .venv/dev  ## Create .venv with everything for development

.venv/bin/uv:
	@$(PYTHON) -c 'import sys; sys.exit("make: Python 3.11 or newer is needed, $(PYTHON) is " + sys.version.split()[0] + "; set PYTHON=") if sys.version_info < (3, 11) else None'
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { echo "make: $(PYTHON) has no venv module; on Debian and Ubuntu: apt install python3-venv"; exit 1; }
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet uv

.venv/run: .venv/bin/uv pyproject.toml constraints.txt
	$(INSTALL) --editable '.[demo]'
	@touch $@

.venv/dev: .venv/run
	$(INSTALL) --editable '.[dev]'
	@touch $@

quickstart: .venv/run  ## Train on handwritten digits, nothing to download: minutes on a laptop
	$(BIN)/alexnet train quickstart

test: .venv/dev  ## The fast tests
	$(BIN)/python -m pytest -n auto --dist worksteal

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

results: .venv/run  ## RESULTS.md and the other pages' tables from the records in results/
	$(BIN)/python benchmarks/report.py
	$(BIN)/python benchmarks/ladder.py
	$(BIN)/python benchmarks/findings.py
	$(BIN)/python benchmarks/reliability.py

DATA ?= cifar10

bench: .venv/run  ## This project beside the usual way, on this machine's CPU
	$(BIN)/python benchmarks/compare.py --device cpu --json results/compare-cpu.json
	$(BIN)/python benchmarks/agreement.py --json results/agreement-cpu.json

faults: .venv/dev  ## Kill, starve, damage and mislead it thousands of times: docs/reliability.md, about two hours
	$(BIN)/python benchmarks/faults.py --json results/faults-cpu.json

bench-gpu: .venv/run  ## The same on CUDA, with DATA=FOLDER; classic as it is, five seeds, and the plain way, three
	$(BIN)/python benchmarks/compare.py --device cuda --data $(DATA) --json results/compare-gpu.json
	$(BIN)/python benchmarks/accuracy.py classic --seeds 0 1 2 3 4 --label gpu --data $(DATA)
	$(BIN)/python benchmarks/accuracy.py classic --plain --seeds 0 1 2 --label gpu --data $(DATA)

accuracy-gpu: .venv/run  ## Five seeds of modern, three of reference and paper, the trials behind modern, with DATA=FOLDER
	$(BIN)/python benchmarks/accuracy.py modern --seeds 0 1 2 3 4 --label gpu --data $(DATA)
	$(BIN)/python benchmarks/accuracy.py reference paper --seeds 0 1 2 --label gpu --data $(DATA)
	$(BIN)/python benchmarks/trials.py --json results/trials-gpu.json --data $(DATA)
	$(BIN)/python benchmarks/changes.py --device cuda --json results/changes-gpu.json

clean:
	rm -rf .venv build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis src/*.egg-info
