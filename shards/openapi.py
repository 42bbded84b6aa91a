"""The OpenAPI document, made from the routes and the types that serve them."""

from collections.abc import Iterable, Sequence
from http import HTTPStatus
from typing import Any, Literal

import msgspec
from msgspec import UNSET, UnsetType

import hubbub
from hubbub.protocol.limits import KEY_MAX, KEY_MIN
from hubbub.protocol.refusals import ErrorCode
from shards.api import Document
from shards.http import Context, Operation, Route

_REF = "#/components/schemas/{name}"
# What every operation may answer, beside its own: by who asks.
_ALWAYS = (400, 500, 503)
_WITH_CREDENTIALS = (401,)
_WITH_BODY = (403, 413, 415)
_SECURITY: list[dict[str, list[str]]] = [{"token": []}, {"guest": []}]


class Fault(msgspec.Struct):
    """What went wrong, for a program (`code`), for a person (`message`), and whether to try again."""

    code: str
    message: str
    temporary: bool
    retry_after_ms: int | UnsetType = UNSET


class Problem(msgspec.Struct):
    """Every failure. `stored` stands where a message was posted."""

    error: Fault
    stored: Literal["no", "unknown"] | UnsetType = UNSET


def document(routes: Sequence[Route]) -> dict[str, Any]:
    """OpenAPI 3.1 of *routes*."""
    types: list[Any] = [Problem]
    for route in routes:
        for operation in route.operations.values():
            types += [one for one in (operation.body, operation.query, *operation.answers.values()) if one]
    schemas, components = msgspec.json.schema_components(types, ref_template=_REF)
    by_type = dict(zip(types, schemas, strict=True))
    paths: dict[str, Any] = {}
    for route in routes:
        paths[route.path] = {
            method: _operation(route.path, method, operation, by_type, components)
            for method, operation in route.operations.items()
        }
    queries = {_name(by_type[one.query]) for route in routes for one in route.operations.values() if one.query}
    components["Fault"]["properties"]["code"] = {"enum": sorted(code.word for code in ErrorCode)}
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Hubbub",
            "version": hubbub.__version__,
            "description": "Chat over HTTP: history, posting, search, accounts. The WebSocket at /ws is described in "
            "AsyncAPI at /api/asyncapi.json.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "paths": paths,
        "components": {
            "schemas": {name: schema for name, schema in components.items() if name not in queries},
            "securitySchemes": {
                "token": {"type": "http", "scheme": "bearer", "bearerFormat": "JWT"},
                "guest": {
                    "type": "apiKey",
                    "in": "query",
                    "name": "username",
                    "description": "A name without proof, where the server lets guests in.",
                },
            },
        },
    }


def routes(context: Context, described: Sequence[Route]) -> list[Route]:
    """``/api/openapi.json``: of *described* and itself."""
    summary = "This document"
    operation = Operation(summary=summary, answers={200: None}, public=True)
    itself = Route("/api/openapi.json", Document, {"context": context}, {"get": operation})
    text = msgspec.json.encode(document([*described, itself]))
    return [itself._replace(arguments={"context": context, "document": text})]


def _operation(
    path: str, method: str, operation: Operation, by_type: dict[Any, Any], components: dict[str, Any]
) -> dict[str, Any]:
    answers: dict[str, Any] = {}
    for status, kind in operation.answers.items():
        answers[str(status)] = {"description": HTTPStatus(status).phrase}
        if kind is not None:
            answers[str(status)]["content"] = {"application/json": {"schema": by_type[kind]}}
        elif status != HTTPStatus.NO_CONTENT:
            answers[str(status)]["content"] = {"application/json": {"schema": {"type": "object"}}}
    for status in _errors(operation):
        answers[str(status)] = {
            "description": HTTPStatus(status).phrase,
            "content": {"application/json": {"schema": by_type[Problem]}},
        }
        if status in (429, 503):
            seconds = {"description": "Seconds to wait", "schema": {"type": "integer", "minimum": 1}, "required": True}
            answers[str(status)]["headers"] = {"Retry-After": seconds}
    words = [word for word in path.removeprefix("/api/").replace("{", "").replace("}", "").split("/") if word]
    described: dict[str, Any] = {
        "operationId": "_".join([method, *words]).replace(".", "_"),
        "summary": operation.summary,
        "responses": answers,
        "security": [] if operation.public else _SECURITY,
        "parameters": [*_path_parameters(path), *_query_parameters(operation, by_type, components)],
    }
    if operation.idempotent:
        described["parameters"].append(
            {
                "name": "Idempotency-Key",
                "in": "header",
                "required": False,
                "description": "The same key again is the same message, stored once. Not beginning with ~.",
                "schema": {"type": "string", "pattern": f"^[A-Za-z0-9._-]{{{KEY_MIN},{KEY_MAX}}}$"},
            }
        )
    if operation.body is not None:
        schema = by_type[operation.body]
        described["requestBody"] = {"required": True, "content": {"application/json": {"schema": schema}}}
    return described


def _errors(operation: Operation) -> Iterable[int]:
    statuses = {*_ALWAYS, *operation.errors}
    if not operation.public:
        statuses.update(_WITH_CREDENTIALS)
    if operation.body is not None:
        statuses.update(_WITH_BODY)
    return sorted(statuses)


def _path_parameters(path: str) -> list[dict[str, Any]]:
    if "{conversation}" not in path:
        return []
    schema = {"type": "string", "pattern": r"^(lobby|direct:[a-z]{1,20}:[a-z]{1,20})$"}
    return [{"name": "conversation", "in": "path", "required": True, "schema": schema, "example": "lobby"}]


def _query_parameters(
    operation: Operation, by_type: dict[Any, Any], components: dict[str, Any]
) -> list[dict[str, Any]]:
    if operation.query is None:
        return []
    schema = components[_name(by_type[operation.query])]
    required = schema.get("required", ())
    return [
        {"name": name, "in": "query", "required": name in required, "schema": one}
        for name, one in schema["properties"].items()
    ]


def _name(reference: dict[str, str]) -> str:
    return reference["$ref"].rpartition("/")[2]
