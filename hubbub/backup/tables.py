"""The tables of a database, into a backup and out of one: each way one transaction.

Only COPY and our own migrations are used, so that a backup fits every version of PostgreSQL and every server, the
embedded one or another.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from graphlib import TopologicalSorter
from typing import Any, LiteralString

import psycopg
from psycopg import sql

import hubbub
from hubbub.backup.archive import ArchiveReader, ArchiveWriter, BackupError, Manifest, Noted, Table
from store.database import STATEMENTS, migrations, statements_of

Session = psycopg.Connection[Any]

# The store's sessions, by the name that they give themselves, and the first key of a slot's lock.
_STORE = "hubbub store"
_SLOT_LOCK = 1213547074


@contextmanager
def transaction(url: str, begin: LiteralString) -> Iterator[Session]:
    """A session with a transaction open, committed at the end. Raises `psycopg.Error`."""
    # Whatever the server says to others: a long COPY must not be cut off, and a lock not be waited for without end.
    options = "-c statement_timeout=0 -c idle_in_transaction_session_timeout=0 -c lock_timeout=10s -c timezone=UTC"
    with psycopg.connect(
        url,
        autocommit=True,
        cursor_factory=psycopg.RawCursor,
        connect_timeout=10,
        options=options,
        application_name="hubbub backup",
    ) as conn:
        conn.execute(begin)
        yield conn
        conn.execute("commit")


def dump(conn: Session, archive: ArchiveWriter, noted: Noted) -> Manifest:
    """Write what one snapshot shows into *archive*, and finish it. Raises `BackupError`, `psycopg.Error`, OSError."""
    columns = _columns(conn)
    if "schema_migrations" not in columns:
        raise BackupError("there are no tables of Hubbub in this database: nothing to back up")
    for name in columns:
        # The snapshot is older than a later change of the tables; so let none happen.
        conn.execute(sql.SQL("lock table {} in access share mode").format(sql.Identifier(name)))
    made_at, schema, epoch = _one(
        conn,
        "select extract(epoch from now())::bigint, (select max(number) from schema_migrations), epoch from epoch",
    )
    tables = []
    for name in _in_order(conn, list(columns)):
        names = sql.SQL(", ").join(map(sql.Identifier, columns[name]))
        with conn.cursor() as cursor:
            with cursor.copy(sql.SQL("copy {} ({}) to stdout").format(sql.Identifier(name), names)) as copy:
                parts, rows = archive.table(name, copy, noted)
            if cursor.rowcount != rows:
                raise BackupError(f"{name}: PostgreSQL counts {cursor.rowcount} rows, {rows} came")
        tables.append(Table(name, columns[name], rows, parts))
    manifest = Manifest(
        hubbub=hubbub.__version__,
        made_at=made_at,
        schema=schema,
        epoch=epoch,
        postgres=conn.info.server_version,
        tables=tables,
    )
    archive.finish(manifest)
    return manifest


def load(conn: Session, archive: ArchiveReader, noted: Noted, *, epoch: int = 0) -> int:
    """Make the tables of the backup in an empty schema and fill them; the new epoch, which is above *epoch*, too.

    Raises `BackupError`, `psycopg.Error`.
    """
    manifest = archive.manifest
    known = migrations()
    if manifest.schema > known[-1][0]:
        raise BackupError(
            f"{archive.path} was made by Hubbub {manifest.hubbub}, whose tables are newer (migration "
            f"{manifest.schema}) than this version's ({known[-1][0]}): install that version"
        )
    conn.execute("create table schema_migrations (number int primary key, name text not null, "
                 "applied_at timestamptz not null default now())")  # fmt: skip
    for number, _, text in known:
        if number <= manifest.schema:
            for statement in statements_of(text):
                conn.execute(statement)
    found = _columns(conn)
    for table in manifest.tables:
        if not set(table.columns) <= set(found.get(table.name, ())):
            raise BackupError(f"{archive.path}: the table {table.name} is not one of this version's, or its columns")
    if missing := found.keys() - {table.name for table in manifest.tables}:
        raise BackupError(f"{archive.path} lacks the tables {', '.join(sorted(missing))}")
    names = sql.SQL(", ").join(sql.Identifier(table.name) for table in manifest.tables)
    conn.execute(sql.SQL("truncate {}").format(names))  # the migrations have put first rows into some
    for table in manifest.tables:
        _fill(conn, archive, table, noted)
    return int(_one(conn, STATEMENTS["new_epoch"], epoch)[0])


def no_store(conn: Session) -> None:
    """Make sure that no store works on this database until the transaction ends. Raises `BackupError`."""
    (others,) = _one(
        conn,
        "select count(*) from pg_stat_activity where application_name = $1 and datname = current_database()",
        _STORE,
    )
    (held,) = _one(
        conn,
        "select count(*) from generate_series(0, 63) slot where not pg_try_advisory_xact_lock($1, slot)",
        _SLOT_LOCK,
    )
    if others or held:
        raise BackupError("a store of a running server is connected to the database: stop the server first")


def present(conn: Session) -> bool:
    """Whether the schema holds any table of Hubbub's."""
    return bool(_columns(conn))


