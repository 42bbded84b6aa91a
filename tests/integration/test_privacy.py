"""Who is not in a conversation learns nothing of it and changes nothing in it, by whatever command."""

from typing import Any

import pytest

from tests.integration.client import connection
from tests.integration.system import System

SECRET = "between the two of us"
CONVERSATION = "direct:priv-ann:priv-ben"
COMMANDS: dict[str, dict[str, Any]] = {
    "history": {"type": "history", "conversation": CONVERSATION},
    "history of the names turned round": {"type": "history", "conversation": "direct:priv-ben:priv-ann"},
    "received": {"type": "received", "conversation": CONVERSATION, "seq": 1},
    "read": {"type": "read", "conversation": CONVERSATION, "seq": 1},
    "a room of that name": {"content": "x", "room": CONVERSATION},
    "a recipient of that name": {"content": "x", "recipient": CONVERSATION},
    "a recipient that is a topic": {"content": "x", "recipient": "user.priv-ann:x"},
    "the watch of a topic": {"type": "watch", "users": ["x:user.priv-ann"]},
    "the sync of somebody else's conversation": {"type": "sync", "have": {CONVERSATION: 0}},
}


@pytest.mark.parametrize("kind", COMMANDS)
async def test_a_third_party_is_refused(system: System, kind: str) -> None:
    async with connection(system.ws, "priv-ann") as ann, connection(system.ws, "priv-mallory") as mallory:
        await ann.say(SECRET, "priv-ben")
        error = await mallory.ask("error", **COMMANDS[kind])
        assert error["code"] in ("forbidden", "bad_request", "not_found")
        await mallory.settled()
        assert SECRET not in str(mallory.heard)


async def test_a_third_party_hears_nothing(system: System) -> None:
    async with connection(system.ws, "priv-mallory") as mallory, connection(system.ws, "priv-ann") as ann:
        async with connection(system.ws, "priv-ben") as ben:
            await mallory.ask("presence", type="watch", users=["priv-ann", "priv-ben"], lobby=True)
            ack = await ann.say(SECRET, "priv-ben")
            await ben.take("message", seq=ack["seq"], conversation=CONVERSATION)
            await ben.send(type="read", conversation=CONVERSATION, seq=ack["seq"])
            await ben.send(type="typing", recipient="priv-ann", on=True)
            await ann.take("receipt", read_seq=ack["seq"])  # so the rest has gone where it goes
            await ann.say("and that to everybody")
            await mallory.take("message", content="and that to everybody")
        heard = [event for event in mallory.heard if event["type"] in ("message", "receipt", "typing", "history")]
        assert {event["conversation"] for event in heard} <= {"lobby"}
        assert SECRET not in str(mallory.heard)
    for path in ("/api/messages?with=priv-ben", f"/api/conversations/{CONVERSATION}/messages?", "/api/conversations?",
                 "/api/search?q=between", f"/api/search?q=between&conversation={CONVERSATION}"):  # fmt: skip
        joined = "&" if "=" in path else ""
        answer = system.get(f"{path}{joined}username=priv-mallory")
        assert answer.status in (200, 403)
        assert SECRET.encode() not in answer.body
