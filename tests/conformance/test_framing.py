"""RFC 6455 at the frame level, in the manner of the Autobahn testsuite: one table, for the parser and for the server.

The server's cases go over real sockets in three deliveries: at once, octet by octet, and right behind the request of
the handshake, before that was answered. Clients who behave chat beside all of it.
"""

import asyncio
import json
import socket

import pytest

from shards import frames
from shards.frames import FrameParser, Opcode
from tests.conformance.cases import LIMIT, SECTIONS, Case
from tests.integration.healthy import healthy
from tests.integration.raw import Raw, frame, raw
from tests.integration.system import System
from tests.integration.system import system as system  # a fixture

CASES = {section: list(make()) for section, make in SECTIONS.items()}
ALL = [pytest.param(case, id=f"{section}: {case.name}") for section, cases in CASES.items() for case in cases]
NOISE = {Opcode.PING}  # the server's own: is somebody there?
AT_ONCE = 8  # connections at a time
NORMAL_CLOSE = frame(Opcode.CLOSE, (1000).to_bytes(2, "big"))
OCTETS_MAX = 4_000  # of a longer case the middle goes in blocks, which no parser can tell from one another


@pytest.mark.parametrize("case", ALL)
@pytest.mark.parametrize("step", [1 << 20, 1], ids=["at once", "octet by octet"])
def test_the_parser(case: Case, step: int) -> None:
    parser = FrameParser(LIMIT)
    found: list[tuple[Opcode, bytes]] = []
    for i in range(0, len(case.data), step):
        if parser.error is None:
            found += parser.feed(case.data[i : i + step])
        assert parser.held <= 2 * LIMIT + 14
    assert (parser.error is not None) == case.broken
    if parser.error is not None:
        assert parser.error.code == case.closed
    elif case.closed is not None:
        (code,) = [frames.close_code(payload) for opcode, payload in found if opcode is Opcode.CLOSE]
        assert (code or 1005) == case.closed
    else:
        assert not parser.closed
    messages = [payload for opcode, payload in found if opcode in (Opcode.TEXT, Opcode.BINARY)]
    assert len(messages) == len(case.answers)
    for said, answer in zip(messages, case.answers, strict=True):
        assert answer is None or json.loads(said)["id"] == answer
    if case.pings:
        pinged = [payload for opcode, payload in found if opcode is Opcode.PING]
        assert (pinged[-1], set(pinged)) == (case.pings[-1], set(case.pings))


def test_every_code_that_a_close_may_carry() -> None:
    allowed = {1000, 1001, 1002, 1003, *range(1007, 1015), *range(3000, 5000)}
    for code in range(0x10000):
        parser = FrameParser(LIMIT)
        parser.feed(frame(Opcode.CLOSE, code.to_bytes(2, "big")))
        assert (parser.error is None) == (code in allowed), code


@pytest.mark.parametrize("delivery", ["at once", "octet by octet", "behind the request"])
@pytest.mark.parametrize("section", CASES)
async def test_the_server(system: System, section: str, delivery: str) -> None:
    doors = asyncio.Semaphore(AT_ONCE)
    wrong: dict[str, object] = {}

    async def examine(number: int, case: Case) -> None:
        async with doors:
            try:
                await check(system, f"{section.partition(' ')[0]}-{delivery[0]}-{number}", case, delivery)
            except (AssertionError, TimeoutError, OSError, EOFError) as exc:
                wrong[case.name] = repr(exc)

    async with healthy(system, "conformance"):
        await asyncio.gather(*[examine(i, case) for i, case in enumerate(CASES[section])])
    assert wrong == {}


async def check(system: System, name: str, case: Case, delivery: str) -> None:
    """Send the case, and read until nothing more may come."""
    early = case.data if delivery == "behind the request" else b""
    octets = delivery == "octet by octet"
    async with raw(system.port, f"conformance-{name}", early=early) as client:
        data = b"" if early else case.data
        # Beside the reading: a server that hung up resets what still comes, and the reset overtakes its close frame.
        sending = asyncio.create_task(deliver(client, data, octets=octets))
        answers: list[str | None] = []
        pongs: list[bytes] = []
        goodbyes = 0
        closed: int | None = None
        hung_up = False
        try:
            while True:
                # Whoever is still welcome says goodbye once all is answered; nobody else has to.
                whole = len(answers) == len(case.answers) and pongs[-1:] == list(case.pings[-1:])
                if case.closed is None and whole and not hung_up:
                    hung_up = True
                    await sending
                    if not ends_between_frames(case.data):
                        return  # the close would be taken for the rest of a frame
                    client.send(NORMAL_CLOSE)
                opcode, payload = await client.read()
                assert closed is None, "nothing follows a close frame"
                if opcode is Opcode.CLOSE:
                    closed = int.from_bytes(payload[:2], "big") if payload else 1005
                    if case.broken:
                        sending.cancel()
                        client.writer.write_eof()  # the server understands nothing any more: it waits for this
                elif opcode is Opcode.PONG:
                    pongs.append(payload)
                elif opcode not in NOISE:
                    event = json.loads(payload)
                    goodbyes += event["type"] == "goodbye"
                    if event["type"] in ("pong", "error"):
                        answers.append(event.get("id"))
        except (EOFError, ConnectionError) as end:  # as it must
            await asyncio.wait([sending])
            if octets and case.closed is not None and not case.broken and isinstance(end, ConnectionError):
                return  # to what comes after both said goodbye TCP answers with a reset, which may overtake the close
        assert closed == (1000 if case.closed is None else case.closed)
        assert answers == list(case.answers)
        assert goodbyes == case.broken
        assert set(pongs) <= set(case.pings)


async def deliver(client: Raw, data: bytes, *, octets: bool) -> None:
    """Write; with *octets* each in a segment of its own, as far as TCP leaves them apart."""
    client.writer.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    try:
        if not octets:
            client.send(data)
            await client.writer.drain()
            return
        head = data if len(data) <= OCTETS_MAX else data[: OCTETS_MAX // 2]
        for i in range(len(head)):
            client.send(head[i : i + 1])
            await asyncio.sleep(0)
        for i in range(len(head), len(data), 1000):
            client.send(data[i : i + 1000])
            await client.writer.drain()
    except ConnectionError:
        pass  # the server has had enough; what it said is still to be read


def ends_between_frames(data: bytes) -> bool:
    """Whether a ping behind *data* is understood as one."""
    parser = FrameParser(LIMIT)
    return (Opcode.PING, b"end?") in [*parser.feed(data), *parser.feed(frame(Opcode.PING, b"end?"))]
