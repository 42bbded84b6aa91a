"""Which workloads are run in which size, and how one is run against a server."""

import subprocess
import sys
from dataclasses import dataclass

import msgspec

from bench.measure import Result
from bench.server import ROOT, Server


class GeneratorFailed(RuntimeError):
    """The load generator ended without a result; what it said went to standard error."""


@dataclass(frozen=True)
class Goal:
    """What the project wants of a figure: `figure` as `figures` names it, at most or at least `bound`."""

    figure: str
    bound: float
    at_least: bool = False

    def met(self, value: float) -> bool:
        """Whether *value* is good enough."""
        return value >= self.bound if self.at_least else value <= self.bound


@dataclass(frozen=True)
class Scenario:
    """A workload: the generator's arguments for the full size, and instead of some for smaller ones."""

    name: str
    kind: str
    full: dict[str, float]
    smoke: dict[str, float]
    goals: tuple[Goal, ...] = ()

    def arguments(self, size: str) -> list[str]:
        """The generator's command line for *size*: ``full``, ``quick`` or ``smoke``."""
        values = {
            "full": self.full,
            "quick": {**self.full, "warmup": 1, "seconds": 4},
            "smoke": {**self.full, "warmup": 0.5, "seconds": 1.5, **self.smoke},
        }[size]
        return [word for name, value in values.items() for word in (f"--{name}", f"{value:g}")]


SCENARIOS = (
    Scenario("direct, 1 in flight", "direct", {"clients": 200, "in-flight": 1}, {"clients": 20}),
    Scenario(
        "direct, 4 in flight",
        "direct",
        {"clients": 200, "in-flight": 4},
        {"clients": 20},
        (Goal("messages/s", 12_000, at_least=True), Goal("CPU-us/message", 80)),
    ),
    Scenario("broadcast, 1 sender", "broadcast", {"clients": 1000, "senders": 1}, {"clients": 50}),
    Scenario(
        "broadcast, 10 senders",
        "broadcast",
        {"clients": 1000, "senders": 10},
        {"clients": 50},
        (Goal("CPU-us/delivery", 4),),
    ),
    Scenario("one client alone", "latency", {}, {}, (Goal("ack p50 ms", 2),)),
    Scenario("connect", "connect", {"clients": 2000}, {"clients": 50}),
    Scenario("idle", "idle", {"clients": 5000}, {"clients": 100}, (Goal("KiB/connection", 20),)),
)


def figures(result: Result) -> dict[str, float]:
    """The few figures of a result that a table shows and runs are compared by, in a fixed order."""
    found: dict[str, float] = {}
    if result.acks:
        found["messages/s"] = result.acks_per_second
    if result.deliveries:
        found["deliveries/s"] = result.deliveries_per_second
    for name, rate in result.connects_per_second.items():
        found[f"{name}/s"] = rate
    for name, times in result.latency_ms.items():
        found[f"{name} p50 ms"] = times.p50
        found[f"{name} p99 ms"] = times.p99
    # A message to one costs what it costs; one to a thousand is dominated by its deliveries.
    if result.cpu_us_per_message and not result.fans_out:
        found["CPU-us/message"] = result.cpu_us_per_message["total"]
    elif result.cpu_us_per_delivery:
        found["CPU-us/delivery"] = result.cpu_us_per_delivery["total"]
    for name, cost in result.cpu_us_per_connect.items():
        found[f"CPU-us/{name}"] = cost
    if "rss" in result.memory_kib_per_connection:
        found["KiB/connection"] = result.memory_kib_per_connection["rss"]["total"]
    return found


def run(scenario: Scenario, server: Server, size: str) -> Result:
    """Run *scenario* against *server*. Raises `GeneratorFailed`."""
    words = [scenario.kind, "--url", server.url, "--pid", str(server.pid), *scenario.arguments(size)]
    done = subprocess.run([sys.executable, "-m", "bench.load", *words], cwd=ROOT, stdout=subprocess.PIPE, check=False)
    if not done.stdout:
        raise RuntimeError(
            f"the generator failed with status {done.returncode}: python -m bench.load {' '.join(words)}"
        )
    result = msgspec.json.decode(done.stdout, type=Result)
    result.scenario = scenario.name
    return result
