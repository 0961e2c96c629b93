# Everything runs in .venv, whatever environment is active. ARGS goes to the command: make test ARGS="-k wilson".
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install -c constraints.txt
BASE := $(VENV)/.installed
TEST := $(VENV)/.installed-test
ARGS ?=

unexport VIRTUAL_ENV PYTHONHOME
.NOTPARALLEL:
.DEFAULT_GOAL := help
.PHONY: help bench test processors lint types perf fuzz clean-venv

help:
	@echo "make bench       run the default suite, print its table, write results/runs/mini-quick"
	@echo "make test        run the tests"
	@echo "make processors  run the tests as other processors would, with one thread and with two; hours"
	@echo "make lint        ruff check, ruff format --check, and the rooms of pyproject.toml"
	@echo "make types       mypy"
	@echo "make perf        run the benchmarks of tests/perf"
	@echo "make fuzz        try mutated input of every kind (docs/reliability.md); it takes hours"
	@echo "make clean-venv  remove $(VENV)"

bench: $(BASE)
	$(BIN)/tvc-bench run $(ARGS)

# A worker per core, one thread each. A file's tests stay together: they share what they prepared. The files
# come in the order of tests/order.py; else those with few tests, which take longest, would come last.
# ARGS="-n0" runs them in one process.
SHARED := --dist loadfile --no-loadscope-reorder
test: $(TEST)
	$(BIN)/python -m pytest -n auto $(SHARED) $(ARGS)

# No number may hang on the processor. A capability that this machine lacks would be an illegal instruction.
WIDEST := $(shell grep -qsm1 avx512f /proc/cpuinfo && echo avx512)
processors: $(TEST)
	@set -e; for capability in default avx2 $(WIDEST); do for workers in auto 0; do \
	    echo "ATEN_CPU_CAPABILITY=$$capability, workers: $$workers"; \
	    ATEN_CPU_CAPABILITY=$$capability $(BIN)/python -m pytest -q -n $$workers $(SHARED) $(ARGS); \
	done; done

lint: $(TEST)
	$(BIN)/python -m ruff check .
	$(BIN)/python -m ruff format --check .
	$(BIN)/lint-imports --no-cache

types: $(TEST)
	$(BIN)/python -m mypy $(ARGS)

# -o addopts replaces the pyproject.toml options, which leave tests/perf out.
perf: $(TEST)
	$(BIN)/python -m pytest tests/perf --benchmark-only \
	    -o addopts="--import-mode=importlib --disable-socket --allow-unix-socket" $(ARGS)

# ARGS="suites --cases 500 --seed 1" plays a part, ARGS="suites --only-seed 7" one case alone.
fuzz: $(TEST)
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.fuzz $(ARGS)

clean-venv:
	rm -rf $(VENV)

# ensurepip is asked for first: where Debian lacks it, `python -m venv` leaves half an environment behind.
$(BIN)/python:
	@command -v $(PYTHON) >/dev/null || \
	    { echo "error: no '$(PYTHON)' on the PATH; name a Python >= 3.11: make PYTHON=/path/to/python3" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	    { echo "error: needs Python >= 3.11, got $$($(PYTHON) --version 2>&1); name one: make PYTHON=python3.11" >&2; exit 1; }
	@$(PYTHON) -c 'import venv, ensurepip' 2>/dev/null || \
	    { echo "error: $(PYTHON) cannot make virtual environments; on Debian or Ubuntu: apt install python3-venv" >&2; exit 1; }
	$(PYTHON) -m venv --clear $(VENV)

# A stamp is older than the files it was made from when an install is due.
$(BASE): pyproject.toml constraints.txt | $(BIN)/python
	@echo "Installing into $(VENV) (the first time takes minutes: torch is large)"
	$(PIP) -e .
	@touch $@

# The test install contains the base one, so it renews both stamps.
$(TEST): pyproject.toml constraints.txt | $(BIN)/python
	@echo "Installing into $(VENV) with the test tools (the first time takes minutes: torch is large)"
	$(PIP) -e '.[test]'
	@touch $(BASE) $@
