# Two commands for a fresh machine: `make serve` and `make test`. Both set up .venv first.
PYTHON ?= python3
BIN := .venv/bin
PAGES := docs README.md CONTRIBUTING.md
export NO_MKDOCS_2_WARNING := 1

.DEFAULT_GOAL := help
.PHONY: help setup serve site offline test lint update bench lighthouse levels clean

help:  ## say what can be made
	@sed -n 's/^\([a-z]*\):.*## /  make \1\t/p' Makefile | expand -t 18

setup: .venv/.ready  ## make .venv with all that the other targets need; does nothing twice

# Python compiles what it imports: to compile all that is installed takes as long as to install it.
.venv/.ready: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "handwave needs Python 3.11 or newer, but $(PYTHON) is " + sys.version.split()[0] + "; name another: make setup PYTHON=python3.12")'
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --no-compile --constraint constraints.txt --editable ".[test]"
	@touch .venv/.ready

serve: setup  ## run the blocks, build the site, serve it on http://127.0.0.1:8000, follow edits
	$(BIN)/mkdocs serve

site: setup  ## build the site into ./site
	$(BIN)/mkdocs build --strict

offline: setup  ## build ./offline/handwave.zip, a copy to read from a folder, search included
	OFFLINE=true $(BIN)/mkdocs build --strict --site-dir offline/handwave
	cd offline && ../$(BIN)/python -m zipfile -c handwave.zip handwave

lint: setup
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/pyright

test: lint  ## check everything: style, types, tests, every block of every page, the built site
	$(BIN)/python -m handwave_site run $(PAGES)
	OMP_NUM_THREADS=1 $(BIN)/pytest --numprocesses auto

update: setup  ## run the blocks and rewrite the output fences of the pages
	$(BIN)/python -m handwave_site update $(PAGES)

bench: setup  ## measure speed, as ratios within one run
	$(BIN)/pytest tests/benchmarks --override-ini addopts= --capture=no

lighthouse: setup  ## build the site and measure it in Chromium with Lighthouse, which npx brings
	$(BIN)/python tests/lighthouse.py

# Every output is the same on every processor: run all blocks, uncached, under each kind, of
# torch's own kernels and of oneDNN's, which multiply half precision in hardware where there is some.
levels: setup  ## run all blocks under each CPU capability, with 1 and 2 threads, uncached
	@set -e; for level in default:SSE41 avx2:AVX2 avx512:AVX512_CORE avx512:ALL; do \
	  for threads in 1 2; do \
	    export ATEN_CPU_CAPABILITY=$${level%:*} ONEDNN_MAX_CPU_ISA=$${level#*:} OMP_NUM_THREADS=$$threads; \
	    echo "ATEN_CPU_CAPABILITY=$$ATEN_CPU_CAPABILITY ONEDNN_MAX_CPU_ISA=$$ONEDNN_MAX_CPU_ISA OMP_NUM_THREADS=$$threads"; \
	    $(BIN)/python -m handwave_site run --no-cache $(PAGES); \
	done; done

clean:  ## delete all that make made
	rm -rf .venv .cache site offline docs/figures figures build src/*.egg-info .pytest_cache .ruff_cache .hypothesis .benchmarks
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
