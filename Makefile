# `make demo` and `make test` are all a newcomer needs; both set up .venv first. `make help` lists the rest.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
, := ,
TRAIN_STAMP := $(VENV)/.installed-train
STAMP := $(VENV)/.installed
CLUSTER_STAMP := $(VENV)/.installed-cluster
DEMO ?= demo-run
TEST_PROCESSES ?= 2
# cpu: PyTorch without CUDA, far smaller, if the index that pip is set up for has it. Else: what pip takes.
TORCH ?=

.DEFAULT_GOAL := help
.PHONY: help setup demo test test-all check format bench docs clean

help:  ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F':.*## ' '{printf "make %-10s %s\n", $$1, $$2}'

# Each of these is one line for a person: what is wrong, and what to do.
OLD_PYTHON := Python 3.11 or newer is needed, this is %s: name another with make PYTHON=/path/to/python3.11
NO_PYTHON := there is no $(PYTHON): install Python 3.11 or newer, or name it with make PYTHON=/path/to/python3.11
NO_VENV := $(PYTHON) cannot make a virtual environment: install its venv module (Debian, Ubuntu: apt install python3-venv)
NO_INSTALL := the installation did not finish, see above: the same command tries again, make clean begins anew
NO_CPU_TORCH = no PyTorch for CPUs was found: set PIP_EXTRA_INDEX_URL to an index that has $(CPU_TORCH), or leave out TORCH=cpu
DAMAGED := $(VENV) does not hold any more what was installed (moved, or its Python is gone): make clean, then this again

fail = { echo "error: $(1)" >&2; exit 1; }
# pip shows what it does on a terminal, and is quiet in CI and in logs.
pip = quiet=--quiet; if [ -t 1 ] && [ -z "$$CI" ]; then quiet=; fi; \
	$(BIN)/python -m pip install $$quiet --disable-pip-version-check -c constraints.txt
CPU_TORCH = $(shell sed -n 's/^\(torch\|torchvision\)==[0-9.]*/&+cpu/p' constraints.txt)
sound = $(BIN)/python -c 'import sys, importlib.util as u; sys.exit(not all(map(u.find_spec, ("k700_text", "torch"))))' \
	2>/dev/null || $(call fail,$(DAMAGED))

# $(1): extras to install. An environment that was interrupted while it was made has no pip, and is made anew.
define install
@command -v $(PYTHON) >/dev/null || $(call fail,$(NO_PYTHON))
@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "error: $(OLD_PYTHON)" % sys.version.split()[0])'
@$(BIN)/python -m pip --version >/dev/null 2>&1 || { $(PYTHON) -c 'import venv, ensurepip' 2>/dev/null && \
	$(PYTHON) -m venv --clear $(VENV); } || $(call fail,$(NO_VENV))
@if [ "$(TORCH)" = cpu ] && ! $(BIN)/python -c 'import torch' 2>/dev/null; then \
	$(pip) $(CPU_TORCH) || $(call fail,$(NO_CPU_TORCH)); fi
@$(pip) -e '.[$(1)]' || $(call fail,$(NO_INSTALL))
@touch $@
endef

$(TRAIN_STAMP): pyproject.toml constraints.txt
	@echo "setting up $(VENV) for the demo: PyTorch with its CUDA libraries is 6 GB, without (TORCH=cpu) 1.5 GB; it takes minutes to unpack"
	$(call install,train)

$(STAMP): pyproject.toml constraints.txt
	@echo "setting up $(VENV) for tests: PyTorch with its CUDA libraries is 6 GB, without (TORCH=cpu) 1.5 GB; it takes minutes to unpack"
	$(call install,train$(,)dev)
	@touch $(TRAIN_STAMP)

$(CLUSTER_STAMP): $(STAMP)
	$(call install,train$(,)dev$(,)cluster)

setup: $(STAMP)  ## make .venv with everything the demo and the tests need

demo: $(if $(wildcard $(STAMP)),$(STAMP),$(TRAIN_STAMP))  ## the whole chain on an offline stand-in of the web services: crawl ... linear probe
	@$(sound)
	@$(BIN)/python -m lava_model.demo --out $(DEMO)

test: $(STAMP)  ## the default tests: under 5 minutes on 2 cores, no network but loopback
	@$(sound)
	@$(BIN)/python -m pytest -n $(TEST_PROCESSES) --dist worksteal

test-all: $(CLUSTER_STAMP)  ## the default tests and the slow ones; installs Ray too
	@$(BIN)/python -m pytest -m "not gpu and not browser and not network" --timeout 900

check: $(STAMP)  ## format, lint, types, import contracts, generated docs
	@$(sound)
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
