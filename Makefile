# The same targets on every machine; each sets up what it needs in .venv first.
PYTHON ?= python3
BIN := .venv/bin
SECONDS_TO_RUN := $(if $(seconds),--seconds $(seconds))
PYTEST := $(BIN)/pytest --numprocesses auto --dist worksteal
# Without these the tests of shared limits are skipped, and what only they reach cannot be covered.
MISSING := $(strip $(foreach server,redis-server memcached,\
	$(if $(shell command -v $(server)),,$(server))))

.PHONY: demo test test-fast check bench clean

demo: .venv/ready  ## run a vendor, a gateway and clients here (make demo seconds=20 ends by itself)
	$(BIN)/tokenpulse-mw demo $(SECONDS_TO_RUN)

test: check .venv/litellm-ready  ## everything that must hold before a change lands
	$(PYTEST) --cov $(if $(MISSING),--cov-fail-under=0)
	$(if $(MISSING),@echo "not installed: $(MISSING). What needs them was skipped and is not covered.")

test-fast: .venv/ready  ## all tests that need no server and no patience, with few examples
	$(PYTEST) -m "not server and not slow" --hypothesis-profile fast

check: .venv/ready  ## style and types only
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: .venv/bench-ready  ## what a request costs, beside bare FastAPI and peers (make bench part=uvicorn)
	$(BIN)/python -m tests.benchmarks $(part)

clean:
	rm -rf .venv .venv-litellm .mypy_cache .ruff_cache .pytest_cache .hypothesis .coverage .coverage.*

.venv/ready: pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --upgrade "pip>=25.1"
	$(BIN)/pip install --quiet --editable ".[demo,redis,memcached,sql]" --group test --group check
	touch $@

.venv/litellm-ready: .venv/ready
	$(PYTHON) -m venv .venv-litellm
	.venv-litellm/bin/pip install --quiet --upgrade "pip>=25.1"
	.venv-litellm/bin/pip install --quiet --editable . --group litellm && touch $@ || \
	  echo "LiteLLM's proxy cannot be installed: its tests are skipped, and fail with CI=true."

.venv/bench-ready: .venv/ready
	$(BIN)/pip install --quiet --group bench
	touch $@
