# `make demo` and `make test` set themselves up from a machine that has Python 3.11 and nothing else.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
STREAM ?=
PORT ?= 3333

.PHONY: setup demo test lint evidence clean

setup: $(VENV)/.installed

# The stamp is written last: an interrupted set-up is simply repeated, and a finished one needs no network.
$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[model,dev]'
	touch $@

demo: setup
	$(BIN)/evalflow demo

test: setup
	$(BIN)/python -m pytest

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

clean:
	rm -rf $(VENV) data/demo/home .mypy_cache .ruff_cache .hypothesis
