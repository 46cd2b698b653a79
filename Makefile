# `make` lists what there is. Everything runs from a bare clone; nothing is installed outside .venv, except missing system
# packages through apt where that is allowed.
#   make TORCH="torch==2.13.0" PIP_ARGS="--extra-index-url …"     another build of torch, other arguments for pip
#   make PYTHON=python3.12                                        another interpreter (before the first `make setup`)

SHELL := /bin/bash
.DEFAULT_GOAL := help
.NOTPARALLEL:
.DELETE_ON_ERROR:
.PHONY: help setup demo realistic test docs gpu lint types format clean distclean FORCE

PYTHON ?= python3
TORCH ?= torch==2.13.0
PIP_ARGS ?=
# Tests run in as many processes; models in tests use one thread each.
JOBS ?= 2
# Its own metadata would drag torchvision in and its build would want CUDA, see setup.py.
SAM2 := sam2==1.1.0
VENV := .venv
STAMPS := $(VENV)/.stamps

# A ROS 2 distribution that is sourced is used; otherwise ROS 2 Jazzy comes as wheels. The two need different
# environments: the distribution's Python packages are only seen with --system-site-packages.
ifneq ($(and $(ROS_DISTRO),$(AMENT_PREFIX_PATH)),)
  ROS := $(ROS_DISTRO)
  VENV_ARGS := --system-site-packages
  EXTRAS := sim,train,eval,data,quantised,remote,onnx,dev
ifeq ($(ROS_DISTRO),humble)
  # SciPy (sim, eval) and onnx want a younger NumPy than the distribution's.
  EXTRAS := train,data,quantised,remote,dev
endif
  ROS_REQUIREMENTS := "colcon-common-extensions>=0.3,<0.4"
  # What must fit the distribution's compiled packages, NumPy above all.
  CONSTRAINTS := $(wildcard constraints/$(ROS_DISTRO).txt)
else
  ROS := wheels
  EXTRAS := ros,sim,train,eval,data,quantised,remote,onnx,dev
endif

# The wheels start Python again with their library path, once; the mark of a parent process would prevent that.
unexport _ROS_WHEELS_BOOTSTRAP_COMPLETE
# Nothing of ours needs to be seen on the network, and nothing on the network may disturb a test.
export ROS_AUTOMATIC_DISCOVERY_RANGE ?= LOCALHOST
export PIP_DISABLE_PIP_VERSION_CHECK := 1

PIP := $(VENV)/bin/python -m pip install -qq --no-input $(addprefix -c ,$(CONSTRAINTS)) $(PIP_ARGS)
ACTIVATE := source $(VENV)/bin/activate
RUN := $(ACTIVATE) && source install/setup.bash
SAY := @printf '==> %s\n'

help:
	@echo "make demo    sets up, then tracks objects in a simulated camera through the ROS 2 node; writes out/demo.mp4"
	@echo "make test    sets up, then lint, type checks and all tests, those over DDS included"
	@echo "make setup   .venv with all packages, ROS 2 (what is sourced, else Jazzy wheels), our messages in install/"
	@echo "make realistic  ordinary objects for training and benchmarks (Debian's sweethome3d-furniture, wordnet-base)"
	@echo "make gpu     sets up, then everything that wants a GPU in six minutes: exactness, then speed; out/gpu/report.json"
	@echo "make docs    the documentation as a site, out/site/index.html"
	@echo "make lint    ruff and mypy;  make format: ruff format"
	@echo "make clean   removes what was built;  make distclean: and .venv"

setup: $(STAMPS)/messages

demo: setup
	$(SAY) "demo: simulated camera and tracker node as two processes; results in out/"
	@$(RUN) && sa2va demo -o out

# 120 MB of CC0 and CC-BY models; the demo and the tests do not need them.
realistic:
	$(SAY) "sweethome3d-furniture and wordnet-base"
	@$$(command -v sudo) apt-get install -y --no-install-recommends sweethome3d-furniture wordnet-base

test: setup lint
	$(SAY) "tests"
	@$(RUN) && pytest -n $(JOBS) --dist loadfile $(PYTEST_ARGS)

