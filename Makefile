# Each target sets up all that it needs in .venv: `make bench` and `make test` work on a bare machine.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# A CPU build of torch where there is no NVIDIA driver; elsewhere what the index gives.
CONSTRAINT := $(shell command -v nvidia-smi >/dev/null 2>&1 || echo "-c constraints-cpu.txt")
WORKERS ?= 2

.PHONY: bench test check gpu clean

bench: $(VENV)/.installed
	$(BIN)/flowzoo bench --models cglow,maf,sospf

test: $(VENV)/.installed-dev
	OMP_NUM_THREADS=1 $(BIN)/pytest -q -n $(WORKERS) --dist loadgroup

check: $(VENV)/.installed-dev
	$(BIN)/ruff check flowzoo tests benchmarks
	$(BIN)/ruff format --check flowzoo tests benchmarks
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/pytest -q --doctest-modules flowzoo -p no:xdist

# On a machine with a GPU: what only that can test, then the figures of docs/speed.md on it, in runs/gpu.
gpu: $(VENV)/.installed-dev
	mkdir -p runs/gpu
	-$(BIN)/pytest -m gpu
	for engine in eager graph compile; do \
	  $(BIN)/python benchmarks/speed/run.py --device cuda --engine $$engine --only galacticforge kernels --out runs/gpu/step-$$engine.jsonl; done
	$(BIN)/python benchmarks/speed/run.py --device cuda --only together compare --dims 2 10 64 --out runs/gpu/speed.jsonl
	$(BIN)/python benchmarks/draw_speed.py --device cuda | tee runs/gpu/draws.md
	FLOWZOO_CUDA_GRAPHS=1 $(BIN)/python benchmarks/draw_speed.py --device cuda | tee runs/gpu/draws-graphs.md

clean:
	rm -rf $(VENV) build *.egg-info

$(BIN)/python:
	$(PYTHON) -c 'import sys; v = sys.version.split()[0]; sys.exit(None if sys.version_info >= (3, 11) else "flowzoo needs Python 3.11 or newer; " + v + " came. Try: make PYTHON=python3.11 ...")'
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: pyproject.toml constraints-cpu.txt | $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check $(CONSTRAINT) -e .
	touch $@

$(VENV)/.installed-dev: pyproject.toml constraints-cpu.txt | $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check $(CONSTRAINT) -e '.[dev]'
	touch $@ $(VENV)/.installed
