"""Where a message's steps go: into the log at level debug, and to OpenTelemetry as spans.

All processes know a message by one id (`trace_of`), and the trace, its root span and the choice whether to sample
it are computed from that id. So nothing travels with a message for the sake of its spans, and each process reports
the stretches of the way that it saw itself. A step costs nothing where nobody wants to know of it: the cores are
given None then.
"""

import asyncio
import hashlib
import logging
import random
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import NamedTuple

import structlog

import hubbub
from hubbub.protocol.internal import Steps
from hubbub.runtime.lifecycle import Life
from hubbub.settings import ProcessOnBus

# Stretches under way in one process. One that never ends (its slot was lost) is the first to be forgotten.
OPEN_MAX = 20_000
# Spans that wait for the collector; what comes on top pushes out the oldest.
QUEUE_MAX = 8_192
# At the end of a process the last spans have this long to get away, in seconds.
CLOSE_SECONDS = 2.0
_EXPORT_SECONDS = 5.0
_UINT64 = 2**64


class Stretch(NamedTuple):
    """A part of a message's way within one process: from the step that begins it to one of those that end it.

    `under` is the stretch around it in the same process, or empty for the whole, whose span is the root of all.
    """

    name: str
    begins: str
    ends: frozenset[str]
    under: str = ""


class Span(NamedTuple):
    """One finished stretch. Times in unix nanoseconds; the root has no `parent`; `outcome`: the step at its end."""

    message: str
    trace: int
    id: int
    parent: int | None
    name: str
    begun: int
    ended: int
    outcome: str


class Recorder:
    """Turns steps into spans; a `Steps`.

    *share* of all messages, from 0 to 1, are recorded: the same ones in every process. *clock* gives unix
    nanoseconds, *new_id* 64 random bits, *emit* is told of each span. Stretches that end with one step are to be
    given from the inside out.
    """

    def __init__(
        self,
        stretches: Sequence[Stretch],
        *,
        share: float,
        clock: Callable[[], int],
        new_id: Callable[[], int],
        emit: Callable[[Span], None],
    ) -> None:
        self._begin: dict[str, list[Stretch]] = {}
        self._end: dict[str, list[Stretch]] = {}
        for stretch in stretches:
            self._begin.setdefault(stretch.begins, []).append(stretch)
            for step in stretch.ends:
                self._end.setdefault(step, []).append(stretch)
        self._below = round(share * _UINT64)
        self._clock = clock
        self._new_id = new_id
        self._emit = emit
        self._open: dict[tuple[str, str], tuple[int, int]] = {}  # (message, stretch) -> (span id, begun)

    def __call__(self, step: str, trace: str, ago: float = 0.0) -> None:
        """See `Steps`."""
        number, root = identify(trace)
        if number % _UINT64 >= self._below:
            return
        now = self._clock() - int(ago * 1e9)
        for stretch in self._end.get(step, ()):
            found = self._open.pop((trace, stretch.name), None)
            if found is not None:
                around = self._open.get((trace, stretch.under), (root, 0))[0] if stretch.under else None
                self._emit(Span(trace, number, found[0], around, stretch.name, found[1], now, step))
        for stretch in self._begin.get(step, ()):
            # What is sent again is the same message on the same way.
            self._open.setdefault((trace, stretch.name), (self._new_id() if stretch.under else root, now))
        while len(self._open) > OPEN_MAX:
            del self._open[next(iter(self._open))]


def identify(trace: str) -> tuple[int, int]:
    """The numbers of a message's trace (128 bits) and of its root span (64 bits), alike in every process."""
    digest = hashlib.blake2b(trace.encode(), digest_size=24).digest()
    return int.from_bytes(digest[:16]), int.from_bytes(digest[16:])


