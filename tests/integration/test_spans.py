"""OpenTelemetry: one trace follows a message through all processes, as a real OTLP/HTTP receiver gets it."""

import asyncio
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Event, Thread
from typing import NamedTuple

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.trace.v1.trace_pb2 import Span as SentSpan
from opentelemetry.proto.trace.v1.trace_pb2 import Status

from hubbub.runtime.tracing import identify
from tests.integration.client import connection
from tests.integration.system import free_port, running

NAMES = ["commit", "message", "route event", "route request", "store"]


class Seen(NamedTuple):
    """A span as it came, and who sent it."""

    service: str
    process: str
    span: SentSpan

    @property
    def message(self) -> str:
        """The id in the logs."""
        (found,) = (one.value.string_value for one in self.span.attributes if one.key == "hubbub.trace")
        return str(found)


class Collector:
    """Takes OTLP over HTTP; while `hang` is set it answers nobody."""

    def __init__(self, port: int = 0) -> None:
        self.spans: list[Seen] = []
        self.asked = 0
        self.hang = Event()
        self.over = Event()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                outer.asked += 1
                if outer.hang.is_set():
                    outer.over.wait(60)
                    return
                assert self.path == "/v1/traces"
                assert self.headers["Content-Type"] == "application/x-protobuf"
                body = self.rfile.read(int(self.headers["Content-Length"]))
                for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
                    who = {one.key: one.value.string_value for one in resource.resource.attributes}
                    for scope in resource.scope_spans:
                        assert scope.scope.name == "hubbub"
                        outer.spans += [Seen(who["service.name"], who["service.instance.id"], s) for s in scope.spans]
                self.send_response(200)
                self.send_header("Content-Type", "application/x-protobuf")
                self.end_headers()
                self.wfile.write(ExportTraceServiceResponse().SerializeToString())

            def log_message(self, *arguments: object) -> None:
                """Not into the tests' output."""

        self._server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def serve(self) -> None:
        self._server.serve_forever(0.05)

    def close(self) -> None:
        self.over.set()
        self._server.shutdown()
        self._server.server_close()

    def of(self, message: str) -> list[Seen]:
        return [one for one in list(self.spans) if one.message == message]


@contextmanager
def collecting(port: int = 0) -> Iterator[Collector]:
    collector = Collector(port)
    thread = Thread(target=collector.serve)
    thread.start()
    try:
        yield collector
    finally:
        collector.close()
        thread.join()


@pytest.fixture
def collector() -> Iterator[Collector]:
    with collecting() as one:
        yield one


async def test_one_trace_has_all_spans(tmp_path: Path, collector: Collector) -> None:
    env = {"HUBBUB_OTEL_ENDPOINT": collector.url, "HUBBUB_LOG_LEVEL": "debug", "HUBBUB_LOG_FORMAT": "json"}
    with running(tmp_path / "spans", env=env) as system:
        async with connection(system.ws, "span-ann") as ann, connection(system.ws, "span-ben") as ben:
            begun = time.time_ns()
            for _ in range(8):
                await ann.say("follow me", "span-ben")
            await ann.say("once")
            ended = time.time_ns()
            await ben.take("message", content="once")

        def messages() -> set[str]:
            return {one.message for one in list(collector.spans)}

        def complete() -> bool:
            return len(messages()) == 9 and all({*NAMES} <= {s.span.name for s in collector.of(m)} for m in messages())

        system.until(complete, 20, "every message's spans at the collector")
        for message in messages():
            check(collector.of(message), message, begun, ended)
        # The ids that the logs of all processes carry are the ones that the spans name.
        for program in ("broker", "store"):
            assert {line["trace"] for line in system.log(program) if "trace" in line} == messages()


