# make run: environment, then the default DAG. make test: environment, then the tests; make test-all: whole runs as well.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
BIN := .venv/bin

.PHONY: run test test-all lint

run: .venv/installed
	$(BIN)/snakemake --cores all

# One process a core, each with one thread of torch; tests of one file stay together, for the runs that they share.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/pytest -n logical --maxprocesses 4 --dist loadfile --no-loadscope-reorder

test: .venv/installed
	$(PYTEST)

# All tests that need no more than a Debian machine and an hour: whole runs and Slurm among them.
test-all: .venv/installed
	$(PYTEST) -m 'not slow and not gpu and not default_run' -rs

lint: .venv/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache
	$(BIN)/snakefmt --check Snakefile workflow/rules
	$(BIN)/snakemake --lint

.venv/installed: envs/requirements.txt envs/cpu.txt pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/pip install -r envs/cpu.txt
	$(BIN)/pip install --no-deps -e .
	touch $@
