# make setup | demo | test | research-check | test-browser | test-long | test-mutations | check | bench      (Python 3.11+ and make are all that is needed)
#
# TORCH_INDEX: package index to take torch from, for another build of it (CPU only, or another CUDA version):
#     make setup TORCH_INDEX=<index URL from pytorch's "get started" page>       (before the first set-up, or after `make clean`)
# PYTHON: the interpreter that makes .venv:  make setup PYTHON=python3.12

PYTHON ?= python3
TORCH_INDEX ?=
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: setup demo test research-check test-browser test-long test-mutations check bench clean

setup: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "clipvip needs Python 3.11 or newer; set PYTHON=")'
	$(PYTHON) -m venv $(VENV)
	$(if $(TORCH_INDEX),$(BIN)/python -m pip install --quiet --no-deps --index-url $(TORCH_INDEX) --constraint constraints.txt torch)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[train,analyse,search,serve,dev]'
	touch $@

demo: $(STAMP)
	OMP_NUM_THREADS=1 $(BIN)/clipvip demo --out runs/demo

# a test that hangs is named after 15 minutes, instead of taking the whole run with it
test: $(STAMP)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m 'not long and not browser' -n auto --dist loadfile \
	    -o faulthandler_timeout=900 -o faulthandler_exit_on_timeout=true

# the short tests of research/, which is not part of the package
research-check: $(STAMP)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest research/tests -m 'not long' -n auto --dist loadfile

test-browser: $(STAMP)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest tests/browser

test-long: $(STAMP)
	$(BIN)/python -m pytest tests research/tests -m long

test-mutations: $(STAMP)
	$(BIN)/python tests/mutations.py

check: $(STAMP)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: $(STAMP)
	$(BIN)/python benchmarks/encoder.py --model b32 --threads 1
	$(BIN)/python benchmarks/encoder.py --model b16 --threads 1
	$(BIN)/python benchmarks/decode.py

clean:
	rm -rf $(VENV) build dist src/*.egg-info .pytest_cache .mypy_cache .ruff_cache .import_linter_cache
