# `make run` and `make test` work on a fresh machine: scripts/setup installs what is missing and does nothing when all is there.

PYTHON := .venv/bin/python
PYTEST := $(PYTHON) -m pytest -q
UNIT := $(PYTEST) -m "not e2e"
PURE := LBD_PURE=1 $(UNIT) -p no:cacheprovider
# What runs in both modes: the modules that may be compiled, and the loop that lives on them. `make check` has a minute on two cores,
# and leaves the second half in plain Python to `make test`.
FIRST := tests/core tests/wire
SECOND := tests/proxy tests/cluster tests/routing
SECONDS ?= 60
MINUTES ?= 10
SEED ?= 0
ARGS ?=

.PHONY: run test check e2e bench fuzz soak chaos simulation fmt fmt-check lint types layers unit-compiled unit-rest unit-pure unit-pure-more build clean help
.DEFAULT_GOAL := help

help: ## this list
	@grep -hE '^[a-z0-9-]+:.*## ' Makefile | sed -E 's/:.*## /\t/' | expand -t 16

run: build ## three small origins behind lbd, to try with curl
	@$(PYTHON) -m lbd demo $(ARGS)

test: ## everything: set-up, check, e2e (under 15 minutes on two slow cores)
	scripts/setup test
	$(MAKE) check
	$(MAKE) unit-pure-more
	$(MAKE) e2e

# A make of its own, so that the steps run side by side and each one's output stays together.
check: .venv/.ready-test ## format, lint, types, layers, unit tests, those of core and wire in both modes (a minute)
	@$(MAKE) --no-print-directory build
	@$(MAKE) --no-print-directory -k -j3 --output-sync=target unit-compiled unit-rest unit-pure fmt-check lint types

e2e: .venv/.ready-test build ## real processes, sockets and signals
	scripts/e2e $(ARGS)

bench: .venv/.ready-bench build ## against nginx and haproxy; ARGS="--quick", "--only NAME", "--all", "--write"
	$(PYTHON) -m tests.bench $(ARGS)

fuzz: .venv/.ready-fuzz ## coverage-guided, SECONDS=60 a target
	LBD_PURE=1 $(PYTHON) -m tests.fuzz --seconds $(SECONDS) $(ARGS)

chaos: .venv/.ready-test build ## everything goes wrong at once, SECONDS=60 SEED=N: every answer is looked at
	$(PYTHON) -m tests.chaos --seconds $(SECONDS) --seed $(SEED) $(ARGS)

simulation: .venv/.ready-simulation ## the policies on virtual time; ARGS=--write draws docs/images
	LBD_PURE=1 $(PYTHON) -m tests.simulation $(ARGS)

soak: .venv/.ready-bench build ## load with reloads and kills, MINUTES=10: nothing fails, nothing grows
	$(PYTHON) -m tests.bench.soak --minutes $(MINUTES) $(ARGS)

build: .venv/.ready-run ## compile the hot path in place; without a C compiler it stays plain Python
	@[ -d build ] || echo "compiling the hot path: a minute or two, once" >&2
	@$(PYTHON) setup.py -q build_ext --inplace

fmt: .venv/.ready-test ## rewrite in the project's format
	$(PYTHON) -m ruff format .
	$(PYTHON) -m ruff check --fix-only -q .

fmt-check: .venv/.ready-test
	@$(PYTHON) -m ruff format --check -q .

lint: .venv/.ready-test
	@$(PYTHON) -m ruff check -q .

types: .venv/.ready-test
	@$(PYTHON) -m mypy --no-error-summary

layers: .venv/.ready-test ## imports go down the house
	@$(PYTEST) tests/test_layers.py

unit-compiled: .venv/.ready-test
	@$(UNIT) $(FIRST) $(SECOND) $(ARGS)

unit-rest: .venv/.ready-test
	@$(UNIT) $(patsubst %,--ignore=%,$(FIRST) $(SECOND)) $(ARGS)

unit-pure: .venv/.ready-test
	@$(PURE) $(FIRST) $(ARGS)

unit-pure-more: .venv/.ready-test
	@$(PURE) $(SECOND) $(ARGS)

clean: ## what was built; .venv stays
	rm -rf build dist lbd.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find lbd -name '*.so' -delete

.venv/.ready-%: pyproject.toml setup.py scripts/setup
	scripts/setup $*
