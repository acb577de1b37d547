# `make help` lists the targets. The set-up runs automatically before the targets that need it, and only once.
STACK ?= openmmlab
ENV := $(if $(filter openmmlab,$(STACK)),.venv,.venv-$(STACK))
PY := $(ENV)/bin/python
ARGS ?=
JOBS ?= 2

.DEFAULT_GOAL := help
.PHONY: help setup quickstart test test-unit test-slow test-faults test-kills test-gpu lint docs doctor wheel benchmark benchmark-gpu \
	clean clean-env

help:  ## this list
	@grep -hE '^[a-z-]+:.*##' $(firstword $(MAKEFILE_LIST)) | sed -E 's/:[^#]*##/ #/' \
		| awk -F' # *' '{ printf "  make %-12s %s\n", $$1, $$2 }'
	@echo
	@echo '  STACK=torch21          with PyTorch 2.1 and NumPy 1, in a separate environment (.venv-torch21)'
	@echo '  STACK=onedl            with OneDL'"'"'s forks, in .venv-onedl'
	@echo '  PYTHON=python3.12      interpreter of the environment (3.10 to 3.12; STACK=torch21: to 3.11)'
	@echo '  ARGS="-k reversible"   more arguments for pytest, quickstart or the benchmark'
	@echo '  JOBS=4                 processes that run the tests (default: 2)'
	@echo '  MMREV_WHEELS=folder    where built wheels of mmcv are kept (default: the user cache folder)'
	@echo '  MMREV_CUDA_OPS=0|1     mmcv without or with CUDA ops (default: with, if a GPU and its compiler are found)'
	@echo '                         with 1 and no visible GPU, TORCH_CUDA_ARCH_LIST="8.0;9.0" names the architectures'

setup:  ## the environment alone
	@PYTHON='$(PYTHON)' tools/setup/setup.sh --stack $(STACK) --env $(ENV)

quickstart: setup  ## make the digits set, train a reversible detector on it, evaluate, draw
	$(PY) tools/quickstart.py $(ARGS)

test: setup  ## the test suite, in two processes
	$(PY) -m pytest -n $(JOBS) --dist loadfile --no-loadscope-reorder $(ARGS)

test-unit: setup  ## fast tests that start no other process; under three minutes
	$(PY) -m pytest -n $(JOBS) --dist loadfile --no-loadscope-reorder -m "not subprocess and not slow and not training and not faults and not kills" $(ARGS)

test-slow: setup  ## whole trainings, which take minutes
	$(PY) -m pytest -m training $(ARGS)

test-faults: setup  ## over 1,000 malformed inputs, each refused in two lines; under 15 minutes
	$(PY) -m pytest -n $(JOBS) -m faults tests/test_faults $(ARGS)

test-kills: setup  ## runs that are killed, terminated or out of disk space resume to the same weights; under 30 minutes
	$(PY) -m pytest -n $(JOBS) -m kills tests/test_faults $(ARGS)

lint: setup  ## ruff and mypy, in seconds
	$(ENV)/bin/ruff check .
	$(ENV)/bin/mypy

docs: setup  ## the site of docs/ in site/, with the API reference and the list of all models
	$(ENV)/bin/mkdocs build --strict $(ARGS)

doctor: setup  ## versions, and how to fix what is wrong
	$(PY) -m mmrev.doctor

wheel: .setup/build/.ready  ## dist/mmrev-*.whl, without setting up PyTorch
	rm -rf build
	.setup/build/bin/python -m pip wheel --no-deps --no-build-isolation --wheel-dir dist .

.setup/build/.ready: requirements/build.txt
	rm -rf .setup/build
	$(or $(PYTHON),python3) -m venv .setup/build
	.setup/build/bin/python -m pip install --quiet --disable-pip-version-check -r requirements/build.txt
	touch $@

test-gpu: setup  ## checks that need a GPU; pass, fail or skipped in work_dirs/gpu_check.md
	$(PY) benchmarks/gpu_check.py $(ARGS)

benchmark: setup  ## time and memory compared with plain autograd and activation checkpointing
	$(PY) benchmarks/run.py $(ARGS)

benchmark-gpu: setup  ## time, memory and the largest batch on a GPU; table and picture in work_dirs
	$(PY) benchmarks/gpu_benchmark.py $(ARGS)

clean:  ## remove the files of builds and test runs
	rm -rf build dist site *.egg-info .pytest_cache .ruff_cache .mypy_cache
	find . -name __pycache__ -not -path './.venv*' -prune -exec rm -rf {} +

clean-env:  ## remove the environments (the wheels of mmcv stay in the user cache)
	rm -rf .venv .venv-torch21 .venv-onedl .setup
