# The targets do all of their own set-up, once: a venv, packages, and the servers the tests need.
SHELL := /bin/bash
# The system's interpreter where it is whole: it is built with profile-guided optimisation, and 10 to 20% faster.
PYTHON ?= $(shell /usr/bin/python3.11 -c 'import ensurepip, venv' 2>/dev/null && echo /usr/bin/python3.11 || echo python3.11)
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: help demo test check bench hotspots soak fuzz wheel clean servers

help: ## what there is to make
	@grep -hE '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## (.*)/  make \1\t\2/' | expand -t 16

$(STAMP): pyproject.toml hatch_build.py $(wildcard src/tailrace/inference/*.c src/tailrace/inference/*.h)
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "installing packages into $(VENV) (once)"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[offline,package,bench,dev]'
	@touch $@

# Debian's servers, where they are missing; quiet, and not started by their packages: invoke-rc.d asks policy-rc.d, and
# 101 means no. A policy that is there already is the machine's own, and stays.
POLICY := /usr/sbin/policy-rc.d
define need
	@command -v $(1) >/dev/null 2>&1 || test -x /usr/sbin/$(1) || { echo "installing $(2) with apt-get (once)"; \
	  $$(test "$$(id -u)" = 0 || echo sudo) env DEBIAN_FRONTEND=noninteractive sh -ec ' \
	    if ! test -e $(POLICY); then trap "rm -f $(POLICY)" EXIT; trap "exit 1" HUP INT TERM; \
	      printf "#!/bin/sh\nexit 101\n" >$(POLICY); chmod 755 $(POLICY); fi; \
	    apt-get update -qq; apt-get install -qq -y --no-install-recommends $(2) >/dev/null'; }
endef

servers:
	$(call need,gcc,gcc libc6-dev)
	$(call need,redis-server,redis-server)
	$(call need,nginx,nginx-light)
	$(call need,haproxy,haproxy)
	$(call need,wrk,wrk)

demo: $(STAMP) ## prepare the fraud example, serve it, replay transactions, print what it caught and its latency
	@$(BIN)/python examples/fraud/demo.py

test: $(STAMP) servers ## run the tests
	@$(BIN)/pytest

check: $(STAMP) ## lint and types
	@$(BIN)/ruff check
	@$(BIN)/ruff format --check
	@$(BIN)/mypy

bench: $(STAMP) servers ## measure, in twenty minutes; writes build/bench.json. ONLY=hot_path,idle: some parts. BASE=rev
	@$(BIN)/python bench/run.py $(if $(ONLY),--only '$(ONLY)') $(if $(BASE),--base '$(BASE)') $(if $(QUICK),--quick)

hotspots: $(STAMP) servers ## where each microsecond of a request goes; needs perf, which may want root
	$(call need,perf,linux-perf)
	@$(BIN)/python bench/hotspots.py

soak: $(STAMP) servers ## overload at 2x, 5x and 10x the peak: what is answered in time, how fast the rest is refused
	@$(BIN)/python bench/overload.py

fuzz: $(STAMP) ## the property tests with many more examples
	@$(BIN)/pytest -m hypothesis --hypothesis-profile=fuzz --timeout=1800

wheel: $(STAMP) ## build the wheel into dist/
	@$(BIN)/python -m build --wheel --outdir dist . >/dev/null && ls dist/*.whl

clean: ## remove what the targets made, but for the venv
	@rm -rf build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis
