"""A shard's composition: the hub between the bus and the sockets."""

import asyncio
import random
import secrets
import time
from collections.abc import Iterable
from contextlib import suppress
from functools import partial
from pathlib import Path

import structlog
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector
from tornado.httpserver import HTTPServer
from tornado.netutil import bind_sockets
from tornado.web import Application

from hubbub.bus import batch
from hubbub.bus.link import Link
from hubbub.bus.zeromq import BusConfigurationError, Peer, load_curve
from hubbub.protocol.internal import Steps
from hubbub.runtime.files import FileError, asset, read_secret
from hubbub.runtime.lifecycle import Life, LifecycleError
from hubbub.runtime.metrics import Metrics, merged, read_talkers, write_talkers
from hubbub.runtime.tracing import Stretch, follow
from hubbub.settings import ShardSettings
from shards import accounts, admin, api, described
from shards.access import AccessList, Changes, Follower
from shards.auth import Authenticator, Claims
from shards.connection import Ticker, flush
from shards.handshake import socket_route
from shards.http import SERVER_OPTIONS, Context, log_request
from shards.hub import DRAIN_SECONDS, Hub
from shards.jwks import KeySet
from shards.keys import KeyRing, read_keys, secret_keys
from shards.passwords import Passwords
from shards.proxies import networks
from shards.questions import Questions
from shards.static import page_route

_TICK = 0.1
# A shard that is not ready leaves new clients to those that are, but not for ever: somebody must be there
# to say what is missing.
_LISTEN_AT_LATEST = 3.0
_BACKLOG = 4096
_TALKERS_EVERY = 5.0
_FADE_EVERY = 60.0
# A message's way through shards: the whole of it as its sender sees it, and at each shard the writing to sessions.
_STRETCHES = (
    Stretch("deliver", "applying", frozenset({"delivered", "acknowledged"}), "message"),
    Stretch("message", "forwarded", frozenset({"acknowledged", "known", "refused"})),
)


