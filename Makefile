# make demo and make test are the main targets; all others are parts of them or for developers of iotid.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help

PY := .venv/bin/python
IOTID := .venv/bin/iotid
# the Java that set-up installed from a wheel if it found no other
ifneq ($(wildcard .venv/share/iotid/java/bin/java),)
JAVA_HOME ?= $(CURDIR)/.venv/share/iotid/java
export JAVA_HOME
endif
PYTEST := OMP_NUM_THREADS=1 $(PY) -m pytest
CONF ?= local.yaml
SITE ?= local
DATE ?=
ROOT ?= var/run
SECONDS := 60
SEED ?= 1
TARGETS ?= capture settings labels_yaml labels_csv metadata report description weights checkpoint splits
UNIT := "not spark and not ddp and not dags" --ignore=tests/dags --ignore=tests/conformance
PYTHONS ?= 3.11 3.12 3.13
NIGHTS ?= 10

.PHONY: help setup airflow-setup peers-setup petastorm-setup audit-setup lock test-pythons test-wheel demo run reproduce test test-unit test-conformance test-spark test-ddp test-dags test-scheduler check tables audit format wheel clean bench-households bench-census bench-census-hits bench-network bench-start bench-sites bench-linkage bench-groups bench-traffic bench-unlike bench-characteristics bench-flood bench-capture bench-ingest bench-train bench-predict bench-gpu bench-choices results results-quick drill-kill drill-nights drill-cluster drill-households drill-network fuzz airflow cluster cluster-stop

help: ## this list
	@grep -hE '^[a-z-]+:.*## ' Makefile | awk -F ':.*## ' '{printf "  make %-17s %s\n", $$1, $$2}'

setup: .venv/.ready ## the environment, from requirements.lock and requirements-dev.lock (once)
.venv/.ready: requirements.lock requirements-dev.lock setup.sh pyproject.toml
	@./setup.sh main

airflow-setup: .venv-airflow/.ready ## Airflow's own environment, from requirements-airflow.lock (once)
.venv-airflow/.ready: requirements-airflow.lock setup.sh
	@./setup.sh airflow

peers-setup: .venv-peers/.ready ## the programs that tests compare iotid with, from requirements-peers.lock (once)
.venv-peers/.ready: requirements-peers.lock setup.sh
	@./setup.sh peers

petastorm-setup: .venv-petastorm/.ready ## Petastorm with its original dependencies, from requirements-petastorm.lock (once)
.venv-petastorm/.ready: requirements-petastorm.lock setup.sh
	@./setup.sh petastorm

audit-setup: .venv-audit/.ready ## pip-audit, from requirements-audit.lock (once)
.venv-audit/.ready: requirements-audit.lock setup.sh
	@./setup.sh audit

lock: ## regenerate every lock file: make lock [UPGRADE=1, for newer versions]
	@UPGRADE=$(UPGRADE) ./setup.sh lock

demo: setup ## the full pipeline on synthetic captures
	@$(IOTID) demo

run: setup ## the full pipeline on your captures: make run CAPTURES=DIR [LABELS=FILE, to train a model] [SITE=…] [DATE=…] [ROOT=var/run] [CONF=local.yaml] [SET="section.key=value …"]
	@test -n "$(CAPTURES)" || { echo 'usage: make run CAPTURES=DIR [LABELS=FILE] [SITE=…] [DATE=YYYY-MM-DD] [ROOT=…] [CONF=…] [SET="section.key=value …"]' >&2; exit 2; }
	@$(IOTID) run --config "$(CONF)" --set storage.root="$(ROOT)" $(foreach s,$(SET),--set "$(s)") \
	  --captures "$(CAPTURES)" $(if $(LABELS),--labels "$(LABELS)") --site "$(SITE)" $(if $(DATE),--date "$(DATE)")

reproduce: ROOT = var/reproduce-$(DATASET)
reproduce: CONF = paper.yaml
reproduce: setup ## compare results on one of the paper's datasets with the paper: make reproduce DATASET=tmc18 CAPTURES=DIR [ROOT=var/reproduce-DATASET] [CONF=…] [SET="…"] [COUNTS_ONLY=1]
	@test -n "$(DATASET)" -a -n "$(CAPTURES)" || { echo 'usage: make reproduce DATASET=tmc18|sosr19|iot23|cic_iot_2022 CAPTURES=DIR [ROOT=…] [CONF=…] [SET="section.key=value …"] [COUNTS_ONLY=1]' >&2; exit 2; }
	@$(IOTID) reproduce --config "$(CONF)" --set storage.root="$(ROOT)" $(foreach s,$(SET),--set "$(s)") \
	  --dataset "$(DATASET)" --captures "$(CAPTURES)" $(if $(COUNTS_ONLY),--counts-only)

