# Two commands run everything from nothing: `make demo` and `make test`.
# Both make a virtual environment in .venv and install locked versions into it.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

.PHONY: demo test test-long test-tools scores lint lock models bench clean help

help:            ## Show what each command does.
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/\t/'

demo: $(VENV)/.demo        ## A real shop on a real OpenSearch: before and after reranking, in two languages.
	@$(BIN)/shelfrank demo

# Memory in large pages: on a virtual machine a new page takes longer than what is done with it.
LARGE_PAGES := PYTHONMALLOC=malloc GLIBC_TUNABLES=glibc.malloc.hugetlb=1

test: $(VENV)/.dev $(VENV)/.tools $(VENV)/.warm        ## All tests, on real OpenSearch nodes.
	@PATH="$(abspath $(BIN)):$$PATH" $(LARGE_PAGES) $(BIN)/python -m pytest -n auto

test-long: $(VENV)/.dev $(VENV)/.tools $(VENV)/.warm        ## The tests of faults at length, before a release: more kills, more seeds, whole catalogues.
	@PATH="$(abspath $(BIN)):$$PATH" $(LARGE_PAGES) SHELFRANK_TESTS_LONG=1 $(BIN)/python -m pytest -n auto tests/integration

test-tools: $(VENV)/.dev        ## Bring what some tests need beyond Python: a browser, nginx, promtool.
	@sh tests/tools.sh $(BIN)

scores: $(VENV)/.dev        ## What the models make of fixed pairs, beside the snapshot of it.
	@$(BIN)/python -m tests.reranker.canonical

lint: $(VENV)/.dev        ## Formatting, lint rules and strict types.
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/mypy

bench: $(VENV)/.dev        ## Measure relevance and speed; see benchmarks/.
	@$(BIN)/shelfrank demo && $(BIN)/python benchmarks/latency.py && $(BIN)/python benchmarks/serving.py

models: $(VENV)/.dev        ## Make the bundles that ship, from the base model and judged queries.
	@PATH="$(abspath $(BIN)):$$PATH" sh deploy/models/make_bundles.sh

lock:            ## Write the lock files again from pyproject.toml.
	@sh deploy/locks/make_locks.sh

clean:           ## Remove the virtual environment and run folders; the node's data stays.
	rm -rf $(VENV) runs

$(VENV)/.demo: deploy/locks/demo.txt deploy/locks/build.txt pyproject.toml
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --require-hashes -r deploy/locks/demo.txt
	@$(BIN)/python -m pip install --quiet --no-deps --require-hashes -r deploy/locks/build.txt
	@$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation -e .
	@touch $@

$(VENV)/.tools: $(VENV)/.dev tests/tools.sh
	@sh tests/tools.sh $(BIN)
	@touch $@

# What each process of a first run would do by itself, and wait for: bytecode of all that tests import, and a recorded
# start of a node.
$(VENV)/.warm: $(VENV)/.dev
	@$(LARGE_PAGES) $(BIN)/python -m tests.recorded & \
	$(LARGE_PAGES) $(BIN)/python -m pytest --collect-only -q >/dev/null; wait
	@touch $@

# The lock file names everything and leaves out what no processor without CUDA opens, so pip is to add nothing.
$(VENV)/.dev: deploy/locks/dev.txt deploy/locks/build.txt pyproject.toml
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --no-deps --no-compile --require-hashes -r deploy/locks/dev.txt
	@$(BIN)/python -m pip install --quiet --no-deps --require-hashes -r deploy/locks/build.txt
	@$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation -e .
	@touch $@
