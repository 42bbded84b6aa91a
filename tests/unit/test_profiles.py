"""The profiles must notice what is wrong: a ledger that overlooks a lost message proves nothing."""

import random
from collections.abc import Callable

import msgspec
import pytest

from bench.profiles import PROFILES
from bench.profiles.__main__ import main
from bench.profiles.device import INTERRUPTED, Device, Meter
from bench.profiles.ledger import Ledger, Row
from bench.profiles.outcome import Outcome, line, milliseconds
from hubbub.protocol import messages

RUN = "0123abcd"
LIMITS = messages.WelcomeLimits(content_bytes=1, rate=1, burst=1, in_flight=1)


def key(number: int) -> str:
    return f"{RUN}{number:016d}"


def table(*numbers: int) -> list[Row]:
    return [Row("lobby", seq, key(number)) for seq, number in enumerate(numbers, 1)]


def told(*, applied: tuple[int, ...] = (1, 2, 3), acknowledged: tuple[int, ...] = (1, 2, 3)) -> Ledger:
    """A ledger of three sends to the lobby, with one listener."""
    ledger = Ledger()
    for number in (1, 2, 3):
        ledger.sent[key(number)] = 1.0
    for number in acknowledged:
        ledger.acknowledge(key(number), "lobby", number)
    before = 0
    for number in applied:
        ledger.apply("bob", "lobby", before, number, key(number))
        before = number
    return ledger


def test_a_promise_that_was_kept():
    ledger = told()
    ledger.check_table([Row("lobby", 4, "another run's message"), *table(1, 2, 3)], RUN)
    ledger.check_reached("bob", "lobby", 3, 3)
    assert dict(ledger.problems) == {}
    assert ledger.tops == {"lobby": 3}


def lacks_an_acknowledged(ledger: Ledger) -> None:
    ledger.check_table(table(1, 2), RUN)


def has_one_twice(ledger: Ledger) -> None:
    ledger.check_table([*table(1, 2, 3), Row("lobby", 4, key(3))], RUN)


def has_one_that_nobody_sent(ledger: Ledger) -> None:
    ledger.check_table(table(1, 2, 3, 4), RUN)


def has_another_order(ledger: Ledger) -> None:
    ledger.check_table(table(2, 1, 3), RUN)


def ends_too_early_for_one(ledger: Ledger) -> None:
    ledger.check_reached("bob", "lobby", 2, 3)


@pytest.mark.parametrize(
    ("fault", "kinds"),
    [
        (lacks_an_acknowledged, {"lost", "misordered"}),
        (has_one_twice, {"duplicated", "lost"}),
        (has_one_that_nobody_sent, {"duplicated", "lost"}),
        (has_another_order, {"lost"}),
        (ends_too_early_for_one, {"lost"}),
    ],
)
def test_a_table_or_a_client_that_differs(fault: Callable[[Ledger], None], kinds: set[str]):
    ledger = told()
    fault(ledger)
    assert set(ledger.problems) == kinds
    assert ledger.examples


def test_a_hole_a_repetition_and_another_order():
    assert set(told(applied=(1, 3)).problems) == {"lost"}
    assert set(told(applied=(1, 1, 2, 3)).problems) == {"duplicated"}
    other = told()
    other.apply("carol", "lobby", 0, 1, key(2))
    assert set(other.problems) == {"misordered"}
    other.acknowledge(key(1), "lobby", 9)
    assert other.problems["duplicated"] == 1


# --- a device --------------------------------------------------------------------------------------------


def welcome() -> bytes:
    return messages.encode_event(
        messages.Welcome(
            username="ann",
            session="shard-3.abc-1",
            server_time="t",
            epoch=1,
            limits=LIMITS,
            ping=messages.PingTimes(interval_ms=1, timeout_ms=1),
            reconnect=messages.ReconnectTimes(min_ms=1, max_ms=2),
        )
    )


def synced(to: int, command: str) -> bytes:
    part = messages.SyncedConversation(
        conversation="lobby", from_=0, to=to, last_seq=to, delivered_seq=0, read_seq=0, unread=0
    )
    return messages.encode_event(messages.Synced(conversations=[part], epoch=1, id=command))


def said(number: int) -> bytes:
    return messages.encode_event(
        messages.Message(
            id=number,
            conversation="lobby",
            seq=number,
            ordinal=number,
            sender="bob",
            content="x",
            timestamp="t",
            client_id=key(number),
        )
    )


def device() -> Device:
    return Device("ws://nowhere", "ann", Ledger(), Meter(), random.Random(1))


def come_alive(one: Device, to: int, *missed: int, serial: int = 1) -> None:
    one.core.connected(1.0)
    one.feed(welcome(), 1.0)
    for number in missed:
        one.feed(said(number), 1.1)
    one.feed(synced(to, f"sync-{serial}"), 1.2)


def test_a_device_tells_the_ledger_what_it_applied():
    one = device()
    come_alive(one, 0)
    assert one.live
    assert one.shard == "shard-3"
    one.feed(said(1), 2.0)
    one.feed(said(1), 2.0)  # the rule drops it
    one.on_ws_disconnected(None)  # type: ignore[arg-type]
    come_alive(one, 3, 2, 3, serial=2)
    assert one._ledger.applied == 3
    assert dict(one._ledger.problems) == {}


def test_what_the_server_leaves_out_is_lost():
    one = device()
    come_alive(one, 0)
    one.on_ws_disconnected(None)  # type: ignore[arg-type]
    come_alive(one, 3, 1, 3, serial=2)  # says that there is nothing between 1 and 3
    assert dict(one._ledger.problems) == {"lost": 1}


def test_only_messages_that_did_not_wait_for_a_connection_are_timed():
    one = device()
    one.say(key(1), "x", None)
    assert one._ledger.sent[key(1)] == INTERRUPTED
    come_alive(one, 0)
    one.deliveries = []
    one._ledger.sent[key(1)] = 1.5
    one.feed(said(1), 2.0)
    assert one.deliveries == [0.5]
    one.say(key(2), "x", None)
    assert one._ledger.sent[key(2)] > 0
    one.on_ws_disconnected(None)  # type: ignore[arg-type]
    assert one._ledger.sent[key(2)] == INTERRUPTED


# --- outcomes --------------------------------------------------------------------------------------------


def test_a_bound_that_is_missed_and_one_that_was_not_measured():
    one = Outcome(profile="p", clients=2, figures={"a": 3.0, "b": 5.0}, bounds={"a": 3.0})
    assert one.good
    one.bounds = {"a": 3.0, "b": 4.0, "c": 1.0}
    assert one.missed == ["b", "c"]
    assert not one.good
    assert "b 5 (<= 4 MISSED)" in line(one)
    one.bounds, one.problems = {}, {"lost": 1}
    assert not one.good
    assert "BROKEN" in line(one)
    assert msgspec.json.decode(msgspec.json.encode(one), type=Outcome) == one


def test_percentiles_are_taken_by_nearest_rank():
    assert milliseconds([i / 1000 for i in range(1, 101)], 990) == 99
    assert milliseconds([0.001], 500) == 1
    assert milliseconds([], 990) == float("inf")


def test_the_command_names_every_profile(capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit) as ended:
        main(["--help"])
    assert ended.value.code == 0
    text = capsys.readouterr().out
    assert all(name in text for name in PROFILES)
