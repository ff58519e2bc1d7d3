# Everything a newcomer types. `make help` lists it.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
SECONDS_OF_TRAINING ?= 100
TEST_PROCESSES ?= 2

.DEFAULT_GOAL := help
.PHONY: help install demo test check format clean

help:  ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/  make \1\t\2/' | expand -t 20

# The stamp makes the second `make` instant and reinstalls when a dependency changes.
$(VENV)/installed: setup.cfg pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed, this is " + sys.version.split()[0])'
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "installing into $(VENV): torch is large, about three minutes the first time"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[learner,onnx,ros,dev]'
	@touch $@

install: $(VENV)/installed  ## create .venv and install everything into it

demo: $(VENV)/installed  ## a simulated rig and a learner over TCP for about four minutes, with a report
	@$(BIN)/python -m benchmarks demo --train-s $(SECONDS_OF_TRAINING)

# A file's tests stay in one process, so that they share what they set up. One thread each: two contended pools are far slower.
test: $(VENV)/installed  ## the whole test suite (under ten minutes on two cores)
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses $(TEST_PROCESSES) --dist loadfile

check: $(VENV)/installed  ## ruff and mypy, as CI runs them
	@$(BIN)/ruff format --check . && $(BIN)/ruff check . && $(BIN)/mypy

format: $(VENV)/installed  ## let ruff format the tree
	@$(BIN)/ruff format . && $(BIN)/ruff check --fix .

clean:  ## remove .venv and caches; runs/ stays
	@rm -rf $(VENV) build *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
