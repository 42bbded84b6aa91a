"""One run: a system, a crowd, a nemesis; storms and calms in turns, and the checks in each calm."""

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from random import Random
from xmlrpc.client import Error as XmlRpcError

import psycopg
import uvloop

from tests.fault.torture import aside, record, witnesses
from tests.fault.torture.checks import cursors, processes, verdict
from tests.fault.torture.checks.presence import SETTLED_AFTER
from tests.fault.torture.crowd import Crowd
from tests.fault.torture.devices import Clock
from tests.fault.torture.disk import Disk, NoDisk
from tests.fault.torture.nemesis import MENU, Menu, Nemesis, deal, schedule
from tests.fault.torture.operations import OPERATIONS, checks_of
from tests.fault.torture.proxy import Proxy
from tests.fault.torture.record import Check, History, Violation
from tests.fault.torture.ways import Ways
from tests.integration.system import System, SystemFailed

# Shards pass confirmations on ten times a second, the store writes them once a second; the rest is for a busy machine.
CONFIRMED_AFTER = 10.0


@dataclass(frozen=True)
class Plan:
    """What a run is to be. *storm*: seconds of faults between two calms; *every*: seconds between strokes;
    *patience*: seconds until everything must be well again after a storm; *tcp*: the processes meet over tcp,
    with CURVE keys, as on several hosts."""

    seed: int
    seconds: float
    clients: int = 240
    shards: int = 2
    storm: float = 30.0
    every: float = 1.5
    patience: float = 60.0
    menu: Menu = MENU
    planted: str = ""
    tcp: bool = False


@dataclass
class Outcome:
    """What came of it."""

    plan: Plan
    history: History = field(default_factory=History)
    violations: list[Violation] = field(default_factory=list)
    strokes: Counter[str] = field(default_factory=Counter)
    connections_cut: int = 0
    devices: dict[str, int] = field(default_factory=dict)
    metrics: Counter[str] = field(default_factory=Counter)
    calms: int = 0
    seconds: float = 0.0
    recovery: list[float] = field(default_factory=list)  # seconds from each storm's end until all were served
    failures: Counter[str] = field(default_factory=Counter)  # programs that ended by themselves, and why
    skipped: list[str] = field(default_factory=list)


