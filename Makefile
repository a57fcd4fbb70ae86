# One word for each thing a person wants to do here. `make` alone explains them.
# Needs Python >= 3.11 with venv; another interpreter: make setup PYTHON=python3.12

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.ready

export DO_NOT_TRACK := 1
export PREFECT_SERVER_ANALYTICS_ENABLED := false

.DEFAULT_GOAL := help
.PHONY: help setup demo check test bench bench-full bench-deepsqueeze bench-reads bench-readme chaos scale serve clean

help:
	@echo "latentpack: datasets stored as sparse latents plus corrections, proven by decoding"
	@echo
	@echo "  make setup       create .venv and install everything; leaves $(BIN)/latentpack"
	@echo "  make demo        archive the bundled flights, add new months, verify, read back (<= 3 minutes)"
	@echo "  make test        setup, check, then every test; what continuous integration runs"
	@echo "  make check       ruff, mypy, import contracts"
	@echo "  make bench       regenerate the benchmark table of the README (DATA=<folder> for datasets of your own)"
	@echo "  make bench-full  the same at every bound with every peer, those that train and those of other packages too"
	@echo "  make bench-deepsqueeze  per cent of the CSV at bounds on every column of numbers, as DeepSqueeze states it"
	@echo "  make bench-reads  what 1,000 rows cost by the rows of a block, beside Parquet (DATA, ARGS as above)"
	@echo "  make bench-readme  the README's tables and plot again, from the results there are"
	@echo "  make chaos       kill runs at random instants and prove the archive whole"
	@echo "  make scale       a dataset larger than the memory it may use"
	@echo "  make serve       Prefect server with UI and the served, scheduled pipeline"
	@echo "  make clean       remove .venv, caches and the demo's work folder"
	@echo
	@echo "First time: make demo. Then: $(BIN)/latentpack run SOURCE ARCHIVE --tolerance 'temp=0.05'"

setup: $(STAMP)
	@echo "ready: $(BIN)/latentpack"

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "latentpack needs Python >= 3.11; found $$($(PYTHON) --version). Try: make setup PYTHON=python3.11"; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "installing into $(VENV); the first time this takes some minutes"
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[flows,s3,dev]'
	@touch $@

demo: setup
	$(BIN)/python benchmarks/demo.py

check: setup
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache

test: setup check
	$(BIN)/python -m pytest

# ARGS: further options, see benchmarks/bench.py --help
bench: setup
	$(BIN)/python benchmarks/bench.py $(if $(DATA),--data "$(DATA)") $(ARGS)

# The optional peers are other people's packages: one that has no build for this machine is a dash in the table.
bench-full: setup
	@for peer in openzl pysz zfpy; do \
		$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt $$peer || echo "without $$peer"; done
	$(BIN)/python benchmarks/bench.py --full $(if $(DATA),--data "$(DATA)") $(ARGS)

bench-deepsqueeze: setup
	$(BIN)/python benchmarks/bench.py --deepsqueeze --bounds 1% --peers best-conventional vae \
		--out benchmarks/results/deepsqueeze.csv $(if $(DATA),--data "$(DATA)") $(ARGS)

bench-reads: setup
	$(BIN)/python benchmarks/reads.py $(if $(DATA),--data "$(DATA)") $(ARGS)

bench-readme: setup
	$(BIN)/python benchmarks/readme.py

chaos: setup
	$(BIN)/python benchmarks/chaos.py

scale: setup
	$(BIN)/python benchmarks/scale.py

serve: setup
	$(BIN)/latentpack serve

clean:
	rm -rf $(VENV) demo build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
	find flows storage vae_core tests benchmarks -name __pycache__ -type d -prune -exec rm -rf {} +
