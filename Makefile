# make demo | test | check | bench | help.  Each works from a bare clone: it builds .venv first.

PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check -q
TORCH := $(shell sed -n 's/^torch==/torch==/p' constraints.txt)
JOBS ?= $(shell nproc 2>/dev/null || echo 2)

.PHONY: help demo test check lint bench clean

help:
	@echo "make demo    train, prune, score and report a network on embedded images"
	@echo "make test    the whole test suite"
	@echo "make check   ruff, mypy --strict on simulator and sweeps, and the tests"
	@echo "make bench   the benchmarks that need nothing but this repository"
	@echo "make clean   remove .venv, caches and runs/demo"

# torch first and by itself: where an index offers a CPU build under this version, it is taken.
$(VENV)/.core: pyproject.toml constraints.txt
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "Python 3.11 or later is needed; try: make PYTHON=/path/to/python3.11" >&2; exit 2; }
	@echo "installing into $(VENV) (once)"
	$(PIP) install $(TORCH)
	$(PIP) install -c constraints.txt -e .
	@touch $@

$(VENV)/.dev: $(VENV)/.core
	$(PIP) install -c constraints.txt -e '.[dev]'
	@touch $@

demo: $(VENV)/.core
	$(BIN)/espalier train

test: $(VENV)/.dev
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(JOBS) --dist loadfile

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/mypy

check: lint test

bench: $(VENV)/.dev
	$(BIN)/python benchmarks/startup.py
	$(BIN)/python benchmarks/simulate_networks.py
	$(BIN)/python benchmarks/sigma_speed.py
	$(BIN)/python benchmarks/sparten_speed.py
	$(BIN)/python benchmarks/scnn_speed.py
	$(BIN)/python benchmarks/dram_speed.py
	$(BIN)/python benchmarks/published_ratios.py
	$(BIN)/python benchmarks/mask_cost.py
	$(BIN)/python benchmarks/error_map_speed.py

clean:
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis build runs/demo *.egg-info
