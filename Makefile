# Everything runs in .venv, which the first target that needs it creates. Python 3.11 or newer as PYTHON.
PYTHON ?= python3
BIN := .venv/bin
INSTALL := $(BIN)/uv pip install --quiet --python $(BIN)/python --constraint constraints.txt

# Without .pyc files, every process of the tests would compile the sources of torch again, nine seconds each.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: setup help quickstart test test-slow test-oldest lint format results bench faults bench-gpu accuracy-gpu wheel-test hub clean

setup: .venv/dev  ## Create .venv with everything for development

help:  ## What each target does
	@awk -F ':.*  ## ' '/^[a-z-]+:.*  ## / { printf "%-13s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

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
	$(BIN)/alexnet train quickstart --resume

test: .venv/dev  ## The fast tests
	$(BIN)/python -m pytest -n auto --dist worksteal

test-slow: .venv/dev  ## The tests that take minutes
	$(BIN)/python -m pytest -m slow

test-oldest: .venv/bin/uv  ## The fast tests with the oldest versions that pyproject.toml allows
	$(BIN)/uv venv --quiet --clear --python $(BIN)/python build/oldest
	$(BIN)/uv pip install --quiet --python build/oldest/bin/python --resolution lowest-direct --editable .
	$(BIN)/uv pip install --quiet --python build/oldest/bin/python --editable '.[dev]'
	build/oldest/bin/python -m pytest -n auto --dist worksteal

lint: .venv/dev  ## Style, types and the direction of imports
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: .venv/dev  ## Put the code into the style that lint checks
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

results: .venv/run  ## RESULTS.md, README's tables and the pictures, from the records in results/
	$(BIN)/python benchmarks/pages.py

DATA ?= cifar10

bench: .venv/run  ## Compare with plain PyTorch code, on this machine's CPU
	$(BIN)/python benchmarks/compare.py --device cpu --json results/compare-cpu.json

faults: .venv/dev  ## Kill runs, fail their disk, damage their files: docs/reliability.md; some hours
	$(BIN)/python benchmarks/faults.py --json results/faults-cpu.json

bench-gpu: .venv/run  ## make bench on CUDA, with DATA=FOLDER; classic with five seeds, and in float32 with three
	$(BIN)/python benchmarks/compare.py --device cuda --data $(DATA) --json results/compare-gpu.json
	$(BIN)/python benchmarks/accuracy.py classic --seeds 0 1 2 3 4 --label gpu --data $(DATA)
	$(BIN)/python benchmarks/accuracy.py classic --plain --seeds 0 1 2 --label gpu --data $(DATA)

accuracy-gpu: .venv/run  ## Five seeds of modern, three of reference and paper, and the trials, with DATA=FOLDER
	$(BIN)/python benchmarks/accuracy.py modern --seeds 0 1 2 3 4 --label gpu --data $(DATA)
	$(BIN)/python benchmarks/accuracy.py reference paper --seeds 0 1 2 --label gpu --data $(DATA)
	$(BIN)/python benchmarks/trials.py --json results/trials-gpu.json --data $(DATA)

wheel-test: .venv/dev  ## Build the wheel, install it into a fresh environment, and try it there
	rm -rf build dist
	$(BIN)/uv build --quiet --python $(BIN)/python
	$(BIN)/uv tool run twine check --strict dist/*
	$(BIN)/uv venv --quiet --clear --python $(BIN)/python build/fresh
	$(BIN)/uv pip install --quiet --python build/fresh/bin/python --constraint constraints.txt "$$(echo dist/*.whl)[demo]"
	build/fresh/bin/python .ci/wheel_test.py

RUN ?= cifar10-small
OUT ?= build/hub

hub: .venv/run  ## A folder to push to the Hugging Face Hub: RUN=a run folder or a bundled network, OUT=FOLDER
	$(BIN)/python benchmarks/hub.py $(RUN) $(OUT)

clean:  ## Remove .venv and all that was built
	rm -rf .venv build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis src/*.egg-info
