# The two commands are `make demo` and `make test`; a fresh machine needs git, make and Python 3.11 or newer.
PYTHON ?= python3
VENV := .venv

.PHONY: demo test test-slow test-slurm lint benchmarks clean

demo: $(VENV)/installed
	WANDB_MODE=offline bash submit_array.sh configs/demo.yaml --local

test: $(VENV)/installed-dev
	OMP_WAIT_POLICY=passive WANDB_MODE=offline $(VENV)/bin/python -m pytest -n 2 --dist loadfile -m 'not slow and not slurm'

# Minutes more: what .ci/run adds to `make test`.
test-slow: $(VENV)/installed-dev
	OMP_WAIT_POLICY=passive WANDB_MODE=offline $(VENV)/bin/python -m pytest -n 2 -m 'slow and not slurm'

# A real Slurm of one node, started and stopped by the tests (tests/slurm/start.sh): as root on Debian or Ubuntu, elsewhere they are skipped and say why.
test-slurm: $(VENV)/installed-dev
	OMP_WAIT_POLICY=passive $(VENV)/bin/python -m pytest -p no:xdist -m slurm -rs tests/slurm

lint: $(VENV)/installed-dev
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy

benchmarks: $(VENV)/installed-dev
	$(VENV)/bin/python -m benchmarks

$(VENV)/installed: requirements.txt | $(VENV)/bin/python
	$(VENV)/bin/pip install --quiet --disable-pip-version-check -r requirements.txt
	@touch $@

$(VENV)/installed-dev: requirements-dev.txt requirements.txt | $(VENV)/bin/python
	$(VENV)/bin/pip install --quiet --disable-pip-version-check -r requirements-dev.txt
	@touch $@ $(VENV)/installed

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "error: Python 3.11 or newer is needed, $$($(PYTHON) --version) was found; name another with: make PYTHON=python3.12" >&2; exit 2; }
	@$(PYTHON) -c 'import venv, ensurepip' 2>/dev/null || { echo "error: Python's venv is missing; install it with: sudo apt-get install python3-venv" >&2; exit 2; }
	$(PYTHON) -m venv $(VENV)

clean:
	rm -rf $(VENV) runs