def check(spans: list[Seen], message: str, begun: int, ended: int) -> None:
    names = Counter(one.span.name for one in spans)
    assert names.pop("deliver") in (1, 2), "one for each shard with somebody concerned"
    assert sorted(names.elements()) == NAMES, names
    trace, root_id = identify(message)
    assert {one.span.trace_id for one in spans} == {trace.to_bytes(16)}
    by_name = {one.span.name: one for one in spans}
    root, store, commit = by_name["message"], by_name["store"], by_name["commit"]
    assert (root.span.span_id, root.span.parent_span_id) == (root_id.to_bytes(8), b"")
    assert root.process == message.split(".")[0], "the root is told by the sender's shard"
    assert commit.span.parent_span_id == store.span.span_id
    assert {one.service for one in (store, commit)} == {"hubbub-store"}
    for name in ("route request", "store", "route event", "deliver"):
        assert by_name[name].span.parent_span_id == root.span.span_id
    assert {by_name[name].service for name in ("route request", "route event")} == {"hubbub-broker"}
    assert {one.service for one in spans if one.span.name in ("message", "deliver")} == {"hubbub-shard"}
    assert len({one.span.span_id for one in spans}) == len(spans)
    # One machine, one clock: each begins after what it follows from, and takes a part of the whole.
    assert begun <= root.span.start_time_unix_nano <= root.span.end_time_unix_nano <= ended
    order = [by_name[name].span for name in ("route request", "store", "commit", "route event")]
    starts = [one.start_time_unix_nano for one in order]
    assert starts == sorted(starts)
    for one in order:
        assert root.span.start_time_unix_nano <= one.start_time_unix_nano <= one.end_time_unix_nano
    # Acknowledged after the commit, never before.
    assert commit.span.end_time_unix_nano <= root.span.end_time_unix_nano
    took = commit.span.end_time_unix_nano - commit.span.start_time_unix_nano
    whole = root.span.end_time_unix_nano - root.span.start_time_unix_nano
    assert 50_000 < took < whole, "a commit is a round trip to PostgreSQL, in nanoseconds"


async def test_a_refusal_ends_the_trace_with_an_error(tmp_path: Path, collector: Collector) -> None:
    env = {"HUBBUB_OTEL_ENDPOINT": collector.url}
    with running(tmp_path / "refused", shards=1, env=env) as system:
        async with connection(system.ws, "conflict-ann") as ann:
            await ann.say("one text", id="one key for two texts")
            error = await ann.ask("error", type="send", id="one key for two texts", content="another text")
            assert error["code"] == "conflict"

        def told() -> list[Seen]:
            return [one for one in list(collector.spans) if one.span.status.code == Status.STATUS_CODE_ERROR]

        system.until(told, 20, "the refused message's root span")
        (refused,) = told()
        assert (refused.span.name, refused.span.status.message) == ("message", "refused")


async def test_a_collector_that_hangs_holds_up_nobody(tmp_path: Path, collector: Collector) -> None:
    collector.hang.set()
    with running(tmp_path / "hanging", shards=1, env={"HUBBUB_OTEL_ENDPOINT": collector.url}) as system:
        async with connection(system.ws, "hang-ann") as ann:
            await ann.say("this one's spans go nowhere")
            system.until(lambda: collector.asked >= 3, 20, "every process hanging at the collector")
            for _ in range(50):
                await ann.say("and the chat goes on")
        begun = time.monotonic()
        system.stop()  # fails by itself where a process has to be killed
        stopped = time.monotonic() - begun
    # Shards, broker and store end one after the other; each may wait its two seconds and no longer.
    assert stopped < 20
    assert not any("did not stop in time" in line.get("event", "") for line in system.log("shard-0"))


async def test_a_collector_that_comes_later_is_missed_once_and_found(tmp_path: Path) -> None:
    port = free_port()
    env = {"HUBBUB_OTEL_ENDPOINT": f"http://127.0.0.1:{port}", "HUBBUB_LOG_FORMAT": "json"}
    with running(tmp_path / "late", shards=1, env=env) as system:

        def said(event: str) -> int:
            return sum(line.get("event") == event for line in system.log("store"))

        async with connection(system.ws, "late-ann") as ann:
            await ann.say("nobody collects yet")
            system.until(lambda: said("collector_away"), 30, "the collector missed")
            with collecting(port) as collector:
                while not said("collector_back"):
                    await ann.say("somebody will")
                    await asyncio.sleep(0.2)
                assert collector.spans
        assert (said("collector_away"), said("collector_back")) == (1, 1)
        assert not any("opentelemetry" in line.get("logger", "") for line in system.log("store"))
