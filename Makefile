# Every target does its own set-up: `make venv` needs only git, make and a Python of 3.11 or newer with its venv module.

.DEFAULT_GOAL := help
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DELETE_ON_ERROR:

BIN := .venv/bin
STAMP := .venv/.installed
# A python3 that is only a launcher, or one without venv, fails the probe, and the next name is tried.
PYTHONS := python3 python3.13 python3.12 python3.11
PROBE := import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))
COMPILE := uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url \
	--no-annotate --custom-compile-command "make requirements" pyproject.toml

.PHONY: help
help: ## list the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "  make %-14s%s\n", $$1, $$2}' Makefile

.PHONY: venv
venv: $(STAMP) ## make .venv with everything pinned and hashed (no-op when up to date)

$(STAMP): requirements/dev.txt pyproject.toml $(wildcard operator/posthouse_operator/__init__.py)
	@for python in $(PYTHONS); do \
		if "$$python" -c '$(PROBE)' >/dev/null 2>&1; then found="$$python"; break; fi; \
	done; \
	if [ -z "$${found:-}" ]; then \
		echo "make: needs Python 3.11 or newer with its venv module (on Debian: apt-get install python3-venv)" >&2; exit 1; \
	fi; \
	if ! $(BIN)/python -c '$(PROBE)' >/dev/null 2>&1; then rm -rf .venv; "$$found" -m venv .venv; fi
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements/dev.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $@

.PHONY: requirements
requirements: $(STAMP) ## pin and hash the requirement files again from pyproject.toml
	@[ -x .cache/uv/bin/uv ] || { python3 -m venv .cache/uv && .cache/uv/bin/pip install --quiet uv; }
	PATH="$$PWD/.cache/uv/bin:$$PATH" $(COMPILE) --upgrade --extra postgres --extra kubernetes --extra operator -o requirements/runtime.txt
	PATH="$$PWD/.cache/uv/bin:$$PATH" $(COMPILE) --upgrade --extra postgres --extra kubernetes --extra operator --extra dev -c requirements/runtime.txt -o requirements/dev.txt

.PHONY: demo
demo: $(STAMP) ## show a real relay at work on this machine
	@$(BIN)/posthouse demo

.PHONY: test
test: $(STAMP) ## run the tests; what this machine cannot run is named at the end
	@$(BIN)/python -m pytest -q

.PHONY: simulate
simulate: $(STAMP) ## simulate elections with faults: RUNS=20000 SEED=0
	@$(BIN)/python tests/simulation/simulate.py --runs $(or $(RUNS),20000) --start $(or $(SEED),0)

.PHONY: check
check: $(STAMP) ## style, types, layers, and whether the generated documentation is up to date
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy $(wildcard relay operator/posthouse_operator tests bench)
	$(BIN)/lint-imports
	@$(BIN)/posthouse config reference --format markdown | diff -u docs/configuration.md - \
		|| { echo "make: docs/configuration.md is out of date: run \`make docs\`" >&2; exit 1; }

.PHONY: bench
bench: $(STAMP) ## measure against the other brokers (see docs/measurements.md)
	@$(BIN)/python -m bench

IMAGE ?= posthouse:dev
VERSION = $(shell sed -n 's/^version = "\(.*\)"/\1/p' pyproject.toml)
REVISION = $(shell git describe --always --abbrev=40 --exclude='*' --dirty=-modified 2>/dev/null || echo unknown)

# What pip is told on this machine (an index of its own, a proxy, authorities) is lent to the build, and does not stay.
.PHONY: image
image: ## build the image with docker or buildah: IMAGE=posthouse:dev PYTHON_IMAGE=… BUILDER=…
	@builder=$(BUILDER); lent=$$(mktemp -d); trap 'rm -rf "$$lent"' EXIT; \
	export SOURCE_DATE_EPOCH=$${SOURCE_DATE_EPOCH:-$$(git log -1 --format=%ct 2>/dev/null || echo 315532800)}; \
	if [ -z "$$builder" ]; then docker info >/dev/null 2>&1 && builder=docker || builder=buildah; fi; \
	case $$builder in \
		docker) export DOCKER_BUILDKIT=1; build=(docker build);; \
		buildah) build=(buildah bud --isolation chroot --timestamp "$$SOURCE_DATE_EPOCH");; \
		*) build=(); echo "make: BUILDER is docker or buildah, not $$builder" >&2; exit 1;; \
	esac; \
	command -v $$builder >/dev/null || { echo "make: needs a docker that runs, or buildah" >&2; exit 1; }; \
	for python in $(BIN)/python python3; do \
		"$$python" -m pip config list > "$$lent/settings" 2>/dev/null && break; \
	done || true; \
	sed -nE "s/^[^.]*\.(index-url|extra-index-url|trusted-host|proxy|default-timeout)='(.*)'$$/\1 = \2/p" "$$lent/settings" \
		| awk 'BEGIN { print "[global]" } !seen[$$1]++ { gsub(/\\n/, "\n  "); print }' > "$$lent/pip.conf"; \
	build+=(--secret "id=pip.conf,src=$$lent/pip.conf"); \
	ca=$$(sed -nE "s/^[^.]*\.cert='(.*)'$$/\1/p" "$$lent/settings" | head -n 1); ca=$${ca:-$${SSL_CERT_FILE:-}}; \
	if [ -f "$$ca" ]; then build+=(--secret "id=ca.crt,src=$$ca"); fi; \
	"$${build[@]}" $(if $(PYTHON_IMAGE),--build-arg PYTHON_IMAGE=$(PYTHON_IMAGE)) --build-arg VERSION="$(VERSION)" \
		--build-arg REVISION="$(REVISION)" --tag "$(IMAGE)" .

.PHONY: cluster
cluster: $(STAMP) ## bring up a real Kubernetes for the tests, with the image (see docs/testing.md)
	@PYTHONPATH=tests/cluster $(BIN)/python -m testbed up

.PHONY: cluster-down
cluster-down: $(STAMP) ## remove that Kubernetes; what was built for it stays in the cache
	@PYTHONPATH=tests/cluster $(BIN)/python -m testbed down

.PHONY: docs
docs: $(STAMP) ## write the generated documentation again
	$(BIN)/posthouse config reference --format markdown > docs/configuration.md

.PHONY: clean
clean: ## remove the venv and everything that was made here
	rm -rf .venv .cache .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis build dist *.egg-info
	find $(wildcard relay tests bench) -name __pycache__ -prune -exec rm -rf {} +
