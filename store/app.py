"""The store's composition: the core between the bus, one writing session and some reading ones."""

import asyncio
from collections.abc import Iterable

import structlog
from prometheus_client import Histogram
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from hubbub.bus import batch
from hubbub.bus.link import Link
from hubbub.bus.zeromq import BusConfigurationError, Peer, load_curve
from hubbub.protocol.internal import Steps
from hubbub.runtime.lifecycle import Life, LifecycleError
from hubbub.runtime.metrics import Metrics
from hubbub.runtime.tracing import Stretch, follow
from hubbub.settings import StoreSettings
from store.core import Store
from store.cursorwriter import CursorWriter
from store.reader import Reader
from store.writer import Writer

READERS = 2
_TICK = 0.1
# A message's way through the store: it waits for the batch before it, and is committed with its own.
_COMMITTED = frozenset({"committed"})
_STRETCHES = (
    Stretch("commit", "committing", _COMMITTED, "store"),
    Stretch("store", "sequencing", _COMMITTED, "message"),
)


class StoreApp(Collector):
    """Wires the core to its surroundings."""

    def __init__(self, settings: StoreSettings, metrics: Metrics, steps: Steps | None) -> None:
        self._loop = asyncio.get_running_loop()
        self._log = structlog.get_logger()
        self.core = Store(settings.limits, steps)
        registry = metrics.registry
        self._commit_seconds = Histogram(
            "hubbub_store_commit_seconds",
            "Time of one batch's statement, commit included",
            registry=registry,
            buckets=(0.0005, 0.001, 0.002, 0.004, 0.008, 0.016, 0.032, 0.064, 0.125, 0.25, 0.5, 1, 2, 5),
        )
        self._batch_rows = Histogram(
            "hubbub_store_batch_rows",
            "Messages in one batch",
            registry=registry,
            buckets=(1, 2, 5, 10, 20, 50, 100, 200, 500, 1000),
        )
        url = settings.database_url
        self.writer = Writer(
            url, list(settings.slots), self.core, flush=self.core.flush, observe=self._observe, log=self._log
        )
        self.reader = Reader(url, self.core, flush=self.core.flush, log=self._log)
        self.cursor_writer = CursorWriter(url, self.core, flush=self.core.flush, log=self._log)
        try:
            curve = load_curve(settings.bus_url, settings.curve_dir, broker=False)
        except BusConfigurationError as exc:
            raise LifecycleError(str(exc)) from exc
        self.peer = Peer(
            settings.bus_url,
            curve,
            lambda send: Link(
                role=batch.STORE,
                name=settings.name,
                handler=self.core,
                topics=list,
                terms=lambda: self.core.sequencer.terms,
                send=send,
            ),
        )
        self.core.connect(self.peer.link)
        self.peer.after = self._after
        registry.register(self)

    async def tick(self) -> None:
        """What is due by the clock; for ever."""
        while True:
            self.core.tick(self._loop.time())
            self.core.flush()
            await asyncio.sleep(_TICK)

    def collect(self) -> Iterable[Metric]:
        """See `prometheus_client`."""
        core = self.core
        yield CounterMetricFamily("hubbub_store_messages", "Messages committed", core.stored_messages)
        yield CounterMetricFamily("hubbub_store_duplicates", "Sends whose key was known", core.duplicates)
        yield CounterMetricFamily("hubbub_store_refused", "Sends refused", core.sequencer.refused)
        yield CounterMetricFamily("hubbub_store_replays", "Replays served", core.replays)
        yield GaugeMetricFamily("hubbub_store_queue", "Sends that wait for the next batch", len(core.sequencer))
        yield GaugeMetricFamily("hubbub_store_reads_queue", "Reads that wait for a connection", len(core.reads))
        yield GaugeMetricFamily("hubbub_store_cursors_queue", "Cursor movements to be written", len(core.cursors))
        yield GaugeMetricFamily("hubbub_store_slots", "Slots owned", len(core.sequencer.terms))
        yield GaugeMetricFamily("hubbub_store_users_online", "Users online in the owned slots", len(core.presence))
        yield CounterMetricFamily("hubbub_bus_reconnects", "Links to the broker after the first", self.peer.reconnects)

    def _observe(self, rows: int, seconds: float) -> None:
        self._commit_seconds.observe(seconds)
        self._batch_rows.observe(rows)

    def _after(self) -> None:
        if len(self.core.sequencer):
            self.writer.woken()
        if self.core.reads:
            self.reader.woken()
        self.core.flush()


async def open_store(settings: StoreSettings, life: Life) -> None:
    """Connect and serve until the process ends. Raises `LifecycleError`."""
    await life.lock(settings.run_dir / f"{settings.name}.lock")
    metrics = Metrics(settings.name, settings.run_dir)
    app = StoreApp(settings, metrics, follow(settings, "store", _STRETCHES, life))
    metrics.watch(life)
    life.spawn(app.peer.run(), "bus")
    for i in range(READERS):
        life.spawn(app.reader.run(), f"reader {i}")
    life.spawn(app.cursor_writer.run(), "cursors")
    life.spawn(app.writer.run(), "writer")
    life.spawn(app.tick(), "tick")
