# Everything a newcomer needs: each target works on a fresh machine with Python 3.11.
PYTHON ?= python3.11
BIN := .venv/bin
READY := .venv/.ready
PYTEST := $(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

.PHONY: setup simulate test test-slow test-exhaustive check docs golden hashes clean

setup: $(READY)

$(READY): pyproject.toml constraints.txt
	@echo "installing into .venv: some minutes"
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install -q -c constraints.txt "torch==2.13.0"
	$(BIN)/python -m pip install -q -c constraints.txt -e ".[dev]"
	touch $(READY)

simulate: setup   ## six hospitals, three stages, TED; ARGS="strategy=lwf seed=1" changes it
	$(BIN)/python simulate.py $(ARGS)

check: setup      ## style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

test: check       ## style, types and the quick tests; ARGS="-k ted" selects
	$(PYTEST) -m "not (slow or network or browser or exhaustive)" $(ARGS)

test-slow: setup  ## the rest: network, outages, browser, long resumes
	$(PYTEST) -m "(slow or network or browser) and not exhaustive" $(ARGS)

test-exhaustive: setup  ## every method, rule and size where the others take some: before a release
	$(PYTEST) -m exhaustive $(ARGS)

docs: setup       ## the documentation as a site, in docs/_build/html/index.html
	$(BIN)/python -m sphinx -W --keep-going -q -b html docs docs/_build/html

golden: setup     ## write the values that test_golden_run holds every strategy to
	$(BIN)/python -c "from tests.app.test_runs import write_golden; write_golden()"

hashes:           ## constraints-hospital.txt anew, after a change of constraints.txt: minutes
	$(PYTHON) -m venv .venv/hashes
	.venv/hashes/bin/python -m pip install -q pip-tools==7.5.2
	.venv/hashes/bin/pip-compile -q --generate-hashes --strip-extras --no-header --no-annotate \
		--no-emit-index-url --no-emit-find-links --no-emit-trusted-host \
		--unsafe-package torch -c constraints.txt -o constraints-hospital.txt pyproject.toml
	sed -i '/^$$/d;/^#/d' constraints-hospital.txt
	rm -r .venv/hashes

clean:
	rm -rf .venv *.egg-info docs/_build .pytest_cache .mypy_cache .ruff_cache