# the longest first, so that make -j2 does not end with one of them
test: test-spark test-unit test-dags test-ddp test-conformance ## all tests
test-unit: setup petastorm-setup ## tests that need neither Java nor several processes
	@$(PYTEST) -q -m $(UNIT)
test-pythons: setup ## test-unit on every other CPython found: make test-pythons [PYTHONS="3.11 3.12 3.13"]
	@for version in $(PYTHONS); do \
	  ! $(PY) -c "import sys; sys.exit('%d.%d' % sys.version_info[:2] != '$$version')" || continue; \
	  ./setup.sh python $$version || { [ $$? = 3 ] && continue; exit 1; }; \
	  echo "== CPython $$version"; \
	  OMP_NUM_THREADS=1 .venv-$$version/bin/python -m pytest -q -n 2 -p no:cacheprovider -m $(UNIT) || exit; \
	done
test-conformance: setup peers-setup ## compare with other programs' results on the same captures
	@$(PYTEST) -q tests/conformance
test-spark: setup peers-setup petastorm-setup ## tests that start Spark
	@$(PYTEST) -q -m "spark and not ddp" --ignore=tests/dags --ignore=tests/conformance
test-ddp: setup ## tests that start several training processes
	@$(PYTEST) -q -m ddp --ignore=tests/dags --ignore=tests/conformance
test-dags: setup airflow-setup ## tests of the DAGs, in Airflow's environment
	@.venv-airflow/bin/python -m pytest -q tests/dags --confcutdir=tests/dags --ignore=tests/dags/test_standalone.py
test-scheduler: setup airflow-setup ## tests of the DAGs under a running scheduler, not in make test: make test-scheduler [DATABASE=postgresql], several minutes
	@DATABASE=$(DATABASE) .venv-airflow/bin/python -m pytest -q tests/dags/test_standalone.py --confcutdir=tests/dags

airflow: setup airflow-setup ## run Airflow with the DAGs and the demo's captures, until Ctrl-C; prints its address
	@.venv-airflow/bin/python tests/dags/standalone.py var/airflow

check: setup ## formatter, linter, types
	@.venv/bin/ruff format --check .
	@.venv/bin/ruff check .
	@.venv/bin/mypy

tables: setup ## docs/tables.md from iotid/schemas/tables.py
	@$(PY) tests/tables_page.py

audit: audit-setup ## check the lock files against the advisory database (needs the network)
	@for lock in requirements.lock requirements-dev.lock requirements-airflow.lock requirements-audit.lock; do .venv-audit/bin/pip-audit --requirement $$lock --no-deps --disable-pip --strict || exit; done

format: setup ## let the formatter and the linter fix what they can
	@.venv/bin/ruff format .
	@.venv/bin/ruff check --fix .

bench-capture: setup peers-setup ## speed of the capture engine and other programs: make bench-capture [CAPTURES=DIR], minutes; ends with one line of JSON
	@$(PY) tests/bench/capture.py $(if $(CAPTURES),--captures "$(CAPTURES)")

bench-ingest: setup peers-setup ## speed from captures to a dataset, and of NFStream: make bench-ingest [CAPTURES=DIR LABELS=FILE] [INGEST="--gigabytes 1 4 16 32 --files 1 --packet-bytes 700 …"], half an hour; ends with one line of JSON
	@$(PY) tests/bench/ingest.py $(if $(CAPTURES),--captures "$(CAPTURES)" --labels "$(LABELS)") $(INGEST)

bench-train: setup ## training speed and that of the plain model, at the paper's size: make bench-train [LEARN="--captures DIR --labels FILE …"]
	@$(PY) tests/bench/learning.py train $(LEARN)

bench-choices: setup ## choices that the paper leaves open, changed one at a time: make bench-choices [LEARN="--captures DIR --labels FILE …"], an hour or two
	@$(PY) tests/bench/choices.py $(LEARN)

results: setup ## aalto, lsif and ucl under every split protocol, with all baselines: make results CAPTURES=DIR [ROOT=var/results], hours; ends with one line of JSON
	@test -n "$(CAPTURES)" || { echo 'usage: make results CAPTURES=DIR (with aalto/, lsif/ and ucl/ in it) [ROOT=…] [SET="section.key=value …"]' >&2; exit 2; }
	@$(PY) tests/bench/results.py "$(CAPTURES)" "$(if $(filter file,$(origin ROOT)),var/results,$(ROOT))" $(foreach s,$(SET),--set "$(s)") $(QUICK)
results-quick: ## the same with small networks, three folds and fewer protocols
	@$(MAKE) --no-print-directory results QUICK=--quick $(if $(filter file,$(origin ROOT)),ROOT=var/results-quick)

