"""Limits that hold over all shards, against the real processes."""

import asyncio
import time
from collections import Counter
from collections.abc import Iterator

import pytest
from websockets.exceptions import InvalidStatus

from tests.integration.client import Connection, connection, open_on, shard_of
from tests.integration.system import System, running

SESSIONS, BURST = 4, 100


@pytest.fixture(scope="module")
def narrow(tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    """A server of two shards that grants a user little."""
    env = {
        "HUBBUB_LIMIT_SESSIONS_PER_USER": str(SESSIONS),
        "HUBBUB_LIMIT_USER_RATE": "0.1",
        "HUBBUB_LIMIT_USER_BURST": str(BURST),
        "HUBBUB_ACCOUNTS": "open",
    }
    with running(tmp_path_factory.mktemp("narrow"), env=env) as system:
        yield system


async def as_many_as_each_shard_takes(system: System, name: str) -> list[Connection]:
    """`SESSIONS` connections on either shard: more than one user may have, though no shard sees it."""
    opened: list[Connection] = []
    while len(opened) < 2 * SESSIONS:
        try:
            opened.append(await Connection.open(system.ws, name))
        except InvalidStatus as exc:
            assert exc.response.status_code == 429, "the shard that it came to is full"
    return opened


async def test_a_user_s_sessions_are_bounded_over_all_shards(narrow: System) -> None:
    async with connection(narrow.ws, "crowd-ben") as ben:
        opened = await as_many_as_each_shard_takes(narrow, "crowd-ann")
        ends = [asyncio.create_task(one.closed()) for one in opened]
        done = 0
        while done < SESSIONS:
            finished, _ = await asyncio.wait(ends, timeout=20, return_when=asyncio.FIRST_COMPLETED)
            assert finished, "nobody was closed"
            ends = [task for task in ends if not task.done()]
            done += len(finished)
            assert {task.result()[0] for task in finished} == {4502}
        left = [one for one in opened if one.socket.close_code is None]
        assert len(left) == SESSIONS
        for one in left:
            await one.settled()
        await ben.settled()
    for task in ends:
        task.cancel()
    for one in opened:
        await one.close()


async def test_a_user_s_messages_are_counted_over_all_shards(narrow: System) -> None:
    opened = [
        await open_on(narrow.ws, "loud-ann", lambda shard, i=i: shard == f"shard-{i}")  # type: ignore[misc]
        for i in range(2)
    ]
    assert {shard_of(one.heard[0]) for one in opened} == {"shard-0", "shard-1"}
    outcomes: Counter[str] = Counter()
    for i in range(BURST + 10):
        one, key = opened[i % 2], f"a loud message {i:03}"
        await one.send(type="send", id=key, content="!", recipient="loud-ben")
        kinds = [asyncio.create_task(one.take(kind, id=key)) for kind in ("ack", "error")]
        done, rest = await asyncio.wait(kinds, return_when=asyncio.FIRST_COMPLETED)
        for task in rest:
            task.cancel()
        answer = done.pop().result()
        outcomes[answer["type"]] += 1
        if answer["type"] == "error":
            assert (answer["code"], answer["stored"]) == ("rate_limited", "no")
            assert answer["retry_after_ms"] > 0
    assert BURST <= outcomes["ack"] <= BURST + 5
    posted = narrow.post("/api/messages?username=loud-ann", {"content": "over HTTP?"})
    assert (posted.status, posted.error, posted.json["stored"]) == (429, "rate_limited", "no")
    (row,) = narrow.rows("select count(*) as stored from messages where sender = 'loud-ann'")
    assert row["stored"] == outcomes["ack"], "what was refused was not stored"
    async with connection(narrow.ws, "loud-ben") as ben:
        assert (await ben.say("others are not held up", "loud-ann"))["seq"] > 0
    for one in opened:
        await one.close()


def test_guesses_are_counted_over_all_shards(narrow: System) -> None:
    body = {"username": "guess-ann", "password": "correct horse battery"}
    assert narrow.post("/api/register", body).status == 201
    wrong = {**body, "password": "wrong horse battery"}
    statuses = [narrow.post("/api/login", wrong).status for _ in range(20)]
    first = statuses.index(429)
    assert 10 <= first <= 12, "ten at once, whichever shard they reach, and what the bucket gains meanwhile"
    assert set(statuses[:first]) == {401}
    limited = narrow.post("/api/login", body)
    assert limited.status == 429
    assert 1 <= int(limited.headers["retry-after"]) <= 7


def test_the_time_of_a_refusal_tells_nothing(narrow: System) -> None:
    """Whether a name has an account: Mann and Whitney's rank sum over attempts that alternate."""
    for i in range(4):
        body = {"username": f"time-ann-{i}", "password": "correct horse battery"}
        assert narrow.post("/api/register", body).status == 201
    known: list[float] = []
    unknown: list[float] = []
    for i in range(32):
        for name, times in ((f"time-ann-{i % 4}", known), (f"time-nobody-{i % 4}", unknown)):
            begun = time.perf_counter()
            refused = narrow.post("/api/login", {"username": name, "password": "wrong horse battery"})
            times.append(time.perf_counter() - begun)
            assert (refused.status, refused.json["error"]["message"]) == (401, "the name or the password is wrong")
    wins = sum(one > other for one in known for other in unknown)
    n = len(known)
    z = (wins - n * n / 2) / (n * n * (2 * n + 1) / 12) ** 0.5
    # Chance alone goes past 4 once in 16,000 runs; an answer without the hash makes it 6.9.
    assert abs(z) < 4, (z, sorted(known)[n // 2], sorted(unknown)[n // 2])


def test_searches_are_counted_over_all_shards(narrow: System) -> None:
    statuses = [narrow.get("/api/search?username=seek-ann&q=word").status for _ in range(6)]
    assert statuses == [200] * 2 + [429] * 4
    assert narrow.get("/api/search?username=seek-ben&q=word").status == 200


def test_requests_over_http_have_the_rate_of_a_session(narrow: System) -> None:
    limits = narrow.settings.limits
    statuses: list[int] = []
    while 429 not in statuses:
        statuses.append(narrow.get("/api/me?username=busy-ann").status)
        assert len(statuses) < 100 * limits.burst, "no limit"
    assert set(statuses) == {200, 429}
    assert narrow.get("/api/me?username=busy-ben").status == 200
