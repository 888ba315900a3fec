# Every target sets up what it needs in .venv, from nothing.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
LINT_STAMP := $(VENV)/.lint
SOURCES := $(wildcard src_ext/*.pyx src_ext/*.pxd src_ext/*.pxi src_ext/*.in src_ext/*.h src_ext/*.py fastalign/rules/*.py)
# What the tests may not skip: a backend named here that is unavailable is a failure.
REQUIRE := numpy,cython,numba,cuda-sim

.PHONY: demo test bench lint build clean help

help:
	@echo "make demo | test | bench | lint | build | clean"

demo: $(STAMP)
	$(BIN)/fastalign demo $(ARGS)

test: $(STAMP)
	FASTALIGN_REQUIRE=$(REQUIRE) $(BIN)/python -m pytest $(ARGS)

bench: $(STAMP)
	$(BIN)/fastalign bench $(ARGS)

build: $(STAMP)

lint: $(LINT_STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "fastalign needs Python 3.11 or newer; set PYTHON=" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { echo "Python cannot make virtual environments here: install python3-venv" >&2; exit 1; }
	@$(PYTHON) -c 'import os, sys, sysconfig; sys.exit(not os.path.exists(os.path.join(sysconfig.get_path("include"), "Python.h")))' || { echo "Python.h is missing: install python3-dev" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)

# An edited rule or kernel builds again; a stale object in build/ would otherwise be copied back.
$(STAMP): $(VENV)/bin/python pyproject.toml setup.py constraints.txt $(SOURCES)
	rm -rf build
	@start=$$(date +%s); \
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt setuptools cython && \
	FASTALIGN_REQUIRE_EXT=1 $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-build-isolation \
		-c constraints.txt -e '.[test]' && \
	echo "fastalign: set up and built in $$(( $$(date +%s) - start )) s"
	@touch $@

$(LINT_STAMP): $(STAMP)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[lint]' --no-build-isolation --no-deps
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt ruff mypy
	@touch $@

clean:
	rm -rf $(VENV) build dist src_ext/generated src_ext/cpu.c *.egg-info fastalign/*.so
