# `make run` and `make test` work on a fresh machine: they create .venv and install fedray first.
PYTHON ?= python3
BIN := .venv/bin
PYTEST := $(BIN)/pytest --numprocesses 2 --dist loadgroup

.PHONY: run test test-all test-cluster test-faults check format clean

run: .venv/installed
	$(BIN)/fedray run tune_spaces/quickstart.yaml

test: .venv/installed
	$(PYTEST)

test-all: .venv/installed
	$(PYTEST) -m "not cluster and not faults"

test-cluster: .venv/installed
	$(BIN)/pytest -m cluster tests/cluster

test-faults: .venv/installed
	$(BIN)/pytest -m faults tests/faults

check: .venv/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(PYTEST) -m "not ray and not slow and not cluster" -q

format: .venv/installed
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf .venv build *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis

.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "fedray needs Python 3.11 or later; try make PYTHON=python3.11")'
	@echo "Installing into .venv: takes some minutes and 6 GB, most of it for torch."
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	touch $@