def move_aside(conn: Session, schema: str) -> int:
    """Move all that is Hubbub's into the new *schema*; the epoch that was there, 0 if none."""
    row = conn.execute("select epoch from epoch").fetchone() if "epoch" in _columns(conn) else None
    conn.execute(sql.SQL("create schema {}").format(sql.Identifier(schema)))
    for name in _relations(conn, "rv"):
        conn.execute(sql.SQL("alter table {} set schema {}").format(sql.Identifier(name), sql.Identifier(schema)))
    return 0 if row is None else int(row[0])


def _fill(conn: Session, archive: ArchiveReader, table: Table, noted: Noted) -> None:
    names = sql.SQL(", ").join(map(sql.Identifier, table.columns))
    size = rows = 0
    with conn.cursor() as cursor:
        with cursor.copy(sql.SQL("copy {} ({}) from stdin").format(sql.Identifier(table.name), names)) as copy:
            for data in archive.rows(table):
                copy.write(data)
                rows += data.count(b"\n")
                size += len(data)
                noted(table.name, rows, size)
        if cursor.rowcount != table.rows:
            raise BackupError(f"{table.name}: {cursor.rowcount} rows were stored instead of {table.rows}")


def _one(conn: Session, statement: str, *parameters: Any) -> Any:
    row = conn.execute(statement, parameters).fetchone()
    if row is None:
        raise BackupError("the database's tables are not complete: a row that must be there is not")
    return row


def _relations(conn: Session, kinds: str) -> list[str]:
    """Tables (*kinds* r) and views (v) of the schema that a migration made: another's are none of our business."""
    made = {"schema_migrations"}
    for _, _, text in migrations():
        made |= set(re.findall(r"^create (?:table|view) (\w+)", text, re.MULTILINE))
    found = conn.execute(
        "select relname from pg_class where relnamespace = current_schema()::regnamespace and relkind = any($1)",
        [list(kinds)],
    ).fetchall()
    return sorted(name for (name,) in found if name in made)


def _columns(conn: Session) -> dict[str, list[str]]:
    """Each table's columns, but for those that PostgreSQL computes."""
    columns: dict[str, list[str]] = {name: [] for name in _relations(conn, "r")}
    rows = conn.execute(
        "select c.relname, a.attname from pg_class c join pg_attribute a on a.attrelid = c.oid "
        "where c.relnamespace = current_schema()::regnamespace and c.relname = any($1) "
        "and a.attnum > 0 and not a.attisdropped and a.attgenerated = '' order by c.relname, a.attnum",
        [list(columns)],
    ).fetchall()
    for table, column in rows:
        columns[table].append(column)
    return columns


def _in_order(conn: Session, names: list[str]) -> list[str]:
    """*names*, each after those that its foreign keys refer to."""
    graph: dict[str, set[str]] = {name: set() for name in names}
    rows = conn.execute(
        "select c.relname, f.relname from pg_constraint k join pg_class c on c.oid = k.conrelid "
        "join pg_class f on f.oid = k.confrelid where k.contype = 'f' and c.relname = any($1) "
        "and c.relnamespace = current_schema()::regnamespace and f.oid <> c.oid",
        [names],
    ).fetchall()
    for name, other in rows:
        graph[name].add(other)
    return list(TopologicalSorter(graph).static_order())
