# `make demo` and `make test` are all a fresh machine needs: Python 3.11+ and PyPI.

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed-$(shell cat pyproject.toml constraints.txt | cksum | cut -d' ' -f1)

.PHONY: help setup demo test test-slow lint wheel clean

help:
	@echo "make demo   set-up, then the whole pipeline on CPU with a small real teacher"
	@echo "make test   set-up, then the tests"
	@echo "make lint   set-up, then ruff and mypy"

setup: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[dev]"
	@rm -f $(VENV)/.installed-*
	@touch $@

demo: setup
	PYTHON=$(BIN)/python examples/demo.sh

# One more than there are cores: some tests wait.
test: setup
	$(BIN)/python -m pytest --dist loadfile \
		-n $$($(BIN)/python -c "import os; print(os.cpu_count() + 1)")

test-slow: setup
	$(BIN)/python -m pytest -m "slow and not gpu"

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

wheel: setup
	$(BIN)/python -m build --wheel

clean:
	rm -rf $(VENV) build dist demo
