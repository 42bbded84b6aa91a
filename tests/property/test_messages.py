"""Any bytes a client may send: a command or a refusal, and nothing else."""

import json

from hypothesis import given
from hypothesis import strategies as st

from hubbub.protocol import messages
from hubbub.protocol.conversation import InvalidName, check_username, direct, event_id, parties, slot_of, split_id
from hubbub.protocol.limits import KEY_MAX
from hubbub.protocol.messages import Command, command_id, decode_command, decode_event, encode_event
from hubbub.protocol.refusals import ErrorCode, Refusal
from tests.unit.shard import Shard

FIELDS = (
    "type content recipient room id have epoch more conversation seq before after limit users lobby on token reply_to "
    "mentions other"
).split()
TYPES = "send sync received read history typing watch token ping nope".split()
PLAIN = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=70)
    | st.sampled_from([*TYPES, "lobby", "direct:al:bob", "al", "bob", "0123456789abcdef"])
)
VALUES = (
    PLAIN | st.lists(PLAIN, max_size=3) | st.dictionaries(st.text(max_size=5) | st.just("lobby"), PLAIN, max_size=3)
)
OBJECTS = st.dictionaries(st.sampled_from(FIELDS), VALUES, max_size=5).map(lambda found: json.dumps(found).encode())
# Objects with a byte changed, left out or put in: nearly right is where decoders go wrong.
BROKEN = st.builds(
    lambda data, at, out, put: data[: at % (len(data) + 1)] + put + data[at % (len(data) + 1) + out :],
    OBJECTS, st.integers(0, 500), st.integers(0, 3), st.binary(max_size=3),
)  # fmt: skip
ANYTHING = OBJECTS | BROKEN | st.binary(max_size=60)
NAMES = st.text("abzäß東_.-@+0", min_size=1, max_size=8)


@given(ANYTHING)
def test_decoding_refuses_or_understands(data):
    try:
        command = decode_command(data)
    except Refusal as refusal:
        assert refusal.code is ErrorCode.BAD_REQUEST
        assert refusal.message
        text = encode_event(messages.refusal_event(refusal, command_id(data)))
        assert isinstance(decode_event(text), messages.Error)
    else:
        assert isinstance(command, Command)
        # What was understood is what was said: every field that was given is there.
        for name, value in json.loads(data).items():
            if name != "type":
                found = getattr(command, name)
                assert found == (tuple(value) if isinstance(found, tuple) else value)


@given(ANYTHING)
def test_the_id_of_anything_is_short_or_none(data):
    found = command_id(data)
    assert found is None or len(found) <= KEY_MAX


@given(st.lists(ANYTHING, max_size=12), st.booleans())
def test_a_session_survives_anything(inputs, syncing):
    """Whatever comes, in whatever state: answers that clients can read, and a state that goes on."""
    shard = Shard(rate=0)
    session, healthy = shard.open("al", syncing=syncing), shard.live("bob")
    for data in inputs:
        shard.say(session, raw=data)
        shard.tick()
        assert session.in_flight == sum(
            waiter[0] is session for pending in shard.hub.pending._by_no.values() for waiter in pending.waiters
        )
    for one in shard.out(session):
        assert isinstance(one, tuple) or decode_event(json.dumps(one))
    shard.out(healthy)
    shard.say(healthy, type="ping", id="p")
    assert [one["id"] for one in shard.out(healthy)] == ["p"]
    shard.hub.close(session, shard.now)
    shard.tick()
    assert set(shard.hub.topics.index) == {"lobby", "user.bob"}


@given(NAMES, NAMES)
def test_a_direct_conversation_is_named_one_way(a, b):
    try:
        check_username(a), check_username(b)
    except InvalidName:
        return
    name = direct(a, b)
    assert name == direct(b, a)
    assert parties(name) == tuple(sorted((a, b)))


@given(st.text(max_size=30) | st.builds("direct:{}:{}".format, st.text(max_size=5), st.text(max_size=5)))
def test_any_text_as_a_conversation(text):
    try:
        pair = parties(text)
    except InvalidName:
        return
    assert text == "lobby" if pair is None else text == direct(*pair)
    assert 0 <= slot_of(text) < 64


@given(st.integers(0, 63), st.integers(1, 2**47 - 1))
def test_ids_are_split_as_they_were_made(slot, n):
    assert split_id(event_id(slot, n)) == (slot, n)
    assert event_id(slot, n) < 2**53
