"""What is asked of the system at a calm moment: the tables, REST, /proc."""

import os
from collections import Counter
from http import HTTPStatus
from pathlib import Path
from random import Random
from typing import Any, cast
from urllib.parse import quote

from hubbub.protocol.conversation import LOBBY, parties
from tests.fault.torture.record import Cursor, History, Listed, Page, Row, Sample
from tests.integration.system import Answer, System, SystemFailed

# Conversations and users that REST is asked for: a sample, for each page is a request.
PAGES = 40
LISTS = 25
PAGE_LIMIT = 200
METERED = {
    "hubbub_store_replays_total": "replays asked for",
    "hubbub_shard_recoveries_total": "holes found in logs",
    "hubbub_shard_resent_requests_total": "requests repeated by shards",
    "hubbub_bus_reconnects_total": "links to the broker renewed",
    "hubbub_store_duplicates_total": "known keys",
}


def cursors(system: System) -> list[Cursor]:
    """The table `cursors`. Raises `psycopg.Error`."""
    return [
        Cursor(row["username"], row["conversation"], row["delivered_seq"], row["read_seq"])
        for row in system.rows("select username, conversation, delivered_seq, read_seq from cursors")
    ]


def rows(system: System) -> list[Row]:
    """The table `messages`. Raises `psycopg.Error`."""
    query = "select id, conversation, seq, ordinal, sender, recipient, client_key, content from messages"
    return [Row(*row.values()) for row in system.rows(query)]


def online(system: System) -> set[str]:
    """Who is online by REST. Raises `SystemFailed` where there is no answer, `OSError` or `HTTPException`."""
    return set(_ask(system, "/api/users/online?username=u0")["users"])


def testify(system: System, history: History, users: list[str], rng: Random) -> None:
    """Fill in the tables and what REST says of them."""
    history.rows = rows(system)
    history.cursors = [*history.cursors, cursors(system)]
    direct = [name for name in history.conversations if name != LOBBY]
    for name in [*rng.sample(direct, min(PAGES, len(direct))), *({LOBBY} & history.conversations.keys())]:
        reader = (parties(name) or users)[0]
        history.pages = [*history.pages, Page(reader, name, _events(system, reader, name))]
    for user in rng.sample(users, min(LISTS, len(users))):
        history.listed = [*history.listed, *_listed(system, user)]


def _ask(system: System, path: str) -> dict[str, Any]:
    """A GET that must succeed. Raises `SystemFailed` where it is refused."""
    answer = system.get(path)
    if answer.status != HTTPStatus.OK:
        raise SystemFailed(f"{path} was answered with {answer.status} instead: {answer.body!r}")
    return cast(dict[str, Any], answer.json)


def _events(system: System, reader: str, conversation: str) -> list[tuple[int, int, str]]:
    found: list[tuple[int, int, str]] = []
    after = 0
    while True:
        query = f"username={quote(reader)}&after={after}&limit={PAGE_LIMIT}"
        answer = _ask(system, f"/api/conversations/{quote(conversation)}/messages?{query}")
        found += [(one["seq"], one["id"], one["content"]) for one in answer["messages"]]
        if not answer["more"]:
            return found
        after = answer["to"]


def _listed(system: System, user: str) -> list[Listed]:
    found: list[Listed] = []
    after = ""
    while True:
        answer = _ask(system, f"/api/conversations?username={quote(user)}{after}")
        for one in answer["conversations"]:
            found.append(Listed(user, one["conversation"], one["unread"], one["last_seq"]))
        if answer.get("next") is None:
            return found
        after = f"&after={quote(str(answer['next']))}"


def samples(system: System, sessions: dict[str, int], at: float) -> list[Sample]:
    """What each process uses. *sessions*: connected clients by shard."""
    roles = ["supervisord", "postgres", "postmaster", "broker", "store", *(f"shard-{i}" for i in range(system.shards))]
    found = []
    for role in roles:
        pid = system.pid(role)
        status = Path(f"/proc/{pid}/status").read_text()
        resident = next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS:"))
        descriptors = len(os.listdir(f"/proc/{pid}/fd"))
        found.append(Sample(at, role, pid, resident / 1024, descriptors, sessions.get(role, 0)))
    return found


def failures(system: System) -> Counter[str]:
    """Why programs ended that nobody had ended, by their logs: ``store: the task …``."""
    found: Counter[str] = Counter()
    for program in ("broker", "store", *(f"shard-{i}" for i in range(system.shards))):
        for line in system.log(program):
            if line.get("event") in ("process failed", "process crashed"):
                found[f"{program.partition('-')[0]}: {line.get('reason')}"] += 1
    return found


class Meter:
    """Adds up counters of processes that start again from nothing; what a process counted last is not seen."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self._last: dict[str, float] = {}

    def read(self, answer: Answer) -> None:
        """Take what ``/metrics`` says."""
        for line in answer.body.decode(errors="replace").splitlines():
            series, _, text = line.rpartition(" ")
            name = series.partition("{")[0]
            if name in METERED:
                value = float(text)
                before = self._last.get(series, 0.0)
                self.counts[METERED[name]] += round(value - before if value >= before else value)
                self._last[series] = value
