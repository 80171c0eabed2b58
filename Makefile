# The one task runner. Needs Python 3.11 or later, git and make; fetches the rest by itself.
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory
# What Python compiles is kept: the tests start hundreds of processes, and each collects or imports the same modules.
unexport PYTHONDONTWRITEBYTECODE
BIN := .venv/bin
ENVIRONMENT := .venv/.synced
PYTEST := $(BIN)/pytest
GENERATE_DOCS := PYTHONPATH=. $(BIN)/python tests/support/generate_docs.py

help: ## List the commands
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-12s %s\n", $$1, $$2}'

demo: $(ENVIRONMENT) ## Start everything, run real jobs, show them, stop; ARGS=--containers
	@$(BIN)/enginehouse demo $(ARGS)

up: $(ENVIRONMENT) ## Start everything and stay until Ctrl-C
	@$(BIN)/enginehouse up

# Those that measure how long something takes run alone, after the others, which wait for much of their time:
# three at once keep two processors busy.
TIMED := tests/isolation/front_door
# Needs a cluster, which it changes: `make cluster-test`.
CLUSTER := tests/cluster

test: $(ENVIRONMENT) ## Run every test, most three at a time; ARGS='-k name' runs some
	@$(BIN)/enginehouse setup
ifeq ($(strip $(ARGS)),)
	@$(PYTEST) -n 3 --dist loadfile --no-loadscope-reorder $(addprefix --ignore=,$(TIMED) $(CLUSTER))
	@$(PYTEST) $(TIMED)
else
	@$(PYTEST) $(ARGS)
endif

cluster-test: $(ENVIRONMENT) ## Try everything on the cluster of KUBECONFIG, whose namespaces enginehouse and tenant-* it deletes
	@CLUSTER_TEST=1 $(PYTEST) $(CLUSTER) $(ARGS)

pythons: $(ENVIRONMENT) ## Run the demo on every other Python of this machine, 3.11 to 3.14
	@$(BIN)/enginehouse setup
	@PYTHONPATH=. $(BIN)/python tests/support/pythons.py

BREAK_INS = tests/isolation $(shell grep -lE '^from tests.support.break_ins import .*\battempt\b' tests/unit/*.py tests/fuzzing/*.py tests/integration/*.py)

isolation: $(ENVIRONMENT) ## Try to break in, and show what stopped it; ARGS='-k archive' tries some
	@$(BIN)/enginehouse setup
	@$(PYTEST) -q -m 'attempt or can_fail' $(BREAK_INS) $(ARGS)

fuzz: $(ENVIRONMENT) ## Send COUNT=1000000 random events and answers; SEED=7 begins with the round of this seed
	@FUZZ_COUNT=$(or $(COUNT),1000000) FUZZ_SEED=$(SEED) $(PYTEST) -q -s --timeout=0 -m attempt tests/fuzzing $(ARGS)

faults: $(ENVIRONMENT) ## Break everything under load; ARGS='--seed 7 --jobs 2000'
	@$(BIN)/enginehouse setup
	@$(BIN)/python -u -m tests.faults $(ARGS)

soak: $(ENVIRONMENT) ## Keep a steady load on for MINUTES=30; memory and disk stay level
	@$(BIN)/enginehouse setup
	@PYTHONPATH=. $(BIN)/python -u -m tests.faults.soak --minutes $(or $(MINUTES),30) $(ARGS)

bench: $(ENVIRONMENT) ## Measure the speed, in less than 20 minutes; needs wrk, PostgreSQL; ARGS=--help
	@$(BIN)/enginehouse setup
	@PYTHONPATH=. $(BIN)/python -m tests.benchmarks $(ARGS)

capacity: $(ENVIRONMENT) ## Simulate cells with the costs that bench has recorded; writes the tables of docs/scale.md
	@PYTHONPATH=. $(BIN)/python -m tests.benchmarks.simulation

check: $(ENVIRONMENT) ## Check format, lint, types, imports, YAML, docs; edits nothing
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy -p enginehouse
	$(BIN)/mypy tests
	$(BIN)/lint-imports --no-logo
	$(BIN)/python tests/support/derive_sync.py --check
	$(GENERATE_DOCS) --check
	$(BIN)/yamllint --strict .
	$(PYTEST) -q tests/manifests tests/unit/test_names_in_yaml.py tests/unit/test_docs.py

manifests: $(ENVIRONMENT) ## Judge all objects for Kubernetes by checkov, workflows by actionlint; both are fetched
	@PYTHONPATH=. $(BIN)/python -m tests.support.checked_manifests
	@if command -v go >/dev/null; then \
		go run github.com/rhysd/actionlint/cmd/actionlint@v1.7.12 && echo "actionlint finds nothing in .github/workflows"; \
	else echo "without Go, which builds actionlint, the workflows are not judged"; fi

fix: $(ENVIRONMENT) ## Format the code, and write what is generated
	$(BIN)/python tests/support/derive_sync.py
	$(GENERATE_DOCS)
	WRITE_SNAPSHOTS=1 $(PYTEST) -q tests/unit/test_cli_pages.py tests/manifests/test_kubernetes.py -k snapshots
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

base-image: $(ENVIRONMENT) ## Make the base image of engines for Docker, without a registry as well
	@$(BIN)/python -m enginehouse.local.containers.make_base

sbom: $(ENVIRONMENT) ## Write the bills of materials of our environment and base image (CycloneDX) to sbom/
	@PYTHONPATH=. $(BIN)/python tests/support/sbom.py $(or $(ARGS),sbom)

clean: ## Delete the environment and the local home; daprd stays cached
	rm -rf .venv .enginehouse .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache

$(ENVIRONMENT): uv.lock pyproject.toml .ci/environment
	@.ci/environment

.PHONY: help demo up test cluster-test pythons isolation fuzz faults soak bench capacity check manifests fix base-image sbom clean
