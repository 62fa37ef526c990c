# From a fresh clone to figures: `make reproduce`. The whole test suite: `make test`.

PYTHON ?= python3
CORES ?= all
SCALE ?= desk
# An index with CPU builds of torch, for Linux machines without a GPU (saves 2 GB of CUDA).
TORCH_INDEX ?=
SNAKEMAKE = .venv/bin/snakemake --cores $(CORES) --config scale=$(SCALE)

.PHONY: install export reproduce report targets test check benchmark benchmark-training clean

install: .venv/installed

.venv/installed: pyproject.toml envs/constraints.txt
	test -x .venv/bin/python || $(PYTHON) -m venv .venv
	.venv/bin/pip install $(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX)) torch==2.13.0
	.venv/bin/pip install -c envs/constraints.txt -e '.[dev]'
	touch $@

# SAELens, apart, so that `make test` also opens exported SAEs in it.
export: .venv-export/installed

.venv-export/installed: envs/export.txt
	test -x .venv-export/bin/python || $(PYTHON) -m venv .venv-export
	.venv-export/bin/pip install $(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX)) torch==2.13.0
	.venv-export/bin/pip install -r envs/export.txt
	touch $@

reproduce: install
	$(SNAKEMAKE)

report: install
	$(SNAKEMAKE) report

targets: install
	$(SNAKEMAKE) --quiet all -- list_targets

# Tests share the cores, so each of their processes has one thread.
test: install
	OMP_NUM_THREADS=1 .venv/bin/python -m pytest

check: install
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy
	.venv/bin/snakefmt --check Snakefile workflow/rules
	.venv/bin/snakemake --lint

benchmark: install
	.venv/bin/python benchmarks/activations.py

# Next to other libraries: PEERS=peers/bin/python, see benchmarks/README.md. SHAPE=small|large|wide.
SHAPE ?= medium
PEERS ?=
benchmark-training: install
	.venv/bin/python benchmarks/training.py --shape $(SHAPE) $(if $(PEERS),--peers $(PEERS)) \
	  --out benchmarks/results/training-$(SHAPE).md

clean:
	rm -rf results/smoke results/desk results/paper .snakemake
