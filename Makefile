# A fresh machine needs python3 >= 3.11 with its headers and venv, make and g++; the rest goes
# into $(VENV). `make demo` is the first thing to try.

PYTHON ?= python3
CXX ?= g++
VENV ?= .venv
MANAGERS := build/managers
PY := $(VENV)/bin/python
PIP := $(PY) -m pip --disable-pip-version-check --no-input
TORCH := 2.13.0
GRAPHAR := 0.13.0.dev1
BENCH_JSON := benchmarks/results.json
NATIVE := $(wildcard $(foreach dir,ipc graph,$(addprefix vineyard_arrow/$(dir)/*.,pyx pxd h))) \
	$(addprefix vineyard_arrow/include/vineyard_arrow/,flat.h layout.h parts.h)

SANITIZED := build/asan
SANITIZERS := $(foreach lib,libasan.so libubsan.so libstdc++.so.6,$(shell $(CXX) -print-file-name=$(lib)))

.PHONY: demo demo-graph demo-cluster demo-pipeline test stress test-etcd test-drivers test-browser \
	test-managers bench check docs asan build clean prerequisites

build: $(VENV)/.built

demo: build
	$(PY) docs/examples/demo.py

demo-graph: build
	$(PY) docs/examples/demo_graph.py

demo-cluster: build
	$(PY) docs/examples/demo_cluster.py

demo-pipeline: build
	$(PY) docs/examples/demo_pipeline.py

# Hundreds of processes import the package: none is to compile it anew, whatever the environment says.
test: export PYTHONDONTWRITEBYTECODE =
test: build
	$(PY) -m pytest -q -n 4 --dist loadfile --no-loadscope-reorder \
	-m 'not (stress or postgresql or browser)' --ignore-glob='*/test_managers_*' tests

# What takes minutes by itself.
stress: build
	$(PY) -m pytest -q -m stress tests

# Of the backend of metadata, on a server that is installed: VINEYARD_ETCD=/usr/bin/etcd, say.
test-etcd: build
	@echo "etcd: $(VINEYARD_ETCD)" && "$(VINEYARD_ETCD)" --version
	VINEYARD_ETCD="$(VINEYARD_ETCD)" $(PY) -m pytest -q tests/test_metadata_etcd.py

# Of drivers of databases, on a server that is installed: VINEYARD_POSTGRES=/usr/lib/postgresql/17/bin,
# say, if that is not where it is.
test-drivers: build
	VINEYARD_POSTGRES="$(VINEYARD_POSTGRES)" $(PY) -m pytest -q -m postgresql tests/test_drivers_*.py

# Of the dashboard, in a browser that is installed: VINEYARD_CHROMIUM=/usr/bin/chromium, say.
test-browser: build
	"$(VINEYARD_CHROMIUM)" --version
	VINEYARD_CHROMIUM="$(VINEYARD_CHROMIUM)" $(PY) -m pytest -q -m browser tests

# Of workflow managers, in an environment of their own: what they ask for is much, and not ours. It has
# our package by its path, with the native core that is built already.
test-managers: build $(MANAGERS)/.installed
	DO_NOT_TRACK=1 DAGSTER_DISABLE_TELEMETRY=1 AIRFLOW_HOME=$(abspath $(MANAGERS))/airflow PYTHONPATH=$(CURDIR) \
	$(MANAGERS)/bin/python -m pytest -q -n 3 --dist loadfile -m managers tests/test_managers_*.py

bench: build $(VENV)/.peers
	$(PY) -m pytest benchmarks -q --benchmark-json=$(BENCH_JSON)
	$(PY) benchmarks/table.py $(BENCH_JSON)

check: build
	$(PY) -m ruff format --check .
	$(PY) -m ruff check .
	$(PY) -m mypy

# The guide, in build/docs/index.html; a warning is an error.
docs: build
	$(PY) -m sphinx -q -W --keep-going -b html -d build/doctrees docs build/docs
	@echo build/docs/index.html

# The tests of graphs, over their native modules built to watch memory and arithmetic. The interpreter
# isn't built like that, so the libraries are loaded before it, and its leaks don't count.
asan: build
	mkdir -p $(SANITIZED)
	cp -r vineyard_arrow $(SANITIZED)
	rm -f $(SANITIZED)/vineyard_arrow/graph/_*.so
	export CFLAGS="-O1 -g1 -fsanitize=address,undefined -fno-sanitize=vptr -fno-omit-frame-pointer"; \
	CXXFLAGS="$$CFLAGS" LDFLAGS="$$CFLAGS" \
	$(PY) setup.py --quiet build_ext --build-lib $(SANITIZED) --build-temp $(SANITIZED)/objects
	for module in $(SANITIZED)/vineyard_arrow/graph/_*.so; do \
	nm -D $$module | grep -q __asan || { echo "make: $$module is not sanitized" >&2; exit 1; }; done
	cd $(SANITIZED) && LD_PRELOAD="$(SANITIZERS)" ASAN_OPTIONS=detect_leaks=0:allocator_may_return_null=1 \
	UBSAN_OPTIONS=halt_on_error=1:print_stacktrace=1 \
	$(abspath $(PY)) -m pytest -q -c $(CURDIR)/pyproject.toml --rootdir $(CURDIR) --timeout 600 \
	$(wildcard $(CURDIR)/tests/test_graph*.py)

clean:
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis
	rm -f vineyard_arrow/_build_info.py vineyard_arrow/*/_*.so $(BENCH_JSON)
	find vineyard_arrow tests benchmarks docs -name __pycache__ -prune -exec rm -rf {} +

# An editable install: changed .py files need nothing, changed native ones the second stamp. What
# the build requires goes into the environment first, so that it's fetched and compiled for once.
$(VENV)/.installed: pyproject.toml setup.py
	@$(MAKE) --no-print-directory prerequisites
	test -x $(PY) || $(PYTHON) -m venv $(VENV)
	$(PY) -c 'import tomllib; print(*tomllib.load(open("pyproject.toml", "rb"))["build-system"]["requires"], sep="\n")' \
	> $(VENV)/build-requires.txt
	$(PIP) install -q -r $(VENV)/build-requires.txt
	$(PIP) install -q --no-build-isolation -e '.[cli,demo,test,dev]'
# PyTorch is tested where a wheel of it lies at hand (pip's find-links), since an index may send
# gigabytes; elsewhere its tests skip themselves. The second call adds what it depends on.
	! $(PIP) install -q --no-index --no-deps torch==$(TORCH) 2>/dev/null \
	|| $(PIP) install -q torch==$(TORCH)
# GraphAr's own reader and writer check ours. The wheel asks for an old pytest, which it does not
# use, so it cannot be in an extra; the tests skip themselves without it.
	$(PIP) install -q --no-deps graphar==$(GRAPHAR) \
	|| echo "make: graphar cannot be installed: its tests will be skipped" >&2
	@touch $@

# What graphs are compared with is for the benchmarks alone.
$(VENV)/.peers: pyproject.toml | $(VENV)/.installed
	$(PY) -c 'import tomllib; print(*tomllib.load(open("pyproject.toml", "rb"))["project"]["optional-dependencies"]["peers"], sep="\n")' \
	> $(VENV)/peers-requires.txt
	$(PIP) install -q -r $(VENV)/peers-requires.txt
	@touch $@

$(MANAGERS)/.installed: pyproject.toml
	test -x $(MANAGERS)/bin/python || $(PYTHON) -m venv $(MANAGERS)
	$(MANAGERS)/bin/python -c 'import tomllib; project = tomllib.load(open("pyproject.toml", "rb"))["project"]; \
	extras = project["optional-dependencies"]; \
	wanted = [*project["dependencies"], *extras["managers"], *extras["airflow"], *extras["dagster"], *extras["kedro"]]; \
	print(*(each for each in wanted if not each.startswith("vineyard-arrow")), sep="\n")' \
	> $(MANAGERS)/requires.txt
	$(MANAGERS)/bin/python -m pip --disable-pip-version-check --no-input install -q --no-compile -r $(MANAGERS)/requires.txt
	$(MANAGERS)/bin/python -c 'from importlib.metadata import version; \
	print(*(f"{name} {version(name)}" for name in ("apache-airflow", "dagster", "kedro")), sep=", ")'
	@touch $@

$(VENV)/.built: $(VENV)/.installed $(NATIVE)
	$(PY) setup.py --quiet build_ext --inplace
	@touch $@

prerequisites:
	@missing() { echo "make: $$1" >&2; exit 1; }; \
	command -v $(PYTHON) >/dev/null \
	|| missing "$(PYTHON) is missing (Debian: apt-get install python3; or set PYTHON=...)"; \
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	|| missing "$(PYTHON) must be Python 3.11 or later, but is $$($(PYTHON) -V 2>&1) (set PYTHON=...)"; \
	$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null \
	|| missing "$(PYTHON) cannot make environments: venv or ensurepip is missing (Debian: apt-get install python3-venv)"; \
	$(PYTHON) -c 'import os, sys, sysconfig; sys.exit(not os.path.exists(sysconfig.get_path("include") + "/Python.h"))' \
	|| missing "Python.h, the headers of $(PYTHON), is missing (Debian: apt-get install python3-dev)"; \
	command -v $(firstword $(CXX)) >/dev/null \
	|| missing "$(CXX), the C++ compiler, is missing (Debian: apt-get install g++; or set CXX=...)"
