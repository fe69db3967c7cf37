# Everything a developer does here, by one short name each. `make` alone lists them.
#
# Every target that needs the environment makes it first, from pyproject.toml alone, so that each
# works by itself on a fresh clone. PYTHONSAFEPATH keeps the folder itself off sys.path: else
# `import entities` would make a second copy of a module beside `perdure.entities`.

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.NOTPARALLEL:
.PHONY: help setup test lint types unit simulate virtual covered chaos integration bench bench-scale bench-leak bench-cluster bench-flows format docs demo demo-orders dev build requirements image sbom clean

export PYTHONSAFEPATH := 1
export PIP_DISABLE_PIP_VERSION_CHECK := 1

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
RUN := $(VENV)/.run
DEV := $(VENV)/.dev
PYTEST := $(BIN)/python -m pytest

SEEDS ?= 200
FIRST ?= 1
JOBS ?= $(shell nproc 2>/dev/null || echo 2)
KILLS ?= 20
OPERATIONS ?= 100000
# Of `make chaos`: flows that wait at once, timers that end in a minute, runners killed at a resume.
FLOWS ?= 10000
TIMERS ?= 10000
RESUMES ?= 100
# Of `make chaos`: 1 asserts how long callers may wait, which is only reported otherwise.
LATENCY ?=
APP ?= examples/bank.py
DATA ?=
# Of `make bench`: a slice's length, and what to measure (all of it if empty).
SECONDS ?=
ONLY ?=
ON ?=
ARGS ?=
# Slow kinds of tests, after the fast ones; a new folder of tests is found by itself.
LATER := hostile simulation chaos integration
# Two processes for each core, since half of the time these tests wait for processes that start; what
# is in one file shares its fixtures. Not for tests of who must not be slowed down by whom: those run
# alone.
SPREAD := -n $(shell expr 2 '*' $(JOBS)) --dist loadfile
GATED := entities streams durable
FRESH := $(shell date +%s)
BENCH := PYTHONPATH="$(CURDIR)" $(BIN)/python -m benchmarks
SIMULATE := PYTHONPATH="$(CURDIR)" $(BIN)/python -m tests.simulation.run
COVER := $(GATED:%=--cov=%) --cov-branch --cov-report=
# Measuring makes a simulation several times slower, and worker processes aren't measured: so a few
# seeds run once more in one process that is.
COVERED := PYTHONPATH="$(CURDIR)" $(BIN)/coverage run --append --branch \
  --source=entities,streams,durable -m tests.simulation.run

help: ## list the commands
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: $(DEV) ## make .venv with everything that development needs

test: $(DEV) ## check everything: style, types, layers, tests, coverage
	@$(MAKE) --no-print-directory lint types
	$(PYTEST) -q $(COVER) $(SPREAD) tests $(LATER:%=--ignore=tests/%)
	$(PYTEST) -q $(COVER) --cov-append tests/hostile
	$(PYTEST) -q tests/chaos
	@# What runs in virtual time shares the cores with what waits for containers, and gives way.
	@echo "simulated runs, and tests with containers, side by side: their output follows"
	@nice $(MAKE) --no-print-directory virtual >$(VENV)/virtual.log 2>&1 & virtual=$$!; \
	  $(PYTEST) -q -rs tests/integration >$(VENV)/integration.log 2>&1; integration=$$?; \
	  wait $$virtual; virtual=$$?; cat $(VENV)/virtual.log; \
	  [ $$virtual = 0 ] && $(MAKE) --no-print-directory covered; covered=$$?; \
	  cat $(VENV)/integration.log; [ "$$virtual $$covered $$integration" = "0 0 0" ]

virtual: $(DEV) ## all that runs in virtual time, with the seeds of this hour
	$(PYTEST) -q -n $(JOBS) tests/simulation
	$(SIMULATE) --seeds $(SEEDS) --first $(FRESH) --jobs $(JOBS)
	$(SIMULATE) --seeds $(SEEDS) --first $(FRESH) --jobs $(JOBS) --flows --runners 3
	$(COVERED) --seeds 15

covered: $(DEV) ## whether the tests that ran cover each layer
	@for layer in $(GATED); do \
	  $(BIN)/coverage report --include="$$layer/*" --skip-covered --fail-under=90 || exit; \
	done

lint: $(DEV) ## style, formatting and the arrows between the layers
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports

format: $(DEV) ## format the code and mend what can be mended
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

types: $(DEV) ## mypy and pyright, strict, and whether the public names are fully typed
	@# Side by side: each uses one core.
	$(BIN)/mypy & mypy=$$!; \
	  PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/pyright --pythonpath $(BIN)/python; pyright=$$?; \
	  wait $$mypy && exit $$pyright
	PATH="$(CURDIR)/$(BIN):$$PATH" sh .ci/verify-types

unit: $(DEV) ## the fast tests alone
	$(PYTEST) -q tests/unit tests/types

