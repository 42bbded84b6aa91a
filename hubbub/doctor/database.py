"""Checks of PostgreSQL: does it keep the promise?"""

import time
from importlib.resources import files
from typing import Any

import psycopg

from hubbub.doctor.finding import Finding, ok, problem, warning
from hubbub.settings import Settings

_VERSION_LEAST = 140000
_SKEW_SECONDS = 5.0


def _connect(settings: Settings) -> "psycopg.Connection[Any]":
    url = settings.database_url or settings.postgres().url
    return psycopg.connect(url, autocommit=True, connect_timeout=5)


def _ask(settings: Settings, *statements: str) -> list[Any] | None:
    """The first column of each statement's first row; None when the database does not answer."""
    try:
        with _connect(settings) as conn:
            rows = [conn.execute(statement).fetchone() for statement in statements]
    except psycopg.OperationalError:
        return None
    return [None if row is None else row[0] for row in rows]


_AWAY = "see the check 'database'"


def reachable(settings: Settings) -> Finding:
    """Whether it answers, and which one it is."""
    try:
        with _connect(settings) as conn:
            version = conn.info.server_version
    except psycopg.OperationalError as exc:
        if not settings.database_url:
            return warning("the embedded PostgreSQL does not run", "it runs while the server does: hubbub up")
        return problem(f"it does not answer: {str(exc).strip()}", "correct database_url, or start PostgreSQL")
    if version < _VERSION_LEAST:
        return problem(f"PostgreSQL {version // 10000} is too old", "use PostgreSQL 14 or newer")
    return ok(f"PostgreSQL {version // 10000}")


def durable(settings: Settings) -> Finding:
    """Whether what it commits outlives a crash."""
    found = _ask(
        settings, "show fsync", "show full_page_writes", "select pg_is_in_recovery()",
        "select count(*) from pg_stat_replication", "show synchronous_standby_names",
    )  # fmt: skip
    if found is None:
        return warning("not known: the database does not answer", _AWAY)
    fsync, full_page_writes, standby, replicas, synchronous = found
    if fsync != "on":
        return problem("fsync is off: a crash loses acknowledged messages", "fsync = on in postgresql.conf, and reload")
    if full_page_writes != "on":
        return problem("full_page_writes is off", "full_page_writes = on in postgresql.conf, and reload")
    if standby:
        return problem("this is a standby", "point database_url at the primary")
    if replicas and not synchronous:
        text = "there are replicas, and none is synchronous: a failover may lose acknowledged messages"
        return warning(text, "set synchronous_standby_names")
    return ok("fsync and full_page_writes are on")


def schema(settings: Settings) -> Finding:
    """Whether the tables are those of this version."""
    found = _ask(settings, "select to_regclass('schema_migrations')::text")
    if found is None:
        return warning("not known: the database does not answer", _AWAY)
    known = {
        int(path.name[:4]) for path in (files("store") / "sql" / "migrations").iterdir() if path.name[:4].isdigit()
    }
    if found[0] is None:
        return warning("there are no tables yet", "the store makes them at its first start")
    (done,) = _ask(settings, "select max(number) from schema_migrations") or [0]
    if (done or 0) > max(known):
        return problem(f"the tables are of a newer version (migration {done})", "install that version of Hubbub again")
    if (done or 0) < max(known):
        return warning(f"migration {max(known)} is still to be made", "restart the store; it makes it by itself")
    return ok(f"migration {done}")


def pooler(settings: Settings) -> Finding:
    """Whether a pooler that gives each statement another session stands between."""
    try:
        with _connect(settings) as conn:
            backends = {conn.execute("select pg_backend_pid()").fetchone() for _ in range(5)}
            conn.execute("select set_config('idle_session_timeout', '5000', false)")
    except psycopg.OperationalError:
        return warning("not known: the database does not answer", _AWAY)
    except psycopg.Error as exc:
        return problem(f"sessions cannot be set up: {str(exc).strip()}", "connect directly, not through a pooler")
    if len(backends) > 1:
        text = "statements of one connection reach different sessions: a pooler in transaction mode"
        return problem(text, "connect directly: the store's session holds advisory locks")
    return ok("none: one connection is one session")


def clocks(settings: Settings) -> Finding:
    """This machine's clock against the database's."""
    begun = time.time()
    found = _ask(settings, "select extract(epoch from clock_timestamp())::float8")
    if found is None:
        return warning("not known: the database does not answer", _AWAY)
    skew = abs(float(found[0]) - (begun + time.time()) / 2)
    if skew > _SKEW_SECONDS:
        return warning(f"this clock and the database's differ by {skew:.0f} s", "let NTP set both")
    return ok(f"they differ by less than {max(1, round(skew * 1000))} ms")
