# A fresh machine needs Python 3.10+ and make; everything else lands in .venv.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
# Tests run side by side; each process keeps to one thread.
export OMP_NUM_THREADS ?= 1
export HF_HUB_OFFLINE ?= 1
export TOKENIZERS_PARALLELISM ?= false
WORKERS ?= 2

.PHONY: install demo demo-short test test-all lint format clean

install: $(INSTALLED)

$(INSTALLED): pyproject.toml constraints.txt
	$(PYTHON) -c "import sys; sys.exit('ecg_transformers needs Python 3.10 or newer, this is ' + sys.version.split()[0]) if sys.version_info < (3, 10) else None"
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt torch
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable ".[test]"
	@touch $(INSTALLED)

demo: $(INSTALLED)  ## the main job on the embedded corpus
	OMP_NUM_THREADS=$(or $(DEMO_THREADS),2) $(BIN)/ecg-transformers demo

demo-short: $(INSTALLED)
	OMP_NUM_THREADS=$(or $(DEMO_THREADS),2) $(BIN)/ecg-transformers demo --short --output_dir outputs/demo-short

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: $(INSTALLED)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

test: lint  ## all that ends within 15 minutes on 2 cores
	$(BIN)/python -m pytest -n $(WORKERS) --dist loadfile -m "not slow"

test-all: lint  ## the slow tests too
	$(BIN)/python -m pytest -n $(WORKERS) --dist loadfile

clean:
	rm -rf $(VENV) build dist outputs .pytest_cache .ruff_cache
