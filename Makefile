# Every target sets up what it needs by itself (scripts/setup); a second run is quick.

SHELL := /bin/bash
.DEFAULT_GOAL := help
.PHONY: help demo test slow cluster check soak fuzz bench docs wheel format clean

MAKEFLAGS += --no-print-directory
export PATH := $(CURDIR)/.cache/tools/bin:$(PATH):/usr/local/sbin:/usr/sbin:/sbin
# The system's Python and the Go found at set-up are used as they are; nothing fetches another.
export UV_PYTHON_PREFERENCE := only-system
export UV_PYTHON_DOWNLOADS := never
export GOTOOLCHAIN := local
# uv's own list of certificate authorities knows nothing of those that were added to this machine (two names: old, new).
export UV_NATIVE_TLS := true
export UV_SYSTEM_CERTS := true

RUN := uv run --no-sync
# The tests start an engine, containers and users of their own: that takes root, who must leave no files behind here.
AS_ROOT := sudo --preserve-env env PATH="$$PATH" HOME=/root PYTHONDONTWRITEBYTECODE=1 \
	PYTEST_ADDOPTS="-o cache_dir=/root/.cache/containerssh-pytest" HYPOTHESIS_STORAGE_DIRECTORY=/root/.cache/hypothesis
ROOT := $(if $(filter-out 0,$(shell id -u)),$(AS_ROOT),)

# Most tests wait for real servers more than they compute: three processes are faster than one. ARGS="-n 0": one.
BESIDE := -n 3 --dist loadfile --no-loadscope-reorder

help: ## Show this list
	@sed -n 's/^\([a-z]*\):.* ## \(.*\)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 16

demo: ## Start the server, log in with ssh, show what the container answered
	@scripts/setup demo
	@$(RUN) containerssh demo $(ARGS)

test: ## Run the unit and integration tests (ARGS="-k word" for some), the agent's included
	@scripts/setup test
	cd agent && go test -race ./... && go test -race -tags direct ./internal/link
	$(ROOT) .venv/bin/python -m pytest $(BESIDE) $(ARGS)

slow: ## Run what takes long: deployments, crashes, identity providers (ARGS="-k word" for some)
	@scripts/setup test
	$(ROOT) .venv/bin/python -m pytest tests/slow $(ARGS)

cluster: ## Build the Kubernetes and the Helm that some tests need, once (10 to 20 minutes); without them they are skipped
	@scripts/setup cluster
	$(ROOT) scripts/cluster build
	$(ROOT) scripts/helm build

check: lint types imports agent manual ## Formatting, lint, types, import contracts, go vet, docs

.PHONY: setup-check lint types imports agent manual
setup-check:
	@scripts/setup check

lint: setup-check
	$(RUN) ruff format --check .
	$(RUN) ruff check .

types: setup-check
	$(RUN) mypy

imports: setup-check
	$(RUN) lint-imports

agent: setup-check
	scripts/check-agent

manual: setup-check
	scripts/build-docs

soak: ## Run the fault and attack suite (SOAK=0.05 for a twentieth of it, ARGS="-k word" for some)
	@scripts/setup soak
	$(ROOT) env SOAK="$(SOAK)" .venv/bin/python -m pytest -rA --show-capture=no --timeout=3600 tests/soak $(ARGS)

fuzz: ## Feed noise to every decoder (FUZZTIME=60: seconds for each of the agent's, and for all of ours)
	@scripts/setup test
	scripts/fuzz $(FUZZTIME)

bench: ## Measure logins and throughput beside OpenSSH's sshd
	@scripts/setup bench
	$(ROOT) .venv/bin/python -m benchmarks $(ARGS)

docs: ## Build the manual into docs/_build/html
	@scripts/setup docs
	scripts/build-docs

wheel: ## Build dist/*.whl with the agent for amd64 and arm64 in it
	@scripts/setup wheel
	uv build --wheel

format: ## Format the sources in place
	@scripts/setup check
	$(RUN) ruff format .
	$(RUN) ruff check --fix .
	"$$(go env GOROOT)/bin/gofmt" -w agent

clean: ## Remove what was built; .venv and .cache/tools stay
	rm -rf build dist docs/_build docs/reference/config docs/reference/messages.md src/containerssh/agent/bin
	rm -rf .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
