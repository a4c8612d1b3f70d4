# Every verb makes the environment in .venv when it is missing. Needs Python 3.11+, pip and venv; nothing else.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
# Tests of one file stay together, since they share what they train.
PARALLEL ?= --numprocesses auto --dist loadfile

.DEFAULT_GOAL := help
.PHONY: help setup demo demo-text demo-boxes test test-avx2 test-slow fuzz check format bench matrix clean

help: ## Show this list.
	@awk -F':.*## ' '/^[a-z0-9-]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

$(READY): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	@touch $(READY)

setup: $(READY) ## Make or refresh the environment in .venv.

demo: $(READY) ## Train, quantize and compare on handwritten digits; about two minutes.
	$(BIN)/qat-train recipe=digits_resnet

demo-text: $(READY) ## The same for text: a BERT of two layers on a generated language; about a minute.
	$(BIN)/qat-train recipe=tiny_text

demo-boxes: $(READY) ## The same for detection: FCOS on generated shapes; one to two minutes.
	$(BIN)/qat-train recipe=tiny_shapes

test: $(READY) ## Run the quick tests, one process per core.
	$(BIN)/python -m pytest $(PARALLEL)

test-avx2: $(READY) ## Run the quick tests on the kernels of a CPU without AVX-512 and VNNI.
	QAT_TEST_CPU=avx2 $(BIN)/python -m pytest $(PARALLEL)

fuzz: $(READY) ## Hold 20,000 random layers at the 16-bit bound to exact arithmetic; some minutes.
	$(BIN)/python -m tests.fuzz --layers 20000

test-slow: $(READY) ## Run the tests on real data and many models; tens of minutes.
	$(BIN)/python -m pytest -m slow

check: $(READY) ## Lint, formatting and types.
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(READY) ## Format the code and fix what can be fixed.
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(READY) ## Measure speed against FP32 and PyTorch; writes docs/*speed.md.
	$(BIN)/python scripts/speed.py
	$(BIN)/python scripts/text_speed.py
	$(BIN)/python scripts/detection_speed.py

matrix: $(READY) ## Run timm, torchvision, Hugging Face and torch.nn through the flow; writes docs/*_matrix.md.
	$(BIN)/python scripts/timm_matrix.py
	$(BIN)/python scripts/torchvision_matrix.py
	$(BIN)/python scripts/auto_matrix.py
	$(BIN)/python scripts/layer_matrix.py
	$(BIN)/python scripts/encoder_matrix.py
	$(BIN)/python scripts/detector_matrix.py
	$(BIN)/python scripts/kernel_sweep.py

clean: ## Remove the environment, caches and runs.
	rm -rf $(VENV) runs multirun .pytest_cache .mypy_cache .ruff_cache
