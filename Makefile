# One command each. A target makes the virtual environment it needs, and keeps it until
# pyproject.toml changes.

PYTHON ?= python3
CUDA ?= cuda13
ARGS ?=

.PHONY: help bench test test-all fuzz gpu lint clean
.NOTPARALLEL:

help: ## this list
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/    make \1:\2/p' Makefile | awk -F: '{ printf "%-18s%s\n", $$1, $$2 }'
	@echo 'ARGS is passed on: make bench ARGS="--quick", make test ARGS="-k loops".'
	@echo 'PYTHON=python3.13 chooses a Python, CUDA=cuda12 the CuPy of make gpu (else cuda13).'
	@echo 'GPU_PYTHON=path/to/python runs make gpu in an environment that exists.'

bench: .venv/stamp ## time loops, compiled loops, NumPy and CuPy on this machine
	@.venv/bin/python -m accelnn.bench $(ARGS)

test: .venv/stamp ## run the tests, in about two minutes
	@.venv/bin/python -m pytest -m 'not slow' $(ARGS)

test-all: .venv/stamp ## run all the tests
	@.venv/bin/python -m pytest $(ARGS)

fuzz: .venv/stamp ## read hostile files and break commands for an hour
	@PYTHONPATH=tests .venv/bin/python -m fuzz $(ARGS)

# GPU_PYTHON is the Python of an environment that has everything needed, accelnn included. If it is
# not given, an environment is made once, as below.
GPU := .venv-$(CUDA)
ifdef GPU_PYTHON
gpu_stamp :=
else
GPU_PYTHON := $(GPU)/bin/python
gpu_stamp := $(GPU)/stamp
endif
gpu_install = $(GPU_PYTHON) -m pip install --editable ".[$(CUDA),test]"

# `make gpu` ends within ten minutes: the benchmark starts no new row after nine.
gpu: $(gpu_stamp) ## run the GPU's tests, then benchmark it into benchmarks/results/<device>.json
	@$(GPU_PYTHON) -c 'import accelnn.kernels, pytest' 2>/dev/null || \
	    { echo 'make gpu: $(GPU_PYTHON) lacks accelnn or pytest: $(gpu_install)' >&2; exit 1; }
	@$(GPU_PYTHON) -c 'import sys; from accelnn.backend import why_not; \
	    sys.exit(why_not() and f"make gpu: no GPU can be used here: {why_not()}")'
	@mkdir -p benchmarks/results
	@begun=$$(date +%s); $(GPU_PYTHON) -m pytest -m gpu; tests=$$?; \
	    device=$$(ACCELNN_BACKEND=$${ACCELNN_BACKEND:-cupy} $(GPU_PYTHON) -c 'import re; \
	        from accelnn import backend, gpus; name = gpus.describe(backend.current().index).name; \
	        print("-".join(re.findall("[a-z0-9]+", name.lower())))') && \
	    left=$$((begun + 540 - $$(date +%s))) && \
	    $(GPU_PYTHON) -m accelnn.bench gpu --within $$((left > 60 ? left : 60)) \
	        --json benchmarks/results/$$device.json $(ARGS) && exit $$tests

# kernels/ and datasets/ stand beside accelnn/ and are installed inside it, which mypy cannot see, so
# it checks a tree of links laid out as the installed package.
TREE := .venv-lint/tree
lint: .venv-lint/stamp ## run ruff and mypy
	@.venv-lint/bin/ruff check
	@.venv-lint/bin/ruff format --check
	@rm -rf $(TREE)/accelnn && mkdir -p $(TREE)/accelnn
	@ln -s "$(CURDIR)"/accelnn/* "$(CURDIR)/kernels" "$(CURDIR)/datasets" $(TREE)/accelnn
	@cd $(TREE) && ../bin/mypy --config-file "$(CURDIR)/pyproject.toml"

clean: ## remove the virtual environments and everything built
	@rm -rf .venv .venv-* build dist *.egg-info .benchmarks .hypothesis .*_cache
	@find . -name __pycache__ -prune -exec rm -rf {} +

# The environments

check_python = @$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and \
    "accelnn needs Python 3.11 or newer, $(PYTHON) is " + sys.version.split()[0] + \
    ": choose another, make PYTHON=python3.13")'
make_environment = $(PYTHON) -m venv --clear $(@D) && \
    $(@D)/bin/python -m pip install --quiet --editable '.[$(extras)]'

.venv/stamp: extras := test
.venv-lint/stamp: extras := dev
.venv/stamp .venv-lint/stamp: pyproject.toml
	$(check_python)
	@echo 'making $(@D) (once) ...' >&2
	@$(make_environment)
	@touch $@

# A machine with a GPU often has every package and no network. Then nothing is downloaded: a .pth
# file adds the packages of $(PYTHON) to the environment. (venv --system-site-packages would add the
# wrong ones if $(PYTHON) is itself in a virtual environment.)
needed := cupy h5py hypothesis numba numpy pip platformdirs psutil pytest pytest_benchmark rich \
    scipy setuptools threadpoolctl
check_needed = $(PYTHON) -c 'import sys; from importlib.util import find_spec; \
    missing = [name for name in "$(needed)".split() if not find_spec(name)]; \
    sys.exit("$(PYTHON) lacks " + ", ".join(missing) + ": downloading" if missing else 0)'
borrow_environment = $(PYTHON) -m venv --clear --without-pip $(@D) && $(PYTHON) -c 'import sys; \
    folders = [path for path in sys.path if path.endswith("-packages")]; \
    print("import site;", *(f"site.addsitedir({path!r});" for path in folders))' \
    > $$(echo $(@D)/lib/python3*/site-packages)/borrowed.pth && \
    $(@D)/bin/python -m pip install --quiet --no-deps --no-build-isolation --editable .

$(GPU)/stamp: extras := $(CUDA),test
$(GPU)/stamp: pyproject.toml
	$(check_python)
	@echo 'making $(@D) (once) ...' >&2
	@if $(check_needed); then $(borrow_environment); else $(make_environment); fi
	@touch $@