bench-predict: setup ## prediction speed and that of the plain model, same weights: make bench-predict [LEARN="--captures DIR --labels FILE …"]
	@$(PY) tests/bench/learning.py predict $(LEARN)

# not from setup: a machine with a GPU needs only torch and what the program names
bench-gpu: ## training and prediction on this machine's GPUs, and of the plain model, without make setup: make bench-gpu [GPU="--wheels DIR"], minutes; ends with one line of JSON
	@$(if $(wildcard .venv/.ready),$(PY),python3) tests/bench/gpu.py $(GPU)

drill-kill: setup ## kill an ingest at 20 random moments and check what is left: make drill-kill [SEED=1], minutes
	@$(PY) tests/drills/kill.py --seed $(SEED)

drill-nights: setup ## nightly runs, each with a random fault, compared with runs without: make drill-nights [SEED=1] [NIGHTS=10], minutes
	@$(PY) tests/drills/nights.py --seed $(SEED) --nights $(NIGHTS)

drill-cluster: wheel ## all steps on a standalone cluster on this machine, and an ingest during which a worker is killed: minutes
	@$(PY) tests/drills/cluster.py dist/*.zip

drill-households: setup ## households as captures, through every step to the census: make drill-households CAPTURES=DIR LABELS=FILE, minutes
	@test -n "$(CAPTURES)" -a -n "$(LABELS)" || { echo 'usage: make drill-households CAPTURES=DIR LABELS=FILE' >&2; exit 2; }
	@$(PY) tests/drills/households.py --captures "$(CAPTURES)" --labels "$(LABELS)" --seed $(if $(filter file,$(origin SEED)),3,$(SEED))

drill-network: setup ## laboratories as sites, from no label to a named network: make drill-network LABS="--site NAME CAPTURES LABELS …" [NIGHTS=4], a quarter of an hour
	@test -n "$(LABS)" || { echo 'usage: make drill-network LABS="--site NAME CAPTURES LABELS --site …" [NIGHTS=4]' >&2; exit 2; }
	@$(PY) tests/drills/network.py $(LABS) --nights $(if $(filter file,$(origin NIGHTS)),4,$(NIGHTS))

cluster: setup ## start a standalone cluster on this machine; prints its address (stop it with make cluster-stop)
	@$(PY) tests/drills/standalone.py start var/cluster
cluster-stop: setup
	@$(PY) tests/drills/standalone.py stop var/cluster

fuzz: setup peers-setup ## fuzz the readers of stored files, one kind after the other: make fuzz [SECONDS=60, of each] [TARGETS="capture metadata …"] [SEED=1] [CAPTURES=DIR, to start from]
	@for target in $(TARGETS); do echo "fuzz: $$target"; if test $$target = capture; then $(PY) tests/fuzz/fuzz_capture.py --seconds $(SECONDS) $(if $(CAPTURES),--seeds "$(CAPTURES)"); else $(PY) tests/fuzz/fuzz_stored.py $$target --seconds $(SECONDS) --seed $(SEED); fi; done

bench-census: setup ## a census of a million flows of 20,000 devices, compared with scoring every flow: make bench-census [CAPTURES=DIR LABELS=FILE]
	@$(PY) tests/bench/census.py $(if $(CAPTURES),--captures "$(CAPTURES)" --labels "$(LABELS)") $(foreach s,$(SET),--set "$(s)")

bench-households: setup ## the device model on synthetic households, with baselines: make bench-households CAPTURES=DIR LABELS=FILE [OTHERS="--others DIR FILE [section.key=value …] …"], an hour; ends with one line of JSON
	@test -n "$(CAPTURES)" -a -n "$(LABELS)" || { echo 'usage: make bench-households CAPTURES=DIR LABELS=FILE [OTHERS="--others DIR FILE …"] [FOLDS=5] [FIRST=N: only the first N trainings] [TIMES=200] [SEED=7] [METHODS="iotid regressions"] [SET="capture.key=value …"]' >&2; exit 2; }
	@$(PY) tests/bench/households.py --captures "$(CAPTURES)" --labels "$(LABELS)" $(OTHERS) $(if $(FOLDS),--folds $(FOLDS)) $(if $(FIRST),--only-first $(FIRST)) $(if $(TIMES),--times $(TIMES)) $(if $(SEED),--seed $(SEED)) $(if $(METHODS),--methods $(METHODS)) $(foreach s,$(SET),--set "$(s)")

bench-groups: setup ## groups of unknown devices against their true kinds, over nights without labels: make bench-groups CAPTURES=DIR (with aalto/, lsif/ and ucl/ in it), minutes; ends with one line of JSON
	@test -n "$(CAPTURES)" || { echo 'usage: make bench-groups CAPTURES=DIR [GROUPS="--thresholds 0.6 0.9 --without-model"]' >&2; exit 2; }
	@$(PY) tests/bench/groups.py --captures "$(CAPTURES)" $(GROUPS)

bench-traffic: setup ## the device model after the first flows and minutes of a capture: make bench-traffic CAPTURES=DIR LABELS=FILE [FOLDS=3] [SET="capture.key=value …"], minutes; ends with one line of JSON
	@test -n "$(CAPTURES)" -a -n "$(LABELS)" || { echo 'usage: make bench-traffic CAPTURES=DIR LABELS=FILE [FOLDS=3] [SET="section.key=value …"]' >&2; exit 2; }
	@$(PY) tests/bench/traffic.py --captures "$(CAPTURES)" --labels "$(LABELS)" $(if $(FOLDS),--folds $(FOLDS)) $(foreach s,$(SET),--set "$(s)")

bench-characteristics: setup ## what each characteristic brings, within laboratories and across them: make bench-characteristics CAPTURES=DIR (with aalto/, lsif/ and ucl/ in it) [FOLDS=3], an hour; ends with one line of JSON
	@test -n "$(CAPTURES)" || { echo 'usage: make bench-characteristics CAPTURES=DIR (with aalto/, lsif/ and ucl/ in it) [FOLDS=3]' >&2; exit 2; }
	@$(PY) tests/bench/characteristics.py --captures "$(CAPTURES)" $(if $(FOLDS),--folds $(FOLDS))

bench-unlike: setup ## the census column unlike_kind and DIoT's anomaly detection on later captures, with foreign flows and scans: make bench-unlike CAPTURES=DIR (with aalto/, lsif/ and ucl/ in it) [SITES="lsif"], minutes; ends with one line of JSON
	@test -n "$(CAPTURES)" || { echo 'usage: make bench-unlike CAPTURES=DIR [SITES="lsif aalto ucl"] [SEED=1] [SET="section.key=value …"]' >&2; exit 2; }
	@$(PY) tests/bench/unlike_kind.py --captures "$(CAPTURES)" $(if $(SITES),--sites $(SITES)) $(if $(SEED),--seed $(SEED)) $(foreach s,$(SET),--set "$(s)")

bench-linkage: setup ## how many pseudonyms an unmasked census of the same date reveals: make bench-linkage [CENSUS=FOLDER, else synthetic devices]; ends with one line of JSON
	@$(PY) tests/bench/linkage.py $(if $(CENSUS),--census "$(CENSUS)")

bench-flood: setup ## floods of crafted flows and of forged MACs, compared with as many random ones: make bench-flood [MODEL=ROOT LABELS=FILE] [FLOWS=120000] [MACS=100000], half an hour; ends with one line of JSON
	@$(PY) tests/bench/flood.py $(if $(MODEL),--model "$(MODEL)" --labels "$(LABELS)") $(if $(FLOWS),--flows $(FLOWS)) $(if $(MACS),--macs $(MACS)) $(foreach s,$(SET),--set "$(s)")

bench-network: setup ## the network's census of a million address-nights: make bench-network [SITES=100] [ADDRESSES=1000] [NIGHTS=10]; ends with one line of JSON
	@$(PY) tests/bench/network.py $(if $(SITES),--sites $(SITES)) $(if $(ADDRESSES),--addresses $(ADDRESSES)) --nights $(NIGHTS)

bench-start: setup ## what starting costs: whole steps of a tiny night, and each part alone; ends with one line of JSON
	@$(PY) tests/bench/start.py

bench-sites: setup ## many small sites in one application, and a command for each step and site: make bench-sites [SITES=200]; ends with one line of JSON
	@$(PY) tests/bench/sites.py $(if $(SITES),--sites $(SITES))

bench-census-hits: setup ## compare a run's census with its device list: make bench-census-hits LABELS=… SITE=… DATE=… [ROOT=…]
	@$(PY) tests/bench/census_hits.py "$(abspath $(ROOT))" "$(SITE)" "$(DATE)" "$(LABELS)"

wheel: setup ## dist/iotid-….whl with its constraints.txt, and a copy as .zip, which spark-submit --py-files requires
	@rm -rf dist && $(PY) -m build --wheel --no-isolation --outdir dist . >/dev/null
	@for wheel in dist/*.whl; do cp "$$wheel" "$${wheel%.whl}.zip"; done
	@./setup.sh constraints >dist/constraints.txt; ls dist/*
test-wheel: wheel ## the wheel with its constraints in clean environments: flows and predictions alone, then the demo
	@$(PY) tests/drills/installed.py dist

clean: ## remove the output of the demo, runs and builds (not the environments)
	@rm -rf var dist build