simulate: $(DEV) ## simulated runs with faults, without flows and with them: make simulate SEEDS=10000 FIRST=1
	$(SIMULATE) --seeds $(SEEDS) --first $(FIRST) --jobs $(JOBS)
	$(SIMULATE) --seeds $(SEEDS) --first $(FIRST) --jobs $(JOBS) --flows --runners 3

chaos: $(DEV) ## kill, freeze, drain real runners and servers under load: make chaos LATENCY=1
	PERDURE_KILLS=$(KILLS) PERDURE_OPERATIONS=$(OPERATIONS) PERDURE_LATENCY=$(LATENCY) \
	PERDURE_FLOWS=$(FLOWS) PERDURE_TIMERS=$(TIMERS) PERDURE_RESUMES=$(RESUMES) \
	  $(PYTEST) -q -s tests/chaos

integration: $(DEV) ## against NATS in a container; needs Docker
	$(PYTEST) -q -rs tests/integration

bench: $(RUN) ## perdure beside raw nats-py, 5 minutes: make bench SECONDS=2 ONLY=ask ON=always
	$(BENCH) $(SECONDS:%=--seconds %) $(ONLY:%=--only %) $(ON:%=--on %) $(ARGS)

bench-scale: $(RUN) ## many entities in little memory: make bench-scale ARGS='--commits 100000'
	$(BENCH).scale $(ARGS)

bench-leak: $(RUN) ## whether anything grows that shouldn't: make bench-leak ARGS='--calls 50000'
	$(BENCH).leak $(ARGS)

bench-cluster: $(RUN) ## idle runners, workers, how soon handlers start: make bench-cluster ARGS='--only idle'
	$(BENCH).cluster $(ARGS)

bench-flows: $(RUN) ## what flows cost beside plain tells: make bench-flows ARGS='--only straight'
	$(BENCH).flows $(ARGS)

docs: $(DEV) ## the site of docs/, into .site/; a warning is an error
	NO_MKDOCS_2_WARNING=1 PYTHONPATH=src $(BIN)/mkdocs build --strict

demo: $(RUN) ## a month of US flights as entities, on an embedded server: make demo DATA=FILE
	$(BIN)/python examples/flights/demo.py $(if $(DATA),--data "$(DATA)")

demo-orders: $(RUN) ## a saga of orders, payments and stock, with a kill -9 in the middle
	$(BIN)/python examples/orders/demo.py $(ARGS)

dev: $(RUN) ## a server and a runner on this machine: make dev APP=examples/bank.py
	$(BIN)/perdure dev $(APP)

build: $(DEV) ## the wheel and the source distribution, into dist/
	$(BIN)/python -m build

# What an image has of perdure's extras; the Dockerfile names the same. No server, and no WebSockets:
# within a cluster plain TLS does, with ten libraries less.
IMAGE_EXTRAS := cli metrics nkeys uvloop
COMPILE := $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header
ENGINE ?= docker
IMAGE ?= perdure
BASE ?=

requirements: $(DEV) ## pin what an image installs, with hashes: make requirements ARGS=--upgrade
	$(COMPILE) $(ARGS) $(IMAGE_EXTRAS:%=--extra %) pyproject.toml -o deploy/requirements.txt
	printf 'hatchling>=1.27\nsetuptools>=80\n' | $(COMPILE) $(ARGS) - -o deploy/requirements-build.txt

image: $(RUN) ## the container image: make image BASE=python:3.13-slim-bookworm@sha256:...
	version=$$($(BIN)/perdure --version) && $(ENGINE) build -f deploy/Dockerfile \
	  $(BASE:%=--build-arg BASE=%) --build-arg VERSION=$$version \
	  --build-arg REVISION=$$(git rev-parse HEAD) -t $(IMAGE):$$version .

sbom: $(DEV) ## what an image consists of, as CycloneDX, into dist/
	mkdir -p dist
	$(BIN)/cyclonedx-py requirements deploy/requirements.txt --pyproject pyproject.toml \
	  --output-reproducible -o dist/perdure.cdx.json

clean: ## remove .venv and everything that was made here
	rm -rf $(VENV) dist .site .demo .bench .perdure .coverage htmlcov .pytest_cache .mypy_cache .ruff_cache \
	  .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# -- the environment ------------------------------------------------------------------------------
# Two stamps, newer than pyproject.toml when the environment is good: what running needs, and what
# developing needs on top.
$(RUN): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "perdure needs Python 3.11 or newer: make PYTHON=python3.12 ..." >&2; exit 1; }
	@test -L src/perdure/entities || \
	  { echo "src/perdure/entities is no link: clone with core.symlinks=true" >&2; exit 1; }
	$(PYTHON) -m venv --clear $(VENV)
	$(BIN)/python -m pip install -q --upgrade 'pip>=25.1'
	$(BIN)/python -m pip install -q -e '.[cli,server,uvloop]'
	@touch $@

$(DEV): $(RUN)
	$(BIN)/python -m pip install -q --group dev
	@touch $@
