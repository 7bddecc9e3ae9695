# demo: install and run the example study end to end.  test: install and run every check.
# Both work on a fresh machine with Python 3.11 or newer.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin

.PHONY: demo test fast bench golden lint figure clean

demo: $(VENV)/.installed
	$(BIN)/sweeper launch studies/tiny.py

test: $(VENV)/.installed-test lint
	$(BIN)/python -m pytest

fast: $(VENV)/.installed-test
	$(BIN)/python -m pytest -m "not slow and not bench"

# What laws, store and manager must reach, beside what they reach; wants public results in $$SWEEPER_REFERENCE_DATA.
bench: $(VENV)/.installed-test
	$(BIN)/python -m pytest tests -m bench -q

# The loss curves that the tests compare with; the difference to the old ones belongs into review.
golden: $(VENV)/.installed-test
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.train.golden

lint: $(VENV)/.installed-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "$(PYTHON) is older than Python 3.11; name a newer one: make PYTHON=python3.11 $(MAKECMDGOALS)"; exit 2; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: pyproject.toml | $(BIN)/python
	$(BIN)/pip install --quiet --disable-pip-version-check -e .
	touch $@

$(VENV)/.installed-test: pyproject.toml | $(BIN)/python
	$(BIN)/pip install --quiet --disable-pip-version-check -e '.[test]'
	touch $@ $(VENV)/.installed

# The README's picture: the report of the last `make demo`, as a browser shows it.
figure:
	mkdir -p .assets
	chromium --headless --no-sandbox --disable-gpu --no-first-run --hide-scrollbars \
	  --disable-background-networking --virtual-time-budget=20000 --window-size=1100,1480 \
	  --screenshot=.assets/report.png file://$(CURDIR)/.sweeper/studies/tiny/report.html

clean:
	rm -rf $(VENV) .sweeper
