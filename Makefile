# edgectl: everything here works on a fresh machine with Python 3.11+ (with venv), git and make.
PYTHON ?= python3
BIN := .venv/bin
READY := .venv/ready
TOOLS := .venv/ready-tools
# Two workers a core: tests of real nodes wait longer than they compute. Files go to workers whole, the longest first.
WORKERS ?= $(shell n=$$((2 * $$(getconf _NPROCESSORS_ONLN))); echo $$((n < 16 ? n : 16)))

help: ## print this
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1\t/' | expand -t 12

demo: $(READY) ## set up and run the main job from nothing to a rollback, with four real agents
	$(BIN)/edgectl demo

test: $(TOOLS) ## set up and run the checks and the tests
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder $(PYTEST)

soak: $(TOOLS) ## cut real nodes' network at random moments; kill brokers; try laws of event time 10,000 times (root, two hours)
	EDGECTL_CUTS=10 $(BIN)/python -m pytest -q -s tests/scenarios/test_lab_cuts.py
	EDGECTL_KAFKA_READINGS=200000 EDGECTL_KAFKA_KILLS=2 $(BIN)/python -m pytest -q -s tests/scenarios/test_kafka.py
	EDGECTL_MQTT_READINGS=200000 $(BIN)/python -m pytest -q -s tests/scenarios/test_mqtt.py
	EDGECTL_LAW_EXAMPLES=10000 $(BIN)/python -m pytest -q tests/agent/test_reorder.py tests/agent/test_stream_limit.py \
		tests/agent/test_join.py

fuzz: $(TOOLS) ## try a million random inputs over all decoders of what comes from outside (a quarter of an hour; FUZZ="--seed 2 …")
	$(BIN)/python -m tests.fuzz $(FUZZ)

bench: $(READY) ## measure speed, memory and detection against named peers; lines go to bench/results.jsonl
	@missed=; for file in bench/[a-z]*.py; do name=$$(basename $$file .py); echo "── $$name"; \
		$(BIN)/python -m bench.$$name || missed="$$missed $$name"; done; \
	test -z "$$missed" || { echo "below their goals or failed:$$missed"; exit 1; }

wheels: $(TOOLS) ## build both wheels into dist/
	$(BIN)/pip wheel -q --no-deps --no-build-isolation -w dist ./agent .

clean: ## delete what the other targets made
	rm -rf .venv dist build edgectl-demo .mypy_cache .ruff_cache .pytest_cache .hypothesis

$(READY): pyproject.toml agent/pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/pip install -q --disable-pip-version-check -c constraints.txt -e ./agent -e '.[logs]'
	touch $@

$(TOOLS): $(READY)
	$(BIN)/pip install -q --disable-pip-version-check -c constraints.txt -e ./agent -e '.[dev]'
	# its scores need numpy and scikit-learn alone; what it says it needs beside them excludes the newest numpy
	$(BIN)/pip install -q --disable-pip-version-check -c constraints.txt --no-deps aeon
	touch $@

.PHONY: help demo test soak fuzz bench wheels clean
