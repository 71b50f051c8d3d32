# Everything a fresh clone needs is Python, git and make: each target installs what it lacks into .venv.
PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/.installed
PYTEST := $(BIN)/python -m pytest
NIIVUE := autoseg/view/page/niivue.js

.PHONY: install demo viewer viewer-if-npm test test-long lint docs format bench clean

install: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $(STAMP)

demo: $(STAMP)
	$(BIN)/autoseg demo demo

# NiiVue for `autoseg view`, of the version that viewer/package-lock.json pins.
viewer: $(NIIVUE)

$(NIIVUE): viewer/package-lock.json viewer/bundle.mjs
	cd viewer && npm ci --ignore-scripts --omit=optional --no-audit --no-fund --fetch-retries=1 --fetch-timeout=60000 --silent
	cd viewer && node bundle.mjs ../$(NIIVUE)

# Tests of the viewer skip where there is no npm, or no way to its registry.
viewer-if-npm:
	@command -v npm >/dev/null && $(MAKE) --no-print-directory viewer || echo "no NiiVue: tests of the viewer's page are skipped"

lint: $(STAMP) docs
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# Warnings are errors, links that lead nowhere among them. All pages are read each time (-E): what a page that did not change
# links to may have.
docs: $(STAMP)
	$(BIN)/python -m sphinx -q -W --keep-going -n -E -d build/docs/doctrees docs build/docs/html

format: $(STAMP)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

test: lint viewer-if-npm
	$(PYTEST) -m "not long and not gpu"

test-long: test
	$(PYTEST) -m "long and not gpu"

# PEER is the interpreter of an environment with nnU-Net v2, DATASET a folder in nnU-Net's layout.
bench: $(STAMP)
	$(BIN)/python tests/benchmarks/prepare.py --peer-python $(PEER) --dataset $(DATASET)
	$(BIN)/python tests/benchmarks/train_step.py --peer-python $(PEER) --dataset $(DATASET)

clean:
	rm -rf .venv build demo viewer/node_modules $(NIIVUE)* .mypy_cache .ruff_cache .pytest_cache .hypothesis
