"""What clients may say, what they read, and the words of refusal."""

import json
from typing import Any

import msgspec
import pytest
from msgspec import UNSET

from hubbub.protocol import messages
from hubbub.protocol.limits import HISTORY_MAX, KEY_MAX, KEY_MIN, MENTIONS_MAX, SYNC_HAVE_MAX, WATCH_MAX
from hubbub.protocol.messages import command_id, decode_command, decode_event, encode_event, refusal_event
from hubbub.protocol.refusals import CloseCode, ErrorCode, Refusal

KEY = "0123456789abcdef"


def refused(data: bytes) -> str:
    with pytest.raises(Refusal) as caught:
        decode_command(data)
    assert caught.value.code is ErrorCode.BAD_REQUEST
    return caught.value.message


def test_a_bare_content_is_a_send():
    assert decode_command(b'{"content":"hi"}') == messages.Send(content="hi")
    assert decode_command(b'{"recipient":"al","content":"hi"}') == messages.Send(content="hi", recipient="al")
    assert decode_command(b'{"type":"send","content":"hi"}') == messages.Send(content="hi")


@pytest.mark.parametrize(
    "command",
    [
        messages.Send(content="hi", recipient="bob", id=KEY, reply_to=3, mentions=("al", "bob")),
        messages.Send(content="hi", room="r"),
        messages.Sync(have={"lobby": 3}, epoch=9, more=True, id="s"),
        messages.Sync(),
        messages.Received(conversation="lobby", seq=3),
        messages.Read(conversation="lobby", seq=2**53, id="r"),
        messages.History(conversation="lobby", before=3, limit=HISTORY_MAX),
        messages.Typing(recipient="bob", on=False),
        messages.Watch(users=("al",), lobby=True),
        messages.Token(token="t", id="x"),
        messages.Ping(id="p"),
    ],
)
def test_every_command(command):
    assert decode_command(msgspec.json.encode(command)) == command


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b'{"content":"hi","recipent":"bob"}', "recipent"),  # must not go to everybody
        (b'{"type":"send","content":"hi","to":"bob"}', "to"),
        (b'{"type":"shout","content":"hi"}', "shout"),
        (b'{"type":7,"content":"hi"}', "type"),
        (b'{"type":null,"content":"hi"}', "type"),
        (b'{"type":"send"}', "content"),
        (b"{}", "content"),
        (b'{"content":7}', "content"),
        (b'{"content":null}', "content"),
        (b'{"content":"hi","recipient":""}', "recipient"),
        (b'{"type":"ping","id":""}', "id"),
        (b'{"type":"received","conversation":"lobby","seq":-1}', "seq"),
        (b'{"type":"received","conversation":"lobby","seq":1.5}', "seq"),
        (b'{"type":"received","conversation":"lobby","seq":%d}' % (2**53 + 1), "seq"),
        (b'{"type":"received","conversation":"lobby","seq":true}', "seq"),
        (b'{"type":"history","conversation":"lobby","limit":0}', "limit"),
        (b'{"type":"history","conversation":"lobby","limit":%d}' % (HISTORY_MAX + 1), "limit"),
        (b'[{"content":"hi"}]', "object"),
        (b'"hi"', "object"),
        (b"hi", "JSON"),
        (b"", "JSON"),
        (b'{"content":"hi"', "JSON"),
        (b'{"content":"hi"} ', None),
        (b'{"content":"hi"}{}', "JSON"),
        (b'{"content":"\xff"}', "JSON"),
        (b"[" * 100_000, "object"),
        (b'{"type":"ping","id":' + b"[" * 100_000, "id"),
    ],
)
def test_what_is_refused(data, says):
    if says is None:
        decode_command(data)
    else:
        assert says in refused(data)


@pytest.mark.parametrize(
    "data",
    [
        b'{"type":"nope", zz',  # wrong, and then not even JSON
        b'{"type":"send","content":1, zz',
        b'{"type":"nope","a":' + b"[" * 100_000,
        b'{"to":"al","content":"\xff"}',
    ],
)
def test_wrong_in_two_ways(data):
    assert refused(data)
    assert command_id(data) is None


