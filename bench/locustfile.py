"""People who chat, for Locust: connect, talk to each other and to the lobby, read the history over REST.

How to run it stands in ``bench/README.md``. It shows how a server feels under a crowd that thinks and
types; for what a server can do at most there is `bench.load`, which costs a twentieth for each message.
"""

import itertools
import json
import random
import secrets
import time
from contextlib import suppress
from typing import Any
from urllib.parse import quote
from urllib.request import urlopen

import gevent
import websocket
from locust import User, between, events, task

_numbers = itertools.count()
_run = secrets.token_hex(3)  # people of another Locust process are other people
_names: list[str] = []  # everybody of this process who is connected
ACK_SECONDS = 10.0


class Person(User):  # type: ignore[misc, unused-ignore]
    """One guest with one open WebSocket; a greenlet reads it, tasks write."""

    wait_time = between(0.5, 2.0)

    def on_start(self) -> None:
        """Connect, wait for `welcome`, sync, begin to listen."""
        self.name = f"locust-{_run}-{next(_numbers)}"
        self.waiting: dict[str, tuple[str, float]] = {}  # key -> name of the request, when it was sent
        self.positions: dict[str, int] = {}
        began = time.perf_counter()
        try:
            self.socket = websocket.create_connection(
                f"{self._url('ws')}/ws?username={quote(self.name)}", timeout=30, subprotocols=["hubbub.v1"]
            )
            self._expect("welcome")
            self.socket.send('{"type":"sync"}')
            synced = self._expect("synced")
        except (OSError, websocket.WebSocketException) as exc:
            self._report("connect", began, exc)
            raise
        self._report("connect", began)
        self.positions = {page["conversation"]: page["to"] for page in synced["conversations"]}
        self.socket.settimeout(None)
        self.reader = gevent.spawn(self._read)
        _names.append(self.name)

    def on_stop(self) -> None:
        """Leave, and report what was never acknowledged."""
        with suppress(ValueError):
            _names.remove(self.name)
        for what, began in self.waiting.values():
            if time.perf_counter() - began > ACK_SECONDS:
                self._report(what, began, TimeoutError(f"no acknowledgement within {ACK_SECONDS:g} s"))
        self.reader.kill()
        self.socket.close()

    @task(10)  # type: ignore[untyped-decorator, unused-ignore]
    def say_to_somebody(self) -> None:
        """A direct message to somebody else."""
        partner = random.choice(_names)
        if partner != self.name:
            self._say("send direct", {"recipient": partner})

    @task(1)  # type: ignore[untyped-decorator, unused-ignore]
    def say_to_all(self) -> None:
        """A message to the lobby."""
        self._say("send lobby", {})

    @task(2)  # type: ignore[untyped-decorator, unused-ignore]
    def read_history(self) -> None:
        """The newest page of a direct conversation, over REST."""
        partner = random.choice(_names)
        began = time.perf_counter()
        path = f"/api/messages?with={quote(partner)}&limit=50&username={quote(self.name)}"
        try:
            with urlopen(self._url("http") + path, timeout=30) as answer:
                json.load(answer)
        except (OSError, ValueError) as exc:
            self._report("read history", began, exc, kind="GET")
        else:
            self._report("read history", began, kind="GET")

    def _url(self, scheme: str) -> str:
        return scheme + "://" + str(self.host).split("://", 1)[-1].rstrip("/")

    def _say(self, what: str, to: dict[str, str]) -> None:
        key = secrets.token_hex(12)
        self.waiting[key] = (what, time.perf_counter())
        command = {"type": "send", "id": key, "content": f"{time.time():.6f} {'x' * 80}", **to}
        try:
            self.socket.send(json.dumps(command))
        except (OSError, websocket.WebSocketException) as exc:
            self._report(*self.waiting.pop(key), exc)

    def _expect(self, kind: str) -> Any:
        while True:
            event = json.loads(self.socket.recv())
            if event["type"] == kind:
                return event

    def _read(self) -> None:
        while True:
            try:
                text = self.socket.recv()
            except (OSError, websocket.WebSocketException) as exc:
                self._report("connection", time.perf_counter(), exc)
                return
            event = json.loads(text)
            match event["type"]:
                case "ack":
                    sent = self.waiting.pop(event["id"], None)
                    if sent is None:
                        self._report("order", time.perf_counter(), RuntimeError(f"{event['id']}: acknowledged twice"))
                    else:
                        self._report(*sent)
                    self._apply(event)
                case "message":
                    sent_at = float(event["content"].split()[0])
                    if self._apply(event):
                        elapsed = max(0.0, time.time() - sent_at)
                        self._report("deliver", time.perf_counter() - elapsed, kind="WSR")
                case "error":
                    what = self.waiting.pop(event.get("id", ""), ("command", time.perf_counter()))
                    self._report(*what, RuntimeError(f"{event['code']}: {event['message']}"))
                case _:
                    pass

    def _apply(self, event: dict[str, Any]) -> bool:
        """The client's rule; a hole or a repetition is reported as a failure."""
        conversation, seq = event["conversation"], event["seq"]
        expected = self.positions.get(conversation, 0) + 1
        if seq != expected:
            self._report("order", time.perf_counter(), RuntimeError(f"{conversation}: seq {seq} after {expected - 1}"))
        self.positions[conversation] = max(seq, expected - 1)
        return bool(seq >= expected)

    def _report(self, name: str, began: float, exc: BaseException | None = None, kind: str = "WSS") -> None:
        events.request.fire(
            request_type=kind,
            name=name,
            response_time=(time.perf_counter() - began) * 1000,
            response_length=0,
            exception=exc,
            context={},
        )
