# The words of this project. Needs make and Python >= 3.11 (make PYTHON=python3.13 ... to choose one), nothing else.
PYTHON ?= python3
BIN := .venv/bin
# Tests wait more than they work: two for each core.
WORKERS ?= 4
.PHONY: sync check test demo bench fuzz serve samples docs screenshots lock

sync: .venv/.synced
.venv/.synced: requirements/dev.txt pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed; try: make PYTHON=python3.13")'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --require-hashes -r requirements/dev.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	touch $@
check: sync
	$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/mypy && $(BIN)/pytest -q tests/test_house.py
test: sync
	$(BIN)/pytest -n $(WORKERS) --dist worksteal
demo serve: sync
	$(BIN)/fleetlift $@
bench: sync
	$(BIN)/python -m benchmarks.run
fuzz: sync # FUZZ="--runs 10000 --only 'message.*'" for less
	nice -n 19 $(BIN)/python -m tests.fuzz.run $(FUZZ)
screenshots: sync
	$(BIN)/python -m tests.console.screenshots
samples: sync
	$(BIN)/python -m firmware_samples.build
docs: sync # into build/docs; every warning is an error
	$(BIN)/python -m sphinx -q -E -a -W --keep-going -b html docs build/docs
lock: # needs uv; rewrites the pinned requirements from pyproject.toml
	for set in agent dev; do uv pip compile --quiet --upgrade --universal --python-version 3.11 --generate-hashes --no-header \
	  --no-emit-index-url --no-annotate $$(test $$set = dev && echo --extra dev) -o requirements/$$set.txt pyproject.toml; done
