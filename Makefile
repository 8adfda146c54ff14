# Two commands do everything on a fresh machine with Python 3.11 or later: make demo, make test.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# one thread per test process: two processes of two threads each wait for one another most of the time
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest

.PHONY: demo test quick-tests test-slow coverage lint format docs build clean

demo: $(VENV)/train
	$(BIN)/segdistill demo

# lint uses one core for half a minute: beside the tests it fills the gaps that two processes of tests leave
test: $(VENV)/dev
	$(MAKE) -j 2 lint quick-tests

# worksteal keeps the tests of a file together, so that their shared runs are trained once
quick-tests: $(VENV)/dev
	$(PYTEST) -n 2 --dist worksteal -m "not slow"

test-slow: $(VENV)/dev
	$(PYTEST) -n 2 -m slow --timeout 3600 --durations 0

coverage: $(VENV)/dev
	$(PYTEST) -n 2 -m "not slow" --cov

lint: $(VENV)/dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

format: $(VENV)/dev
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

docs: $(VENV)/docs
	$(BIN)/mkdocs build --strict

build: $(VENV)/dev
	rm -rf dist
	$(BIN)/python -m build
	$(BIN)/twine check --strict dist/*

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/train: $(VENV)/bin/python pyproject.toml constraints.txt
	$(BIN)/python -m pip install -q -c constraints.txt -e ".[train]"
	touch $@

$(VENV)/dev: $(VENV)/bin/python pyproject.toml constraints.txt
	$(BIN)/python -m pip install -q -c constraints.txt -e ".[dev]"
	touch $@ $(VENV)/train

$(VENV)/docs: $(VENV)/bin/python pyproject.toml constraints.txt
	$(BIN)/python -m pip install -q -c constraints.txt -e ".[docs]"
	touch $@

clean:
	rm -rf $(VENV) build dist .coverage* htmlcov .pytest_cache .mypy_cache .ruff_cache