def limits_of(field: str, size: int) -> Any:
    examples: dict[str, Any] = {
        "key": {"content": "x", "id": "k" * size},
        "mentions": {"content": "x", "mentions": ["al"] * size},
        "have": {"type": "sync", "have": {f"c{i}": 1 for i in range(size)}},
        "watch": {"type": "watch", "users": ["al"] * size},
        "id": {"type": "ping", "id": "k" * size},
        "name": {"content": "x", "recipient": "k" * size},
    }
    return examples[field]


@pytest.mark.parametrize(
    ("field", "most"),
    [("key", KEY_MAX), ("mentions", MENTIONS_MAX), ("have", SYNC_HAVE_MAX), ("watch", WATCH_MAX), ("id", KEY_MAX),
     ("name", 200)],
)  # fmt: skip
def test_sizes(field, most):
    decode_command(json.dumps(limits_of(field, most)).encode())
    refused(json.dumps(limits_of(field, most + 1)).encode())


def test_a_key_is_not_too_short():
    decode_command(json.dumps(limits_of("key", KEY_MIN)).encode())
    refused(json.dumps(limits_of("key", KEY_MIN - 1)).encode())


def test_the_id_of_what_could_not_be_decoded():
    assert command_id(b'{"type":"nope","id":"x7"}') == "x7"
    assert command_id(b'{"type":"nope"}') is None
    assert command_id(b'{"id":7}') is None
    assert command_id(b'{"id":"%s"}' % (b"k" * KEY_MAX)) == "k" * KEY_MAX
    assert command_id(b'{"id":"%s"}' % (b"k" * (KEY_MAX + 1))) is None  # never echo what has no bound
    for garbage in (b"", b"[1", b"7", b'{"id":"\xff"}', b"[" * 100_000):
        assert command_id(garbage) is None


def test_what_is_not_set_is_not_written():
    message = messages.Message(
        id=1, conversation="lobby", seq=1, ordinal=1, sender="al", content="hi", timestamp="2026-01-01T00:00:00.000Z"
    )
    assert json.loads(encode_event(message)) == {
        "type": "message", "id": 1, "conversation": "lobby", "seq": 1, "ordinal": 1, "sender": "al",
        "content": "hi", "timestamp": "2026-01-01T00:00:00.000Z",
    }  # fmt: skip
    assert decode_event(encode_event(message)) == message


def test_ranges_are_called_from_and_to():
    page = messages.HistoryPage(conversation="lobby", from_=2, to=4, events=[msgspec.Raw(b'{"seq":3}')], more=False)
    assert json.loads(encode_event(page)) == {
        "type": "history", "conversation": "lobby", "from": 2, "to": 4, "events": [{"seq": 3}], "more": False,
    }  # fmt: skip
    one = messages.SyncedConversation(
        conversation="lobby", from_=0, to=1, last_seq=1, delivered_seq=0, read_seq=0, unread=1
    )
    assert json.loads(encode_event(messages.Synced(conversations=[one], epoch=5)))["conversations"][0]["from"] == 0


def test_an_error_says_what_became_of_the_message():
    refusal = Refusal(ErrorCode.OVERLOADED, "later", retry_after_ms=50)
    assert json.loads(encode_event(refusal_event(refusal, "x", "unknown"))) == {
        "type": "error", "code": "overloaded", "message": "later", "temporary": True, "id": "x", "stored": "unknown",
        "retry_after_ms": 50,
    }  # fmt: skip
    bare = refusal_event(Refusal(ErrorCode.CONFLICT, "no"), None)
    assert (bare.id, bare.stored, bare.retry_after_ms, bare.temporary) == (UNSET, UNSET, UNSET, False)


def test_codes():
    assert len({code.word for code in ErrorCode}) == len(ErrorCode)
    assert all(code.temporary == (code.status in (429, 503)) for code in ErrorCode)
    for code in CloseCode:
        assert 0 < len(code.reason.encode()) <= 123
        assert code.reconnect == (code < 4500)
    assert {code for code in CloseCode if not code.reconnect} == {
        CloseCode.INVALID_TOKEN, CloseCode.PROTOCOL_VIOLATION, CloseCode.TOO_MANY_CONNECTIONS, CloseCode.REVOKED,
    }  # fmt: skip
