# Every target sets up what it needs in .venv; a bare clone, make and Python 3.11 or newer are enough.

PYTHON ?= python3
export PYTHONDONTWRITEBYTECODE =# tests start hundreds of processes: each would compile all modules again
INSTALL = .venv/bin/pip install -q --disable-pip-version-check -c constraints.txt
DEMO = .venv/.installed-demo
DEV = .venv/.installed-dev
PEERS = .venv/.installed-bench
PYTEST = .venv/bin/python -m pytest
PARALLEL = -n auto --dist worksteal
NONE_IS_FINE = || [ $$? = 5 ]  # what ARGS select may all be in the other part

.PHONY: help demo run bench bench-quick bench-outage bench-limit test test-quick test-jobs faults soak screenshots docs test-matrix lint format generate clean

help:  ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "%-14s%s\n", $$1, $$2 }' Makefile

demo: $(DEMO)  ## Watch a fleet live through an outage
	.venv/bin/python -m example_worker.demo

run: $(DEMO)  ## Start the example project and leave it running
	.venv/bin/python -m example_worker.run

test: $(DEV)  ## Run the tests, those that measure time after the others; ARGS="-k breaker -x" goes to pytest
	$(PYTEST) $(PARALLEL) -m "not timed and not job" $(ARGS) $(NONE_IS_FINE)
	$(PYTEST) -m "timed and not job" $(ARGS) $(NONE_IS_FINE)

test-quick: $(DEV)  ## Run those that take no server, no process and little time
	$(PYTEST) -n logical --dist worksteal --quick --hypothesis-profile=quick $(ARGS)

test-jobs: $(DEV)  ## Build, install, type-check, fuzz and soak what users get
	$(PYTEST) -n 2 --dist worksteal -m job $(ARGS)

bench: $(PEERS)  ## Measure side by side with other libraries; BENCH="--only closed_breaker" goes to it
	.venv/bin/python -m benchmarks $(BENCH)

bench-quick: $(PEERS)  ## The same in under two minutes
	.venv/bin/python -m benchmarks --quick $(BENCH)

bench-outage: $(DEV)  ## Measure what an outage costs on each broker; BENCH="--broker valkey" goes to it
	.venv/bin/python -m benchmarks.outage $(BENCH)

bench-limit: $(DEV)  ## Measure how well a rate is kept and used; BENCH="--tasks 200" goes to it
	.venv/bin/python -m benchmarks.limit $(BENCH)

faults: $(DEV)  ## Inject every fault, and write what each did into docs/reliability.md
	.venv/bin/python -m pytest -p no:randomly tests/faults --whole --faults-table=docs/reliability.md $(ARGS)

soak: $(DEV)  ## Have a fleet live through random faults for an hour; SOAK="--seconds 60" goes to it
	.venv/bin/python -m tests.soak $(SOAK)

screenshots: $(DEV)  ## Take the pictures of docs/dashboard.md again
	.venv/bin/python -m tests.django.operators.screenshots

docs: $(DEV)  ## Build the documentation into build/docs, and draw what is drawn from runs
	.venv/bin/python -m docs.generate
	NO_MKDOCS_2_WARNING=1 .venv/bin/mkdocs build --strict

test-matrix: $(DEV)  ## Run them on the oldest and the newest Python, Django and Celery
	.venv/bin/nox

lint: $(DEV)  ## Check style, generated Lua and SQL, types and layers
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/python -m ratelimit_core.codegen --check
	.venv/bin/mypy
	.venv/bin/lint-imports --no-logo

format: $(DEV)  ## Fix what can be fixed, and format
	.venv/bin/ruff check --fix .
	.venv/bin/ruff format .

generate: $(DEV)  ## Write the Lua and the SQL again from the policies
	.venv/bin/python -m ratelimit_core.codegen

clean:  ## Remove everything that was built or installed
	rm -rf .venv .nox build dist .hypothesis .import_linter_cache .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(DEMO): pyproject.toml constraints.txt | .venv/bin/pip
	$(INSTALL) -e '.[demo]'
	@touch $@

$(DEV): pyproject.toml constraints.txt | .venv/bin/pip
	$(INSTALL) -e '.[dev]'
	@touch $(DEMO) $@  # dev includes demo

$(PEERS): $(DEV)
	$(INSTALL) -e '.[dev,bench]'
	@touch $@

.venv/bin/pip:
	@$(PYTHON) -c 'import sys, ensurepip, venv; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
	  echo "$(PYTHON) is not Python 3.11 or newer with venv: install one, or name it with PYTHON=..." >&2; exit 1; }
	$(PYTHON) -m venv .venv
