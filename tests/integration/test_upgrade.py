"""Data of an earlier release under today's server: everything is as that release told it, and goes on from there.

`tests/fixtures/schema-*.sql` is the database of a real server of that release, ``.json`` what it answered
(see `tests.fixtures.old_data`).
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict

from hubbub.protocol.conversation import split_id
from hubbub.protocol.internal import wire_term
from store.database import migrations
from tests.integration.client import Connection, connection
from tests.integration.conftest import Postgres
from tests.integration.system import ROOT, System, running

FIXTURES = ROOT / "tests/fixtures"


class Upgraded:
    """Today's server on the data of then: `before` is what the tables held, `expected` what the old server said."""

    def __init__(self, system: System, before: dict[str, list[Any]], expected: dict[str, Any]) -> None:
        self.system = system
        self.before = before
        self.expected = expected


def tables(url: str) -> dict[str, list[Any]]:
    with psycopg.connect(url) as conn:
        return {
            name: conn.execute(f"select * from {name} order by 1, 2").fetchall()
            for name in ("messages", "cursors", "users", "slots", "epoch", "schema_migrations", "direct_messages")
        }


@pytest.fixture(scope="module", params=["schema-0001"])
def upgraded(
    request: pytest.FixtureRequest, postgres: Postgres, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Upgraded]:
    expected = json.loads((FIXTURES / f"{request.param}.json").read_text("utf-8"))
    with postgres.scratch(None) as url:
        with psycopg.connect(url) as conn:
            conn.execute((FIXTURES / f"{request.param}.sql").read_text("utf-8"))
        before = tables(url)
        env = {"HUBBUB_DATABASE_URL": "postgresql://?" + urlencode(conninfo_to_dict(url))}
        with running(tmp_path_factory.mktemp("upgraded"), shards=2, env=env) as system:
            yield Upgraded(system, before, expected)


@pytest.fixture(scope="module")
def unread(upgraded: Upgraded) -> Upgraded:
    """Before any test has said anything."""
    return upgraded


def test_the_tables_hold_what_they_held(unread: Upgraded) -> None:
    after = tables(unread.system.settings.store().database_url)
    for name, rows in unread.before.items():
        if name == "slots":
            assert [slot for slot, _ in rows] == [slot for slot, _ in after[name]]
            assert all(term > old for (_, old), (_, term) in zip(rows, after[name], strict=True))
        elif name == "schema_migrations":
            assert after[name][: len(rows)] == rows
            assert [row[:2] for row in after[name]] == [(number, made) for number, made, _ in migrations()]
            assert len(after[name]) > len(rows)
        else:
            assert after[name] == rows, name
    assert len(after["messages"]) == 67


def alike(now: Any, then: Any) -> bool:
    """Whether all that was said then is said now; there may be more of it."""
    if isinstance(then, dict):
        return isinstance(now, dict) and all(name in now and alike(now[name], value) for name, value in then.items())
    if isinstance(then, list):
        return isinstance(now, list) and len(now) == len(then) and all(map(alike, now, then))
    return bool(now == then)


async def test_every_user_is_told_what_the_old_server_told(unread: Upgraded) -> None:
    """Messages with their ids, seqs and ordinals, cursors, unread counts, the epoch."""
    seen = set()
    for user, told in unread.expected["told"].items():
        opened = await Connection.open(unread.system.ws, user, syncing=True)
        await opened.take("welcome")
        synced = await opened.ask("synced", type="sync", have={})
        events = opened.unread("message")
        await opened.close()
        assert alike(events, told["events"]), user
        del told["synced"]["id"]
        assert alike(synced, told["synced"]), user
        seen |= {(one["delivered_seq"], one["read_seq"], one["unread"]) for one in synced["conversations"]}
    assert {(38, 25, 16), (20, 7, 15)} <= seen


def test_the_pages_of_history_are_what_they_were(unread: Upgraded) -> None:
    for path, page in unread.expected["pages"].items():
        now = unread.system.get(path)
        assert (now.status, alike(now.json, page)) == (200, True), path


def test_the_new_reads_know_the_old_messages(unread: Upgraded) -> None:
    found = unread.system.get("/api/search?username=ann&q=%22answer%22").json
    assert [one["content"] for one in found["messages"]] == ["an answer"]
    told = {one["conversation"]: one for one in unread.expected["told"]["bob"]["synced"]["conversations"]}
    listed = unread.system.get("/api/conversations?username=bob").json["conversations"]
    assert {one["conversation"]: one["unread"] for one in listed} == {name: one["unread"] for name, one in told.items()}


async def test_a_key_of_then_is_still_its_message(upgraded: Upgraded) -> None:
    rows = {row[8]: row for row in upgraded.before["messages"]}
    async with connection(upgraded.system.ws, "cem", syncing=True) as cem:
        for content, recipient in (("after the crash", None), ("hello ann", "ann")):
            key = upgraded.expected["keys"][content]
            command = {"type": "send", "id": key, "content": content}
            ack = await cem.ask("ack", **command, **({} if recipient is None else {"recipient": recipient}))
            assert (ack["duplicate"], ack["message_id"], ack["seq"]) == (True, rows[key][0], rows[key][2])


async def test_numbering_and_cursors_go_on(upgraded: Upgraded) -> None:
    system = upgraded.system
    for user, recipient, name in (("ann", None, "lobby"), ("ann", "bob", "direct:ann:bob"), ("dee", "cem", None)):
        name = name or "direct:cem:dee"
        last = max((row for row in upgraded.before["messages"] if row[1] == name), key=lambda row: row[2], default=None)
        async with connection(system.ws, user, syncing=True) as opened:
            ack = await opened.say("today", recipient)
        (row,) = system.rows("select * from messages where conversation = %s and content = 'today'", name)
        slot, n = split_id(ack["message_id"])
        numbers = [split_id(one[0])[1] for one in upgraded.before["messages"] if split_id(one[0])[0] == slot]
        assert (row["id"], row["seq"], row["ordinal"], n) == (
            ack["message_id"], (last[2] if last else 0) + 1, (last[3] if last else 0) + 1, max(numbers, default=0) + 1
        )  # fmt: skip
    async with connection(system.ws, "bob", syncing=True) as bob:
        await bob.send(type="read", conversation="lobby", seq=30)
        moved = "select read_seq from cursors where username = 'bob' and conversation = 'lobby'"
        system.until(lambda: system.rows(moved) == [{"read_seq": 30}], 20, "read")
        synced = await bob.ask("synced", type="sync", have={})
    lobby = next(one for one in synced["conversations"] if one["conversation"] == "lobby")
    assert (lobby["unread"], lobby["read_seq"], lobby["delivered_seq"]) == (12, 30, 38)


def test_the_first_term_of_today_is_above_the_last_of_then(upgraded: Upgraded) -> None:
    """So that a shard that knew the old store follows the new one."""
    (taken,) = {line["epoch"] for line in upgraded.system.log("store") if line["event"] == "slots_taken"}
    ((_, epoch),) = upgraded.before["epoch"]
    assert taken == epoch
    for slot, term in upgraded.before["slots"]:
        (now,) = upgraded.system.rows("select term from slots where slot = %s", slot)
        assert wire_term(taken, now["term"]) > wire_term(epoch, term)


def test_the_fixtures_stay_small() -> None:
    assert all(Path(path).stat().st_size < 200_000 for path in FIXTURES.iterdir() if path.is_file())
