# Convenience only: every line here can be typed by hand. PYTHON=python3.12 make demo picks another Python.
PYTHON ?= python3
EXTRAS := s3,gcs,azure,formats,ssim,export
VENV ?= .venv
BIN := $(VENV)/bin
# two processes; a file's tests stay together, as they share servers
PYTEST := -m pytest -n 2 --dist loadfile

.PHONY: demo test test-all lint bench

demo: $(VENV)/.ready ## the main jobs on the sample photographs
	@$(BIN)/denoise demo --output demo

test: $(VENV)/.ready-dev ## every law, both runners: minutes
	@$(BIN)/python $(PYTEST) -m "not stores and not cluster and not slow"

test-all: $(VENV)/.ready-dev ## besides, what needs clusters, emulators, kills and long runs
	@$(BIN)/python $(PYTEST) -m "stores or cluster or slow"

lint: $(VENV)/.ready-dev ## what .ci/run checks before the tests
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

bench: $(VENV)/.ready-dev ## the measurements of the README, on this machine
	$(BIN)/python -m tests.bench.infer --images denoise/samples
	$(BIN)/python -m tests.bench.encode
	$(BIN)/python -m tests.bench.tiles

$(VENV)/.ready: pyproject.toml constraints.txt
	@echo "installing the tested set into $(VENV); this takes some minutes the first time"
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/pip install -qq -c constraints.txt pip
	@$(BIN)/pip install -qq -c constraints.txt -e .
	@touch $@

$(VENV)/.ready-dev: $(VENV)/.ready
	@$(BIN)/pip install -qq -c constraints.txt -e '.[$(EXTRAS)]' --group dev
	@touch $@
