# Everything a newcomer needs: `make demo`, `make test`. Both create .venv from a bare python3 (3.11+).
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed
# One test per core at a time, each on one thread: the models of these tests are too small for more.
SPREAD := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n logical --dist loadfile

.PHONY: setup demo test test-all test-engines check format bench clean
.DEFAULT_GOAL := help

help: ## list the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16

setup: $(STAMP) ## create .venv and install the locked versions

$(STAMP): requirements.lock pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Tutelage needs Python 3.11 or newer; set PYTHON=...")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --editable .
	@touch $(STAMP)

demo: setup ## distil the embedded model on the embedded reviews and write a report
	$(BIN)/tutelage demo

test: setup ## the default tests, about 8 minutes
	$(SPREAD) -m "not slow and not real_model and not browser and not engine"

test-all: setup ## the default tests, the slow ones, the real model and the browser, under 30 minutes
	$(SPREAD) -m "not real_model and not browser and not engine" --durations=15
	$(BIN)/python -m pytest -m "(real_model or browser) and not engine" --durations=15

test-engines: setup ## long kills and outside engines; its dated log is committed
	$(BIN)/python -m pytest -m "engine" -rs

check: setup ## formatting, lint, types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/pyright

format: setup ## rewrite the files as `check` wants them
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: setup ## the published benchmarks
	$(BIN)/python -m benchmarks --json

clean: ## remove the environment and the caches of the tools, never `runs/`
	rm -rf $(VENV) .pytest_cache .ruff_cache .coverage dist