class ShardApp(Collector):
    """Wires the hub to its surroundings. Raises `LifecycleError`."""

    def __init__(self, settings: ShardSettings, metrics: Metrics, steps: Steps | None) -> None:
        self._settings = settings
        self._loop = asyncio.get_running_loop()
        self._log = structlog.get_logger()
        try:
            curve = load_curve(settings.bus_url, settings.curve_dir, broker=False)
            secret = read_secret(settings.token_secret_file)
            self.access = AccessList(time.time)
            authenticator = self._authenticator(secret)
        except (BusConfigurationError, FileError, ValueError) as exc:
            raise LifecycleError(str(exc)) from exc
        self.hub = hub = Hub(
            name=f"{settings.name}.{secrets.token_hex(6)}",
            limits=settings.limits,
            verify=authenticator.verify,
            wall=time.time,
            rng=random.Random(),  # noqa: S311 spreads reconnects, keeps no secret
            steps=steps,
        )
        self.peer = Peer(
            settings.bus_url,
            curve,
            lambda send: Link(
                role=batch.SHARD, name=hub.name, handler=hub, topics=hub.topics.greeted, terms=dict, send=send
            ),
        )
        hub.connect(self.peer.link)
        ticker = Ticker(self._loop, self._flush)
        self.peer.after = ticker.wake
        self._ticker = ticker
        self.follower = Follower(self.access, hub.ask, self._access_changed)
        self._questions = Questions(hub, self._loop.time, ticker.wake)
        self.passwords = Passwords()
        self._context = context = Context(
            hub=hub,
            authenticator=authenticator,
            limits=settings.limits,
            allowed_origins=settings.allowed_origins,
            clock=self._loop.time,
            wake=ticker.wake,
            metrics=partial(merged, settings.run_dir) if settings.metrics else None,
            webclient=asset("webclient"),
            log=self._log,
            trusted_proxies=networks(settings.trusted_proxies),
            access_loaded=lambda: self.access.loaded,
        )
        glance = admin.Glance(partial(merged, settings.run_dir), partial(read_talkers, settings.run_dir))
        people = accounts.Accounts.of(settings, secret, self.passwords, self._questions)
        application = Application(
            [
                socket_route(context),
                *(route.for_tornado() for route in described.routes(context, self._questions, people, glance)),
                *api.others(context),
                page_route(context),
            ],
            log_function=partial(log_request, self._log),
        )
        self._server = HTTPServer(application, **SERVER_OPTIONS)
        self._listening = False
        self._later = False
        self._ready = asyncio.Event()
        self._empty = asyncio.Event()
        metrics.registry.register(self)

    async def tick(self) -> None:
        """What is due by the clock; for ever."""
        while True:
            now = self._loop.time()
            self.hub.tick(now)
            if self.hub.ready:
                self.follower.tick(now)
            self._ticker.wake()
            await asyncio.sleep(_TICK)

    async def tell_talkers(self) -> None:
        """Write who says most, for whichever shard an administrator asks; for ever."""
        faded = self._loop.time()
        while True:
            await asyncio.sleep(_TALKERS_EVERY)
            with suppress(OSError):  # a full disk takes the list, not the chat
                write_talkers(self._settings.run_dir, self._settings.name, self.hub.talkers.counts)
            if self._loop.time() - faded >= _FADE_EVERY:
                faded = self._loop.time()
                self.hub.talkers.fade()

    async def listen(self) -> None:
        """Take connections once the hub is ready, or after a while all the same."""
        with suppress(TimeoutError):
            async with asyncio.timeout(_LISTEN_AT_LATEST):
                await self._ready.wait()
        settings = self._settings
        try:
            sockets = bind_sockets(settings.port, address=settings.host, reuse_port=True, backlog=_BACKLOG)
        except OSError as exc:
            raise LifecycleError(f"cannot listen on {settings.host} port {settings.port}: {exc.strerror}") from exc
        self._server.add_sockets(sockets)
        self._listening = True
        self._log.info("listening", host=settings.host, port=settings.port, ready=self._context.ready)

    async def drain(self) -> None:
        """Stop taking connections, finish what was taken, send everybody home."""
        if self._listening:
            self._server.stop()
        self._log.info("draining", sessions=len(self.hub.sessions))
        self.hub.drain(self._loop.time())
        self._ticker.wake()
        with suppress(TimeoutError):
            async with asyncio.timeout(DRAIN_SECONDS + 8):
                await self._empty.wait()
        await self._server.close_all_connections()
        self._log.info("drained", left=len(self.hub.sessions))

    def collect(self) -> Iterable[Metric]:
        """See `prometheus_client`."""
        hub = self.hub
        yield GaugeMetricFamily("hubbub_shard_connections", "Open sessions", len(hub.sessions))
        yield GaugeMetricFamily("hubbub_shard_users", "Users with an open session", len(hub.attendance))
        yield CounterMetricFamily("hubbub_shard_commands", "Commands received", hub.received)
        yield CounterMetricFamily("hubbub_shard_acknowledgements", "Sends acknowledged", hub.acknowledged)
        yield CounterMetricFamily("hubbub_shard_deliveries", "Events written to sessions", hub.delivered)
        yield GaugeMetricFamily("hubbub_shard_pending_requests", "Requests without an answer", len(hub.pending))
        yield CounterMetricFamily("hubbub_shard_resent_requests", "Requests sent again", hub.pending.resent)
        yield GaugeMetricFamily(
            "hubbub_shard_recovering_slots", "Slots that wait for a replay", hub.positions.recovering
        )
        yield CounterMetricFamily("hubbub_shard_recoveries", "Holes found in slot logs", hub.positions.recoveries)
        yield CounterMetricFamily("hubbub_shard_resets", "Times that all sessions had to sync", hub.resets)
        yield CounterMetricFamily("hubbub_bus_reconnects", "Links to the broker after the first", self.peer.reconnects)
        unsent = sum(session.unsent for session in hub.sessions)
        yield GaugeMetricFamily("hubbub_shard_unsent_bytes", "Bytes that wait in outboxes", unsent)
        yield GaugeMetricFamily(
            "hubbub_shard_access_age_seconds",
            "Since the list of accounts and revocations was last complete",
            self.follower.age(self._loop.time()),
        )
        if self.key_set is not None:
            yield GaugeMetricFamily(
                "hubbub_shard_jwks_age_seconds", "Since the identity provider's keys last came", self.key_set.age
            )
        errors = CounterMetricFamily("hubbub_shard_errors", "Commands refused, by code", labels=["code"])
        for code, count in hub.outbox.errors.items():
            errors.add_metric([code], count)
        yield errors
        closes = CounterMetricFamily(
            "hubbub_shard_closes", "Connections closed by the server, by code", labels=["code"]
        )
        for number, count in hub.outbox.closes.items():
            closes.add_metric([str(number)], count)
        yield closes

    def _authenticator(self, secret: bytes) -> Authenticator:
        settings = self._settings
        ring = KeyRing([*secret_keys(secret), *(key for path in settings.token_keys for key in read_keys(Path(path)))])
        self.key_set = None
        if settings.token_jwks_url:
            self.key_set = KeySet(settings.token_jwks_url, ring, self._loop.time, self._log)
        return Authenticator(
            ring,
            self.access,
            claims=Claims(
                audience=settings.token_audience,
                issuer=settings.token_issuer,
                leeway=settings.token_leeway,
                user=settings.token_user_claim,
                role=settings.token_role_claim,
                admins=settings.admins,
            ),
            guests=settings.guests,
            bound_to_loopback=settings.bound_to_loopback,
            token_in_query=settings.token_in_query,
            key_set=self.key_set,
        )

    def _access_changed(self, changes: Changes) -> None:
        self.hub.look_again(changes, self.access.refusal)
        self._ticker.wake()

    def _flush_later(self) -> None:
        self._later = False
        self._flush()

    def _flush(self) -> None:
        later = self.hub.flush(self._loop.time())
        if later and not self._later:
            self._later = True
            self._loop.call_later(later, self._flush_later)
        flush(self.hub)
        if self._context.ready:
            self._ready.set()
        elif self.hub.draining and not self.hub.sessions:
            self._empty.set()


async def open_shard(settings: ShardSettings, life: Life) -> None:
    """Serve until the process ends, then drain. Raises `LifecycleError`."""
    await life.lock(settings.run_dir / f"{settings.name}.lock")
    metrics = Metrics(settings.name, settings.run_dir)
    app = ShardApp(settings, metrics, follow(settings, "shard", _STRETCHES, life))
    metrics.watch(life)
    life.spawn(app.peer.run(), "bus")
    life.spawn(app.tick(), "tick")
    life.spawn(app.tell_talkers(), "talkers")
    if app.key_set is not None:
        life.spawn(app.key_set.run(), "jwks")
    life.stack.callback(app.passwords.close)
    life.stack.push_async_callback(app.drain)
    await app.listen()
