"""The benchmark must notice what is wrong: a generator that overlooks a lost message measures nothing."""

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import msgspec
import pytest

from bench import procs, report
from bench.client import Client, Tally
from bench.load import main as load
from bench.measure import Latency, Options, Result, latency
from bench.routing import Configuration, compare
from bench.scenarios import SCENARIOS, Goal, figures
from hubbub.protocol.messages import Ack, Message, Send, Synced, SyncedConversation, decode_command, encode_event


class Wire:
    """Stands in for picows' transport: keeps what a client sends."""

    def __init__(self) -> None:
        self.sent: list[dict[str, Any]] = []

    def send(self, _: object, payload: bytes) -> None:
        self.sent.append(json.loads(payload))

    def disconnect(self) -> None:
        pass


def ack(key: str, seq: int, conversation: str = "direct:ann:bob") -> bytes:
    return encode_event(Ack(id=key, message_id=seq, conversation=conversation, seq=seq, timestamp="t"))


def message(key: str, seq: int, conversation: str = "direct:ann:bob") -> bytes:
    return encode_event(
        Message(
            id=seq, conversation=conversation, seq=seq, ordinal=seq, sender="ann", content=key + "xx", timestamp="t"
        )
    )


def reordered(payload: bytes) -> bytes:
    """The same object as another server might write it: the generator's fast path does not apply."""
    return json.dumps(dict(reversed(json.loads(payload).items()))).encode()


def same(payload: bytes) -> bytes:
    return payload


class Pair:
    """Ann writes to Bob."""

    def __init__(self, shape: Callable[[bytes], bytes] = same) -> None:
        self.shape = shape
        self.tally = Tally("0badcafe")
        self.ann, self.bob = Client(self.tally, "ann"), Client(self.tally, "bob")
        self.wire = Wire()
        self.ann.on_ws_connected(cast(Any, self.wire))
        self.ann.write_to(["bob"])
        self.bob.write_to(["ann"])
        for client in (self.ann, self.bob):
            client.feed(encode_event(Synced(conversations=[], epoch=1)))
        self.tally.recording = True

    def send(self) -> str:
        self.ann.send_next()
        return str(self.wire.sent[-1]["id"])

    def acked(self, key: str, seq: int) -> None:
        self.ann.feed(self.shape(ack(key, seq)))

    def delivered(self, key: str, seq: int) -> None:
        self.bob.feed(self.shape(message(key, seq)))

    def problems(self) -> dict[str, int]:
        self.tally.settle([self.ann, self.bob])
        return dict(+self.tally.problems)


@pytest.fixture(params=[same, reordered], ids=["fast path", "slow path"])
async def pair(request: pytest.FixtureRequest) -> Pair:
    return Pair(request.param)


async def test_a_send_is_a_command_that_the_server_accepts(pair: Pair) -> None:
    pair.send()
    command = decode_command(json.dumps(pair.wire.sent[0]).encode())
    assert isinstance(command, Send)
    assert (command.recipient, len(command.content)) == ("bob", 100)
    assert command.content.startswith(str(command.id))


async def test_a_clean_exchange(pair: Pair) -> None:
    first, second = pair.send(), pair.send()
    assert not pair.tally.settled([pair.ann, pair.bob])
    pair.acked(first, 1)
    pair.delivered(first, 1)
    pair.delivered(second, 2)
    pair.acked(second, 2)
    assert pair.tally.settled([pair.ann, pair.bob])
    assert pair.problems() == {}
    assert (pair.tally.acked, pair.tally.delivered) == (2, 2)
    assert (len(pair.tally.ack_seconds), len(pair.tally.delivery_seconds)) == (2, 2)


async def test_the_answer_sends_the_next(pair: Pair) -> None:
    pair.tally.sending = True
    pair.acked(pair.send(), 1)
    assert len(pair.wire.sent) == 2
    pair.tally.sending = False
    pair.acked(str(pair.wire.sent[1]["id"]), 2)
    assert len(pair.wire.sent) == 2


async def test_missing_acknowledgement(pair: Pair) -> None:
    pair.send()
    assert pair.problems() == {"unacknowledged": 1}


async def test_repeated_acknowledgement(pair: Pair) -> None:
    key = pair.send()
    pair.acked(key, 1)
    pair.delivered(key, 1)
    pair.acked(key, 1)
    assert pair.problems() == {"acknowledged twice or never sent": 1}


async def test_missing_delivery_at_the_end(pair: Pair) -> None:
    pair.acked(pair.send(), 1)
    assert pair.problems() == {"missing": 1}


async def test_missing_delivery_in_the_middle(pair: Pair) -> None:
    keys = [pair.send() for _ in range(3)]
    for seq, key in enumerate(keys, 1):
        pair.acked(key, seq)
    pair.delivered(keys[0], 1)
    pair.delivered(keys[2], 3)
    assert pair.problems() == {"missing": 1}


