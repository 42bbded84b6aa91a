"""A socket on uvloop, which the shards run on: its watch behaves otherwise than asyncio's own."""

import asyncio
import socket
import struct

import uvloop

from shards.wire import KERNEL_UNSENT, Wire


def pair(*, receive_buffer: int | None = None) -> tuple[socket.socket, socket.socket]:
    """Both ends of a TCP connection: a socket pair knows no reset. *receive_buffer*: the peer's, in bytes."""
    theirs = socket.socket()
    if receive_buffer is not None:
        theirs.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
    with socket.create_server(("127.0.0.1", 0)) as server:
        theirs.connect(server.getsockname())
        ours, _ = server.accept()
    ours.setblocking(False)
    return ours, theirs


async def words_and_a_reset() -> tuple[list[bytes], list[OSError | None], list[str]]:
    """A peer says something and resets at once; then something is written to it."""
    loop = asyncio.get_running_loop()
    faults: list[str] = []
    loop.set_exception_handler(lambda _, context: faults.append(str(context["exception"])))
    heard: list[bytes] = []
    lost: list[OSError | None] = []
    ours, theirs = pair()
    wire = Wire(ours)
    wire.start(heard.append, lost.append)
    await asyncio.sleep(0.01)  # from here on it is watched
    theirs.send(b"bye")
    theirs.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    theirs.close()
    async with asyncio.timeout(5):
        while not heard:
            await asyncio.sleep(0.002)
        if not wire.send(b"hello"):
            wire.when_writable(lambda: faults.append("a broken connection is writable"))
        while not lost:
            await asyncio.sleep(0.002)
    return heard, lost, faults


def test_a_peer_that_speaks_and_resets():
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        heard, lost, faults = runner.run(words_and_a_reset())
    assert heard == [b"bye"]
    assert len(lost) == 1
    assert isinstance(lost[0], ConnectionError)
    assert faults == []


async def taken_of_one_who_reads_nothing() -> int:
    """Bytes that the kernel has taken once it takes no more."""
    ours, theirs = pair(receive_buffer=4096)
    wire = Wire(ours)
    wire.start(lambda data: None, lambda error: None)
    taken, idle = 0, 0
    while idle < 20:
        now = wire.send(b"x" * 4096)
        taken += now
        idle = 0 if now else idle + 1
        await asyncio.sleep(0 if now else 0.005)  # the window may open a little further
    wire.close(reset=True)
    theirs.close()
    await asyncio.sleep(0.01)
    return taken


def test_the_kernel_keeps_little_for_who_reads_nothing():
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        taken = runner.run(taken_of_one_who_reads_nothing())
    assert 0 < taken < 3 * KERNEL_UNSENT
