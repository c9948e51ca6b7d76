# One paper or all of them: PAPER=<name> names a folder of packages/ (or "shared"); without it, test takes
# everything and demo, bench and reproduce take ssd_det. `make help` lists the targets.

PYTHON ?= python3
VENV ?= .venv
PAPER ?= all
gpu ?=
args ?=
NAME ?=

ALL := $(notdir $(patsubst %/pyproject.toml,%,$(wildcard packages/*/pyproject.toml)))
PAPERS := $(filter-out shared,$(if $(filter all,$(PAPER)),$(ALL),$(PAPER)))
ONE := $(if $(filter all shared,$(PAPER)),ssd_det,$(PAPER))
TESTS := $(if $(filter all shared,$(PAPER)),shared/tests) $(PAPERS:%=packages/%/tests)
RUN := $(VENV)/bin/python
PIP := $(RUN) -m pip install --quiet --disable-pip-version-check

ifneq ($(filter-out $(ALL) all shared,$(PAPER)),)
$(error PAPER=$(PAPER) is not a paper of this repository. Choose from: $(ALL), shared or all)
endif

.DEFAULT_GOAL := help
.PHONY: help setup demo test lint bench reproduce docs new-paper

help: ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/  \1\t\2/' | expand -t 14
	@echo "  PAPER=<name>, one of: $(ALL) (or shared); PYTHON=<interpreter> for the environment in $(VENV)"

setup: $(VENV)/.shared $(PAPERS:%=$(VENV)/.%) ## environment with the chosen packages, their test tools and the linters

demo: setup ## train and evaluate on generated data, write outputs/demo/report.html (CPU, minutes)
	$(RUN) -m $(ONE).demo

test: setup ## tests of the shared library and all papers, or of PAPER alone
	$(RUN) -m pytest $(TESTS)

lint: setup ## ruff, mypy, workflow schema
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .
	$(RUN) -m mypy shared packages benchmarks docs tools
	$(VENV)/bin/check-jsonschema --builtin-schema vendor.github-workflows .github/workflows/*.yml

bench: setup ## speed against the named alternatives, as ratios measured in one run (gpu=1 adds the GPU parts)
	$(RUN) benchmarks/run.py --paper $(ONE) $(if $(gpu),--gpu)
	$(RUN) benchmarks/tables.py

reproduce: setup ## the claim run of the paper, result and table under benchmarks/; args="bccd --root DIR" for other data
	$(RUN) benchmarks/claims/$(ONE).py $(args)
	$(RUN) benchmarks/tables.py

docs: setup ## result tables in the READMEs, API pages in outputs/docs
	$(RUN) benchmarks/tables.py
	$(PIP) pdoc
	$(RUN) docs/api.py outputs/docs vireo $(PAPERS)

new-paper: $(VENV)/.shared ## packages/NAME, a small paper that already passes lint and tests; NAME=<name>
	$(RUN) tools/new_paper.py "$(NAME)"

# Every stamp stands for one installed distribution, so that only what changed is installed again. torch and torchvision
# come together from one index: a torchvision beside another build of torch lacks its operators.
$(VENV)/.torch:
	$(PYTHON) -m venv $(VENV)
	$(PIP) torch torchvision
	@touch $@

$(VENV)/.shared: shared/pyproject.toml $(VENV)/.torch
	$(PIP) ruff mypy check-jsonschema
	$(PIP) --editable "./shared[test]"
	@touch $@

# A package pins vireo to its own checkout by path, and pip then installs a copy of it in place of the editable one
# (both in one command it refuses): put the editable one back.
$(VENV)/.%: packages/%/pyproject.toml $(VENV)/.shared
	$(PIP) --editable "./packages/$*[test]"
	$(PIP) --no-deps --editable ./shared
	@touch $@
