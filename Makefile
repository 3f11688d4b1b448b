# The commands of this repository. They need git, make and Python 3.11 or newer: uv is taken from
# the PATH, or brought into .tools/ where there is none.

.DEFAULT_GOAL := help
unexport VIRTUAL_ENV  # a virtual environment of somebody else is not ours

UV := $(shell command -v uv 2>/dev/null)
ifeq ($(UV),)
UV := .tools/bin/uv
export PATH := $(CURDIR)/.tools/bin:$(PATH)
endif

.PHONY: help demo test test-fast test-faults test-containers test-newer faults bench bench-quick \
	screenshots dashboard samples lint newer release clean

help:
	@echo 'make demo   generate a service, start it, and see its tasks done'
	@echo '            (make demo ANSWERS="project_type=django broker=rabbitmq")'
	@echo 'make test   the tests of the template (make test ARGS="-k licence")'
	@echo 'make test-fast'
	@echo '            the runtime, the answers and the files of each bake: under a minute'
	@echo 'make test-faults'
	@echo '            the tests that kill workers and brokers: some minutes'
	@echo 'make faults do the same to the configuration of the usual tutorial, and write both'
	@echo '            into the tables of the README'
	@echo 'make test-containers'
	@echo '            the image and compose.yaml in a Docker engine; on Debian, root gets one'
	@echo 'make test-newer'
	@echo '            the tests of faults, and those of each project, on RabbitMQ 4 and Redis 8'
	@echo 'make bench  measure speed and scale, and write the pages: some two hours, with nothing'
	@echo '            else on the machine (make bench ARGS="throughput"; make bench-quick: ten minutes)'
	@echo 'make screenshots'
	@echo '            pictures of the Django page, Flower and the dashboard for the README, in docs/'
	@echo 'make dashboard'
	@echo '            the dashboard of generated projects, from tests/dashboard.py'
	@echo 'make samples'
	@echo '            pages in docs/samples/ that show what the presets generate'
	@echo 'make lint   ruff, mypy and rumdl'
	@echo 'make newer  fails if there is a newer release of what the runtime stands on'
	@echo 'make release VERSION=1.2.0'
	@echo '            dates the changelog, sets the version, and commits; the tag is yours'
	@echo 'make clean  remove what the other commands brought'

demo: $(UV)
	@$(UV) run --quiet --script demo.py $(ANSWERS)

test: $(UV)
	$(UV) run --quiet pytest --numprocesses=auto -m "not faults and not containers" $(ARGS)

test-fast: $(UV)
	$(UV) run --quiet pytest --numprocesses=auto --hypothesis-profile=fast \
		tests/runtime tests/test_answers.py tests/test_any_answers.py tests/test_presets.py \
		tests/test_samples.py tests/test_shape.py $(ARGS)

test-faults: $(UV)
	$(UV) run --quiet pytest --numprocesses=auto -m faults tests/test_faults.py \
		tests/test_cluster.py tests/test_sentinel_faults.py $(ARGS)

test-containers: $(UV)
	tests/containers/engine.sh $(UV) run --quiet pytest --numprocesses=2 --dist=loadscope \
		--durations=0 --durations-min=1 -m containers tests/test_containers.py $(ARGS)

SERVERS := .tools/servers

test-newer: $(UV)
	tests/containers/engine.sh tests/containers/newer.sh $(SERVERS)
	TEMPLATE_TESTS_SERVERS='$(CURDIR)/$(SERVERS)/bin' $(UV) run --quiet pytest \
		--numprocesses=auto -m "" tests/test_faults.py tests/test_cluster.py \
		tests/test_sentinel_faults.py tests/test_own.py $(ARGS)

faults: $(UV)
	$(UV) run --quiet python -m tests.faults
	$(UV) run --quiet python -m tests.cluster_faults
	$(UV) run --quiet python -m tests.sentinel_faults

bench: $(UV)
	$(UV) run --quiet --group bench python -m benchmarks $(ARGS)

bench-quick: $(UV)
	$(UV) run --quiet --group bench python -m benchmarks --quick $(ARGS)

screenshots: $(UV)
	$(UV) run --quiet python -m tests.screenshots
	$(UV) run --quiet --group bench python -m tests.graphs

dashboard: $(UV)
	$(UV) run --quiet python -m tests.dashboard

samples: $(UV)
	@$(UV) run --quiet python -m tests.samples

# A link of its own to the runtime, since `celery.py` lies beside it and would hide Celery.
RUNTIME := {{cookiecutter.project_slug}}/{{cookiecutter.__package}}/runtime
LINKED := .mypy_cache/linked

lint: $(UV)
	$(UV) run --quiet ruff check --config pyproject.toml
	$(UV) run --quiet ruff format --check --config pyproject.toml
	@mkdir -p $(LINKED) && ln -sfn '$(CURDIR)/$(RUNTIME)' $(LINKED)/runtime
	$(UV) run --quiet mypy
	$(UV) run --quiet rumdl check --quiet

newer: $(UV)
	@$(UV) sync --quiet
	@found=$$($(UV) pip list --outdated | grep -E '^(amqp|billiard|celery|kombu|redis) '); \
	if [ -n "$$found" ]; then \
		printf '%s\nRead it, then raise the bounds: tests/runtime/test_overrides.py\n' "$$found"; \
		exit 1; \
	fi

# The samples first: they show what is released.
release: $(UV)
	@$(UV) run --quiet pytest -qq --tb=line --show-capture=no \
		tests/test_samples.py
	@$(UV) run --quiet python release.py '$(VERSION)'

clean:
	rm -rf .tools .venv .hypothesis .mypy_cache .pytest_cache .ruff_cache uv.lock

# The first Python that is new enough makes the environment: python3 may be an older one.
.tools/bin/uv:
	@for python in python3 python3.14 python3.13 python3.12 python3.11; do \
		$$python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || continue; \
		$$python -c 'import ensurepip, venv' 2>/dev/null || { \
			echo "$$python has no venv: install it (on Debian: apt-get install python3-venv)" >&2; \
			exit 1; \
		}; \
		echo "Bringing uv into .tools/"; \
		$$python -m venv .tools/venv && .tools/venv/bin/pip install --quiet --disable-pip-version-check uv || exit 1; \
		mkdir -p .tools/bin && ln -sf ../venv/bin/uv .tools/bin/uv; \
		exit 0; \
	done; \
	echo "Python 3.11 or newer is needed" >&2; exit 1
