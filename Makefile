# Two commands do everything: `make demo` and `make test`. Both install what is missing first and work from any directory.
ROOT := $(dir $(abspath $(lastword $(MAKEFILE_LIST))))
BIN := $(ROOT).venv/bin

.PHONY: demo test setup lint benchmarks soak clean help

help: ## this list
	@grep -E '^[a-z]+:.*##' $(ROOT)Makefile | sed 's/:.*##/\t/'

demo: ## run the main job on the emulated bench and write a report
	@$(ROOT)scripts/setup.sh run
	@cd $(ROOT) && $(BIN)/pytest -m hil tests/hil --lab-device "class:mcu, pi, phone"

# Tests start hundreds of interpreters, which need not compile the same files again where something forbids to keep that.
test: export PYTHONDONTWRITEBYTECODE :=
test: ## set up and run all tests
	@$(ROOT)scripts/setup.sh test
	@$(MAKE) --no-print-directory -f $(ROOT)Makefile lint
	@cd $(ROOT) && $(BIN)/python scripts/run_tests.py -n 3 # on two cores: tests that wait for emulators leave a quarter of both idle

setup: ## install what is missing
	@$(ROOT)scripts/setup.sh test

lint: ## ruff and mypy --strict
	@cd $(ROOT) && $(BIN)/ruff check . && $(BIN)/mypy

benchmarks: ## speed claims, as counts and ratios
	@$(ROOT)scripts/setup.sh test
	@cd $(ROOT) && failed=0; for file in $(filter-out %/common.py %/copy_model.py,$(wildcard $(ROOT)benchmarks/*.py)); do \
	    echo "== $$file"; PYTHONPATH=tests $(BIN)/python $$file || failed=1; done; exit $$failed

soak: ## faults at random for SECONDS=120: nothing stored is lost, nothing is judged wrongly
	@$(ROOT)scripts/setup.sh test
	@cd $(ROOT) && PYTHONPATH=tests $(BIN)/python tests/faults/soak.py --seconds $(or $(SECONDS),120)

clean: ## remove the virtual environment, local store and reports
	rm -rf $(ROOT).venv $(ROOT).lab $(ROOT)reports $(ROOT)*.egg-info
