# Every target sets up what it needs in .venv, from nothing.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt
SOURCES := $(wildcard src_ext/*.pyx src_ext/*.pxd src_ext/*.pxi src_ext/*.in src_ext/*.h src_ext/*.py fastalign/rules/*.py)
# What the tests may not skip: a backend named here that is unavailable is a failure.
REQUIRE := numpy,cython,numba,cuda-sim
# Files side by side, each in one process, where Numba compiles once, of about 1 GB; ARGS=-n0: all in this one.
BESIDE := -n auto --maxprocesses 4 --dist loadfile

.PHONY: help demo test bench lint build clean FORCE

help:
	@echo "make demo | test | bench | lint | build | clean      ARGS= goes to the command, CC= and PYTHON= choose the tools"
	@echo "make bench PEERS=1      also installs and times PyTorch, JAX, tianshou, Stable-Baselines3, rlax and SciPy"

demo: $(VENV)/.built
	$(BIN)/fastalign demo $(ARGS)

test: $(VENV)/.test
	FASTALIGN_REQUIRE=$(REQUIRE) $(BIN)/python -m pytest $(BESIDE) $(ARGS)

bench: $(VENV)/.bench $(if $(PEERS),$(VENV)/.peers)
	$(BIN)/fastalign bench $(ARGS)

build: $(VENV)/.built

lint: $(VENV)/.lint
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "fastalign needs Python 3.11 or newer; set PYTHON=" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { echo "Python cannot make virtual environments here: install python3-venv" >&2; exit 1; }
	@$(PYTHON) -c 'import os, sys, sysconfig; sys.exit(not os.path.exists(os.path.join(sysconfig.get_path("include"), "Python.h")))' || { echo "Python.h is missing: install python3-dev" >&2; exit 1; }
	@set -- $${CC:-cc}; command -v "$$1" >/dev/null || { echo "there is no C compiler: install gcc, or set CC=" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)

# Another choice of instruction sets is another build.
$(VENV)/.isa: FORCE
	@mkdir -p $(VENV)
	@echo "$(FASTALIGN_BUILD_ISA)" | cmp -s - $@ || echo "$(FASTALIGN_BUILD_ISA)" > $@

# An edited rule or kernel builds again; a stale object in build/ would otherwise be copied back.
$(VENV)/.built: $(VENV)/bin/python $(VENV)/.isa pyproject.toml setup.py constraints.txt $(SOURCES)
	rm -rf build fastalign/*.so
	@start=$$(date +%s); \
	$(PIP) setuptools cython numpy && \
	FASTALIGN_REQUIRE_EXT=1 $(PIP) --no-build-isolation -e '.[cli]' && \
	echo "fastalign: set up and built in $$(( $$(date +%s) - start )) s"
	@touch $@

# The requirements of an extra by themselves: to install the extra would build again.
$(VENV)/.test: EXTRAS := cli cuda test
$(VENV)/.bench: EXTRAS := cli bench
# PyPI's torch for Linux brings CUDA, gigabytes of it; without: PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu
$(VENV)/.peers: EXTRAS := bench-peers
$(VENV)/.lint: EXTRAS := lint
$(VENV)/.test $(VENV)/.bench $(VENV)/.peers $(VENV)/.lint: $(VENV)/.built
	@$(BIN)/python -c 'import sys, tomllib; extras = tomllib.load(open("pyproject.toml", "rb"))["project"]["optional-dependencies"]; print(*(r for name in sys.argv[1:] for r in extras[name] if not r.startswith("fastalign")), sep="\n")' $(EXTRAS) > $@.txt
	@$(PIP) -r $@.txt
	@touch $@

clean:
	rm -rf $(VENV) build dist src_ext/generated src_ext/cpu.c *.egg-info fastalign/*.so
