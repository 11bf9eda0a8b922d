# Convenience only: every line here can be typed by hand. PYTHON=python3.12 make demo picks another Python.
PYTHON ?= python3
EXTRAS := s3,gcs,azure,formats,ssim,export
BIN := .venv/bin

.PHONY: demo test test-all lint bench

demo: .venv/.ready ## the main jobs on the sample photographs
	@$(BIN)/denoise demo --output demo

test: .venv/.ready-dev ## every law, both runners, one Ray session: minutes
	@$(BIN)/python -m pytest -m "not stores and not cluster and not slow"

test-all: .venv/.ready-dev ## besides, what needs clusters, emulators, kills and long runs
	@$(BIN)/python -m pytest -m "stores or cluster or slow"

lint: .venv/.ready-dev ## what .ci/run checks before the tests
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

bench: .venv/.ready-dev ## the measurements of the README, on this machine
	$(BIN)/python -m tests.bench.infer --images denoise/samples
	$(BIN)/python -m tests.bench.encode
	$(BIN)/python -m tests.bench.tiles

.venv/.ready: pyproject.toml constraints.txt
	@echo "installing the tested set into .venv; this takes some minutes the first time"
	@$(PYTHON) -m venv .venv
	@$(BIN)/pip install -qq -c constraints.txt pip
	@$(BIN)/pip install -qq -c constraints.txt -e .
	@touch $@

.venv/.ready-dev: .venv/.ready
	@$(BIN)/pip install -qq -c constraints.txt -e '.[$(EXTRAS)]' --group dev
	@touch $@
