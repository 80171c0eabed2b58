# The one task runner. Needs Python 3.11 or later, git and make; fetches everything else itself.
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory
BIN := .venv/bin
ENVIRONMENT := .venv/.synced
PYTEST := $(BIN)/pytest

help: ## What there is
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-8s %s\n", $$1, $$2}'

demo: $(ENVIRONMENT) ## Start everything, run real jobs through it, show them, stop
	@$(BIN)/enginehouse demo

up: $(ENVIRONMENT) ## Start everything and stay, until Ctrl-C
	@$(BIN)/enginehouse up

test: $(ENVIRONMENT) ## Every test, over real sidecars and a real Redis; ARGS='-k name' for some
	@$(BIN)/enginehouse setup
	@$(PYTEST) $(ARGS)

faults: $(ENVIRONMENT) ## Break everything under load, in a seeded order, and see what holds; ARGS='--seed 7 --jobs 2000 --faults 40'
	@$(BIN)/enginehouse setup
	@$(BIN)/python -u -m tests.faults $(ARGS)

soak: $(ENVIRONMENT) ## A steady load for MINUTES=30, with everything kept for a minute only: memory and disk stay level
	@$(BIN)/enginehouse setup
	@PYTHONPATH=. $(BIN)/python -u -m tests.faults.soak --minutes $(or $(MINUTES),30) $(ARGS)

bench: $(ENVIRONMENT) ## How fast it is, beside Celery and bare Redis Streams: about five minutes; needs wrk
	@$(BIN)/enginehouse setup
	@PYTHONPATH=. $(BIN)/python -m tests.benchmarks $(ARGS)

check: $(ENVIRONMENT) ## Format, lint, types, imports, YAML, and that names in YAML match the code; edits nothing
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy -p enginehouse
	$(BIN)/mypy tests
	$(BIN)/lint-imports --no-logo
	$(BIN)/python tests/support/derive_sync.py --check
	$(BIN)/yamllint --strict .
	$(PYTEST) -q tests/manifests tests/unit/test_names_in_yaml.py

fix: $(ENVIRONMENT) ## Format, and correct what can be corrected by machine
	$(BIN)/python tests/support/derive_sync.py
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean: ## Forget the environment and the local home; the built daprd stays in the cache
	rm -rf .venv .enginehouse .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache

$(ENVIRONMENT): uv.lock pyproject.toml .ci/environment
	@.ci/environment

.PHONY: help demo up test faults soak bench check fix clean
