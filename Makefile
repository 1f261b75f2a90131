# make run: environment, then the default DAG. make test: environment, then the tests.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
BIN := .venv/bin

.PHONY: run test lint

run: .venv/installed
	$(BIN)/snakemake --cores all

test: .venv/installed
	$(BIN)/pytest

lint: .venv/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/snakefmt --check Snakefile workflow/rules
	$(BIN)/snakemake --lint

.venv/installed: envs/requirements.txt envs/cpu.txt pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/pip install -r envs/cpu.txt
	$(BIN)/pip install --no-deps -e .
	touch $@
