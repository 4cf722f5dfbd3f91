# make tune | test | test-all | faults | bench | peers | lint | clean; make tune RUN="--space sat_family" passes words on
PYTHON ?= python3
BIN := .venv/bin
RUN ?= --space sat
ROUNDS ?= 20
TEST := $(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder
QUICK := not slow and not cluster and not browser and not peer
export OMP_WAIT_POLICY := PASSIVE
# Or every process compiles all tests anew.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: tune test test-all faults bench peers lint clean

tune: .venv/installed
	$(BIN)/python -m harness.tune $(RUN)

# Every part by itself, and one sweep from end to end: minutes.
test: .venv/installed
	$(TEST) -m "$(QUICK)"

# And what goes wrong in the middle, clusters, browsers, other libraries, and all that takes long.
test-all: .venv/installed
	$(TEST)

# What goes wrong in the middle, so many times each, at other random moments every time.
faults: .venv/installed
	ROUNDS=$(ROUNDS) $(BIN)/python -m pytest -n 2 --dist load -m fault

bench: .venv/installed
	$(BIN)/python -m harness.bench epochs
	$(BIN)/python -m harness.bench sweep

# Other libraries, for benchmarks and as oracles of tests; their own pins are older than ours. What is used of
# every-eval-ever, which asks for Python 3.12, runs on 3.11 too. And a kernel, in which a test runs the notebook.
peers: .venv/installed
	$(BIN)/python -m pip install --quiet --no-deps -c constraints.txt \
		torchattacks foolbox eagerpy adversarial-robustness-toolbox timm huggingface-hub
	$(BIN)/python -m pip install --quiet --no-deps --ignore-requires-python -c constraints.txt every-eval-ever
	$(BIN)/python -m pip install --quiet -c constraints.txt nbclient ipykernel

lint: .venv/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports --no-cache
	$(BIN)/mypy

# The pinned set, installed again when a pin or a dependency changes.
.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet -c constraints.txt -e .[test]
	touch $@

clean:
	rm -rf .venv runs
