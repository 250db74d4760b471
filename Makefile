# `make demo` and `make test` set themselves up from a machine that has Python 3.11 and nothing else.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
TOOLS ?= .venv-tools
BANKING ?=
BANKING77 ?=
ARENA ?=
TAU ?=
MINT ?=
WOZ ?=
HOMES ?= $(abspath data/evidence)

.PHONY: setup tools demo test lint evidence clean

setup: $(VENV)/.installed

# The stamp is written last: an interrupted set-up is simply repeated, and a finished one needs no network.
$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[model,dev]'
	touch $@

tools: $(TOOLS)/.installed

# The tools that exports are for, so that test_export_tools.py can load each export by the tool's own code, and axe-core,
# which looks for what bars people from the review page. The tools pin other versions than evalflow does, hence a folder
# of their own. promptfoo's optional packages are a gigabyte of providers; of them only its database is needed. Needs node
# and npm; without this folder the tests are skipped.
$(TOOLS)/.installed: evalflow_tests/tool_loaders/requirements.txt
	$(PYTHON) -m venv $(TOOLS)
	$(TOOLS)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --no-compile -r $<
	npm install --silent --no-package-lock --omit=optional --omit=peer --ignore-scripts --prefix $(TOOLS) \
		promptfoo@0.121.20 @libsql/linux-x64-gnu@0.5.29 axe-core@4.14.1
	touch $@

demo: setup
	$(BIN)/evalflow demo

# Three workers on two cores, since some tests wait for a server or a browser; one thread each, so that none spins.
test: setup
	OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 $(BIN)/python -m pytest -n 3 --dist loadfile --no-loadscope-reorder

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

clean:
	rm -rf $(VENV) $(TOOLS) data/demo/home data/evidence .mypy_cache .ruff_cache .hypothesis

# The slow proofs of docs/evidence.md. The capital names are folders with the data that the page names (WOZ a file); HOMES is where
# the homes of the banking stream are made and kept.
evidence: setup
	@for name in BANKING:"$(BANKING)" BANKING77:"$(BANKING77)" ARENA:"$(ARENA)" TAU:"$(TAU)" MINT:"$(MINT)" WOZ:"$(WOZ)"; do \
		test -n "$${name#*:}" || { echo "Set $${name%%:*} to its folder of data, as docs/evidence.md names it: make evidence $${name%%:*}=..."; exit 2; }; \
	done
	cd benchmarks && ../$(BIN)/python inference.py
	cd benchmarks && ../$(BIN)/python coverage_speed.py
	cd benchmarks && ../$(BIN)/python arena_hard.py $(abspath $(ARENA))
	cd benchmarks && ../$(BIN)/python refresh_starts.py
	cd benchmarks && ../$(BIN)/python banking77_clusters.py $(abspath $(BANKING77))
	cd benchmarks && ../$(BIN)/python banking_coverage.py $(abspath $(BANKING)) --home $(HOMES)
	cd benchmarks && ../$(BIN)/python banking_alarms.py $(abspath $(BANKING)) $(HOMES)/seed-7 $(HOMES)/seed-8 $(HOMES)/seed-9
	cd benchmarks && ../$(BIN)/python session_coverage.py $(HOMES)/seed-7
	cd benchmarks && ../$(BIN)/python session_coverage.py --tau $(abspath $(TAU))
	cd benchmarks && ../$(BIN)/python session_coverage.py --mint $(abspath $(MINT)) gpt-3.5-turbo-0613 gpt-4-0613
	cd benchmarks && ../$(BIN)/python banking_refresh.py $(abspath $(BANKING)) $(HOMES)
	cd benchmarks && ../$(BIN)/python signals_grader.py $(HOMES)/refreshed-7 $(abspath $(BANKING))/truth.jsonl.gz
	cd benchmarks && ../$(BIN)/python refresh_sensor.py $(HOMES)/seed-7
	cd benchmarks && ../$(BIN)/python banking_gate.py $(abspath $(BANKING)) $(HOMES)/gate
	cd benchmarks && ../$(BIN)/python gate_power.py
	cd benchmarks && ../$(BIN)/python dedup.py $(abspath $(BANKING77)) $(abspath $(WOZ))
	cd benchmarks && ../$(BIN)/python review_page.py $(HOMES)/review_page --items 10000 --kills 20
	cd benchmarks && ../$(BIN)/python promotion_kill.py $(HOMES)/seed-7
	cd benchmarks && ../$(BIN)/python ledger_kill.py
	cd benchmarks && ../$(BIN)/python newcomer.py
	cd benchmarks && ../$(BIN)/python ui_backfill.py $(abspath $(BANKING)) --start 2026-06-01 --end 2026-08-23
	cd benchmarks && ../$(BIN)/python kill_loop.py $(abspath $(BANKING)) --start 2026-06-01 --end 2026-08-23
