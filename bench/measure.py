"""What a run was asked to do and what it saw: the types that scenarios fill and reports read."""

import time

import msgspec

from bench import procs


class Options(msgspec.Struct, frozen=True, kw_only=True):
    """What to do. `root`: supervisord's pid, or ``None`` when the server's cost cannot be seen from here."""

    url: str
    root: int | None = None
    clients: int = 200
    in_flight: int = 4
    senders: int = 10
    partners: str = "pairs"  # or "all"
    content_bytes: int = 100
    warmup: float = 3.0
    seconds: float = 10.0
    concurrency: int = 100


class Latency(msgspec.Struct, frozen=True, kw_only=True):
    """Milliseconds, over all samples of all clients together."""

    samples: int
    p50: float
    p90: float
    p99: float
    p999: float
    max: float


class Result(msgspec.Struct, kw_only=True, omit_defaults=True):
    """What a scenario saw. Rates are per second of the measured window; `problems` is empty in a clean run."""

    scenario: str
    options: Options
    clean: bool
    problems: dict[str, int]
    seconds: float = 0.0
    acks: int = 0
    deliveries: int = 0
    acks_per_second: float = 0.0
    deliveries_per_second: float = 0.0
    connects_per_second: dict[str, float] = {}
    latency_ms: dict[str, Latency] = {}
    cpu_us: dict[str, int] = {}  # by role, in the window
    cpu_us_per_message: dict[str, float] = {}
    cpu_us_per_delivery: dict[str, float] = {}
    cpu_us_per_connect: dict[str, float] = {}
    memory_kib_per_connection: dict[str, dict[str, float]] = {}  # "rss" and "pss", by role
    generator_cpu_share: float = 0.0  # of one core
    foreign_cpu_share: float = 0.0  # of one core, spent by neither: the kernel's own work, and other programs

    @property
    def fans_out(self) -> bool:
        """Whether a message went to many. With one recipient each the two counts differ by chance only."""
        return self.deliveries > 2 * self.acks


def latency(seconds: list[float]) -> Latency:
    """Percentiles by nearest rank. Raises `ValueError` without samples."""
    if not seconds:
        raise ValueError("no samples")
    ordered = sorted(seconds)

    def rank(per_mille: int) -> float:
        index = -(-len(ordered) * per_mille // 1000) - 1
        return round(ordered[max(0, index)] * 1000, 3)

    return Latency(samples=len(ordered), p50=rank(500), p90=rank(900), p99=rank(990), p999=rank(999), max=rank(1000))


class Window:
    """The measured part of a run: the server's and our own CPU from its creation to `close`."""

    def __init__(self, root: int | None) -> None:
        self.seconds = 0.0
        self.cpu_us: dict[str, int] = {}
        self.generator_cpu_share = 0.0
        self.foreign_cpu_share = 0.0
        self._root = root
        self._before = None if root is None else procs.cpu(root)
        self._busy = procs.machine_busy()
        self._own = time.process_time()
        self._began = time.perf_counter()

    def close(self) -> None:
        """End. Raises `RuntimeError` when a server process was restarted in between."""
        self.seconds = time.perf_counter() - self._began
        own = time.process_time() - self._own
        self.generator_cpu_share = round(own / self.seconds, 3)
        if self._root is not None and self._before is not None:
            busy = procs.machine_busy() - self._busy
            self.cpu_us = procs.cpu_between(self._before, procs.cpu(self._root))
            foreign = busy / 1e6 - own - sum(self.cpu_us.values()) / 1e6
            self.foreign_cpu_share = round(max(0.0, foreign / self.seconds), 3)

    def per(self, count: int) -> dict[str, float]:
        """CPU microseconds by role and in total for each of *count*; empty when nothing is known."""
        if not self.cpu_us or not count:
            return {}
        shares = {role: round(us / count, 2) for role, us in self.cpu_us.items()}
        return shares | {"total": round(sum(self.cpu_us.values()) / count, 2)}