async def test_repeated_delivery(pair: Pair) -> None:
    key = pair.send()
    pair.acked(key, 1)
    pair.delivered(key, 1)
    pair.delivered(key, 1)
    assert pair.problems() == {"delivered twice or out of order": 1}
    assert pair.tally.delivered == 1


async def test_changed_order(pair: Pair) -> None:
    first, second = pair.send(), pair.send()
    pair.acked(first, 1)
    pair.acked(second, 2)
    pair.delivered(second, 2)
    pair.delivered(first, 1)
    assert pair.problems() == {"missing": 1, "delivered twice or out of order": 1}


async def test_a_message_of_nobody(pair: Pair) -> None:
    pair.delivered("f" * 24, 1)
    assert pair.problems() == {"delivered but not sent by us": 1}


async def test_refusals_goodbyes_and_lost_connections_are_problems(pair: Pair) -> None:
    key = pair.send()
    pair.ann.feed(json.dumps({"type": "error", "id": key, "code": "overloaded", "message": ""}).encode())
    pair.ann.feed(b'{"type":"goodbye","code":4000,"reason":"restarting"}')
    pair.bob.on_ws_disconnected(cast(Any, None))
    assert pair.problems() == {"error overloaded": 1, "goodbye 4000": 1, "disconnected": 1}


async def test_positions_begin_where_the_sync_ended(pair: Pair) -> None:
    client = Client(pair.tally, "bob")
    client.feed(message("0" * 24, 3))  # the newest page, before `synced`
    known = SyncedConversation(
        conversation="direct:ann:bob", from_=0, to=7, last_seq=7, delivered_seq=7, read_seq=7, unread=0
    )
    client.feed(encode_event(Synced(conversations=[known], epoch=1)))
    client.feed(message(pair.send(), 8))
    assert dict(+pair.tally.problems) == {}
    assert pair.tally.delivered == 1


def test_percentiles_are_ranks() -> None:
    found = latency([i / 1000 for i in range(1, 1001)])
    assert (found.p50, found.p99, found.p999, found.max) == (500.0, 990.0, 999.0, 1000.0)
    assert latency([0.002]) == Latency(samples=1, p50=2, p90=2, p99=2, p999=2, max=2)
    with pytest.raises(ValueError, match="no samples"):
        latency([])


def test_stat_with_an_unpleasant_name() -> None:
    stat = procs.parse_stat("7 (a) b (c)) S 5 7 7 0 -1 4194560 1 2 3 4 30 12 100 50 20 0 1 0 9 1 1")
    tick = 1_000_000 // os.sysconf("SC_CLK_TCK")
    assert (stat.parent, stat.own_us, stat.reaped_us) == (5, 42 * tick, 150 * tick)


@pytest.mark.parametrize(
    ("argv", "role"),
    [
        (["/x/python", "-m", "shards"], "shard-1"),
        (["/x/python", "-m", "broker"], "broker"),
        (["/x/python", "-u", "-m", "store"], "store"),
        (["/x/python", "-m", "hubbub.runtime.postgres"], "postgres"),
        (["/pg/bin/postgres", "-D", "data"], "postgres"),
        (["postgres: checkpointer "], "postgres"),
        (["logger"], "supervisor"),
        ([], "supervisor"),
    ],
)
def test_roles(argv: list[str], role: str) -> None:
    assert procs.role_of(argv, {"HUBBUB_SHARD_INDEX": "1"}, "supervisor") == role


