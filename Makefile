# Every target sets up what it needs: a .venv in this checkout, by uv where it is installed, else by pip.
BIN := .venv/bin
# Any Python 3 can run it, and finds the one that fits.
SETUP = "$(or $(PYTHON),$(shell command -v python3 || command -v python3.13 || command -v python3.12 || command -v python3.11 || echo python3))" scripts/setup.py
RESULTS = benchmarks/results/$(shell date -u +%F)-bench

.PHONY: help quickstart test test-mindspore test-peers test-switches test-container test-wheel test-all check site notebooks bench \
  setup clean

help:
	@echo "make quickstart   train, evaluate, predict and export on the embedded images (about 5 minutes on 2 cores)"
	@echo "make test         the tests"
	@echo "make test-mindspore  exports compared with the real MindSpore, in .venv-mindspore (770 MB to download)"
	@echo "make test-peers   timm's own tests, peft, torchao and Grad-CAM on a few networks, in .venv-peers (100 MB to download)"
	@echo "make test-switches  tests that depend on the processor, at each lower level of this one"
	@echo "make test-container  the Dockerfile's steps in a bare Debian without Docker (root, debootstrap, 12 GB)"
	@echo "make test-wheel   sdist and wheel, built and tried in a fresh environment"
	@echo "make test-all     all of these tests, what make test leaves out, timm's on every network, site and notebooks"
	@echo "make check        lint, format, types on three platforms, import rules, commands and words of the pages"
	@echo "make site         the documentation into build/site, in .venv-docs (70 MB to download)"
	@echo "make notebooks    runs the notebooks of docs/notebooks, into build/notebooks, in .venv-notebooks"
	@echo "make bench        the speed of this machine, into benchmarks/results/"
	@echo "make setup        only the .venv, with everything for development"
	@echo "make clean        remove .venv, caches and runs/quickstart"

quickstart:
	@$(SETUP) export,report
	@$(BIN)/t2t-vit quickstart

setup:
	@$(SETUP) dev

# Passive: two workers with two threads each on two cores would spin instead of compute. worksteal leaves the tests of a file
# to one worker as far as it can, so what they share is made once.
PYTEST = OMP_WAIT_POLICY=passive $(BIN)/python -m pytest -n 2 --dist worksteal
test: setup
	@$(PYTEST) $(ARGS)

test-mindspore: setup
	@bash scripts/setup_mindspore.sh
	@T2T_VIT_MINDSPORE_PYTHON=$(CURDIR)/.venv-mindspore/bin/python $(BIN)/python -m pytest -n 2 tests/conformance $(ARGS)

# ALL=1 for every network.
test-peers: setup
	@bash scripts/setup_peers.sh
	@OMP_WAIT_POLICY=passive T2T_VIT_ALL=$(ALL) .venv-peers/bin/python -m pytest -c tests/peers/pytest.ini -n 2 tests/peers $(ARGS)

# The rooms whose arithmetic depends on the processor, at each level that this one has: of our kernels, and of torch's.
SWITCHED = tests/fast tests/model tests/ops
LEVELS = $(BIN)/python -c "from t2t_vit.fast.native.processor import *; print(*LEVELS[:LEVELS.index(processor_level())])"
test-switches: setup
	@for level in $$($(LEVELS)); do \
	  echo "T2T_VIT_CPU=$$level" && T2T_VIT_CPU=$$level $(PYTEST) -q $(SWITCHED) $(ARGS) || exit 1; \
	done
	@# Its compiler's cache does not tell that level from another and would answer wrongly ever after: a cache of its own.
	@echo "torch as on AVX2" && export TORCHINDUCTOR_CACHE_DIR=$$(mktemp -d) && ONEDNN_MAX_CPU_ISA=AVX2 ATEN_CPU_CAPABILITY=avx2 $(PYTEST) -q $(SWITCHED) $(ARGS)
	@echo "one thread" && OMP_NUM_THREADS=1 $(PYTEST) -q $(SWITCHED) $(ARGS)

test-container:
	@bash scripts/test_container.sh

test-wheel:
	@bash scripts/release.sh --trial

test-all:
	@$(MAKE) test ARGS="-m ''"
	@$(MAKE) test-switches
	@$(MAKE) test-mindspore
	@$(MAKE) test-peers ALL=1
	@$(MAKE) site
	@$(MAKE) notebooks
	@$(MAKE) test-container
	@$(MAKE) test-wheel

check: setup
	@$(BIN)/ruff check .
	@# A text file without an encoding is read otherwise on Windows; the rule is in preview.
	@$(BIN)/ruff check --preview --select PLW1514 .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@for platform in win32 darwin; do $(BIN)/mypy --platform $$platform --cache-dir .mypy_cache/$$platform || exit 1; done
	@$(BIN)/lint-imports --no-logo --no-cache
	@$(BIN)/python -m pytest -q tests/house

site: setup
	@bash scripts/setup_beside.sh docs
	@.venv-docs/bin/python scripts/build_site.py

notebooks: setup
	@bash scripts/setup_beside.sh notebooks
	@.venv-notebooks/bin/python scripts/run_notebooks.py $(ARGS)

bench: setup
	@$(BIN)/t2t-vit bench model --arch t2t_vit_14 --amp_level auto --output $(RESULTS)-model.json
	@$(BIN)/t2t-vit bench step --arch t2t_vit_14 --amp_level auto --pynative_mode True --output $(RESULTS)-step.json
	@$(BIN)/t2t-vit bench data --config quickstart --output $(RESULTS)-data.json

clean:
	rm -rf .venv .venv-mindspore .venv-peers .venv-docs .venv-notebooks .venv-container .venv-release .mypy_cache .ruff_cache \
	  .pytest_cache build dist runs/quickstart src/*.egg-info
