# SPDX-License-Identifier: Apache-2.0
# One entry for people and CI. Every target builds .venv first from constraints.txt.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-builtin-rules

VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
FPGA_STAMP := $(VENV)/.installed-fpga
PYTHON ?= $(shell for p in python3.11 python3.12 python3.13 python3; do \
	$$p -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null && echo $$p && break; done)
# Worker processes of pytest; every one compiles Numba kernels, so more than the cores does not help.
JOBS ?= 2
# BLAS and torch start a thread per core in every worker otherwise.
export OMP_NUM_THREADS ?= 1
export OPENBLAS_NUM_THREADS ?= 1
PYTEST := $(BIN)/python -m pytest
XDIST := -n $(JOBS) --dist loadgroup

.PHONY: help demo test test-all bench lint format fuzz clean check-tools install

help: ## this list
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 18

demo: $(STAMP) ## train, compress, simulate, generate, verify and plot two small networks (into demo/)
	$(BIN)/python -m cosil.cli.demo demo

test: $(STAMP) ## everything but what is marked slow; under 15 minutes on 2 cores
	NUMBA_DISABLE_JIT=1 $(PYTEST) -q -m "nojit and not slow" $(XDIST)
	$(PYTEST) -q -m "not slow" $(XDIST)

test-all: $(STAMP) ## the slow tests too: larger arrays, training, more mutated files
	NUMBA_DISABLE_JIT=1 $(PYTEST) -q -m nojit $(XDIST)
	$(PYTEST) -q $(XDIST)

bench: $(FPGA_STAMP) ## speed against peers and limits, Fmax on ECP5
	$(BIN)/python -m benchmarks.w4a8
	$(BIN)/python -m benchmarks.fpga
	$(BIN)/python -m benchmarks.pim
	$(BIN)/python -m benchmarks.binary
	$(BIN)/python -m benchmarks.pim_accuracy --full
	$(BIN)/python -m benchmarks.binary_accuracy

lint: $(STAMP) ## format, style, types, layers, spelling
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/lint-imports
	$(BIN)/codespell
	$(BIN)/pyright

format: $(STAMP) ## rewrite the files as `make lint` wants them
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

fuzz: $(STAMP) ## mutated packed files: a clear error or exactly what the file says
	$(BIN)/python -m benchmarks.fuzz_packed

install: $(STAMP) ## build .venv only

clean: ## remove everything that make built
	rm -rf $(VENV) .venv-bench demo build .pytest_cache .ruff_cache .import_linter_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

check-tools:
	@missing=; \
	[ -n "$(PYTHON)" ] || missing="$$missing python3.11"; \
	command -v g++ >/dev/null || missing="$$missing g++"; \
	command -v perl >/dev/null || missing="$$missing perl"; \
	if [ -n "$(PYTHON)" ] && ! "$(PYTHON)" -c 'import ensurepip, venv' 2>/dev/null; then \
		missing="$$missing python3-venv"; fi; \
	if [ -n "$$missing" ]; then \
		echo "error: missing on this machine:$$missing" >&2; \
		echo "hint: on Debian or Ubuntu: sudo apt-get install python3 python3-venv make g++ perl" >&2; \
		exit 1; \
	fi

$(STAMP): constraints.txt pyproject.toml | check-tools
	@echo "building $(VENV) (once, about 2 minutes and 3 GB; a CPU-only torch is smaller, see README.md)"
	test -x $(BIN)/python || "$(PYTHON)" -m venv $(VENV)
	$(BIN)/python -m pip install -q --disable-pip-version-check -c constraints.txt pip hatchling editables
	$(BIN)/python -m pip install -q --disable-pip-version-check -c constraints.txt --no-build-isolation -e '.[dev]'
	touch $@

$(FPGA_STAMP): $(STAMP)
	$(BIN)/python -m pip install -q --disable-pip-version-check -c constraints.txt --no-build-isolation -e '.[fpga]'
	touch $@
