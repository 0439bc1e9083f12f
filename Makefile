# Treadle: `make` lists the targets. Several interpreters live side by side:
#   make test PYTHON=python3.13 VENV=.venv-3.13
PYTHON ?= python3
VENV ?= .venv
N ?= 200
SECONDS ?= 60
# Arguments for pytest, such as T="tests/unit -k submit -x"; C tests by name, such as C=ring/spsc.
T ?=
C ?=

MAKEFLAGS += --no-print-directory
NAME := $(patsubst .%,%,$(notdir $(VENV)))
BUILD := build/$(NAME)
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --quiet --disable-pip-version-check install
MESON := $(BIN)/meson
SETUP ?=
export PATH := $(abspath $(BIN)):$(PATH)

SOURCES := meson.build meson.options pyproject.toml \
	$(shell find core binding python benchmarks/c -not -path '*/__pycache__*' 2>/dev/null)

.PHONY: help build demo test test-c test-python check format docs asan tsan stress fuzz bench test-aarch64 \
	test-freethreaded clean
.DEFAULT_GOAL := help

help: ## this list
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' Makefile | expand -t 22

# --- environments: one stamp for each group of requirements, and one for the installed package

$(VENV)/.build: pyproject.toml
	@tools/preflight $(PYTHON)
	@test -x $(BIN)/python || { echo "making $(VENV) with $(PYTHON)"; $(PYTHON) -m venv $(VENV); }
	@$(PIP) 'pip>=25.1'
	@$(PIP) --group build --group test
	@touch $@

$(VENV)/.check $(VENV)/.docs: $(VENV)/.%: $(VENV)/.build
	@$(PIP) --group $*
	@touch $@

$(VENV)/.treadle: $(SOURCES) $(VENV)/.build
	@$(PIP) --no-deps --no-build-isolation --force-reinstall --no-index -Cbuild-dir=$(BUILD) $(SETUP) .
	@touch $@

build: $(VENV)/.treadle ## make .venv, build the engine and install treadle into it

demo: build ## build, then run the main job on real input
	@$(PIP) rich
	@$(BIN)/python examples/parse_stdlib.py

# --- tests

test: build ## every test, C and Python, ending with the counts
	@$(BIN)/python tools/run_tests.py --build $(BUILD) $(C:%=--c-test=%) -- $(T)

test-c: build ## the C tests alone (C=ring/spsc for one)
	@$(BIN)/python tools/run_tests.py --build $(BUILD) --only c $(C:%=--c-test=%)

test-python: build ## the Python tests alone (T="tests/unit -k name")
	@$(BIN)/python tools/run_tests.py --build $(BUILD) --only python -- $(T)

stress: build ## tests/stress, N times over
	@$(BIN)/python tools/run_tests.py --build $(BUILD) --only python -- tests/stress --stress-n=$(N) $(T)

# --- checks

check: build $(VENV)/.check ## formatting, clang-tidy, layers, sizes, types, stubs, examples (CHECK=mypy for one)
	@$(BIN)/python tools/check.py $(CHECK)

format: $(VENV)/.check ## lay out every C and Python file
	@$(BIN)/clang-format -i $$(git ls-files '*.c' '*.h')
	@$(BIN)/ruff format --quiet .
	@$(BIN)/ruff check --quiet --fix .

clean: ## remove what was built, and the environments
	rm -rf build docs/_build .venv .venv-*