def test_children_are_counted() -> None:
    burn = "import sys,time\nwhile time.process_time() < 0.3: pass\nprint(1, flush=True)\nsys.stdin.read()"
    before = procs.cpu(os.getpid())
    child = subprocess.Popen([sys.executable, "-c", burn], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        assert child.stdout is not None
        child.stdout.readline()
        assert child.pid in procs.processes(os.getpid())
        after = procs.cpu(os.getpid())
        assert sum(after.by_role.values()) - sum(before.by_role.values()) >= 250_000
        assert procs.memory(os.getpid())["supervisor"].rss > 5_000_000
        with pytest.raises(RuntimeError, match="ended or started"):
            procs.cpu_between(before, after)
    finally:
        child.communicate()


def result(scenario: str, rate: float, cpu: float) -> Result:
    return Result(
        scenario=scenario,
        options=Options(url="ws://x"),
        clean=True,
        problems={},
        seconds=1.0,
        acks=int(rate),
        deliveries=int(rate),
        acks_per_second=rate,
        deliveries_per_second=rate,
        latency_ms={"ack": latency([0.001])},
        cpu_us={"shard-0": 1, "shard-1": 1},
        cpu_us_per_message={"shard-0": cpu / 2, "shard-1": cpu / 2, "total": cpu},
    )


def test_comparison_takes_medians_and_adds_up_shards() -> None:
    a = [result("x", rate, 10) for rate in (100, 900, 200)]
    b = [result("x", rate, 5) for rate in (400, 400, 1)]
    rows = {row.figure: row for row in compare(2, a, b)}
    assert (rows["messages/s"].a, rows["messages/s"].b, rows["messages/s"].ratio) == (200, 400, 2)
    assert (rows["CPU-us/message shard"].a, rows["CPU-us/message shard"].ratio) == (10, 0.5)


def test_configurations_are_read_like_a_command_line() -> None:
    found = Configuration.parse("A=1 B='x y' python -m some.runner C=3")
    assert found == Configuration({"A": "1", "B": "x y"}, ("python", "-m", "some.runner", "C=3"))
    assert Configuration.parse("A=1").command[-2:] == ("-m", "hubbub.cli")


def test_every_goal_names_a_figure_that_its_scenario_has() -> None:
    samples = {
        # A delivery more than acknowledgements: the window cut between the two.
        "direct": msgspec.structs.replace(result("", 1, 1), deliveries=2, cpu_us_per_delivery={"total": 1.0}),
        "broadcast": msgspec.structs.replace(result("", 1, 1), deliveries=100, cpu_us_per_delivery={"total": 1.0}),
        "latency": msgspec.structs.replace(result("", 1, 1), deliveries=0),
        "idle": msgspec.structs.replace(
            result("", 0, 0), acks=0, memory_kib_per_connection={"rss": {"total": 1.0}}, cpu_us_per_message={}
        ),
        "connect": result("", 1, 1),
    }
    for scenario in SCENARIOS:
        for goal in scenario.goals:
            assert goal.figure in figures(samples[scenario.kind]), (scenario.name, goal.figure)


def test_goals_in_both_directions() -> None:
    assert Goal("x", 10).met(10) and not Goal("x", 10).met(11)
    assert Goal("x", 10, at_least=True).met(10) and not Goal("x", 10, at_least=True).met(9)


def test_reports_are_written(tmp_path: Path) -> None:
    results = [result("direct, 4 in flight", 12_001, 81), result("other", 5, 1)]
    results[1].clean, results[1].problems = False, {"missing": 3}
    text = report.table(results)
    assert ">= 12000 met" in text and "<= 80 MISSED" in text and "NOT CLEAN: missing: 3" in text
    report.write_json(tmp_path / "bench.json", results, {"shards": 2})
    written = json.loads((tmp_path / "bench.json").read_bytes())
    assert written["results"][0]["acks_per_second"] == 12_001
    assert written["machine"]["cores"] == os.cpu_count()


async def test_the_generator_against_a_small_server(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The whole command, over real sockets; the server loses one acknowledgement when told to."""
    from websockets.asyncio.server import ServerConnection, serve

    monkeypatch.setattr("bench.load.DRAIN_SECONDS", 0.3)
    lose = False
    seqs: dict[str, int] = {}
    online: dict[str, ServerConnection] = {}

    async def chat(socket: ServerConnection) -> None:
        nonlocal lose
        assert socket.request is not None
        name = socket.request.path.partition("username=")[2]
        online[name] = socket
        await socket.send('{"type":"welcome"}', text=True)
        async for text in socket:
            command = json.loads(text)
            if command["type"] == "sync":
                pages = [
                    SyncedConversation(conversation=c, from_=0, to=n, last_seq=n, delivered_seq=n, read_seq=n, unread=0)
                    for c, n in seqs.items()
                ]
                await socket.send(encode_event(Synced(conversations=pages, epoch=1)), text=True)
                continue
            conversation = "direct:" + ":".join(sorted((name, command["recipient"])))
            seqs[conversation] = seq = seqs.get(conversation, 0) + 1
            if command["recipient"] in online:
                await online[command["recipient"]].send(message(command["content"], seq, conversation), text=True)
            if lose:
                lose = False
            else:
                await socket.send(ack(command["id"], seq, conversation), text=True)

    async with serve(chat, "127.0.0.1", 0, subprotocols=["hubbub.v1"]) as server:  # type: ignore[list-item]
        port = server.sockets[0].getsockname()[1]
        words = ["direct", "--url", f"ws://127.0.0.1:{port}", "--clients", "4", "--warmup", "0.1", "--seconds", "0.3"]
        words += ["--pid", str(os.getpid())]
        assert await asyncio.to_thread(load, words) == 0
        clean = msgspec.json.decode(capfd.readouterr().out, type=Result)
        assert clean.clean and clean.acks > 0 and clean.deliveries > 0 and "total" in clean.cpu_us_per_message
        lose = True
        assert await asyncio.to_thread(load, words) == 1
        assert msgspec.json.decode(capfd.readouterr().out, type=Result).problems["unacknowledged"] == 1