def follow(settings: ProcessOnBus, kind: str, stretches: Sequence[Stretch], life: Life) -> Steps | None:
    """What a process of *kind* (shard, broker, store) shall tell of each message's steps; None: nobody asks.

    What still waits for the collector when the process ends is sent within `CLOSE_SECONDS`.
    """
    wanted: list[Steps] = []
    if settings.log_level == "debug":
        log = structlog.get_logger()
        wanted.append(lambda step, trace, ago=0.0: log.debug(step, trace=trace))
    if settings.otel_endpoint:
        emit, close = _exporter(settings.otel_endpoint, kind, settings.name)
        life.stack.push_async_callback(_in_time, close)
        share, new_id = settings.otel_share, random.Random().getrandbits  # noqa: S311 a span's number is no secret
        wanted.append(Recorder(stretches, share=share, clock=time.time_ns, new_id=lambda: new_id(64) or 1, emit=emit))
    if len(wanted) < 2:
        return wanted[0] if wanted else None

    def all_of_them(step: str, trace: str, ago: float = 0.0) -> None:
        for one in wanted:
            one(step, trace, ago)

    return all_of_them


def _exporter(endpoint: str, kind: str, process: str) -> tuple[Callable[[Span], None], Callable[[], None]]:
    """How to hand over a span, and how to end. A thread of the SDK's sends them; the loop only appends to its queue."""
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import ReadableSpan
    from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExportResult
    from opentelemetry.sdk.util.instrumentation import InstrumentationScope
    from opentelemetry.trace import SpanContext, SpanKind, Status, StatusCode, TraceFlags

    # `create` adds what the standard variable OTEL_RESOURCE_ATTRIBUTES says.
    resource = Resource.create(
        {
            "service.namespace": "hubbub",
            "service.name": f"hubbub-{kind}",
            "service.instance.id": process,
            "service.version": hubbub.__version__,
        }
    )
    scope = InstrumentationScope("hubbub", hubbub.__version__)
    sampled = TraceFlags(TraceFlags.SAMPLED)
    unset, refused = Status(StatusCode.UNSET), Status(StatusCode.ERROR, "refused")
    target = f"{endpoint.rstrip('/')}/v1/traces"
    log = structlog.get_logger()
    logging.getLogger("opentelemetry.exporter").setLevel(logging.CRITICAL)  # a line for each try; we have two for all

    class Exporter(OTLPSpanExporter):
        """Says once that the collector does not take spans, and once that it does again."""

        away = False

        def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
            result = super().export(spans)
            away = result is not SpanExportResult.SUCCESS
            if away and not self.away:
                log.warning("collector_away", url=target, lost_spans=len(spans))
            elif self.away and not away:
                log.info("collector_back", url=target)
            self.away = away
            return result

    processor = BatchSpanProcessor(
        Exporter(target, timeout=_EXPORT_SECONDS), max_queue_size=QUEUE_MAX, schedule_delay_millis=1000
    )

    def emit(span: Span) -> None:
        parent = None if span.parent is None else SpanContext(span.trace, span.parent, True, sampled)
        processor.on_end(
            ReadableSpan(
                name=span.name,
                context=SpanContext(span.trace, span.id, False, sampled),
                parent=parent,
                resource=resource,
                attributes={"hubbub.trace": span.message, "hubbub.outcome": span.outcome},
                kind=SpanKind.SERVER if parent is None else SpanKind.INTERNAL,
                status=refused if span.outcome == "refused" else unset,
                start_time=span.begun,
                end_time=span.ended,
                instrumentation_scope=scope,
            )
        )

    return emit, processor.shutdown


async def _in_time(close: Callable[[], None]) -> None:
    """Run *close* in a thread that nobody waits for any longer than `CLOSE_SECONDS`."""
    loop = asyncio.get_running_loop()
    closed = asyncio.Event()

    def work() -> None:
        close()
        with suppress(RuntimeError):  # the loop is gone: it took too long
            loop.call_soon_threadsafe(closed.set)

    threading.Thread(target=work, name="close tracing", daemon=True).start()
    with suppress(TimeoutError):
        async with asyncio.timeout(CLOSE_SECONDS):
            await closed.wait()
