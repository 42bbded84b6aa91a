"""The AsyncAPI document of the WebSocket, made from the types that encode and decode it."""

from typing import Any, get_args

import msgspec

import hubbub
from hubbub.protocol import messages
from hubbub.protocol.refusals import CloseCode
from shards.api import Document
from shards.http import Context, Operation, Route

_REF = "#/components/schemas/{name}"


def document() -> dict[str, Any]:
    """AsyncAPI 3.0: one channel, a message for each command and each event."""
    commands, events = get_args(messages.Command), get_args(messages.Event)
    _, schemas = msgspec.json.schema_components([*commands, *events], ref_template=_REF)
    # `{"content": "hi"}` is a send: its type may be left out.
    schemas["Send"]["required"] = ["content"]
    names = {kind: _name(kind, commands) for kind in (*commands, *events)}
    described = {
        name: {
            "name": kind.__struct_config__.tag,
            "summary": (kind.__doc__ or "").split("\n\n")[0].replace("\n", " ").strip(),
            "contentType": "application/json",
            "payload": {"$ref": _REF.format(name=kind.__name__)},
        }
        for kind, name in names.items()
    }

    def operation(action: str, kinds: tuple[Any, ...], summary: str) -> dict[str, Any]:
        references = [{"$ref": f"#/channels/socket/messages/{names[kind]}"} for kind in kinds]
        return {
            "action": action,
            "channel": {"$ref": "#/channels/socket"},
            "summary": summary,
            "messages": references,
        }

    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": "Hubbub",
            "version": hubbub.__version__,
            "license": {"name": "Apache-2.0"},
            "description": "Text frames with one JSON object each. A connection that the server ends is closed "
            "with one of: " + "; ".join(f"{int(code)} {code.reason}" for code in CloseCode) + ".",
        },
        "servers": {"this": {"host": "localhost:8000", "protocol": "ws"}},
        "channels": {
            "socket": {
                "address": "/ws",
                "messages": {name: {"$ref": f"#/components/messages/{name}"} for name in described},
            }
        },
        "operations": {
            "commands": operation("receive", commands, "What a client may say"),
            "events": operation("send", events, "What the server says"),
        },
        "components": {"messages": described, "schemas": schemas},
    }


def routes(context: Context) -> list[Route]:
    """``/api/asyncapi.json``."""
    text = msgspec.json.encode(document())
    operation = Operation(summary="The WebSocket, as AsyncAPI 3.0", answers={200: None}, public=True)
    return [Route("/api/asyncapi.json", Document, {"context": context, "document": text}, {"get": operation})]


def _name(kind: Any, commands: tuple[Any, ...]) -> str:
    """Commands and events may share a type's word; their names must differ."""
    return f"{'do' if kind in commands else 'on'}_{kind.__struct_config__.tag}"
