# Everything is installed into this clone (.tools, .venv, .cache) and runs from it; nothing global is touched.
SHELL := /bin/bash
.DEFAULT_GOAL := help
UV_VERSION := 0.13.9
PYTHON ?= python3
UV := .tools/bin/uv
RUN := .venv/bin
export UV_CACHE_DIR ?= $(CURDIR)/.cache/uv
export UV_PYTHON_DOWNLOADS = never
# The machine's own certificates where it has them: a company's proxy is known there and nowhere else.
export UV_SYSTEM_CERTS ?= $(if $(wildcard /etc/ssl/certs/ca-certificates.crt),true,false)
export DWCP_HOME ?= $(CURDIR)/.dwcp

.PHONY: help
help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.PHONY: demo
demo: env ## Run the weekly pipeline on measured input: seven weeks backfilled, the eighth through real Airflow
	@$(RUN)/dwcp demo

.PHONY: nodes
nodes: env ## Watch two nodes on loopback decide by the model that the last demo published (needs Go and gcc)
	@$(RUN)/python tools/nodes.py

.PHONY: test
test: env influxd browser lint ## Run every check that CI runs
	@$(RUN)/python -m pytest -n 4 --dist loadfile

.PHONY: ui
ui: env ## Start Airflow on loopback with a login, ready for a weekly run by hand (Ctrl-C stops it)
	@$(RUN)/dwcp ui

.PHONY: bench
bench: env influxd ## Measure each step beside the naive way and write docs/benchmarks.md
	@$(RUN)/python tools/bench.py

.PHONY: bench-go
bench-go: env ## Time a decision from Go in each form beside naive ways and write docs/benchmarks_go.md (needs Go and gcc)
	@TF_CPP_MIN_LOG_LEVEL=3 $(RUN)/python tools/bench_go.py

.PHONY: bench-watch
bench-watch: env ## Count false alarms and finds of the watch over simulated rollouts, and what it takes; docs/benchmarks_watch.md
	@TF_CPP_MIN_LOG_LEVEL=3 $(RUN)/python tools/bench_watch.py

.PHONY: parity
parity: env ## Hold each exported form of the last run against what was trained, and time it beside the naive ways
	@TF_CPP_MIN_LOG_LEVEL=3 $(RUN)/dwcp parity

.PHONY: incidents
incidents: env influxd ## Let eight incidents happen to the real components and write docs/incidents.md (needs Go)
	@PYTHONPATH=tools:tests TF_CPP_MIN_LOG_LEVEL=3 $(RUN)/python -m incidents

.PHONY: lint
lint: env ## Check style, types, generated files and the lock
	@$(RUN)/ruff check .
	@$(RUN)/ruff format --check .
	@$(RUN)/mypy
	@$(UV) lock --check --quiet
	@diff <($(UV) export $(EXPORT)) requirements.txt || { echo "requirements.txt is stale: run make requirements"; exit 1; }

.PHONY: generate
generate: env ## Write the files that derive from code; tests fail while one is stale
	@$(RUN)/dwcp export go >/dev/null
	@$(RUN)/python tools/go_testdata.py
	@$(RUN)/dwcp dictionary > docs/data_dictionary.md
	@$(RUN)/dwcp rollout states > docs/rollout_states.md
	@$(RUN)/dwcp watch policy > docs/watch_policy.md
	@$(RUN)/python tools/dag_docs.py

EXPORT := --locked --no-dev --no-emit-project --no-header --format requirements-txt --quiet
.PHONY: requirements
requirements: $(UV) ## Export requirements.txt from the lock
	@$(UV) export $(EXPORT) > requirements.txt

.PHONY: influxd
influxd: ## Build the real InfluxDB that integration tests talk to (needs Go, cargo and gcc; once a machine)
	@bash tools/influxd/build.sh

.PHONY: browser
browser: # CI must see the pages in a real browser; elsewhere a missing one skips those tests
	@if [ "$$CI" = true ] && ! command -v chromium >/dev/null && [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	  apt-get update -qq && apt-get install -y -qq --no-install-recommends chromium >/dev/null; fi

.PHONY: env
env: .venv/.ready # Install the locked environment

.venv/.ready: uv.lock pyproject.toml | $(UV)
	@echo "installing the locked environment into .venv ..."
	@$(UV) sync --locked --compile-bytecode --quiet --python "$$($(PYTHON) -c 'import sys; print(sys.executable)')"
	@touch $@

$(UV):
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or newer is needed: set PYTHON=..."; exit 1; }
	@$(PYTHON) -m venv .tools 2>/dev/null || { echo "$(PYTHON) has no venv module: apt-get install python3-venv"; exit 1; }
	@.tools/bin/pip install --quiet --disable-pip-version-check uv==$(UV_VERSION)

.PHONY: clean
clean: ## Remove what runs left (databases, archive, models); the installed environment stays
	@if [ -x $(RUN)/dwcp ]; then $(RUN)/dwcp stop; fi
	@rm -rf .dwcp .pytest_cache .mypy_cache .ruff_cache .hypothesis
