# Everything sets itself up: a virtual environment in .venv from hashed locks, then the work. Needs python3 with venv.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
RUN_READY := $(VENV)/run.stamp
DEV_READY := $(VENV)/dev.stamp
PEERS := .venv-peers
FACE := .venv-face

.PHONY: help run demo test lint test-face test-slow test-systemd bench grafana reference lock clean

help:  ## what can be made
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 16

$(BIN)/python:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "x0tta6bl4 needs Python 3.11 or newer")'
	$(PYTHON) -m venv $(VENV)

$(RUN_READY): $(BIN)/python requirements/run.txt pyproject.toml
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements/run.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

$(DEV_READY): $(RUN_READY) requirements/dev.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements/dev.txt
	@touch $@

run: $(RUN_READY)  ## the daemon on this host, with config/x0tta6bl4.yaml
	$(BIN)/x0tta6bl4 run --config config/x0tta6bl4.yaml

demo: $(RUN_READY)  ## a small service, broken in four ways and healed live
	$(BIN)/x0tta6bl4 demo

lint: $(DEV_READY)  ## style, types, direction of imports, generated files
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/x0tta6bl4 config reference | diff -u config/reference.yaml - \
	  || (echo "config/reference.yaml is out of date: make reference" && false)

test: lint  ## everything that takes less than five minutes
	$(BIN)/pytest -m "not slow and not systemd and not face" --ignore tests/face

test-face: $(FACE)/face.stamp  ## the endpoint before a real Prometheus, Alertmanager and Chromium, and a fuzz of its API
	$(FACE)/bin/pytest -m face tests/face

test-slow: $(DEV_READY)  ## the real daemon in a short fault campaign, killed at random instants
	$(BIN)/pytest -m slow

test-systemd: $(DEV_READY)  ## real units under a real systemd in a container; needs root and debootstrap
	$(BIN)/pytest -m systemd

bench: $(RUN_READY) $(PEERS)/peers.stamp  ## prints every number that README claims
	X0TTA6BL4_PEERS=$(CURDIR)/$(PEERS)/bin/python PYTHONPATH=$(CURDIR) $(BIN)/python -m benchmarks

$(PEERS)/peers.stamp: requirements/peers.txt  # a place of their own: the daemon must not find them by chance
	$(PYTHON) -m venv $(PEERS)
	$(PEERS)/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements/peers.txt
	@touch $@

$(FACE)/face.stamp: requirements/run.txt requirements/face.txt pyproject.toml  # nothing of the daemon needs any of it
	$(PYTHON) -m venv $(FACE)
	$(FACE)/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes \
	  -r requirements/run.txt -r requirements/face.txt
	$(FACE)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

grafana: $(FACE)/face.stamp  ## writes the dashboards in config/grafana/dashboards anew
	$(FACE)/bin/python config/grafana/generate.py

reference: $(RUN_READY)  ## writes config/reference.yaml anew from the settings' own documentation
	$(BIN)/x0tta6bl4 config reference > config/reference.yaml.new
	mv config/reference.yaml.new config/reference.yaml

lock: $(DEV_READY)  ## resolves the dependencies anew; needs pip-tools from the registry
	$(BIN)/python -m pip install --quiet pip-tools
	$(BIN)/python -m piptools compile --quiet --strip-extras --generate-hashes --no-emit-index-url --no-emit-find-links \
	  --no-header --all-build-deps -o requirements/run.txt pyproject.toml
	$(BIN)/python -m piptools compile --quiet --strip-extras --generate-hashes --no-emit-index-url --no-emit-find-links \
	  --no-header --extra dev -c requirements/run.txt -o requirements/dev.txt pyproject.toml
	$(BIN)/python -m piptools compile --quiet --strip-extras --generate-hashes --no-emit-index-url --no-emit-find-links \
	  --no-header -o requirements/peers.txt requirements/peers.in
	$(BIN)/python -m piptools compile --quiet --strip-extras --generate-hashes --no-emit-index-url --no-emit-find-links \
	  --no-header -c requirements/run.txt -c requirements/dev.txt -o requirements/face.txt requirements/face.in

clean:  ## removes what was set up and what was run; var/ keeps the journal and is left alone
	rm -rf $(VENV) $(PEERS) $(FACE) .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
