# `make demo` and `make test` each work as the first command in a fresh clone: Python >= 3.11, pip and
# make are all they need. Everything goes into .venv.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt

.PHONY: demo test test-fast coverage lint sbom clean

# An unseen phantom as a DICOM series: segmented, scored, drawn. No shipped bundle has seen this seed.
SEED := 20261
demo: $(VENV)/base
	@rm -rf demo
	$(BIN)/c3s3-seg phantom -o demo --seed $(SEED)
	$(BIN)/c3s3-seg predict demo/phantom-$(SEED) -o demo/out --model phantom \
	  --truth demo/truth/phantom-$(SEED).nii.gz --report png
	@echo
	@echo "The picture is demo/out/phantom-$(SEED).png: prediction and truth in three planes."
	@echo "The scan is simulated, and so is all that this small bundle knows. For your own scan"
	@echo "(late-gadolinium MRI, cropped around the heart; a file or a DICOM folder):"
	@echo
	@echo "  $(BIN)/c3s3-seg predict SCAN -o OUT --model left-atrium --report png"
	@echo
	@echo "Research use only."

# One thread a process, because there is a process a core, and one more for the time in which others wait for
# servers and limits. Files are taken in their order: by default the one
# with the fewest tests is the last, and that is the tutorial, the longest. Bytecode is kept whatever the
# environment says: tests start hundreds of processes.
# Temporary files are kept in memory where there is enough of it: tests write and sync thousands of files.
PROCESSES := $(shell expr $$(getconf _NPROCESSORS_ONLN) + 1)
MEMORY := $(shell test -w /dev/shm -a "$$(df -Pk /dev/shm 2>/dev/null | awk 'END { print int($$4) }')" -gt 4000000 \
  -a "$$(awk '/MemAvailable/ { print $$2 }' /proc/meminfo 2>/dev/null)" -gt 8000000 2>/dev/null \
  && ! grep -q ' /dev/shm .*noexec' /proc/mounts && echo TMPDIR=/dev/shm)
PYTEST := $(MEMORY) OMP_NUM_THREADS=1 PYTHONDONTWRITEBYTECODE= $(BIN)/python -m pytest -n $(PROCESSES) --dist loadfile --no-loadscope-reorder

# Before a change is handed on: everything. The checks of the code run beside the tests; what they say comes
# last, and either of the two can fail.
test: $(VENV)/dev
	@log=$$(mktemp); $(MAKE) --no-print-directory lint > $$log 2>&1 & lint=$$!; \
	$(PYTEST); tests=$$?; \
	wait $$lint; lint=$$?; cat $$log; rm $$log; \
	test $$tests -eq 0 -a $$lint -eq 0

# While a change is made: all but the tests marked slow.
test-fast: $(VENV)/dev
	$(PYTEST) -m "not slow"

# Which share of the lines and branches all tests run, in processes that they start too.
coverage: $(VENV)/dev
	$(PYTEST) --cov --cov-report=term:skip-covered

lint: $(VENV)/dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# Every package that an installation holds, with its version, licence and hash: CycloneDX, of the base
# installation in an environment of its own, so that no tool of the developers is in the list.
sbom: $(VENV)/dev
	rm -rf build/sbom-env && $(PYTHON) -m venv build/sbom-env
	build/sbom-env/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt .
	build/sbom-env/bin/python -m pip uninstall --quiet --yes pip setuptools
	$(BIN)/cyclonedx-py environment build/sbom-env --pyproject pyproject.toml --output-reproducible -o sbom.json
	@echo "The list of parts is sbom.json."

$(VENV)/python:
	$(PYTHON) -m venv $(VENV)
	touch $@

$(VENV)/base: $(VENV)/python pyproject.toml constraints.txt
	@echo "Installing the base packages into $(VENV): about 1 GB, some minutes at the first time."
	$(PIP) -e .
	touch $@

# torch first, and pinned: a bare `torch` may bring gigabytes of CUDA.
$(VENV)/dev: $(VENV)/base
	@echo "Installing torch and the packages for training and tests: about 3 GB, some minutes."
	$(PIP) torch==2.13.0
	$(PIP) -e '.[dev]'
	touch $@

clean:
	rm -rf $(VENV) demo build dist sbom.json .pytest_cache .mypy_cache .ruff_cache
