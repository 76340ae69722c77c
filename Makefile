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
	@sed -n 's/^\([a-z]*\):.*## /\1\t/p' Makefile | while IFS=$$'\t' read -r name text; do printf '  make %-14s%s\n' "$$name" "$$text"; done

.PHONY: venv
venv: $(STAMP) ## make .venv with everything pinned and hashed (no-op when up to date)

$(STAMP): requirements/dev.txt pyproject.toml
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
	PATH="$$PWD/.cache/uv/bin:$$PATH" $(COMPILE) --upgrade -o requirements/runtime.txt
	PATH="$$PWD/.cache/uv/bin:$$PATH" $(COMPILE) --upgrade --extra dev -c requirements/runtime.txt -o requirements/dev.txt
