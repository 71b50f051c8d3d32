# Everything a fresh clone needs is Python, git and make: each target installs what it lacks into .venv.
PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/.installed
PYTEST := $(BIN)/python -m pytest

.PHONY: install demo test test-long lint format bench clean

install: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $(STAMP)

demo: $(STAMP)
	$(BIN)/autoseg demo demo

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(STAMP)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

test: lint
	$(PYTEST) -m "not long and not gpu"

test-long: test
	$(PYTEST) -m "long and not gpu"

# PEER is the interpreter of an environment with nnU-Net v2, DATASET a folder in nnU-Net's layout.
bench: $(STAMP)
	$(BIN)/python tests/benchmarks/prepare.py --peer-python $(PEER) --dataset $(DATASET)
	$(BIN)/python tests/benchmarks/train_step.py --peer-python $(PEER) --dataset $(DATASET)

clean:
	rm -rf .venv demo .mypy_cache .ruff_cache .pytest_cache .hypothesis
