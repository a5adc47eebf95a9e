# The commands of the README. `make setup` installs from the lock; everything else runs in .venv.
PYTHON ?= python3
TORCH ?= torch==2.13.0
BIN := .venv/bin
PIP := $(BIN)/python -m pip install --disable-pip-version-check --quiet
export OMP_NUM_THREADS ?= 1

.PHONY: setup demo ui test test-all test-beside soak bench test-container test-cluster image check format clean lock matrix help

help: ## what there is
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/\t/' | expand -t 12

setup: .venv/installed ## create .venv from the lock

# torch stands outside the lock: which build is right depends on the machine (TORCH="torch==2.13.0+cu126", an index in pip's settings).
.venv/installed: requirements.lock pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=python3.11")'
	$(PYTHON) -m venv .venv
	$(PIP) "$(TORCH)"
	$(PIP) --require-hashes -r requirements.lock
	$(PIP) --no-deps --no-build-isolation --editable .
	@touch $@

RECIPE ?= digits-sid2a
demo: setup ## real images through the whole DAG, ending with a score; STORE=s3 keeps everything in an S3 server that it starts
	$(if $(filter s3,$(STORE)),$(BIN)/python -m scripts.s3 runs/seaweedfs )$(BIN)/sida run $(RECIPE)

ui: setup ## MLflow's pages on the runs of this machine
	$(BIN)/sida ui

JOBS ?= 2
PYTEST := $(BIN)/python -m pytest --numprocesses $(JOBS) --dist worksteal
test: setup ## what matters, in minutes; JOBS processes at once
	$(PYTEST) -m "not slow and not container and not cluster"

test-all: setup ## everything but containers and clusters
	$(PYTEST) -m "not container and not cluster"

# Both want a torchvision that fits torch, of which the tests make what is needed: their own requirements are left out.
BESIDE := clean-fid==0.1.35 torch-fidelity==0.4.0
test-beside: setup ## clean-fid and torch-fidelity themselves beside our scores; fetches both into a folder of their own
	$(PIP) --no-deps --upgrade --target .venv/beside $(BESIDE)
	PYTHONPATH=$(CURDIR)/.venv/beside $(BIN)/python -m pytest tests/scoring/test_cleanfid.py tests/scoring/test_torch_fidelity.py

KILLS ?= 100
SEED ?= 0
soak: setup ## kill -9 at random, KILLS times, on both stores: the generator must not change by a bit
	$(BIN)/python -m tests.soak --kills $(KILLS) --seed $(SEED)

test-container: setup ## build the image and run it (as root, with buildah, runc or crun, debootstrap)
	$(BIN)/python -m pytest -m container tests/container

test-cluster: setup ## on the cluster that KUBECONFIG names, with the images SIDA_TEST_IMAGE and SIDA_TEST_MLFLOW_IMAGE
	$(BIN)/python -m pytest -m cluster tests/cluster

bench: setup ## speed and memory, as ratios: images/s at 1 and 2 processes, checkpoint stall, in-loop share, memory by part
	$(BIN)/python -m benchmarks

image: ## build an image with docker, podman or buildah: make image IMAGE="--image cpu|cuda|mlflow --tag NAME --base IMAGE@sha256:..."
	$(PYTHON) scripts/image.py $(IMAGE)

check: setup ## format, lint, types, import rules, then test
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(MAKE) test

format: setup ## format and mend what ruff can
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

lock: setup ## move the locks to the newest of everything (torch stays where scripts/lock.py has it)
	$(BIN)/python scripts/lock.py --newest

matrix: setup ## short tests at both ends of pyproject.toml's ranges, on Python 3.11 to 3.13; the table is in build/matrix
	nice $(BIN)/python -m scripts.matrix

clean: ## remove what make and the demo made
	rm -rf .venv runs build dist *.egg-info .pytest_cache .ruff_cache .mypy_cache .import_linter_cache .hypothesis
