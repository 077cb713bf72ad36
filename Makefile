# Everything runs in .venv, made from the pinned and hashed requirements; see README.md.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
# The distributions of this repository; of testing/ a checkout needs only the dependencies.
PROJECTS := pyproject.toml client/pyproject.toml testing/pyproject.toml
INSTALL_CHECKOUT = $(PIP) install --quiet --no-deps --no-build-isolation --editable ./client --editable .
DEMO_ARGS ?=
# With bytecode, each test process has read the tests in half the time, and each process that they start is up sooner.
unexport PYTHONDONTWRITEBYTECODE
# Test processes; each has servers of its own. More than there are processors: many tests wait.
TEST_PROCESSES ?= 6
# A file's tests stay in one process, which starts what they share once; tests/conftest.py puts the longest files first.
SPREAD := -n $(TEST_PROCESSES) --dist loadfile --no-loadscope-reorder

.PHONY: help setup demo test coverage traceability reference english bench mutate chaos lint check pins clean
.DELETE_ON_ERROR:

help:
	@echo "make demo          replay a real quarter through a whole installation (about 3 minutes)"
	@echo "make test          the whole test suite, on embedded servers"
	@echo "make lint          ruff, mypy, basedpyright, import-linter, the English, the shape of the package, migrations, the reference"
	@echo "make check         lint, then test"
	@echo "make reference     write docs/reference from the code"
	@echo "make traceability  write docs/traceability.md from the markers of the tests"
	@echo "make english       the shares of the constructions to avoid, by folder, and the sentences"
	@echo "make coverage      the suite with line and branch coverage; docs/testing.md"
	@echo "make mutate        mutation testing of the rules; docs/mutation.md"
	@echo "make bench         every figure beside its floor or peer"
	@echo "make chaos         faults done to real processes; docs/fault-matrix.md"
	@echo "make pins          make the pinned requirements again (needs uv)"
	@echo "make setup         the virtual environment"
	@echo "make clean         remove the virtual environment and the data of runs"

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' || { echo "usage-tasks needs Python 3.11, 3.12 or 3.13; $(PYTHON) is $$($(PYTHON) -V 2>&1). Name another: make PYTHON=python3.12"; exit 2; }
	$(PYTHON) -m venv $(VENV) || { echo "$(PYTHON) has no venv module: install it (Debian: apt install python3-venv)"; exit 2; }

# Two stamps: the demo needs less than the tests do.
$(VENV)/.runtime: requirements-testing.txt $(PROJECTS) | $(BIN)/python
	$(PIP) install --quiet --require-hashes -r requirements-testing.txt
	$(INSTALL_CHECKOUT)
	touch $@

$(VENV)/.dev: requirements-dev.txt $(PROJECTS) | $(BIN)/python
	$(PIP) install --quiet --require-hashes -r requirements-dev.txt
	$(INSTALL_CHECKOUT)
	touch $@ $(VENV)/.runtime

setup: $(VENV)/.dev

demo: $(VENV)/.runtime
	$(BIN)/usage-tasks demo $(DEMO_ARGS)

test: $(VENV)/.dev
	$(BIN)/python -m pytest $(SPREAD)

# The whole suite, with branches and in every process; fails below the figure in pyproject.toml. docs/testing.md
# The receiver is held to 60 MiB; the measuring itself takes 5 of them.
COVERAGE_LEAVES_OUT := --deselect tests/webhook_app/test_process.py::test_as_installed_each_process_stays_below_60_mebibytes
coverage: $(VENV)/.dev
	rm -rf .data/coverage
	TEST_EXAMPLES=all $(BIN)/coverage run -m pytest $(SPREAD) -o timeout=300 $(COVERAGE_LEAVES_OUT)
	$(BIN)/coverage combine --quiet
	$(BIN)/coverage report

# Writes docs/traceability.md from the markers of the tests.
traceability: $(VENV)/.dev
	$(BIN)/python -m tests.traceability

# Writes docs/reference from the code.
reference: $(VENV)/.dev
	$(BIN)/python -m tests.docs.reference

# Prints the shares of three constructions by folder, the sentences, and the words that the glossary replaces.
english: $(VENV)/.dev
	$(BIN)/python -m tests.english

# Every figure beside its floor or peer; a table, and .data/bench.json.
bench: $(VENV)/.dev
	$(BIN)/python -m tests.benchmarks
	$(BIN)/python -m tests.benchmarks.past
	$(BIN)/python -m tests.benchmarks.sync
	$(BIN)/python -m tests.benchmarks.tasks
	$(BIN)/python -m tests.benchmarks.startup
	$(BIN)/python -m tests.benchmarks.outbox

# Which changes of the rules no test of theirs would notice; fails where fewer than 90 % are noticed. docs/mutation.md
mutate: $(VENV)/.dev
	$(BIN)/python -m tests.mutation

# Faults done to real processes; prints the matrix. tests/chaos/__main__.py says what its parts are and how to run one.
chaos: $(VENV)/.dev
	$(BIN)/python -m tests.chaos

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/basedpyright --level error
	$(BIN)/lint-imports
	$(BIN)/python -m tests.english --check
	$(BIN)/python -m pytest tests/test_house.py tests/test_one_room.py tests/storage/test_migrations.py tests/docs/test_reference.py

check: lint test

# Pins are made again only by hand: `make pins` after a change of dependencies. requirements.txt is for production, the
# next adds the servers of the demo, the last what the tests need. Our own distributions are in none of them.
COMPILE := uv pip compile -q --universal --python-version 3.11 --generate-hashes --no-header --no-annotate \
	--no-emit-package usage-tasks --no-emit-package usage-tasks-client
pins:
	$(COMPILE) --group build pyproject.toml -o requirements.txt
	$(COMPILE) --group build -c requirements.txt pyproject.toml testing/pyproject.toml -o requirements-testing.txt
	$(COMPILE) --group dev -c requirements-testing.txt pyproject.toml testing/pyproject.toml -o requirements-dev.txt

clean:
	rm -rf $(VENV) .data mutants
