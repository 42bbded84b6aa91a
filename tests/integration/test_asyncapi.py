"""The AsyncAPI document against live traffic: what the server says fits it, what it forbids is refused."""

import json
from collections.abc import Iterator
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from tests.integration.client import connection
from tests.integration.system import System


class Document:
    """The served document; validates a message by its direction and type."""

    def __init__(self, served: dict[str, Any]) -> None:
        self.served = served

    def errors(self, direction: str, message: dict[str, Any]) -> list[str]:
        name = f"{direction}_{message.get('type', 'send')}"
        described = self.served["components"]["messages"].get(name)
        if described is None:
            return [f"no message {name}"]
        schema = {**described["payload"], "components": self.served["components"]}
        return [error.message for error in Draft202012Validator(schema).iter_errors(message)]


@pytest.fixture
def document(system: System) -> Iterator[Document]:
    yield Document(system.get("/api/asyncapi.json").json)


async def test_everything_the_server_says_is_described(system: System, document: Document) -> None:
    token = system.token("async-ann")
    async with (
        connection(system.ws, token=token, syncing=True) as ann,
        connection(system.ws, "async-ben", syncing=True) as ben,
    ):
        await ann.ask("synced", type="sync", have={})
        await ben.ask("synced", type="sync", have={})
        await ben.ask("presence", type="watch", users=["async-ann"], lobby=True)
        ack = await ann.say("hello", "async-ben", reply_to=1, mentions=["async-ben"])
        await ben.take("message", content="hello")
        await ben.send(type="received", conversation=ack["conversation"], seq=ack["seq"])
        await ben.send(type="read", conversation=ack["conversation"], seq=ack["seq"])
        await ann.take("receipt", read_seq=ack["seq"])
        await ben.send(type="typing", recipient="async-ann")
        await ann.take("typing")
        await ann.ask("history", type="history", conversation=ack["conversation"])
        await ann.ask("welcome", type="token", token=system.token("async-ann"))
        await ann.ask("pong", type="ping")
        await ann.ask("error", type="token", token="nonsense")
        await ann.ask("synced", type="sync", have={ack["conversation"]: 0})
        for _ in range(500):  # until the server has enough of it
            await ben.socket.send("{")
        await ben.closed()
        heard = ann.heard + ben.heard
    kinds = {event["type"] for event in heard}
    described = {name.removeprefix("on_") for name in document.served["components"]["messages"] if name[:3] == "on_"}
    assert kinds == described, f"not seen: {described - kinds}"
    for event in heard:
        assert not document.errors("on", event), (event, document.errors("on", event))


GOOD: list[dict[str, Any]] = [
    {"content": "hi"},
    {"type": "send", "content": "hi", "recipient": "ben", "id": "0123456789abcdef"},
    {"type": "sync", "have": {"lobby": 3}, "epoch": 1},
    {"type": "received", "conversation": "lobby", "seq": 1},
    {"type": "watch", "users": ["ben"], "lobby": True},
    {"type": "ping"},
]
BAD: list[dict[str, Any]] = [
    {"type": "send", "content": "hi", "recipent": "ben"},
    {"type": "send"},
    {"type": "send", "content": "hi", "id": "short"},
    {"type": "received", "conversation": "lobby", "seq": -1},
    {"type": "history", "conversation": "lobby", "limit": 201},
    {"type": "shout", "content": "hi"},
    {"type": "typing", "on": "yes"},
]


async def test_document_and_server_refuse_the_same(system: System, document: Document) -> None:
    for command in GOOD:
        assert not document.errors("do", command), command
    async with connection(system.ws, "async-cat", syncing=True) as cat:
        for command in BAD:
            assert document.errors("do", command), command
            await cat.socket.send(json.dumps(command))
            await cat.take("error", code="bad_request")