class Run:
    """Carries out a plan on a system in *home*. *say* is told of the progress, a line at a time."""

    def __init__(self, plan: Plan, home: Path, say: Callable[[str], None]) -> None:
        self._plan = plan
        self._home = home
        self._say = say
        # One for each, so that what one of them draws changes nothing for the others.
        self._strokes, self._people, self._sample = (
            Random(f"{plan.seed} {what}") for what in ("strokes", "people", "sample")
        )
        self._meter = witnesses.Meter()
        self._outcome = Outcome(plan, metrics=self._meter.counts)
        self._ways = Ways(home, tcp=plan.tcp, planted=plan.planted)
        self._system = System(home, shards=plan.shards, env=self._ways.environment)

    def carry_out(self) -> Outcome:
        """The whole run. It starts and ends every process that it needs."""
        with self._disk() as disk:
            uvloop.run(self._live(disk))
        return self._outcome

    def _fail(self, line: str, whole: str) -> None:
        (self._home / "failed.log").write_text(whole)
        self._outcome.violations.append(Violation("did not come back", line))

    @contextmanager
    def _disk(self) -> Iterator[Disk | None]:
        if not any(verb == "fill" for verb, *_ in self._plan.menu):
            yield None
            return
        try:
            disk = Disk.mount(self._system.data_dir)
        except NoDisk as exc:
            self._outcome.skipped.append(f"disk full: {exc}")
            self._say(f"no disk will be filled: {exc}")
            yield None
            return
        try:
            yield disk
        finally:
            disk.free()
            disk.unmount()

    async def _live(self, disk: Disk | None) -> None:
        proxy = await Proxy.start()
        try:
            await self._ways.open(proxy, self._system)
            self._system.launch()  # in this thread: the server ends with the one that started it
            try:
                await asyncio.to_thread(self._system.wait_ready)
                await self._storms(disk, proxy)
                self._outcome.failures = await asyncio.to_thread(witnesses.failures, self._system)
                if self._outcome.violations:
                    (self._home / "failed.log").write_text(self._system.logs())
            finally:
                await asyncio.to_thread(self._system.stop)
        except SystemFailed as exc:
            self._fail(str(exc).splitlines()[0], str(exc))
        finally:
            await proxy.close()

    async def _storms(self, disk: Disk | None, proxy: Proxy) -> None:
        plan, outcome, system = self._plan, self._outcome, self._system
        clock = Clock()
        crowd = Crowd(
            self._ways.of_clients(system),
            clients=plan.clients,
            clock=clock,
            rng=self._people,
            operations=OPERATIONS,
            who_is_online=partial(aside.who_is_online, system),
        )
        nemesis = Nemesis(system, proxy, clock_file=self._ways.clock, disk=disk, clock=clock)
        outcome.history = clock.history
        menu = plan.menu if disk is not None else tuple(one for one in plan.menu if one[0] != "fill")
        cards = deal(self._strokes, menu)
        helpers = [
            asyncio.create_task(aside.restart_server(system, clock), name="init"),
            asyncio.create_task(aside.look_at_cursors(system, clock.history), name="cursors"),
            asyncio.create_task(aside.look_at_metrics(system, self._meter), name="metrics"),
        ]
        end = time.monotonic() + plan.seconds
        try:
            await crowd.settled(plan.patience)
            await self._calm(crowd, clock, nemesis, first=True)
            while not outcome.violations:
                left = end - time.monotonic()
                storm = min(plan.storm, left)
                strokes = schedule(self._strokes, cards, seconds=storm, every=plan.every, shards=plan.shards)
                crowd.act()
                await nemesis.storm(strokes, storm)
                await crowd.rest()
                await self._calm(crowd, clock, nemesis)
                if time.monotonic() + plan.storm / 2 > end:
                    break
            if not outcome.violations:
                crowd.everybody_in()
                await self._calm(crowd, clock, nemesis)
        finally:
            for helper in helpers:
                helper.cancel()
            await asyncio.gather(*helpers, return_exceptions=True)
            await nemesis.heal()
            outcome.devices = crowd.counts()
            outcome.strokes, outcome.connections_cut = nemesis.counts, nemesis.hit
            outcome.seconds = clock.now()
            await crowd.close()

    async def _calm(self, crowd: Crowd, clock: Clock, nemesis: Nemesis, *, first: bool = False) -> None:
        outcome, history = self._outcome, clock.history
        begun = time.monotonic()
        troubles = await self._until_well(crowd)
        if troubles:
            await self._judge_unwell(crowd, history, troubles)
            return
        recovery = time.monotonic() - begun
        since = clock.now()
        clock.write(record.Calm, outcome.calms)
        outcome.calms += 1
        if not first:
            outcome.recovery.append(recovery)
        for device in crowd.devices:
            if device.settled and device.applied:
                device.read(sorted(device.applied)[-1])
        presence = await self._call_the_roll(crowd, clock, since)
        await self._until_confirmed(crowd, history)
        history.samples += await asyncio.to_thread(witnesses.samples, self._system, crowd.sessions(), clock.now())
        found = replace(history, ends=crowd.ends(), secrets=frozenset(crowd.secrets))
        await asyncio.to_thread(witnesses.testify, self._system, found, crowd.names, self._sample)
        checks = checks_of(OPERATIONS) + processes.CHECKS
        outcome.violations += await asyncio.to_thread(lambda: list(verdict(found, checks)))
        outcome.history = found
        acked = sum(isinstance(one, record.Acked) and one.asked for one in history.records)
        strokes = nemesis.counts.total() - nemesis.counts["missed"]
        online = f"{len(crowd.online())} of {len(crowd.people)} users online"
        self._say(
            f"{clock.now():6.0f} s  calm {outcome.calms - 1}: well after {recovery:4.1f} s, {online}, known after "
            f"{presence:4.1f} s, {acked} acknowledged, {len(found.rows)} stored, {strokes} strokes, "
            f"{len(outcome.violations)} violations"
        )

    async def _judge_unwell(self, crowd: Crowd, history: History, troubles: list[str]) -> None:
        """Something did not come back. The cause may show in the histories, as far as they can be judged: nobody
        counts as having ended connected, and REST is not asked."""
        ends = [
            replace(one, settled=False, applied={k: list(v) for k, v in one.applied.items()}) for one in crowd.ends()
        ]
        found = replace(history, records=list(history.records), ends=ends, troubles=troubles)
        found.secrets = frozenset(crowd.secrets)
        checks: tuple[Check, ...] = processes.CHECKS
        with suppress(psycopg.Error):
            found.rows = await asyncio.to_thread(witnesses.rows, self._system)
            found.cursors = [*history.cursors, await asyncio.to_thread(witnesses.cursors, self._system)]
            checks += checks_of(OPERATIONS)
        self._outcome.violations += await asyncio.to_thread(lambda: list(verdict(found, checks)))
        self._outcome.history = found

    async def _until_confirmed(self, crowd: Crowd, history: History) -> None:
        """Wait until all that was confirmed in this calm is in the table, or for too long."""
        give_up = time.monotonic() + CONFIRMED_AFTER
        while time.monotonic() < give_up:
            look = await asyncio.to_thread(witnesses.cursors, self._system)
            found = History(records=history.records, ends=crowd.ends(), cursors=[look])
            if not any(True for _ in cursors.confirmed_is_counted(found)):
                return
            await asyncio.sleep(0.5)

    async def _until_well(self, crowd: Crowd) -> list[str]:
        """Wait until every program runs and every device is served; what is not so in time."""
        give_up = time.monotonic() + self._plan.patience
        try:
            await asyncio.to_thread(self._wait_for_programs, give_up)
        except SystemFailed as exc:
            return [str(exc).splitlines()[0]]
        waiting = await crowd.settled(max(1.0, give_up - time.monotonic()))
        return [
            f"{one.name} on {one.shard or 'no shard'} is {one.core.stage.value} with {len(one.core.pending)} messages "
            f"unacknowledged after {self._plan.patience:g} s"
            for one in waiting[:5]
        ]

    def _wait_for_programs(self, give_up: float) -> None:
        def running() -> bool:
            try:
                programs = self._system.programs()
            except (OSError, XmlRpcError):
                return False
            return len(programs) == self._plan.shards + 3 and all(
                one["statename"] == "RUNNING" for one in programs.values()
            )

        self._system.until(running, max(1.0, give_up - time.monotonic()), "running with all programs")
        self._system.wait_ready(max(1.0, give_up - time.monotonic()))

    async def _call_the_roll(self, crowd: Crowd, clock: Clock, since: float) -> float:
        """Ask who is online until every witness tells the truth, or it is too late for that; how long that took."""
        while True:
            await asyncio.sleep(0.5)
            truth = crowd.online()
            rolls = {
                "REST": (await asyncio.to_thread(witnesses.online, self._system), set(crowd.names)),
                **crowd.rolls(),
            }
            at = clock.now()
            called = [
                record.Roll(at, since, witness, frozenset(said), truth & frozenset(among))
                for witness, (said, among) in rolls.items()
            ]
            wrong = any(one.said != one.truth for one in called)
            if not wrong or at - since > SETTLED_AFTER + 0.5:
                clock.history.rolls += called
                return at - since
