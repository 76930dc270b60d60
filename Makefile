# Set-up, demonstration and checks. Everything lives in .venv; nothing outside this folder is touched.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
# Test processes share the cores; two threads in each would mostly wait for one another.
ONE_THREAD := OMP_NUM_THREADS=1

.DEFAULT_GOAL := help
.PHONY: help install demo ui test test-services coverage bench bench-cuda lint docs reference

help: ## this list
	@awk -F':.*## ' '/^[a-z-]+:.*## /{printf "make %-15s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

install: $(INSTALLED) ## a virtual environment in .venv with the pinned packages of requirements.lock

# Without compiling: Python compiles what is imported, and compiling all of it takes a minute.
$(INSTALLED): requirements.lock pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile -r requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --editable .
	@touch $@

demo: install ## three architectures on the embedded synthetic set, tracked in MLflow, and their comparison
	$(BIN)/python -m pneumo.train --multirun model=resnet18,resnet50,densenet121 data=phantom \
	  data.image_size=64 augment=light trainer.epochs=4 trainer.batch_size=32 trainer.ema_decay=0.98 \
	  tracking.experiment=demo
	$(BIN)/python -m pneumo.compare tracking.experiment=demo

ui: install ## MLflow's pages on 127.0.0.1 (pneumo ui)
	$(BIN)/python -m pneumo.ui

test: install ## unit and end-to-end tests (PNEUMO_TEST_BF16=on|off: as on a CPU with or without bf16 units)
	$(ONE_THREAD) $(BIN)/python -m pytest -m "not services and not cuda" -n 2 --dist loadfile --no-loadscope-reorder  # so the long files begin early

test-services: install ## tests against real servers on 127.0.0.1
	$(ONE_THREAD) $(BIN)/python -m pytest -m services -n 2 --dist loadfile --no-loadscope-reorder  # they mostly wait: for servers, imports, signals

coverage: install ## which lines the tests run: a table, and pages in htmlcov/
	rm -rf .coverage_data
	$(ONE_THREAD) $(BIN)/python -m pytest -m "not services and not cuda" -n 2 --dist loadfile --no-loadscope-reorder --cov --cov-report=term --cov-report=html

bench: install ## the benchmarks, a quarter of an hour; every ratio with its target at the end
	$(BIN)/python benchmarks/run_all.py

bench-cuda: install ## the benchmarks of a CUDA device, 50 epochs of ResNet-18 among them
	$(BIN)/python benchmarks/on_cuda.py

lint: install ## ruff, mypy and who may import whom
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

docs: install ## the documentation site in site/; a broken link, a missing picture or an undocumented key fails
	$(BIN)/python tools/reference.py --check
	$(BIN)/python tools/check_docs.py
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet
	@echo "The site is in site/index.html"

reference: install ## writes docs/reference/keys.md from the comments in conf/
	$(BIN)/python tools/reference.py
