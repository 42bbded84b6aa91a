"""Sends that are never repeated, so that each answer (or none) can be held against the table."""

import asyncio
import secrets
from collections import Counter
from urllib.parse import quote

import msgspec
import picows

from bench.profiles.crowd import read_table
from bench.server import Server
from hubbub.protocol import messages

# Connections, each below its limit of sends in flight while nothing is answered for ten seconds.
PROBERS = 4
EVERY = 0.05
_encode = msgspec.json.Encoder().encode


class _Probe(picows.WSListener):
    """A plain connection; `answers`: key -> the ack's seq, or what the error said of `stored`."""

    def __init__(self, refused: Counter[tuple[str, str]]) -> None:
        self.answers: dict[str, int | str] = {}
        self._refused = refused

    def on_ws_frame(self, transport: picows.WSTransport, frame: picows.WSFrame) -> None:
        """Take one frame (picows calls this)."""
        if frame.msg_type != picows.WSMsgType.TEXT:
            return
        event = messages.decode_event(frame.get_payload_as_bytes())
        if isinstance(event, messages.Ack) and isinstance(event.id, str):
            self.answers[event.id] = event.seq
        elif isinstance(event, messages.Error) and isinstance(event.id, str):
            self.answers[event.id] = str(event.stored)
            self._refused[event.code, str(event.stored)] += 1


class Prober:
    """Twenty messages a second to somebody who is away, each sent once."""

    def __init__(self, server: Server) -> None:
        self.refused: Counter[tuple[str, str]] = Counter()
        self._server = server
        self._run = secrets.token_hex(4)
        self._sent: list[str] = []
        self._probes = [_Probe(self.refused) for _ in range(PROBERS)]
        self._transports: list[picows.WSTransport] = []
        self._task: asyncio.Task[None] | None = None

    async def connect(self) -> None:
        """Open the connections."""
        for i, probe in enumerate(self._probes):
            url = f"{self._server.url}/ws?username={quote(f'{self._run}-{i}')}"
            transport, _ = await picows.ws_connect(lambda probe=probe: probe, url)
            self._transports.append(transport)

    def begin(self) -> None:
        """Probe from now on."""
        self._task = asyncio.create_task(self._probe(), name="prober")

    async def end(self) -> None:
        """Probe no more."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    def count(self) -> dict[str, int]:
        """How many there were, and how they were answered."""
        answers = Counter(
            "acknowledged" if isinstance(a, int) else f"not stored: {a}" for a in self._answers().values()
        )
        return {"sent": len(self._sent), **answers}

    async def check(self) -> list[str]:
        """Compare the answers with the table; what is false. Leaves."""
        for transport in self._transports:
            transport.disconnect()
        rows = await asyncio.to_thread(read_table, self._server)
        stored = {row.key: row.seq for row in rows if row.key.startswith(self._run)}
        false = []
        for key, answer in self._answers().items():
            if isinstance(answer, int) and stored.get(key) != answer:
                false.append(f"{key} was acknowledged as {answer}, the table has {stored.get(key)}")
            elif answer == "no" and key in stored:
                false.append(f"{key} was refused as not stored, the table has it as {stored[key]}")
        return false

    def _answers(self) -> dict[str, int | str]:
        return {key: answer for probe in self._probes for key, answer in probe.answers.items()}

    async def _probe(self) -> None:
        while True:
            key = f"{self._run}{len(self._sent):016d}"
            command = messages.Send(content="probe", recipient=f"{self._run}-away", id=key)
            self._transports[len(self._sent) % PROBERS].send(picows.WSMsgType.TEXT, _encode(command))
            self._sent.append(key)
            await asyncio.sleep(EVERY)
