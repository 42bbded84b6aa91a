"""What `hubbub user` does: accounts, straight in the database, with the statements of the store.

The running server follows the same tables, so that a change holds there within a second.
"""

import time
from collections.abc import Callable
from datetime import datetime
from importlib.resources import files
from typing import Any, TypeVar

import click
import msgspec
import psycopg

from hubbub.passwords import check_password, hasher
from hubbub.protocol.conversation import InvalidName, check_username
from hubbub.protocol.refusals import Refusal
from hubbub.settings import Settings
from hubbub.statements import load_statements

T = TypeVar("T")
Work = Callable[[psycopg.Connection[Any], dict[str, str]], T]


class Account(msgspec.Struct):
    """One line of `hubbub user list`."""

    username: str
    role: str
    created_at: datetime
    disabled_at: datetime | None


def run(settings: Settings, work: Work[T]) -> T:
    """Do *work* on the database of *settings*. Raises `click.ClickException`."""
    url = settings.database_url or settings.postgres().url
    statements = load_statements((files("store") / "sql" / "directory.sql").read_text(encoding="utf-8"))
    try:
        with psycopg.connect(url, autocommit=True, connect_timeout=5, cursor_factory=psycopg.RawCursor) as conn:
            return work(conn, statements)
    except psycopg.OperationalError as exc:
        hint = "" if settings.database_url else "; the embedded one runs while the server does: start it (hubbub up)"
        raise click.ClickException(f"the database does not answer{hint}\n{str(exc).strip()}") from exc
    except psycopg.errors.UndefinedTable as exc:
        raise click.ClickException("the database has no accounts yet: start the server once, it makes them") from exc
    except (Refusal, InvalidName) as exc:
        raise click.ClickException(str(exc)) from exc


def add(username: str, password: str, role: str, adopt: bool) -> Work[None]:
    """A new account. With *adopt*, also of a name that was used without one."""

    def work(conn: psycopg.Connection[Any], statements: dict[str, str]) -> None:
        check_username(username)
        check_password(username, password)
        added = conn.execute(statements["add_account"], [username, hasher().hash(password), role, adopt]).fetchone()
        if added is None:
            if conn.execute(statements["find_account"], [username]).fetchone():
                raise click.ClickException(f"there is an account {username} already")
            text = f"{username} was used by somebody without an account, whose direct messages it would get; "
            raise click.ClickException(text + "--adopt adds it all the same")

    return work


def listed() -> Work[list[Account]]:
    """All accounts."""

    def work(conn: psycopg.Connection[Any], statements: dict[str, str]) -> list[Account]:
        return [Account(*row) for row in conn.execute(statements["list_accounts"]).fetchall()]

    return work


def change(username: str, *, role: str | None = None, disabled: bool | None = None) -> Work[None]:
    """Another role, or whether it may sign in; its sessions end either way."""
    return _one(username, "change_account", [role, disabled])


def set_password(username: str, password: str) -> Work[None]:
    """Another password; everything issued before is void."""
    check_password_here(username, password)
    return _one(username, "set_password", [hasher().hash(password), time.time()])


def revoke(username: str | None, token_id: str | None) -> Work[None]:
    """Void a user's tokens up to now, or one token."""

    def work(conn: psycopg.Connection[Any], statements: dict[str, str]) -> None:
        if username is not None:
            conn.execute(statements["revoke"], ["user", check_username(username), time.time(), None])
        else:
            conn.execute(statements["revoke"], ["token", token_id, None, int(time.time()) + 400 * 86400])

    return work


def check_password_here(username: str, password: str) -> None:
    """`check_password`, for the command line. Raises `click.ClickException`."""
    try:
        check_password(username, password)
    except Refusal as exc:
        raise click.ClickException(exc.message) from exc


def _one(username: str, statement: str, parameters: list[Any]) -> Work[None]:
    def work(conn: psycopg.Connection[Any], statements: dict[str, str]) -> None:
        if conn.execute(statements[statement], [username, *parameters]).fetchone() is None:
            raise click.ClickException(f"there is no account {username}; `hubbub user list` shows all")

    return work
