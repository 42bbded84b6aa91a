"""How statements are found and errors judged; the statements themselves meet a real server in integration."""

import psycopg
import pytest

from hubbub.statements import load_statements
from store import database
from store.database import STATEMENTS, is_content_error, migrations


def test_statements_by_name():
    text = "-- a header\n\n-- name: one\n-- what it does\nselect 1;\n\n-- name: two\nselect ';';\n"
    assert load_statements(text) == {"one": "-- what it does\nselect 1", "two": "select ';'"}


def test_every_statement_has_one_name():
    text = (database._sql() / "statements.sql").read_text(encoding="utf-8")
    assert text.count("-- name:") == len(STATEMENTS)
    for sql in STATEMENTS.values():
        assert not any(";" in line for line in sql.splitlines() if not line.startswith("--")), sql


def test_migrations_are_numbered_without_gaps():
    found = migrations()
    assert [number for number, _, _ in found] == list(range(1, len(found) + 1))
    assert all(name.startswith(f"{number:04}_") for number, name, _ in found)


def test_a_migration_is_split_at_semicolons_that_end_a_line():
    assert database._split("a;\nb ';' c;  \n\nd;") == ["a", "b ';' c", "\nd"]


@pytest.mark.parametrize(
    ("state", "content"),
    [("22P05", True), ("22003", True), ("23505", True), ("23514", True), ("54000", True), ("57P01", False),
     ("08006", False), ("40001", False), ("53100", False), ("42P01", False), ("XX000", False)],
)  # fmt: skip
def test_what_is_the_content_s_fault(state, content):
    assert is_content_error(psycopg.errors.lookup(state)()) is content


def test_a_lost_connection_is_not_the_content_s_fault():
    assert is_content_error(psycopg.OperationalError("the connection is lost")) is False


@pytest.mark.parametrize(
    ("row", "says"),
    [
        (("off", "on", False), "fsync=off"),
        (("on", "off", False), "full_page_writes=off"),
        (("on", "on", True), "standby"),
        (None, "fsync"),
    ],
)
async def test_servers_that_cannot_keep_the_promise(row, says):
    class Answer:
        async def fetchone(self):
            return row

    class Server:
        async def execute(self, statement):
            assert statement == STATEMENTS["read_settings"]
            return Answer()

    with pytest.raises(database.DatabaseUnfit, match=says):
        await database.check(Server())  # type: ignore[arg-type]
