# Set-up, demo, checks and tests. `make help` says what there is.
#
#   PYTHON=python3.12   another interpreter for the environment (3.11 or newer)
#   TORCH_INDEX=URL     the package index of another build of torch (CPU only, another CUDA version)

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

VENV := .venv
BIN := $(VENV)/bin
# With TORCH_INDEX the stamp has a name of its own: asking for another build sets up again.
STAMP := $(VENV)/.setup$(if $(TORCH_INDEX),-$(shell echo '$(TORCH_INDEX)' | cksum | cut -d' ' -f1))
TORCH := torch>=2.11,<2.14
PIP := $(BIN)/python -m pip --disable-pip-version-check
PYTEST_ARGS ?=

ifndef PYTHON
PYTHON := $(shell for candidate in python3.11 python3.12 python3.13 python3; do \
	$$candidate -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$candidate && break; done)
endif

.PHONY: help setup demo eval check test test-pythons test-clients test-mutation test-compose check-k8s fuzz bench bench-clients proto lock clean

help: ## what there is
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## /{printf "  make %-13s %s\n", $$1, $$2}' Makefile

setup: $(STAMP) ## the environment in .venv, once: 1.5 GB with a CPU build of torch, more with CUDA

$(STAMP): pyproject.toml requirements.lock
	@test -n "$(PYTHON)" || { echo "Python 3.11 or newer is needed: make setup PYTHON=/path/to/python3.11"; exit 1; }
	@echo "== setting up $(VENV) with $$($(PYTHON) --version)"
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); \
		echo "$(PYTHON) can't make an environment; on Debian and Ubuntu: apt install python3-venv"; exit 1; }
	@echo "== torch (the largest part)"
	$(PIP) install $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX) --force-reinstall) '$(TORCH)'
	@echo "== everything else, as pinned in requirements.lock"
	$(PIP) install -r requirements.lock
	$(PIP) install --quiet --no-deps --no-build-isolation --editable .
	@touch $@

demo: $(STAMP) ## three servers, a question about an image, a streamed answer (ONCE=1: then end; FAKE=1: no weights)
	@$(BIN)/python -m deploy.demo.run $(if $(ONCE),--once) $(if $(FAKE),--fake)

eval: $(STAMP) ## the frozen questions to the demo's model, by kind, and a sheet to look at (BASE_URL=URL: of a running router)
	@$(BIN)/python -m deploy.demo.evaluate $(if $(BASE_URL),--base-url $(BASE_URL))

check: $(STAMP) ## lint, format, types, generated code, import rule
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python proto/generate.py --check
	$(BIN)/lint-imports

test: $(STAMP) ## the test suite (PYTEST_ARGS="-k router -x")
	HF_HUB_OFFLINE=1 $(BIN)/python -m pytest $(PYTEST_ARGS)

test-pythons: ## router and fakes, as installed by pip, on every other Python that is here
	tests/other_pythons.sh

test-clients: $(STAMP) ## LangChain, LiteLLM, the Vercel AI SDK and others against a running system (CLIENTS="litellm ai-sdk"; SCRIPTED=1: only against fakes)
	$(BIN)/python -m tests.clients.run $(if $(SCRIPTED),--scripted) $(CLIENTS)

test-mutation: $(STAMP) ## for each field of a request, a router that ignores it: some test has to notice (FIELDS="chat messages.system")
	$(BIN)/python -m tests.mutation.run $(FIELDS)

test-compose: $(STAMP) ## images and compose files on a real Docker engine, and what happens when parts of it die (STEPS="images walls"; root)
	$(BIN)/python -m tests.compose.run $(STEPS)

check-k8s: $(STAMP) ## what lies in deploy/k8s, rendered with kubectl: against schemas, and against rules of our own
	@$(BIN)/python -m tests.k8s.check

fuzz: $(STAMP) ## whatever the HTTP interface allows and forbids, against fakes (SECONDS=600; two minutes if not given)
	@$(BIN)/python -m tests.fuzz.openapi $(if $(SECONDS),--seconds $(SECONDS))

bench: $(STAMP) ## benchmarks, of which there is one: router-cost (NAME=router-cost ARGS="--workers 2")
	$(BIN)/python -m tests.bench.$(subst -,_,$(or $(NAME),router-cost)) $(ARGS)

bench-clients: $(STAMP) ## load generators against a running system, a short run of each (LOADS="guidellm aiperf")
	$(BIN)/python -m tests.clients.load $(LOADS)

proto: $(STAMP) ## generate common/pb from proto/*.proto
	$(BIN)/python proto/generate.py

lock: ## newest versions that pyproject.toml allows, pinned anew in requirements.lock
	rm -rf build/lock
	$(PYTHON) -m venv build/lock
	build/lock/bin/python -m pip install '$(TORCH)' '.[dev]'
	{ echo "# Made by make lock. Pins all but torch and what only its GPU builds bring."; \
		build/lock/bin/python -m pip freeze --all --exclude epd-serve --exclude pip \
		| grep -Ev '^(torch|triton|nvidia-|cuda-)'; } > requirements.lock

clean: ## remove the environment and everything generated that git ignores
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
