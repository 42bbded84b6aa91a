"""The JSON that clients read: the same from the sequencer and from the table."""

import json

import pytest

from hubbub.bus.batch import decode_log_event
from hubbub.protocol.internal import LogEvent
from store import events
from store.events import Extra, Row, entry, entry_of_row, extra_of, payload_of_row, payload_of_send
from tests.builders import send

AT = 1_767_225_600_007


@pytest.mark.parametrize(
    "one",
    [
        send(1, "al", "bob", "hi ü€😀"),
        send(2),
        send(3, key="~s0.1#7"),
        send(4, "al", "al", reply_to=3, mentions=("bob", "李雷")),
        send(5, reply_to=0),
        send(6, mentions=("bob",)),
    ],
    ids=lambda one: one.no,
)
def test_from_the_table_comes_the_same_as_was_sent(one):
    extra = extra_of(one)
    column = None if extra is None else json.loads(json.dumps({"reply_to": extra.reply_to, "mentions": extra.mentions}))
    if column is not None:
        column = {name: value for name, value in column.items() if value not in (None, [])}
    row = Row(77, one.conversation, 5, 4, one.sender, one.recipient, one.content, one.key, column, AT)
    assert payload_of_row(row) == payload_of_send(one, 77, 5, 4, events.iso(AT))


def test_extra():
    assert extra_of(send(1)) is None
    assert extra_of(send(1, reply_to=0)) == Extra(0, ())
    assert extra_of(send(1, mentions=("bob",))) == Extra(None, ("bob",))


def test_time():
    assert events.iso(AT) == "2026-01-01T00:00:00.007Z"
    assert events.iso(0) == "1970-01-01T00:00:00.000Z"
    assert events.iso(AT - 8) == "2025-12-31T23:59:59.999Z"


def test_an_event_from_the_table_has_no_origin():
    row = Row(77, "direct:al:bob", 5, 4, "al", "bob", "hi", "k" * 16, None, AT)
    found = entry_of_row(row)
    assert found.topics == ["user.al", "user.bob"]
    assert decode_log_event(found.event) == LogEvent(
        77, "direct:al:bob", 5, "2026-01-01T00:00:00.007Z", "", 0, payload_of_row(row)
    )


def test_an_entry_of_the_lobby():
    event = LogEvent(1, "lobby", 1, "t", "s0", 3, b"{}")
    assert entry(event).topics == ["lobby"]
    assert decode_log_event(entry(event).event) == event
