"""A real PostgreSQL for a whole test session, and a database of its own for each test."""

import asyncio
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path

import psycopg
import pytest
from psycopg import sql
from psycopg.conninfo import make_conninfo

from hubbub import settings as hubbub_settings
from store.database import WRITER_OPTIONS, connect, migrate
from tests.integration.system import system as system  # a fixture


class Postgres:
    """A server that tests may make databases on. `embedded`: ours alone, its settings may be changed."""

    def __init__(self, url: str, *, embedded: bool) -> None:
        self.url = url
        self.embedded = embedded
        self._names = count()
        self._template: str | None = None

    def execute(self, statement: str | sql.Composed) -> None:
        """Run a statement in the server's own database, outside a transaction."""
        with psycopg.connect(self.url, autocommit=True) as conn:
            conn.execute(sql.SQL(statement) if isinstance(statement, str) else statement)

    def url_of(self, name: str) -> str:
        """How to connect to a database of this server."""
        return make_conninfo(self.url, dbname=name)

    def template(self) -> str:
        """The name of a database that holds the migrated schema, made when it is first asked for."""
        if self._template is None:
            name = self.create(None)

            async def migrated() -> None:
                conn = await connect(self.url_of(name), WRITER_OPTIONS)
                try:
                    await migrate(conn)
                finally:
                    await conn.close()

            asyncio.run(migrated())
            self._template = name
        return self._template

    def create(self, template: str | None) -> str:
        """A new database; its name. Of a *template* a clone, which takes some 40 ms."""
        name = f"hubbub_test_{os.getpid()}_{next(self._names)}"
        source = sql.SQL("" if template is None else " template {}").format(
            *[sql.Identifier(template)] if template else []
        )
        self.execute(sql.SQL("create database {}").format(sql.Identifier(name)) + source)
        return name

    def drop(self, name: str) -> None:
        """Drop it, whoever is still connected."""
        self.execute(sql.SQL("drop database {} with (force)").format(sql.Identifier(name)))

    @contextmanager
    def scratch(self, template: str | None) -> Iterator[str]:
        """The URL of a database for a while."""
        name = self.create(template)
        try:
            yield self.url_of(name)
        finally:
            self.drop(name)


@pytest.fixture(scope="session")
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Postgres]:
    """The server that HUBBUB_TEST_DATABASE_URL names, or an embedded one in a temporary directory."""
    if given := os.environ.get("HUBBUB_TEST_DATABASE_URL"):
        yield Postgres(given, embedded=False)
        return
    with embedded(tmp_path_factory.mktemp("postgres")) as url:
        yield Postgres(url, embedded=True)


@contextmanager
def embedded(data_dir: Path) -> Iterator[str]:
    """Run ``python -m hubbub.runtime.postgres`` on *data_dir*; the URL of its database."""
    settings = hubbub_settings.load({"HOME": "/nonexistent"}, overrides={"data_dir": data_dir}).postgres()
    process = subprocess.Popen(
        [sys.executable, "-P", "-m", "hubbub.runtime.postgres"],
        env={
            "PATH": os.environ["PATH"],
            "PYTHONPATH": os.pathsep.join(sys.path),
            "HUBBUB_DATA_DIR": str(data_dir),
            "HUBBUB_LOG_FORMAT": "json",
        },
        stderr=subprocess.PIPE,
        text=True,
    )
    lines: list[str] = []
    ready = threading.Event()

    def read() -> None:
        assert process.stderr is not None
        with process.stderr as log:
            for line in log:
                lines.append(line)
                if '"PostgreSQL is ready"' in line:
                    ready.set()
        ready.set()

    reader = threading.Thread(target=read)
    reader.start()
    try:
        assert ready.wait(60) and process.poll() is None, "".join(lines)
        yield settings.url
    finally:
        process.terminate()
        try:
            process.wait(30)
        finally:
            process.kill()
            reader.join()


@pytest.fixture
def database(postgres: Postgres) -> Iterator[str]:
    """The URL of a fresh database with the schema."""
    with postgres.scratch(postgres.template()) as url:
        yield url


@pytest.fixture
def empty_database(postgres: Postgres) -> Iterator[str]:
    """The URL of a fresh database with nothing in it."""
    with postgres.scratch(None) as url:
        yield url
