"""PostgreSQL as the store uses it: named statements, migrations, the two kinds of session."""

import re
from importlib.resources import files
from importlib.resources.abc import Traversable

import psycopg
from psycopg import AsyncConnection, AsyncRawCursor
from psycopg.rows import TupleRow

from hubbub.statements import load_statements

Connection = AsyncConnection[TupleRow]

# Key of the advisory lock under which one store at a time migrates ("HUBM" in ASCII).
_MIGRATION_LOCK = 0x4855424D

# A writer that stops must not keep its slots: PostgreSQL ends a session that is idle for so long, and the
# store speaks once a second.
IDLE_SESSION_MS = 5_000
_COMMON = "-c synchronous_commit=on -c timezone=UTC -c jit=off"
# The batch statement must be planned by its indexes whatever the (often missing) statistics say.
WRITER_OPTIONS = (
    f"{_COMMON} -c idle_session_timeout={IDLE_SESSION_MS} -c plan_cache_mode=force_generic_plan "
    "-c enable_seqscan=off -c enable_hashjoin=off -c enable_mergejoin=off"
)
READER_OPTIONS = f"{_COMMON} -c enable_seqscan=off -c enable_hashjoin=off -c enable_mergejoin=off"


class DatabaseUnfit(Exception):
    """The server cannot keep the promise as it is configured; says what to change."""


def _sql() -> Traversable:
    return files("store") / "sql"


STATEMENTS = load_statements((_sql() / "statements.sql").read_text(encoding="utf-8"))
DIRECTORY = load_statements((_sql() / "directory.sql").read_text(encoding="utf-8"))


def migrations() -> list[tuple[int, str, str]]:
    """``(number, name, SQL)`` of every migration, in order."""
    found = [path for path in (_sql() / "migrations").iterdir() if path.name.endswith(".sql")]
    return sorted((int(path.name[:4]), path.name, path.read_text(encoding="utf-8")) for path in found)


async def connect(url: str, options: str) -> Connection:
    """A session in autocommit mode. Raises `psycopg.OperationalError`."""
    return await AsyncConnection.connect(
        url,
        autocommit=True,
        cursor_factory=AsyncRawCursor,
        options=options,
        connect_timeout=5,
        # Half-open connections must not hold a batch for the kernel's default of two hours.
        keepalives_idle=5,
        keepalives_interval=2,
        keepalives_count=3,
        tcp_user_timeout=10_000,
        application_name="hubbub store",
    )


async def check(conn: Connection) -> None:
    """Raise `DatabaseUnfit` for a server that could lose what it has acknowledged."""
    row = await (await conn.execute(STATEMENTS["read_settings"])).fetchone()
    fsync, full_page_writes, standby = row if row is not None else ("?", "?", False)
    if fsync != "on":
        raise DatabaseUnfit("the PostgreSQL server runs with fsync=off and would lose messages; set fsync=on")
    if full_page_writes != "on":
        raise DatabaseUnfit("the PostgreSQL server runs with full_page_writes=off; set it to on")
    if standby:
        raise DatabaseUnfit("the PostgreSQL server is a standby; point HUBBUB_DATABASE_URL at the primary")


async def migrate(conn: Connection) -> list[str]:
    """Bring the schema up to date; returns the names of the migrations that were applied.

    Each runs in a transaction of its own, with its number recorded; a store that is older than the schema
    raises `DatabaseUnfit`.
    """
    applied: list[str] = []
    await conn.execute("select pg_advisory_lock($1)", [_MIGRATION_LOCK])
    try:
        await conn.execute(
            "create table if not exists schema_migrations ("
            "number int primary key, name text not null, applied_at timestamptz not null default now())"
        )
        rows = await (await conn.execute("select number from schema_migrations")).fetchall()
        done = {row[0] for row in rows}
        known = migrations()
        newer = done - {number for number, _, _ in known}
        if newer:
            raise DatabaseUnfit(f"the schema has migration {max(newer)}, which this version of Hubbub does not know")
        for number, name, sql in known:
            if number in done:
                continue
            async with conn.transaction():
                for statement in _split(sql):
                    await conn.execute(statement)
                await conn.execute("insert into schema_migrations (number, name) values ($1, $2)", [number, name])
            applied.append(name)
    finally:
        if not conn.broken and not conn.closed:
            await conn.execute("select pg_advisory_unlock($1)", [_MIGRATION_LOCK])
    return applied


def _split(sql: str) -> list[str]:
    """Statements end with a semicolon at the end of a line; our migrations keep to that."""
    return [part for part in re.split(r";[ \t]*(?:\n|$)", sql) if part.strip()]


def is_content_error(exc: psycopg.Error) -> bool:
    """Whether PostgreSQL refused what a row says, rather than failed (SQLSTATE classes 22, 23, 54)."""
    return exc.sqlstate is not None and exc.sqlstate[:2] in ("22", "23", "54")
