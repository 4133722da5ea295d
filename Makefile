# `make run` and `make test` do all set-up on a fresh machine: .venv, install, then what they say.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: run test test-all test-cluster check format clean

run: .venv/installed
	$(BIN)/fedray run tune_spaces/quickstart.yaml

test: .venv/installed
	$(BIN)/pytest

test-all: .venv/installed
	$(BIN)/pytest -m "not cluster"

test-cluster: .venv/installed
	$(BIN)/pytest -m cluster tests/cluster

check: .venv/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/pytest -m "not ray and not slow and not cluster" -q

format: .venv/installed
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf .venv build *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis

.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "fedray needs Python 3.11 or later; try: make PYTHON=python3.11")'
	@echo "Installing into .venv: a few minutes, about 6 GB, mostly torch."
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	touch $@