# GPU_ARGS="--device cpu --small" shows that it runs where there is no GPU.
gpu: setup
	$(SAY) "exactness and speed on the GPU; results in out/gpu"
	@$(RUN) && PYTHONPATH=benchmarks:$$PYTHONPATH python -m gpu $(GPU_ARGS)

# --strict: a page that is in no menu, a link or an anchor that leads nowhere fails.
docs: $(STAMPS)/docs
	$(SAY) "documentation, into out/site"
	@NO_MKDOCS_2_WARNING=1 $(VENV)/bin/mkdocs build --strict --quiet

lint: $(STAMPS)/python
	$(SAY) "ruff"
	@$(VENV)/bin/ruff check --quiet .
	@$(VENV)/bin/ruff format --quiet --check . || { echo "ruff format: run 'make format'"; exit 1; }
	@$(MAKE) --no-print-directory types

types: $(STAMPS)/python
	$(SAY) "mypy"
	@$(VENV)/bin/mypy

format: $(STAMPS)/python
	@$(VENV)/bin/ruff check --quiet --fix . ; $(VENV)/bin/ruff format .

clean:
	rm -rf build install log out .pytest_cache .mypy_cache .ruff_cache *.egg-info
	rm -f $(STAMPS)/messages

distclean: clean
	rm -rf $(VENV)

# --- Set-up. Each step leaves a stamp, and runs again only when what it depends on is newer. ---

$(STAMPS)/system: tools/system_packages.sh
	$(SAY) "system packages: compiler, Python headers, OpenGL without a screen"
	@tools/system_packages.sh "$(PYTHON)"
	@mkdir -p $(STAMPS) && touch $@

# One stamp for each kind of ROS: changing it makes a new environment.
$(STAMPS)/venv-$(ROS): | $(STAMPS)/system
	$(SAY) "virtual environment $(VENV) (ROS 2: $(if $(filter wheels,$(ROS)),Jazzy from wheels,$(ROS), as sourced))"
	@if compgen -G "$(STAMPS)/venv-*" >/dev/null; then rm -rf $(VENV) install build/sa2va_ros; fi
	@$(PYTHON) -m venv $(VENV_ARGS) $(VENV)
	@touch $(VENV)/COLCON_IGNORE
	@$(PIP) "pip>=23" "setuptools>=68,<80" wheel
	@mkdir -p $(STAMPS) && touch $(STAMPS)/system $@

# A torch that is asked for and is not the installed one is a reason to install; the default is not.
ifneq ($(origin TORCH),file)
ifneq ($(shell cat $(STAMPS)/torch 2>/dev/null),$(TORCH))
$(STAMPS)/python: FORCE
endif
endif

$(STAMPS)/python: setup.py package.xml $(STAMPS)/venv-$(ROS)
	$(SAY) "Python packages (the first time this takes some minutes)"
	@$(PIP) --no-build-isolation -e '.[$(EXTRAS)]' '$(TORCH)' $(ROS_REQUIREMENTS)
	@SAM2_BUILD_CUDA=0 $(PIP) --no-deps --no-build-isolation $(SAM2)
	@echo '$(TORCH)' >$(STAMPS)/torch
	@touch $@

$(STAMPS)/docs: $(STAMPS)/python
	$(SAY) "mkdocs"
	@$(PIP) --no-build-isolation -e '.[docs]' '$(TORCH)'
	@touch $@

MESSAGES := CMakeLists.txt package.xml $(wildcard cmake/* msg/* srv/* action/* scripts/* launch/* config/* rviz/* foxglove/*) \
  tools/build_messages.sh tools/fix_ros_wheels.py

# Also when install/ is gone, or holds our modules (a plain `colcon build` was run here), which would hide the source tree.
STALE := $(if $(wildcard install/setup.bash),,FORCE) $(if $(wildcard install/sa2va_ros/*/*/*/sa2va_model),FORCE)

$(STAMPS)/messages: $(MESSAGES) $(STAMPS)/python $(STALE)
	$(SAY) "messages, services and actions (colcon, into install/)"
ifeq ($(ROS),wheels)
	@$(ACTIVATE) && python tools/fix_ros_wheels.py
	@$(ACTIVATE) && tools/build_messages.sh "$$VIRTUAL_ENV"
else
	@$(ACTIVATE) && tools/build_messages.sh
endif
	@touch $@
