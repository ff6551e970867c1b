# Two commands do everything on a fresh machine with Python 3.11+, make and the package registries:
# `make demo` and `make test`.
PYTHON ?= python3
VENV := .venv
FLYTEKIT := .venv-flytekit
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
WORKERS ?= 2

.PHONY: demo test faults backends check lint types layers bench conformance clean
.DELETE_ON_ERROR:

$(STAMP): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Airside needs Python 3.11 or newer: make PYTHON=python3.11")'
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@test -x $(BIN)/uv || $(BIN)/python -m pip install --quiet --disable-pip-version-check uv
	@$(BIN)/uv pip install --quiet --python $(BIN)/python --group dev --editable '.[all,testing]'
	@touch $@

demo: $(STAMP)  ## run real tasks through a served agent and print their outputs
	@$(BIN)/airside demo

test: $(STAMP)  ## run every test; those that break things for real by themselves, since they measure times
	@$(BIN)/python -m pytest --numprocesses $(WORKERS) --dist loadfile --ignore tests/faults $(addprefix --budget ,$(BUDGETS))
	@$(BIN)/python -m pytest tests/faults

faults: $(STAMP) $(FLYTEKIT)/.installed  ## break things for real, at full length, with figures; ONLY="kills" for one
	@$(BIN)/python -m pytest -m faults --timeout 1800 --capture no $(if $(ONLY),-k "$(ONLY)") tests/faults

backends: $(STAMP)  ## test every agent against the real service or its emulator
	@AIRSIDE_BUILD=k8s_job $(BIN)/python -m pytest -m '' --timeout 1800 tests/backends

backend-%: $(STAMP)  ## the same for one agent: make backend-slurm
	@AIRSIDE_BUILD=$* $(BIN)/python -m pytest -m '' --timeout 1800 tests/backends/$*

check: $(STAMP) lint types layers  ## lint, types, layers

lint: $(STAMP)
	@$(BIN)/ruff format --check --quiet .
	@$(BIN)/ruff check --quiet .

types: $(STAMP)
	@$(BIN)/mypy

layers: $(STAMP)
	@$(BIN)/lint-imports --no-logo 2>/dev/null || $(BIN)/lint-imports

$(FLYTEKIT)/.installed: | $(STAMP)
	@$(BIN)/uv venv --quiet --clear --python $(BIN)/python $(FLYTEKIT)
	@$(BIN)/uv pip install --quiet --python $(FLYTEKIT)/bin/python 'flytekit[agent]==1.16.*'
	@touch $@

$(FLYTEKIT)-bigquery/.installed: | $(STAMP)
	@$(BIN)/uv venv --quiet --clear --python $(BIN)/python $(FLYTEKIT)-bigquery
	@$(BIN)/uv pip install --quiet --python $(FLYTEKIT)-bigquery/bin/python 'flytekit[agent]==1.16.*' 'flytekitplugins-bigquery==1.16.*'
	@touch $@

bench: $(STAMP) $(FLYTEKIT)/.installed $(FLYTEKIT)-bigquery/.installed  ## measure beside flytekit: all figures, or ONLY="import get"; SHORT=1 for a quick look
	@$(BIN)/python -m bench $(if $(ONLY),--only $(ONLY)) $(if $(SHORT),--short)

FLYTE2 := .venv-flyte2

$(FLYTE2)/.installed: | $(STAMP)
	@$(BIN)/uv venv --quiet --clear --python $(BIN)/python $(FLYTE2)
	@$(BIN)/uv pip install --quiet --python $(FLYTE2)/bin/python 'flyte[connector]==2.12.*'
	@touch $@

conformance: $(STAMP) $(FLYTEKIT)/.installed $(FLYTE2)/.installed  ## try each SDK's service, and write docs/conformance; SLOW=1 for all cases
	@$(BIN)/python -m conformance $(if $(SLOW),--slow)

clean:
	rm -rf $(VENV) $(FLYTEKIT) $(FLYTEKIT)-bigquery $(FLYTE2) .backends
	rm -rf .mypy_cache .ruff_cache .pytest_cache .hypothesis
