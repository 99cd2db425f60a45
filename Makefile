# make help
SHELL := /bin/bash
PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin/python

.DEFAULT_GOAL := help
.PHONY: help install install-dev run test test-fast coverage bench interop soak lint format type
.PHONY: release-check build docs pictures clean

help: ## What can be made
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-13s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

install: $(VENV)/installed ## .venv with the project in it

install-dev: $(VENV)/installed-dev ## the same with what tests and checks need

run: install ## The main job: a baby GPT from a live stream, five to ten minutes on two cores
	$(RUN) -m babygpt_exp model=baby precision=bf16-mixed

# A file's tests in one process, and files in the order in which tests/conftest.py has them
PYTEST := pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder

test: install-dev ## The tests, two files at a time
	$(RUN) -m $(PYTEST)

test-fast: install-dev ## The same without whole runs and sweeps
	$(RUN) -m $(PYTEST) -m 'not slow'

# Which tests `make coverage` runs, such as TESTS=tests/streamer
TESTS ?= tests

coverage: install-dev ## What the tests do not reach, in all processes, as a table
	$(VENV)/bin/coverage erase
	$(VENV)/bin/coverage run -m $(PYTEST) -m 'not unmeasured' $(TESTS)
	$(VENV)/bin/coverage combine --quiet
	$(VENV)/bin/coverage report

bench: install ## How fast tokens are made and served here, and how fast a baby GPT trains on them
	$(RUN) -m streamer.bench
	$(RUN) -m babygpt_exp.bench

interop: install .interop/installed ## EIR's own eirtrain trains from our server; every word is accounted for
	$(RUN) tests/interop/run.py .interop/bin

# eir-dl needs Python 3.13, whatever the project itself runs on
INTEROP_PYTHON ?= $(shell for python in python3.13 $(HOME)/.pyenv/versions/3.13*/bin/python3.13; do \
	$$python -c pass 2>/dev/null && echo $$python && break; done)

.interop/installed: tests/interop/requirements.txt
	@test -n "$(INTEROP_PYTHON)" || { echo 'no Python 3.13 found: make interop INTEROP_PYTHON=/path/to/python3.13' >&2; exit 1; }
	$(INTEROP_PYTHON) -m venv .interop
	.interop/bin/python -m pip install --quiet --requirement tests/interop/requirements.txt
	touch $@

# How long `make soak` may take, in minutes
MINUTES ?= 20

soak: install-dev ## Faults, floods and reconnects for MINUTES (20); figures against their bounds
	$(RUN) tests/soak/soak.py --minutes $(MINUTES)

lint: install-dev ## Style, and what imports what
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/lint-imports --no-cache

format: install-dev ## Put the style right
	$(VENV)/bin/ruff check --fix .
	$(VENV)/bin/ruff format .

# What people start by hand: no test would find it broken
BY_HAND := $(filter-out %/timed_eirtrain.py,$(wildcard tests/peers/*.py tests/soak/*.py))

type: install-dev ## Types
	$(VENV)/bin/mypy
	MYPYPATH=tests:tests/peers:tests/soak:tests/streamer $(VENV)/bin/mypy --explicit-package-bases $(BY_HAND)

# Names of checks with commas between: make release-check SKIP=clone
ONLY ?=
SKIP ?=

release-check: install-dev ## Whether this commit can be released: versions, pins, wheel, docs, a clone
	$(RUN) tests/release_check.py $(if $(ONLY),--only $(ONLY)) $(if $(SKIP),--skip $(SKIP))

build: install-dev ## A wheel in dist/
	$(RUN) -m build --wheel

docs: $(VENV)/installed-docs ## The documentation as pages in site/, which open from disk
	NO_MKDOCS_2_WARNING=1 $(RUN) -m mkdocs build --strict --quiet

pictures: install-dev ## The pictures of the README, from a run and a sweep: six minutes on two cores
	$(RUN) docs/terminal.py
	$(RUN) -m babygpt_exp -m model=nano optimizer=muon,adamw seed=1,2,3 hydra.sweep.dir=multirun/pictures
	$(RUN) tests/chromium_harness.py multirun/pictures/report.html docs/report.png 1280 1500

clean: ## Away with what was built; runs and sweeps stay
	rm -rf $(VENV) build dist site *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .interop .coverage .coverage.*

$(VENV)/bin/python:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=python3.12 ...")'
	$(PYTHON) -m venv $(VENV)

$(VENV)/installed: $(VENV)/bin/python pyproject.toml constraints.txt
	$(RUN) -m pip install --quiet --constraint constraints.txt --editable .
	touch $@

$(VENV)/installed-dev: $(VENV)/installed
	$(RUN) -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@

$(VENV)/installed-docs: $(VENV)/installed
	$(RUN) -m pip install --quiet --constraint constraints.txt --editable '.[docs]'
	touch $@

# A folder with nanoGPT's model.py and train.py, and what tests/peers/nanogpt.py should do with it
NANOGPT ?=
FIDELITY ?= --model nano --seeds 1,2,3

.PHONY: fidelity against-eir
fidelity: install ## arch=gpt2 learns as nanoGPT itself does: NANOGPT=FOLDER with its model.py
	@test -f "$(NANOGPT)/model.py" || { echo 'name a checkout of nanoGPT: make fidelity NANOGPT=FOLDER' >&2; exit 1; }
	$(RUN) tests/peers/nanogpt.py "$(NANOGPT)" $(FIDELITY)

against-eir: install .interop/installed ## Ten minutes of EIR's own package, then ten of ours, on the same text
	$(RUN) tests/peers/eir.py .interop/bin/python
