# Each target sets itself up: a virtual environment in .venv, with the versions of constraints.txt.
# It does so once; until pyproject.toml, constraints.txt or what is compiled changes, nothing is installed and no index is asked.

PYTHON ?= python3
JOBS ?= 2

VENV := .venv
NEXT := .venv-hydra-next
STAMP := $(VENV)/.stamp
PY := $(VENV)/bin/python
PIP := $(PY) -m pip --disable-pip-version-check
INSTALL := $(PIP) install --quiet --constraint constraints.txt
PYTEST := OMP_NUM_THREADS=1 $(PY) -m pytest -n $(JOBS) --dist worksteal --ignore=tests/parity

.PHONY: help demo test test-slow test-all test-hydra-next lint format bench parity clean clean-venv FORCE

help: ## show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: $(STAMP) ## plan, initialise, check and train an MLP on handwritten digits
	$(PY) -m initconf.lab model=mlp data=digits init=he train.steps=300

test: $(STAMP) ## the tests, in less than three minutes
	$(PYTEST) -m "not slow"

test-slow: $(STAMP) ## the tests marked slow
	$(PYTEST) -m slow || [ $$? -eq 5 ] # 5: there is none

test-all: test test-slow ## all tests

# Whatever touches Hydra or OmegaConf. Skipped where the pre-release cannot be had, and for no other reason.
ON_HYDRA := hydra loading bash provenance catalogue_of_errors security fuzz cli completion
test-hydra-next: $(NEXT)/.stamp ## what touches Hydra, on the next release of Hydra
	@if [ -s $(NEXT)/.stamp ]; then \
	  $(NEXT)/bin/python -c 'import hydra, omegaconf; print("Hydra", hydra.__version__, "OmegaConf", omegaconf.__version__)'; \
	  OMP_NUM_THREADS=1 $(NEXT)/bin/python -m pytest -p no:cacheprovider -n $(JOBS) --dist worksteal -m "not slow" \
	    $(ON_HYDRA:%=tests/test_%.py); \
	else echo "skipped: the pre-release of Hydra 1.4 cannot be had here"; fi

lint: $(STAMP) ## style, format and strict types
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m mypy

format: $(STAMP) ## let ruff mend what it can
	$(PY) -m ruff check --fix .
	$(PY) -m ruff format .

bench: $(STAMP) ## run the benchmarks; their results and plots are kept in benchmarks/results
	@for file in $$(grep -l __main__ benchmarks/*.py); do \
	  echo "== $$file"; $(PY) "$$file" || exit 1; done

parity: $(VENV)/.stamp-parity ## compare with Keras, JAX, Flax, hypnettorch and the models of transformers (installs them)
	@if [ -d tests/parity ]; then $(PY) -m pytest tests/parity; else echo "there are no parity tests yet"; fi

clean: ## remove what builds, tests and runs leave
	rm -rf build dist outputs multirun .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -not -path './$(VENV)*' -prune -exec rm -rf {} +

clean-venv: clean ## remove the virtual environment too
	rm -rf $(VENV) $(NEXT)

# The stamp holds the folder that it was made in: a checkout that was copied or moved is set up again,
# because its environment would go on importing initconf from the old place.
ifneq ($(shell cat $(STAMP) 2>/dev/null),$(CURDIR))
$(STAMP): FORCE
endif

# torch comes first, since it is by far the largest. antlr4 (of hydra-core) ships only as source, so the second step
# may build in isolation; initconf itself is then built with the hatchling that is installed, and a C compiler if there is one.
$(STAMP): pyproject.toml constraints.txt initconf/native/values.c initconf/native/build.py
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 10) or sys.exit("initconf needs Python 3.10 or newer: make PYTHON=python3.x")'
	@echo "Setting up $(VENV); the first time this takes some minutes, most of them for downloading torch."
	@$(PIP) --version >/dev/null 2>&1 || { echo "[1/4] virtual environment"; $(PYTHON) -m venv --clear $(VENV); }
	@echo "[2/4] torch"
	@$(INSTALL) torch
	@echo "[3/4] Hydra and the build tools"
	@$(INSTALL) hydra-core hatchling editables
	@echo "[4/4] initconf, as an editable install, and all else that it is tested with"
	@$(INSTALL) --no-build-isolation --editable '.[lab,dev]'
	@echo '$(CURDIR)' > $@

# An environment that has the next Hydra, and for all else looks into the main one: nothing large is installed twice.
$(NEXT)/.stamp: $(STAMP)
	@$(PY) -m venv --clear $(NEXT)
	@: > $@
	@if $(NEXT)/bin/python -m pip --disable-pip-version-check install --quiet --no-deps \
	    'hydra-core>=1.4.0rc3,<1.5' 'omegaconf>=2.4.1rc1,<2.5'; then \
	  main=$$($(PY) -c 'import sysconfig; print(sysconfig.get_path("purelib"))'); \
	  next=$$($(NEXT)/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))'); \
	  echo "import site; site.addsitedir('$$main')" > "$$next/zz_main.pth"; \
	  $(NEXT)/bin/python -m pip --disable-pip-version-check install --quiet --no-deps --no-build-isolation --editable . && \
	  echo '$(CURDIR)' > $@; \
	fi

$(VENV)/.stamp-parity: $(STAMP)
	@echo "Installing the packages that the parity tests compare with."
	@$(INSTALL) --no-build-isolation --editable '.[lab,dev,parity]'
	@$(INSTALL) --no-deps hypnettorch==0.0.4
	@touch $@
