# make setup   the environment .venv; a second call costs nothing
# make demo    train and evaluate a miniature policy, write a report
# make test    the tests, less the slow ones
# make acceptance  the slow tests of what a user does first
# make lint    style and likely bugs
# make bench-gpu  how fast a 3B policy is on this machine's GPU
# make clean   remove the environment, runs and caches

PYTHON ?= $(shell for v in 3.11 3.12 3.13 3.14 3; do \
	  python$$v -c "import sys; sys.exit(sys.version_info < (3, 11))" \
	    >/dev/null 2>&1 && { echo python$$v; break; }; done)
VENV := .venv
BIN := $(VENV)/bin

ACCEPTANCE := tests/test_docs_run.py tests/test_ask.py tests/test_install.py \
  tests/test_sweep.py tests/rl/test_watching.py

.PHONY: setup demo test acceptance lint bench-gpu clean
.DELETE_ON_ERROR:

setup: $(VENV)/.setup

# An environment without pip is what an interrupted call has left.
$(VENV)/.setup: requirements.txt
	@test -n "$(PYTHON)" || { echo "error: no Python 3.11 or newer found;" \
	  "install one, or name it: make setup PYTHON=/path/to/python" >&2; \
	  exit 1; }
	@$(PYTHON) -c "import sys; sys.exit(sys.version_info < (3, 11))" || { \
	  echo "error: $(PYTHON) is no Python 3.11 or newer; name another:" \
	  "make setup PYTHON=python3.11" >&2; exit 1; }
	$(BIN)/python -m pip --version >/dev/null 2>&1 || \
	  $(PYTHON) -m venv --clear $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check \
	  -r requirements.txt --editable .
	@touch $@

$(VENV)/.setup-dev: $(VENV)/.setup requirements-dev.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check \
	  -r requirements-dev.txt
	@touch $@

demo: setup
	$(BIN)/python -m lfpc_jax.demo --workdir=runs/demo

test: $(VENV)/.setup-dev
	$(BIN)/python -m pytest -q -n auto --maxprocesses=4 --dist loadfile

acceptance: $(VENV)/.setup-dev
	$(BIN)/python -m pytest -q -m slow -n auto --maxprocesses=4 \
	  --dist loadfile $(ACCEPTANCE)

lint: $(VENV)/.setup-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

# XLA's own limit, three quarters of the memory, is too low for the update.
bench-gpu: setup
	XLA_PYTHON_CLIENT_MEM_FRACTION=0.92 \
	  $(BIN)/python -m experiments.speed.gpu --workdir=runs/speed

clean:
	rm -rf $(VENV) runs build dist *.egg-info \
	  .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
