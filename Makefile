# The targets do all of their own set-up, once: a venv, packages, and the servers the tests need.
SHELL := /bin/bash
# PYTHON=3.13, or a program: another Python, in a venv of its own, .venv-3.13.
PYTHONS := 3.11 3.12 3.13
INTERPRETER := $(shell sh tools/find_python.sh $(or $(PYTHON),$(PYTHONS)))
VERSION := $(if $(INTERPRETER),$(shell $(INTERPRETER) -c 'import sys; print("%d.%d" % sys.version_info[:2])'),absent)
VENV := .venv$(if $(PYTHON),-$(VERSION))
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
EXTRAS := offline,package,dynamodb,registry,bench,dev
# Where Python may keep nothing that it compiled, each process that a test starts compiles all sources anew.
export PYTHONDONTWRITEBYTECODE :=

.PHONY: help demo test check bench hotspots soak fuzz wheel matrix lock image clean servers java alertmanager

help: ## what there is to make
	@grep -hE '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## (.*)/  make \1\t\2/' | expand -t 16

$(STAMP): pyproject.toml hatch_build.py $(wildcard src/tailrace/*/*.c src/tailrace/*/*/*.c src/tailrace/*/*/*.h)
	@test -n "$(INTERPRETER)" || { echo "there is no Python $(or $(PYTHON),$(PYTHONS)) here that makes venvs: apt-get install \
	python3-venv, or pyenv install 3.13; or name one, PYTHON=/path/to/python" >&2; exit 1; }
	@test -x $(BIN)/python || $(INTERPRETER) -m venv $(VENV)
	@echo "installing packages into $(VENV) (once)"
	@# uv is several times as fast, and what it has fetched the matrix need not fetch again; pip knows its own index.
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check 'uv>=0.6,<1'
	@$(BIN)/uv pip install --quiet --python $(BIN)/python --compile-bytecode --reinstall-package tailrace -e '.[$(EXTRAS)]' || \
	  $(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[$(EXTRAS)]'
	@touch $@

# Debian's servers, where they are missing; quiet, and not started by their packages: invoke-rc.d asks policy-rc.d, and
# 101 means no. A policy that is there already is the machine's own, and stays. Only root installs, or sudo that asks no
# password: else what is missing is told, and the tests that need it say that they are skipped.
POLICY := /usr/sbin/policy-rc.d
POSTGRES := /usr/lib/postgresql# Debian keeps its programs there, a folder a version, and out of PATH
define need
	@command -v $(1) >/dev/null 2>&1 || test -x /usr/sbin/$(1) || ls $(POSTGRES)/*/bin/$(1) >/dev/null 2>&1 || { become=; test "$$(id -u)" = 0 || become=sudo; \
	  if test -n "$$become" && ! $$become -n true 2>/dev/null; then \
	    echo "$(1) is missing, and only root can install it: apt-get install $(2)" >&2; \
	  else \
	    echo "installing $(2) with apt-get (once)"; \
	    $$become env DEBIAN_FRONTEND=noninteractive sh -ec ' \
	      if ! test -e $(POLICY); then trap "rm -f $(POLICY)" EXIT; trap "exit 1" HUP INT TERM; \
	        printf "#!/bin/sh\nexit 101\n" >$(POLICY); chmod 755 $(POLICY); fi; \
	      apt-get update -qq; apt-get install -qq -y --no-install-recommends $(2) >/dev/null'; \
	  fi; }
endef

servers:
	$(call need,gcc,gcc libc6-dev)
	$(call need,redis-server,redis-server)
	$(call need,nginx,nginx-light)
	$(call need,haproxy,haproxy)
	$(call need,promtool,prometheus)
	$(call need,wrk,wrk)
	$(call need,initdb,postgresql)
	$(if $(SLOW),$(call need,chromium,chromium))

# Spark 4 runs on Java 17 and 21: where apt has no 17, its own choice is a later one.
JAVA = $(shell apt-cache show openjdk-17-jre-headless >/dev/null 2>&1 && echo openjdk-17 || echo default)-jre-headless
java:
	$(call need,java,$(JAVA))
alertmanager:
	$(call need,prometheus-alertmanager,prometheus-alertmanager)

demo: $(STAMP) ## prepare the fraud example, serve it, replay payments, print what it caught; KEEP=1: serve on, to look at it
	@$(BIN)/python examples/fraud/demo.py$(if $(KEEP), --keep)

# All but the slow ones run on several cores: tests/side_by_side.py has the order.
test: $(STAMP) servers $(if $(SLOW),java alertmanager) ## run the tests; TESTS=tests/cli: some. SLOW=1: slow ones too. PYTHON=3.13
	@$(BIN)/pytest $(if $(SLOW),-m 'slow or not slow') $(if $(SLOW)$(TESTS),,-n auto --maxprocesses 4) $(TESTS)

check: $(STAMP) ## lint and types
	@$(BIN)/ruff check
	@$(BIN)/ruff format --check
	@$(BIN)/mypy

bench: $(STAMP) servers ## measure, in half an hour; writes build/bench.json. ONLY=hot_path,idle: some parts. BASE=rev
	$(call need,chromium,chromium)
	@$(BIN)/python bench/run.py $(if $(ONLY),--only '$(ONLY)') $(if $(BASE),--base '$(BASE)') $(if $(QUICK),--quick)

hotspots: $(STAMP) servers ## where each microsecond of a request goes; needs perf, which may want root
	$(call need,perf,linux-perf)
	@$(BIN)/python bench/hotspots.py

soak: $(STAMP) servers ## overload at 2x, 5x and 10x the peak: what is answered in time, how fast the rest is refused
	@$(BIN)/python bench/overload.py

fuzz: $(STAMP) ## the property tests with many more examples
	@$(BIN)/pytest -m hypothesis --hypothesis-profile=fuzz --timeout=1800

wheel: $(STAMP) ## build two wheels into dist/: with the compiled kernels for manylinux, and without it for any machine
	$(call need,gcc,gcc libc6-dev)
	@rm -rf dist build/wheel && mkdir -p build/wheel
	@{ $(BIN)/python -m build --wheel --no-isolation --outdir build/wheel . && \
	  PATH="$(abspath $(BIN)):$$PATH" auditwheel repair --wheel-dir dist build/wheel/*.whl && \
	  TAILRACE_NO_COMPILE=1 $(BIN)/python -m build --wheel --no-isolation --outdir dist .; } >build/wheel/log 2>&1 || \
	  { cat build/wheel/log >&2; exit 1; }
	@ls dist/*.whl

matrix: $(STAMP) servers java ## each Python, lowest and newest dependencies, each extra; ONLY=3.12-lowest-package, SHORT=1, FRESH=1
	@$(BIN)/python tools/matrix.py $(if $(ONLY),--only '$(ONLY)') $(if $(SHORT),--short) $(if $(FRESH),--fresh)

lock: $(STAMP) ## write requirements.lock anew: what the image installs, by hashes
	@$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --upgrade --generate-hashes --no-annotate \
	  --custom-compile-command 'make lock' --output-file requirements.lock pyproject.toml

# OCI's own format has no HEALTHCHECK: podman and buildah are asked for docker's.
BUILDER = $(shell for each in podman buildah docker; do $$each info >/dev/null 2>&1 && echo $$each && break; done)
image: ## build the container image from the wheel, with podman, buildah or docker; IMAGE=name:tag
	@test -n "$(BUILDER)" || { echo "no image builder answers: install podman or buildah, or start docker" >&2; exit 1; }
	@$(MAKE) --no-print-directory wheel
	@$(BUILDER) build $(if $(filter docker,$(BUILDER)),,--format docker) --file Containerfile --tag '$(or $(IMAGE),tailrace)' .

clean: ## remove what the targets made, but for the venv
	@rm -rf build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis
