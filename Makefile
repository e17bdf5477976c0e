# Needs Python 3.11 and its pip; everything else is installed into .venv.
#
# Variables: EXTRA_INDEX_URL (a further package index, for example one with a CPU build of torch), PIP_ARGS (further arguments of
# pip install), ARGS (further arguments of pytest, the benchmark, a fuzzer, the soak or the server), JOBS (processes that run tests),
# MINUTES (how long each fuzzer, or the soak, runs).

PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
FUZZ_STAMP := $(VENV)/.installed-fuzz
EXTRA_INDEX_URL ?=
PIP_ARGS ?=
ARGS ?=
JOBS ?= 2
MINUTES ?=
IMAGE ?= retraced

PIP_INSTALL = $(BIN)/python -m pip install --disable-pip-version-check \
	$(if $(EXTRA_INDEX_URL),--extra-index-url $(EXTRA_INDEX_URL)) $(PIP_ARGS) -c constraints.txt

# All pages are read each time (-E): of those that are not, warnings are not told again.
SPHINX = $(BIN)/python -m sphinx -E -W --keep-going -q -d build/docs/doctrees docs build/docs/html

.DEFAULT_GOAL := help

.PHONY: help
help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.PHONY: venv
venv: $(STAMP) ## Make .venv, with everything that the other targets need

# The stubs are made from proto/ while the package is installed. Debian's python3 has no ensurepip without python3-venv: there its own
# pip puts one into .venv.
$(STAMP): pyproject.toml constraints.txt hatch_build.py $(shell find proto -name '*.proto')
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV) || \
		{ $(PYTHON) -m venv --clear --without-pip $(VENV) && $(PYTHON) -m pip --python $(BIN)/python install --quiet pip; }
	$(PIP_INSTALL) -e '.[dev]'
	@touch $@

$(FUZZ_STAMP): $(STAMP)
	$(PIP_INSTALL) -e '.[fuzz]'
	@touch $@

.PHONY: demo
demo: $(STAMP) ## Export a model, transform it on a server, and show what changed
	@$(BIN)/python demo/demo.py

# Each of the many processes that the tests start would else compile this package anew, and each of pytest's rewrite every assertion, where the
# environment, as that of many images does, keeps Python from storing what it has compiled.
test test-quick: export PYTHONDONTWRITEBYTECODE :=

.PHONY: test
test: $(STAMP) ## Run the tests
	@$(BIN)/python -m pytest -n $(JOBS) $(ARGS)

.PHONY: test-quick
test-quick: $(STAMP) ## Run the tests that take no longer than a few seconds, on eight programs that stand for the others
	@$(BIN)/python -m pytest -n $(JOBS) -m 'not slow' --programs eight $(ARGS)

.PHONY: check
check: $(STAMP) ## Check format, lint, types, imports, the wire contract, the Dockerfile and the documentation
	$(BIN)/ruff format --check
	$(BIN)/ruff check
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo
	@$(BIN)/python -m tools.private_names
	$(BIN)/buf format --diff --exit-code
	$(BIN)/buf lint
	@.ci/buf-breaking $(BIN)/buf
	$(BIN)/hadolint Dockerfile
	$(SPHINX)

.PHONY: format
format: $(STAMP) ## Format the code, and fix what the linter can fix
	$(BIN)/ruff format
	$(BIN)/ruff check --fix
	$(BIN)/buf format --write

.PHONY: docs
docs: $(STAMP) ## Write the reference of the passes, and build the documentation site in build/docs/html
	@$(BIN)/python -m tools.pass_reference
	@$(SPHINX)

.PHONY: bench
bench: $(STAMP) ## Compare with stock torch on this machine
	@$(BIN)/python -m benchmarks $(ARGS)

.PHONY: fuzz
fuzz: $(FUZZ_STAMP) ## Attack the reader, operators, a server and the client, by archives, arguments and answers, each fuzzer for 5 minutes or MINUTES
	@status=0; for fuzzer in reader guided expressions operators server lying; do \
		$(BIN)/python -m fuzz $$fuzzer --minutes $(or $(MINUTES),5) --json build/fuzz/$$fuzzer.json $(ARGS) || status=1; \
	done; exit $$status

.PHONY: soak
soak: $(STAMP) ## Work a server whose processes are killed at random, for 20 minutes or MINUTES
	@$(BIN)/python -m fuzz soak --minutes $(or $(MINUTES),20) --json build/fuzz/soak.json $(ARGS)

.PHONY: serve
serve: $(STAMP) ## Start a server on port 50051
	@$(BIN)/python -m retraced_server $(ARGS)

.PHONY: image
image: ## Build the container image
	docker build --build-arg EXTRA_INDEX_URL=$(EXTRA_INDEX_URL) -t $(IMAGE) .

.PHONY: clean
clean: ## Remove .venv, the stubs and every cache
	rm -rf $(VENV) build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	rm -rf client/retraced/v1 server/retraced_server/worker/v1
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
