"""Metrics: each process writes its own every second, and whoever is asked merges what all wrote.

A process keeps one registry of metrics that do not name it. Each second it writes the registry's text to
``<run_dir>/metrics/<process>.prom``, whole. `merged` reads all files that are fresh and whose process lives, and
gives one text in which every sample says ``process="shard-0"``. So any shard can answer for all processes, a dead
one's numbers go with it, and no file is left behind that counts for ever.
"""

import asyncio
import os
import re
import time
from collections.abc import Iterable
from pathlib import Path

import msgspec
import prometheus_client
import structlog
from prometheus_client import CollectorRegistry, Gauge, Histogram, ProcessCollector
from prometheus_client.metrics_core import Metric
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector

from hubbub.runtime.files import private_dir, write_whole
from hubbub.runtime.lifecycle import Life

log = structlog.get_logger()

WRITE_EVERY = 1.0
# Five writes missed: the process hangs or is gone.
FRESH_SECONDS = 5.0
TALKERS_FRESH = 20.0
_PID_LINE = re.compile(r"# pid (\d+)\n")

# The time of a metric's first use doubles the samples of every counter and tells us nothing.
prometheus_client.disable_created_metrics()  # type: ignore[no-untyped-call]


class Metrics:
    """The metrics of the process named *process*; `registry` is where its own are registered.

    Memory, CPU seconds and open descriptors (``process_*``) and the event loop's lag are there from the start.
    """

    def __init__(self, process: str, run_dir: Path) -> None:
        self.process = process
        self.registry = CollectorRegistry(auto_describe=True)
        self._path = metrics_dir(run_dir) / f"{process}.prom"
        ProcessCollector(registry=self.registry)
        self._lag = Histogram(
            "hubbub_loop_lag_seconds",
            "By how much the event loop came late",
            registry=self.registry,
            buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0),
        )
        self._worst_lag = Gauge(
            "hubbub_loop_lag_max_seconds", "The worst lag since the last snapshot", registry=self.registry
        )
        self._worst = 0.0

    def watch(self, life: Life) -> None:
        """Measure the loop's lag, and write a snapshot each second, as long as the process lives."""
        private_dir(self._path.parent)
        life.stack.callback(self._path.unlink, missing_ok=True)
        life.on_lag(self.saw_lag)
        life.spawn(self._keep_writing(), "metrics")

    def saw_lag(self, seconds: float) -> None:
        """Count one measurement of the loop's lag."""
        self._lag.observe(seconds)
        self._worst = max(self._worst, seconds)

    def write(self) -> None:
        """Write the snapshot now. Raises `OSError`."""
        self._worst_lag.set(self._worst)
        self._worst = 0.0
        text = prometheus_client.generate_latest(self.registry)
        write_whole(self._path, b"# pid %d\n" % os.getpid() + text)

    async def _keep_writing(self) -> None:
        failing = False
        while True:
            try:
                self.write()
                failing = False
            except OSError as exc:  # a full disk takes the metrics, not the chat
                if not failing:
                    log.warning("cannot write metrics", reason=str(exc))
                failing = True
            await asyncio.sleep(WRITE_EVERY)


def metrics_dir(run_dir: Path) -> Path:
    """Where the snapshots of the processes below *run_dir* are."""
    return run_dir / "metrics"


def merged(run_dir: Path, *, now: float | None = None) -> bytes:
    """One valid exposition of every process's fresh snapshot. *now* is a Unix time, for tests.

    A snapshot that is older than five seconds, whose process is gone, or that cannot be read, is left out.
    """
    registry = CollectorRegistry()
    registry.register(_Merged(_snapshots(metrics_dir(run_dir), time.time() if now is None else now)))
    return prometheus_client.generate_latest(registry)


class _Merged(Collector):
    """All processes' families, each of them once."""

    def __init__(self, snapshots: Iterable[tuple[str, list[Metric]]]) -> None:
        self._families: dict[str, Metric] = {}
        for process, families in snapshots:
            for family in families:
                self._add(process, family)

    def collect(self) -> Iterable[Metric]:
        return self._families.values()

    def _add(self, process: str, family: Metric) -> None:
        target = self._families.setdefault(family.name, Metric(family.name, family.documentation, family.type))
        if target.type != family.type:
            return  # two versions side by side in a rolling restart: one family cannot have two types
        for sample in family.samples:
            target.add_sample(sample.name, {**sample.labels, "process": process}, sample.value)


def write_talkers(run_dir: Path, process: str, counts: dict[str, int]) -> None:
    """Who says most at *process*; beside the snapshots, since names are no labels. Raises `OSError`."""
    write_whole(metrics_dir(run_dir) / f"{process}.talkers", msgspec.json.encode(counts))


def read_talkers(run_dir: Path, *, now: float | None = None) -> dict[str, int]:
    """All processes' counts together."""
    total: dict[str, int] = {}
    for path in metrics_dir(run_dir).glob("*.talkers"):
        try:
            if (time.time() if now is None else now) - path.stat().st_mtime < TALKERS_FRESH:
                for name, count in msgspec.json.decode(path.read_bytes(), type=dict[str, int]).items():
                    total[name] = total.get(name, 0) + count
        except (OSError, msgspec.MsgspecError) as exc:
            log.warning("cannot read the talkers", file=path.name, reason=str(exc))
    return total


def _snapshots(directory: Path, now: float) -> Iterable[tuple[str, list[Metric]]]:
    for path in sorted(directory.glob("*.prom")):
        if path.name.startswith("."):
            continue  # a part that was being written when its process died
        try:
            age = now - path.stat().st_mtime
            text = path.read_text("utf-8")
            pid = _PID_LINE.match(text)
            if age < FRESH_SECONDS and pid and _alive(int(pid[1])):
                yield path.stem, list(text_string_to_metric_families(text))
        except (OSError, ValueError) as exc:
            log.warning("cannot read a metrics snapshot", file=path.name, reason=str(exc))


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True  # each program may run under a user of its own
    return True
