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
PIP := $(BIN)/python -m pip --quiet --disable-pip-version-check install --prefer-binary
MESON := $(BIN)/meson
SETUP ?=
export PATH := $(abspath $(BIN)):$(PATH)

SOURCES := meson.build meson.options pyproject.toml \
	$(shell find core binding guardian python benchmarks/c -not -path '*/__pycache__*' 2>/dev/null)

.PHONY: help build demo test test-c test-python check format docs asan tsan tsan-tests tsan-edges stress fuzz bench test-aarch64 \
	test-freethreaded clean
.DEFAULT_GOAL := help

help: ## this list
	@sed -n 's/^\([a-z0-9-]*\):.*## /\1\t/p' Makefile | expand -t 22

# --- environments: one stamp for each group of requirements, and one for the installed package

$(VENV)/.build: pyproject.toml
	@tools/preflight $(PYTHON)
	@test -x $(BIN)/python || { echo "making $(VENV) with $(PYTHON)"; $(PYTHON) -m venv $(VENV); }
	@{ $(PIP) 'pip>=25.1' && $(PIP) --group build --group test; } && \
		{ $(PIP) --only-binary=:all: --group loops 2>/dev/null || echo "treadle: no wheels of uvloop, rloop, anyio, trio or aiohttp: left out"; } || { \
		echo "treadle: pip could not fetch what the build needs: it takes a network, or an index named by PIP_INDEX_URL."; exit 1; }
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

# --- sanitizers, fuzzing and other machines; all of them from the same build graph

ASAN := VENV=.venv-asan CC=gcc SETUP="-Csetup-args=-Db_sanitize=address,undefined -Csetup-args=-Db_lundef=false"

asan: ## every test under AddressSanitizer and UndefinedBehaviorSanitizer
	@$(MAKE) build $(ASAN)
	@.venv-asan/bin/python tools/run_tests.py --build build/venv-asan --sanitizer address $(C:%=--c-test=%) -- $(T)

TSAN := -Dextension=false -Db_sanitize=thread -Db_lundef=false -Dwerror=true

tsan: ## the C tests under ThreadSanitizer; then each weakened edge, which must fail
	@$(MAKE) -k tsan-tests tsan-edges

tsan-tests: $(VENV)/.build
	@test -e build/tsan/build.ninja || CC=gcc $(MESON) setup $(TSAN) build/tsan . >/dev/null
	@$(BIN)/python tools/run_tests.py --build build/tsan --sanitizer thread --only c $(C:%=--c-test=%)

# clang's runtime: that of gcc 12 doesn't see the race behind a relaxed compare-and-swap.
tsan-edges: $(VENV)/.build
	@command -v clang >/dev/null || { echo "treadle: weakened edges are looked for with clang: apt install clang."; exit 1; }
	@CC=clang $(BIN)/python tools/weakened.py --folder build/tsan -- $(TSAN)

FUZZ := -Dextension=false -Dfuzz=true -Db_sanitize=address,undefined -Db_lundef=false -Dwerror=true

fuzz: $(VENV)/.build ## each decoder under libFuzzer, for SECONDS seconds
	@command -v clang >/dev/null || { echo "treadle: libFuzzer comes with clang: apt install clang."; exit 1; }
	@test -e build/fuzz/build.ninja || CC=clang $(MESON) setup $(FUZZ) build/fuzz . >/dev/null
	@$(BIN)/ninja -C build/fuzz --quiet
	@tools/fuzz build/fuzz $(SECONDS)

test-aarch64: $(VENV)/.build ## the C tests on aarch64, under qemu's user emulation
	@command -v aarch64-linux-gnu-gcc >/dev/null && command -v qemu-aarch64 >/dev/null && test -e /usr/aarch64-linux-gnu/include/stdio.h || { \
		echo "treadle: apt install gcc-aarch64-linux-gnu libc6-dev-arm64-cross qemu-user, to build for aarch64."; exit 1; }
	@test -e build/aarch64/build.ninja || \
		$(MESON) setup --cross-file tools/aarch64-linux-gnu.ini -Dextension=false -Dwerror=true build/aarch64 . >/dev/null
	@$(BIN)/python tools/run_tests.py --build build/aarch64 --emulated --only c $(C:%=--c-test=%)

test-freethreaded: ## the Python tests on a free-threaded CPython 3.13, built once from Debian's source package
	@python=$$(tools/freethreaded) && $(MAKE) test-python PYTHON=$$python VENV=.venv-freethreaded

# --- checks

check: build $(VENV)/.check ## formatting, clang-tidy, layers, sizes, types, stubs, examples (CHECK=mypy for one)
	@$(BIN)/python tools/check.py $(CHECK)

format: $(VENV)/.check ## lay out every C and Python file
	@$(BIN)/clang-format -i $$(git ls-files '*.c' '*.h')
	@$(BIN)/ruff format --quiet .
	@$(BIN)/ruff check --quiet --fix .

docs: build $(VENV)/.docs ## the documentation, with its snippets executed, in docs/_build/html
	@$(BIN)/python tools/run_snippets.py $(wildcard README.md) docs
	@$(BIN)/python -m sphinx --quiet --fail-on-warning --keep-going -b html docs docs/_build/html
	@echo "docs/_build/html/index.html"

.venv-bench/.bench: pyproject.toml
	@$(MAKE) VENV=.venv-bench .venv-bench/.build
	@.venv-bench/bin/python -m pip --quiet --disable-pip-version-check install --group bench
	@touch $@

bench: .venv-bench/.bench ## every benchmark beside its peers; rewrites docs/benchmarks.md
	@$(MAKE) build VENV=.venv-bench
	@.venv-bench/bin/ninja -C build/venv-bench --quiet c-benchmarks
	@.venv-bench/bin/python benchmarks/run.py $(BENCH)

clean: ## remove what was built, and the environments
	rm -rf build docs/_build .venv .venv-*
