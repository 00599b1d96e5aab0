# `make demo` and `make test` are all a newcomer needs; both set up .venv first. `make help` lists the rest.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
CLUSTER_STAMP := $(VENV)/.installed-cluster
DEMO ?= demo-run
TEST_PROCESSES ?= 2

.DEFAULT_GOAL := help
.PHONY: help setup demo test test-all check format bench docs clean

help:  ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F':.*## ' '{printf "make %-10s %s\n", $$1, $$2}'

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed, this is " + sys.version.split()[0] + ": name another with make PYTHON=/path/to/python3.11")'
	@echo "setting up $(VENV): about 6 GB with PyTorch and its CUDA libraries, two minutes on a fast line"
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[train,dev]'
	@touch $@

$(CLUSTER_STAMP): $(STAMP)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[train,dev,cluster]'
	@touch $@

setup: $(STAMP)  ## make .venv with everything the demo and the tests need

demo: $(STAMP)  ## the whole chain on an offline stand-in of the web services: crawl ... linear probe
	@$(BIN)/python -m lava_model.demo --out $(DEMO)

test: $(STAMP)  ## the default tests: under 5 minutes on 2 cores, no network but loopback
	@$(BIN)/python -m pytest -n $(TEST_PROCESSES) --dist worksteal

test-all: $(CLUSTER_STAMP)  ## the default tests and the slow ones; installs Ray too
	@$(BIN)/python -m pytest -m "not gpu and not browser and not network" --timeout 900

check: $(STAMP)  ## format, lint, types, import contracts, generated docs
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports
	@$(BIN)/python -m docs.generate --check

format: $(STAMP)  ## format the code and mend what the linter can mend
	@$(BIN)/ruff format .
	@$(BIN)/ruff check --fix .

bench: $(STAMP)  ## the benchmarks: ours and the peer side by side, one table each
	@for script in benchmarks/*.py; do echo "== $$script"; $(BIN)/python $$script || exit 1; done

docs: $(STAMP)  ## generate docs/cli.md and the tables of docs/manifest.md and manifests/README.md
	@$(BIN)/python -m docs.generate

clean:  ## remove what setup, tests and demo made
	rm -rf $(VENV) $(DEMO) build *.egg-info .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis
