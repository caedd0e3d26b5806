# The two commands are `make demo` and `make test`; a fresh machine needs git, make and Python 3.11 or newer.
PYTHON ?= python3
VENV := .venv

.PHONY: demo test test-slow test-slurm lint benchmarks clean
.PHONY: datasets models mlp-clustering mlp-clustering-stability mlp-lesion mlp-double-lesion mlp-learning-curve mlp-plots

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

# The products of the studies of clusterability, in RESULTS: of the list MLP, or a smaller one (MLP=configs/modularity_demo.yaml, or --KEY=VALUE as WITH).
MLP ?= configs/mlp.yaml
SOURCE ?= packages
RESULTS ?= results
WITH ?=
ALL_SHUFFLES := --analyses.clusterability.shuffle=[layer,layer_nonzero,layer_nonzero_distribution,layer_all_distribution] --analyses.clusterability.weights=[final,unpruned]
LESION ?= configs/mlp_lesion.yaml
DOUBLE ?= configs/mlp_double_lesion.yaml
PLOTS = $(VENV)/bin/python -m plots

datasets: $(VENV)/installed
	for name in MNIST FashionMNIST CIFAR10; do $(VENV)/bin/python -m data prepare $$name --source $(SOURCE) || exit; done

models: $(VENV)/installed
	bash submit_array.sh $(MLP) --local $(WITH)

mlp-clustering: $(VENV)/installed
	bash submit_array.sh $(MLP) --local $(WITH) $(ALL_SHUFFLES)
	$(PLOTS) clustering $(MLP) $(WITH) $(ALL_SHUFFLES) --out $(RESULTS)

mlp-clustering-stability: models
	$(PLOTS) stability $(MLP) $(WITH) --out $(RESULTS)

mlp-lesion: $(VENV)/installed
	bash submit_array.sh $(LESION) --local $(WITH)
	for figure in lesion_table lesions; do $(PLOTS) $$figure $(LESION) $(WITH) --out $(RESULTS) || exit; done

mlp-double-lesion: $(VENV)/installed
	bash submit_array.sh $(DOUBLE) --local $(WITH)
	for figure in double_lesion_table joint_lesions dependencies; do $(PLOTS) $$figure $(DOUBLE) $(WITH) --out $(RESULTS) || exit; done

mlp-learning-curve: models
	$(PLOTS) cut_curves $(MLP) $(WITH) --out $(RESULTS)

mlp-plots: models
	for figure in cuts cut_accuracy cluster_graph; do $(PLOTS) $$figure $(MLP) $(WITH) --out $(RESULTS) || exit; done

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
