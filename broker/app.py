"""The broker's composition: a router between the peers of one socket."""

import asyncio
from collections.abc import Iterable
from functools import partial

import structlog
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from broker.router import Router
from hubbub.bus import batch
from hubbub.bus.zeromq import BrokerSocket, BusConfigurationError, load_curve
from hubbub.protocol.internal import Steps
from hubbub.runtime.lifecycle import Life, LifecycleError
from hubbub.runtime.metrics import Metrics
from hubbub.runtime.tracing import Stretch, follow
from hubbub.settings import BrokerSettings

_EXPIRE_EVERY = 0.5
# A message passes twice: to the store as a request, to the shards as an event.
_STRETCHES = tuple(
    Stretch(f"route {what}", f"routing_{what}", frozenset({f"{what}_routed"}), "message")
    for what in ("request", "event")
)


class Broker(Collector):
    """Moves messages between the socket and the router."""

    def __init__(self, settings: BrokerSettings, steps: Steps | None) -> None:
        self._log = structlog.get_logger()
        self._router = Router()
        self._loop = asyncio.get_running_loop()
        self._messages = 0
        self._cut = 0
        try:
            curve = load_curve(settings.bus_url, settings.curve_dir, broker=True)
            # The broker opens no payload, but to tell what passes, where somebody asked for that.
            receive = self._receive if steps is None else partial(self._receive_and_tell, steps)
            self._socket = BrokerSocket(settings.bus_url, curve, receive)
        except BusConfigurationError as exc:
            raise LifecycleError(str(exc)) from exc
        self._log.info("listening", url=settings.bus_url)

    def close(self) -> None:
        """Let go of the socket."""
        self._socket.close()

    async def expire(self) -> None:
        """Forget the silent; for ever."""
        last = self._loop.time()
        while True:
            await asyncio.sleep(_EXPIRE_EVERY)
            now = self._loop.time()
            if now - last > 2 * _EXPIRE_EVERY:
                self._router.resumed(now - last)
            last = now
            for name in self._router.expire(now):
                self._log.warning("peer_silent", peer=name)

    def collect(self) -> Iterable[Metric]:
        """See `prometheus_client`."""
        peers, topics, slots = self._router.counts()
        yield GaugeMetricFamily("hubbub_broker_peers", "Shards and stores connected", peers)
        yield GaugeMetricFamily("hubbub_broker_topics", "Topics with at least one listener", topics)
        yield GaugeMetricFamily("hubbub_broker_owned_slots", "Slots that have an owner", slots)
        yield CounterMetricFamily("hubbub_broker_messages", "Messages received", self._messages)
        yield CounterMetricFamily(
            "hubbub_broker_unroutable_requests", "Requests for slots without an owner", self._router.unroutable
        )
        yield CounterMetricFamily("hubbub_broker_malformed", "Messages that could not be read", self._router.malformed)
        yield CounterMetricFamily("hubbub_broker_peers_cut", "Peers cut off because their queue was full", self._cut)

    def _receive_and_tell(self, steps: Steps, peer: bytes, frames: list[bytes]) -> None:
        what, traces = batch.traces(frames)
        for trace in traces:
            steps(f"routing_{what}", trace)
        self._receive(peer, frames)
        for trace in traces:
            steps(f"{what}_routed", trace)

    def _receive(self, peer: bytes, frames: list[bytes]) -> None:
        self._messages += 1
        for target, outgoing in self._router.receive(peer, frames, self._loop.time()):
            if not self._socket.send(target, outgoing):
                # A message it cannot be given is a hole it must learn of: from now on it is a stranger.
                self._cut += 1
                self._router.forget(target)


async def open_broker(settings: BrokerSettings, life: Life) -> None:
    """Bind and route until the process ends. Raises `LifecycleError`."""
    await life.lock(settings.run_dir / "broker.lock")
    broker = Broker(settings, follow(settings, "broker", _STRETCHES, life))
    life.stack.callback(broker.close)
    metrics = Metrics(settings.name, settings.run_dir)
    metrics.registry.register(broker)
    metrics.watch(life)
    life.spawn(broker.expire(), "expire")
