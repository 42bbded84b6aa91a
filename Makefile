# Hubbub. `make up` starts a chat server; `make help` lists the rest.
#
# Paths are relative, and Python's tools run as `python -m …`, so that a checkout may stand in a path with spaces.
# ARGS is passed on: make up ARGS="--port 9000", make test ARGS="-k settings".

.POSIX:
.PHONY: help up test lint bench bench-smoke locust clean

BIN = .venv/bin/python
ARGS =
# Two processes, a file's tests in one of them: what a file shares is made once.
PYTEST = -n 2 --dist loadfile

help:
	@echo 'make up           install what is missing and start the server     ARGS="--port 9000"'
	@echo 'make test         run all tests                                    ARGS="-k settings"'
	@echo 'make lint         ruff, mypy, import contracts'
	@echo 'make bench        run all benchmarks, a few minutes                ARGS="--scenario direct"'
	@echo 'make bench-smoke  run each benchmark once, half a minute'
	@echo 'make locust       an environment of its own for bench/locustfile.py'
	@echo 'make clean        remove environments and caches; data is left alone'

up:
	@scripts/venv .venv -e .
	@exec $(BIN) -m hubbub.cli up $(ARGS)

test:
	@scripts/venv .venv -e '.[test,bench]'
	$(BIN) -m pytest $(PYTEST) $(ARGS)

lint:
	@scripts/venv .venv -e '.[test,bench,dev]'
	$(BIN) -m ruff check
	$(BIN) -m ruff format --check
	$(BIN) -m mypy
	$(BIN) -c 'from importlinter.cli import lint_imports_command; lint_imports_command()'

bench:
	@scripts/venv .venv -e '.[bench]'
	$(BIN) -m bench $(ARGS)

bench-smoke:
	@scripts/venv .venv -e '.[bench]'
	$(BIN) -m bench --smoke $(ARGS)

locust:
	@scripts/venv .venv-locust locust websocket-client

clean:
	rm -rf .venv .venv-locust build dist
	rm -rf .hypothesis .import_linter_cache .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
