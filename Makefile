# The README's two commands, `make run` and `make test`, do all the set-up on a fresh machine.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: install dev run test check static format docs clean bench bench-quick bench-locust locust profile

# A stamp, so that a second `make run` starts at once; a changed pyproject.toml installs again.
$(VENV)/.run: pyproject.toml
	@echo "installing into $(VENV) ..."
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --editable .
	@touch $@

$(VENV)/.dev: pyproject.toml
	@echo "installing into $(VENV) ..."
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --editable '.[dev]'
	@touch $@ $(VENV)/.run

$(VENV)/.bench: pyproject.toml
	@echo "installing into $(VENV) ..."
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --editable '.[bench]'
	@touch $@ $(VENV)/.run

install: $(VENV)/.run
	@echo "installed: $(BIN)/fastlb"

dev: $(VENV)/.dev

run: $(VENV)/.run
	@exec $(BIN)/fastlb demo

test: $(VENV)/.dev
	$(BIN)/python -m pytest

static: $(VENV)/.dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

check: static test

format: $(VENV)/.dev
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

# The settings in README.md are made from the declarations in fastlb/model, the man page from the help topics.
docs: $(VENV)/.run
	$(BIN)/python -m fastlb.cli.reference README.md
	$(BIN)/python -m fastlb.cli.man_page deploy/fastlb.1

# docs/benchmarks.md has what they measure. ONLY="get unix" of bench, WORKLOAD=get of profile.
bench: $(VENV)/.bench
	$(BIN)/python -m bench $(if $(ONLY),--only $(ONLY))

bench-quick: $(VENV)/.bench
	$(BIN)/python -m bench --quick

bench-locust: $(VENV)/.bench
	$(BIN)/python -m bench.locust_run

# The web UI on http://127.0.0.1:8089, against a fastlb that runs: `make run` in another terminal.
HOST ?= http://127.0.0.1:8080
locust: $(VENV)/.bench
	$(BIN)/locust -f bench/locustfile.py --host $(HOST) --web-host 127.0.0.1 --class-picker

profile: $(VENV)/.bench
	$(BIN)/python -m bench.flame_graph $(WORKLOAD)

clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis
