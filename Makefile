# Two commands for a newcomer: `make demo` and `make test`. Each does its own set-up.
PYTHON ?= python3.11
VENV   := .venv
BIN    := $(VENV)/bin
# torch comes first: asked for by another package it would be the newest build with CUDA.
TORCH  := $(shell grep -o '^torch==[^ ]*' constraints.txt)

# More than the two cores of CI: tests wait for servers and processes that they start.
WORKERS ?= 3

.PHONY: demo test test-gpu check bench compile clean

demo: $(VENV)/.demo
	$(BIN)/ytrainer demo

test: $(VENV)/.dev
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder

check: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

test-gpu: $(VENV)/.dev
	$(BIN)/python -m pytest -q tests/gpu

bench: $(VENV)/.bench
	$(BIN)/python -m benchmarks.token_groups
	$(BIN)/python -m benchmarks.sft
	$(BIN)/python -m benchmarks.memory
	$(BIN)/python -m benchmarks.data
	$(BIN)/python -m benchmarks.storage_faults
	$(BIN)/python -m benchmarks.sizing
	$(BIN)/python -m benchmarks.kto --part loss
	$(BIN)/python -m benchmarks.kto --part speed

compile: $(VENV)/.dev
	$(BIN)/ytrainer pipeline compile finetune
	$(BIN)/ytrainer pipeline compile retrain
	$(BIN)/ytrainer pipeline compile cpt
	$(BIN)/ytrainer pipeline compile kto
	$(BIN)/ytrainer pipeline compile pretrain
	$(BIN)/ytrainer pipeline compile score_only
	$(BIN)/python -m components.readme

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.torch: constraints.txt | $(BIN)/python
	$(BIN)/pip install -q --disable-pip-version-check $(TORCH)
	touch $@

$(VENV)/.demo: pyproject.toml constraints.txt $(VENV)/.torch
	$(BIN)/pip install -q --disable-pip-version-check -c constraints.txt -e '.[pipelines]'
	touch $@

$(VENV)/.dev: pyproject.toml constraints.txt $(VENV)/.torch
	$(BIN)/pip install -q --disable-pip-version-check -c constraints.txt -e '.[pipelines,dev]'
	touch $@ $(VENV)/.demo

$(VENV)/.bench: pyproject.toml constraints.txt $(VENV)/.torch
	$(BIN)/pip install -q --disable-pip-version-check -c constraints.txt -e '.[bench]'
	touch $@

clean:
	rm -rf $(VENV) ytrainer-runs

# IMAGES="--target cpu --repository REGISTRY/ytrainer --push" says more; docs/images.md has all of it.
.PHONY: images test-containers
images:
	$(PYTHON) docker/build.py $(IMAGES)

test-containers: $(VENV)/.dev
	TEST_CONTAINERS=1 $(BIN)/python -m pytest -q -rs tests/containers
