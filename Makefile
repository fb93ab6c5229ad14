# Everything runs from .venv, which is made when it is missing and brought up to date when
# pyproject.toml or constraints.txt change. PYTHON=... names another interpreter, PIP_FLAGS=... is
# handed to pip (say, to name the index of PyTorch's CPU builds).

VENV ?= .venv
PYTHON ?= $(shell for p in python3.11 python3.12 python3.13 python3; do \
	command -v $$p >/dev/null && $$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	&& echo $$p && break; done)
RUNTIME ?= cpu
PIP_FLAGS ?=

bin := $(VENV)/bin
pip := $(bin)/python -m pip install --disable-pip-version-check $(PIP_FLAGS)
pytest := $(bin)/python -m pytest
# The tests' networks are tiny: a worker per core beats threads within each.
side_by_side := OMP_NUM_THREADS=1 $(pytest) -n logical --maxprocesses 8 --dist worksteal

.DEFAULT_GOAL := help
.PHONY: help demo serve test quick coverage check system format bench peers goodput chaos sbom clean

help:  ## say what there is
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-8s %s\n", $$1, $$2}'

demo: $(VENV)/.serving  ## start the service, ask it for an image of every family, write them to out/
	@$(bin)/python -m services.demo

serve: $(VENV)/.serving  ## keep the service up on http://127.0.0.1:8000
	@$(bin)/atelier serve --config deploy/serve.yaml

test: check  ## every check and every test
	$(side_by_side) -m "not e2e"
	$(pytest) -n 2 --dist loadgroup -m e2e

quick: $(VENV)/.developing  ## the tests that take seconds
	$(side_by_side) -m "not slow and not e2e and not gpu" -q

coverage: $(VENV)/.developing  ## which lines and branches the tests reach; tracing doubles their time
	$(side_by_side) -m "not e2e" --cov --cov-report=term

check: $(VENV)/.developing  ## style, formatting, types, and the import rule
	$(bin)/ruff check .
	$(bin)/ruff format --check .
	$(bin)/mypy
	$(bin)/lint-imports

system:  ## as root on Debian: the browser, the database and promtool for some tests; absent, those skip
	@command -v apt-get >/dev/null && test "$$(id -u)" = 0 || { echo "needs root and apt-get"; exit 1; }
	@command -v chromium >/dev/null && command -v promtool >/dev/null && \
	ls /usr/lib/postgresql/*/bin/initdb >/dev/null 2>&1 || \
	{ apt-get -qq update && \
	apt-get -qq install -y --no-install-recommends chromium postgresql prometheus; }

format: $(VENV)/.developing  ## put the style right where a machine can
	$(bin)/ruff check --fix .
	$(bin)/ruff format .

bench: $(VENV)/.developing  ## images per second: the bare network, the loop, and over HTTP
	$(bin)/python -m loadtests.throughput

peers: $(VENV)/.developing  ## install LitServe, BentoML and MLServer, each apart, for `make goodput`
	$(bin)/python -m loadtests.peers.environment

goodput: $(VENV)/.developing  ## requests per second in time on mixed traffic, beside peers (ten minutes)
	$(bin)/python -m loadtests.goodput

chaos: $(VENV)/.developing  ## break things under load and weigh what it cost
	$(bin)/python -m loadtests.chaos

sbom: $(VENV)/.serving  ## every package and model with its hash, as CycloneDX, into out/
	$(bin)/python -m deploy.sbom

clean:  ## remove what was built; the environment and the trained models stay
	rm -rf out build dist htmlcov .coverage .mypy_cache .ruff_cache .pytest_cache \
		.import_linter_cache .hypothesis
	find services model_store tests -name __pycache__ -type d -prune -exec rm -rf {} +

$(VENV)/bin/python:
	@test -n "$(PYTHON)" || { echo "Atelier needs Python 3.11 or newer; name one: make PYTHON=..."; exit 1; }
	$(PYTHON) -m venv $(VENV)

# torch comes first and by its exact version: asked for by name alone, it may bring gigabytes of CUDA.
$(VENV)/.torch: constraints.txt | $(VENV)/bin/python
	@echo "installing torch (the largest part) ..."
	@$(pip) "$$(grep '^torch==' constraints.txt)"
	@touch $@

$(VENV)/.serving: $(VENV)/.torch pyproject.toml constraints.txt
	@echo "installing what serving needs ..."
	@$(pip) -c constraints.txt -e '.[$(RUNTIME)]'
	@touch $@

$(VENV)/.developing: $(VENV)/.serving
	@echo "installing what testing and training need ..."
	@$(pip) -c constraints.txt -e '.[$(RUNTIME),test,dev,recipes]'
	@touch $@
