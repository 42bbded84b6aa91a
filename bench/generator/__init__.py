"""The load generator: a C program that holds the clients, and the commands that Python gives it.

Its hot path must cost little, since it shares the machine with the server; when something begins and ends, and what
the server's processes cost meanwhile, is Python's part (`bench.load`).
"""

import secrets
import subprocess
from pathlib import Path
from types import TracebackType
from typing import TypeVar
from urllib.parse import urlsplit

import msgspec

from bench import compiler
from bench.measure import Latency, Options

_HERE = Path(__file__).parent
_T = TypeVar("_T")


class GeneratorError(RuntimeError):
    """The generator ended; what it said went to standard error."""


class Opened(msgspec.Struct, frozen=True):
    """Connections were opened: in how many seconds, and what each took up to `welcome` and to `synced`."""

    seconds: float
    welcome: Latency
    synced: Latency


class Counts(msgspec.Struct, frozen=True):
    """What the clients have seen so far, at which monotonic time, for how many seconds of CPU."""

    acked: int
    delivered: int
    at: float
    cpu: float


class Report(msgspec.Struct, frozen=True):
    """What was wrong, by kind; and latencies of the measured window, if there were any."""

    problems: dict[str, int]
    ack: Latency | None
    delivery: Latency | None


class Generator:
    """A running generator with *clients* that are not connected yet. Raises `CompilerError` when it cannot be made.

    Every command raises `GeneratorError` when the program has given up.
    """

    def __init__(self, options: Options, *, clients: int, partners: str, senders: int = 0, timed_step: int = 1) -> None:
        server = urlsplit(options.url)
        program = compiler.program("generator", sorted([*_HERE.glob("*.c"), *_HERE.glob("*.h")]))
        words = {
            "protocol": options.protocol,
            "host": server.hostname,
            "port": server.port,
            "run": secrets.token_hex(4),
            "clients": clients,
            "partners": partners,
            "senders": senders,
            "in-flight": options.in_flight,
            "content": options.content_bytes,
            "received": options.received_ms,
            "timed-step": timed_step,
        }
        self._process = subprocess.Popen(
            [program, *(f"{name}={value}" for name, value in words.items())],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )

    def __enter__(self) -> "Generator":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.kill()
        self._process.communicate()

    def open(self, first: int, count: int, *, concurrency: int, goal: str = "synced") -> Opened:
        """Connect *count* clients from the *first* on, up to `welcome` or `synced`."""
        return self._ask(f"open {first} {count} {concurrency} {goal}", Opened)

    def count(self) -> Counts:
        """What was seen so far."""
        return self._ask("count", Counts)

    def start(self) -> Counts:
        """Begin to send: each answer sends the next message."""
        return self._ask("start", Counts)

    def record(self) -> Counts:
        """Begin to keep latencies."""
        return self._ask("record", Counts)

    def stop(self) -> Counts:
        """Send no more, keep no more latencies."""
        return self._ask("stop", Counts)

    def drain(self, seconds: float) -> Counts:
        """Wait until every send is answered and everything acknowledged has arrived; at most *seconds*."""
        return self._ask(f"drain {seconds:g}", Counts)

    def report(self) -> Report:
        """What was wrong, what is missing now included."""
        return self._ask("report", Report)

    def close(self) -> Counts:
        """Close all connections."""
        return self._ask("close", Counts)

    def _ask(self, command: str, kind: type[_T]) -> _T:
        assert self._process.stdin is not None and self._process.stdout is not None
        try:
            self._process.stdin.write(command.encode() + b"\n")
            self._process.stdin.flush()
        except BrokenPipeError as exc:
            raise GeneratorError(f"the generator has ended before {command!r}") from exc
        answer = self._process.stdout.readline()
        if not answer:
            raise GeneratorError(f"the generator has ended at {command!r}")
        return msgspec.json.decode(answer, type=kind)
