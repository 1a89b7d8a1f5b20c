# Everything a person does with a checkout. Needs Python 3.11 or newer and make; nothing else has to be
# installed, the rest lives in .venv. `make help` lists what there is.

# The first Python on the path that is new enough.
PYTHON ?= $(shell for python in python3 python3.13 python3.12 python3.11; do \
	"$$python" -c 'import sys, venv; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo "$$python" && break; \
	done)
VENV := .venv
BIN := $(VENV)/bin
PIP_INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check
SERVE_FLAGS ?=
# Tests run in so many processes: three keep two processors busy, for some wait for another process.
TEST_PROCESSES ?= 3
PYTEST_FLAGS ?=
BENCH_FLAGS ?=
LOCK_FLAGS ?=
FUZZ_SECONDS ?= 600
SEEDS ?= 0:1000
SEED ?=
SIM_FLAGS ?=
LOCK := uv pip compile pyproject.toml --quiet --universal --python-version 3.11 --generate-hashes \
	--no-header --no-annotate $(LOCK_FLAGS)

# The frameworks and clients of the compatibility tests have an environment of their own.
COMPAT := .venv-compat
NODE := tests/compat/node

# The example Workers run in workerd, which comes from npm.
WORKERS := examples/workers
NAME ?=

# The tests start the daemon hundreds of times, each of which would compile its modules anew.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: sim mutations bench-sim help serve example test pytest test-dashboard compat lint format bench bench-latency bench-http bench-scale bench-cluster soak docs lock clean
.DELETE_ON_ERROR:

help:
	@echo "make serve         run the daemon with conf/kvd.toml, data in ./data (SERVE_FLAGS=... for more)"
	@echo "make example NAME=sessions  run an example Worker with kvd as its KV (needs npm); without NAME, list them"
	@echo "make test          lint, types, import directions and all tests (PYTEST_FLAGS=... for more)"
	@echo "make pytest        the tests alone"
	@echo "make test-dashboard the dashboard in headless Chromium (needs chromium and chromium-driver)"
	@echo "make compat        Django, Flask, Node.js clients and others against the daemon (needs npm)"
	@echo "make lint          the first three of these"
	@echo "make format        let ruff lay out the code"
	@echo "make bench         speed against redis-server, side by side (BENCH_FLAGS=--help)"
	@echo "make bench-latency latency over ten minutes of mixed load, 10,000 requests a second"
	@echo "make bench-http    HTTP beside RESP, a web framework and miniflare (needs wrk and npm)"
	@echo "make bench-scale   cost per operation, memory, start and FLUSHALL from 10^4 to 10^7 keys"
	@echo "make bench-cluster propagation, cost, catching up, a slow or stopped peer, with real daemons on loopback"
	@echo "                   (ten minutes beside such a peer: BENCH_FLAGS='--only slow --only stopped')"
	@echo "make sim           simulated clusters under faults: SEEDS=0:1000, or SEED=17 to replay one"
	@echo "make mutations     break the replication on purpose; the simulation has to find each breakage"
	@echo "make bench-sim     propagation and idle traffic of 32 and 500 simulated nodes"
	@echo "make soak          long runs: crashes under load, a process stopped for minutes, fuzzing"
	@echo "make docs          generate conf/kvd.toml and the references in docs/ from the tables"
	@echo "make lock          resolve the dependencies anew into the lock files"
	@echo "make clean         remove the environment and what was built; data stays"

serve: $(VENV)/.serve
	$(BIN)/kvd serve --config conf/kvd.toml $(SERVE_FLAGS)

example: $(VENV)/.serve $(WORKERS)/node_modules/.installed
	@$(BIN)/python $(WORKERS)/run.py $(NAME)

# Both at once: the type checker alone would leave all processors but one idle.
test: $(VENV)/.dev
	$(MAKE) --no-print-directory --jobs=2 lint pytest

pytest: $(VENV)/.dev
	$(BIN)/python -m pytest --numprocesses=$(TEST_PROCESSES) --dist=worksteal $(PYTEST_FLAGS)

test-dashboard: $(VENV)/.dev
	KVD_REQUIRE_BROWSER=1 $(BIN)/python -m pytest tests/dashboard $(PYTEST_FLAGS)

compat: $(COMPAT)/.installed $(NODE)/node_modules/.installed
	KVD_REQUIRE_COMPAT=1 $(COMPAT)/bin/python -m pytest tests/compat $(PYTEST_FLAGS)

lint: $(VENV)/.dev
	$(BIN)/ruff format --check
	$(BIN)/ruff check
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(VENV)/.dev
	$(BIN)/ruff format
	$(BIN)/ruff check --fix

bench: $(VENV)/.dev
	$(BIN)/python -m tests.bench.compare $(BENCH_FLAGS)

bench-latency: $(VENV)/.dev
	$(BIN)/python -m tests.bench.latency $(BENCH_FLAGS)

bench-http: $(COMPAT)/.installed $(NODE)/node_modules/.installed
	$(COMPAT)/bin/python -m tests.bench.web $(BENCH_FLAGS)

bench-scale: $(VENV)/.dev
	$(BIN)/python -m tests.bench.scale $(BENCH_FLAGS)

bench-cluster: $(VENV)/.dev
	$(BIN)/python -m tests.bench.cluster $(BENCH_FLAGS)

sim: $(VENV)/.dev
	$(BIN)/python -m tests.cluster.swarm $(or $(SEED),$(SEEDS)) $(SIM_FLAGS)

mutations: $(VENV)/.dev
	$(BIN)/python -m tests.cluster.mutations $(SIM_FLAGS)

bench-sim: $(VENV)/.dev
	$(BIN)/python -m tests.bench.bench_sim $(BENCH_FLAGS)

soak: $(VENV)/.soak
	$(BIN)/python -m pytest -m soak --timeout=0 $(PYTEST_FLAGS)
	KVD_EXAMPLES=10 $(BIN)/python -m pytest tests/properties tests/protocol tests/compat/test_against_redis.py --timeout=0 \
		$(PYTEST_FLAGS)
	mkdir -p build/fuzz && cd build/fuzz && for target in requests peer_frames; do \
		../../$(BIN)/python ../../tests/fuzz/fuzz_$$target.py -max_total_time=$(FUZZ_SECONDS) || exit 1; \
	done

docs: $(VENV)/.dev
	$(BIN)/python -m tools.generate_docs

# The locks name versions and hashes, no addresses: pip takes the files from wherever it is told to.
# Only this target needs uv. What is locked stays as it is unless LOCK_FLAGS=--upgrade.
lock:
	$(LOCK) --group build -o requirements.lock
	$(LOCK) --group build --group dev -c requirements.lock -o requirements-dev.lock
	$(LOCK) --group soak -c requirements-dev.lock -o requirements-soak.lock
	$(LOCK:pyproject.toml=tests/compat/requirements.in) -c requirements-dev.lock -o tests/compat/requirements.txt
	cd $(NODE) && npm install --package-lock-only --no-audit --no-fund
	cd $(WORKERS) && npm install --package-lock-only --no-audit --no-fund

clean:
	rm -rf $(VENV) $(COMPAT) $(NODE)/node_modules $(WORKERS)/node_modules build dist *.egg-info

# Stamps: pip runs again only when what it would install has changed.

$(VENV)/bin/python:
	@test -n "$(PYTHON)" || { echo "kvd needs Python 3.11 or newer; set PYTHON=/path/to/python3.11" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); exit 1; }

$(VENV)/.serve: requirements.lock pyproject.toml | $(VENV)/bin/python
	$(PIP_INSTALL) --require-hashes -r requirements.lock
	$(PIP_INSTALL) --no-deps --no-build-isolation --editable .
	touch $@

$(VENV)/.dev: requirements-dev.lock $(VENV)/.serve
	$(PIP_INSTALL) --require-hashes -r requirements-dev.lock
	touch $@

$(VENV)/.soak: requirements-soak.lock $(VENV)/.dev
	$(PIP_INSTALL) --require-hashes -r requirements-soak.lock
	touch $@

$(COMPAT)/.installed: requirements-dev.lock tests/compat/requirements.txt pyproject.toml
	$(PYTHON) -m venv $(COMPAT)
	$(COMPAT)/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes \
		-r requirements-dev.lock -r tests/compat/requirements.txt
	touch $@

%/node_modules/.installed: %/package-lock.json
	cd $* && npm ci --no-audit --no-fund --loglevel=error
	touch $@
