"""The load generator: one scenario against a running server, JSON on standard output, progress on standard error.

The exit status is 1 when the run was not clean: a send without its acknowledgement, an error, a message
missing, repeated or out of order. Figures of such a run mean nothing.
"""

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec

from bench import procs
from bench.compiler import CompilerError
from bench.generator import Counts, Generator, GeneratorError
from bench.measure import Latency, Options, Result, Window

DRAIN_SECONDS = 20.0  # past the server's ten seconds after which a send is answered in any case
# Latency is kept for the deliveries of this many clients at most; all deliveries are counted and checked.
TIMED_CLIENTS = 50


def log(text: str) -> None:
    """Tell the person who waits."""
    print(f"[bench] {text}", file=sys.stderr, flush=True)


def _exchange(scenario: str, options: Options, generator: Generator, clients: int) -> Result:
    """Connect, run the closed loop, measure its middle, let it come to rest, and check it."""
    log(f"{scenario}: connecting {clients} clients")
    generator.open(0, clients, concurrency=options.concurrency)
    generator.start()
    log(f"{scenario}: {options.warmup:g} s of warm-up, then {options.seconds:g} s measured")
    time.sleep(options.warmup)
    window = Window(options.root)
    first = generator.record()
    time.sleep(options.seconds)
    last = generator.stop()
    problems = _close(window, first, last)
    generator.drain(DRAIN_SECONDS)
    report = generator.report()
    problems |= report.problems
    if report.ack is None:
        problems["no acknowledgement in the measured window"] = 1
    seconds = last.at - first.at
    acks, deliveries = last.acked - first.acked, last.delivered - first.delivered
    times = {"ack": report.ack, "delivery": report.delivery}
    result = Result(
        scenario=scenario,
        options=options,
        clean=not problems,
        problems=problems,
        seconds=round(seconds, 3),
        acks=acks,
        deliveries=deliveries,
        acks_per_second=round(acks / seconds, 1),
        deliveries_per_second=round(deliveries / seconds, 1),
        latency_ms={name: found for name, found in times.items() if found is not None},
        cpu_us=window.cpu_us,
        cpu_us_per_message=window.per(acks),
        cpu_us_per_delivery=window.per(deliveries),
        generator_cpu_share=window.generator_cpu_share,
        foreign_cpu_share=window.foreign_cpu_share,
    )
    if acks:
        count = deliveries if result.fans_out else acks
        result.generator_cpu_us = round(1e6 * (last.cpu - first.cpu) / count, 2)
    return result


def _close(window: Window, first: Counts, last: Counts) -> dict[str, int]:
    try:
        window.close(last.cpu - first.cpu)
    except RuntimeError as exc:
        return {str(exc): 1}
    return {}


def run_direct(options: Options) -> Result:
    """Everybody writes to a partner, or to all others in turn, with a number of sends in flight."""
    count = options.clients - options.clients % 2
    with Generator(options, clients=count, partners=options.partners) as generator:
        return _exchange("direct", options, generator, count)


def run_broadcast(options: Options) -> Result:
    """A few write to the lobby, one send in flight each unless asked otherwise; everybody listens."""
    step = max(1, options.clients // TIMED_CLIENTS)
    with Generator(
        options, clients=options.clients, partners="lobby", senders=options.senders, timed_step=step
    ) as generator:
        return _exchange("broadcast", options, generator, options.clients)


def run_latency(options: Options) -> Result:
    """One client, one send in flight, to somebody who is away: what a single person waits."""
    alone = msgspec.structs.replace(options, clients=1, in_flight=1)
    with Generator(alone, clients=1, partners="pairs") as generator:
        return _exchange("latency", alone, generator, 1)


def run_connect(options: Options) -> Result:
    """Handshakes up to `welcome`, and with other users up to `synced`; the connections stay open meanwhile."""
    rates: dict[str, float] = {}
    latencies: dict[str, Latency] = {}
    per_connect: dict[str, float] = {}
    problems: dict[str, int] = {}
    total = 0.0
    with Generator(options, clients=2 * options.clients, partners="nobody") as generator:
        for number, goal in enumerate(("welcome", "synced")):
            log(f"connect: {options.clients} handshakes to {goal}, {options.concurrency} at a time")
            window, before = Window(options.root), generator.count()
            opened = generator.open(
                number * options.clients, options.clients, concurrency=options.concurrency, goal=goal
            )
            problems |= _close(window, before, generator.count())
            generator.close()
            rates[goal] = round(options.clients / opened.seconds, 1)
            latencies[goal] = opened.welcome if goal == "welcome" else opened.synced
            per_connect[goal] = window.per(options.clients).get("total", 0.0)
            total += opened.seconds
        problems |= generator.report().problems
    return Result(
        scenario="connect",
        options=options,
        clean=not problems,
        problems=problems,
        seconds=round(total, 3),
        connects_per_second=rates,
        latency_ms=latencies,
        cpu_us_per_connect=per_connect if options.root is not None else {},
    )


def run_idle(options: Options) -> Result:
    """What an open, synced, silent connection takes of the server's memory.

    A few connections come first, so that what the server loads with its first client is not counted.
    """
    early = options.concurrency
    with Generator(options, clients=options.clients + early, partners="nobody") as generator:
        generator.open(0, early, concurrency=early)
        before = _steady_memory(options.root)
        log(f"idle: opening {options.clients} connections")
        opened = generator.open(early, options.clients, concurrency=options.concurrency)
        after = _steady_memory(options.root)
        report = generator.report()
    growth: dict[str, dict[str, float]] = {}
    for kind in ("rss", "pss"):
        by_role = {
            role: round((after[role][kind] - before.get(role, {}).get(kind, 0)) / options.clients / 1024, 2)
            for role in after
            if kind in after[role]
        }
        if by_role:
            growth[kind] = {**by_role, "total": round(sum(by_role.values()), 2)}
    return Result(
        scenario="idle",
        options=options,
        clean=not report.problems,
        problems=report.problems,
        seconds=round(opened.seconds, 3),
        connects_per_second={"synced": round(options.clients / opened.seconds, 1)},
        memory_kib_per_connection=growth,
    )


def _steady_memory(root: int | None) -> dict[str, dict[str, int]]:
    """Bytes by role and kind, once they change by less than half a percent a second, or after 15 s."""
    if root is None:
        return {}
    before = -1
    found: dict[str, dict[str, int]] = {}
    for _ in range(15):
        found = {
            role: {"rss": used.rss} if used.pss is None else {"rss": used.rss, "pss": used.pss}
            for role, used in procs.memory(root).items()
        }
        total = sum(kinds["rss"] for kinds in found.values())
        if abs(total - before) * 200 < total:
            break
        before = total
        time.sleep(1.0)
    return found


DEFAULT_CLIENTS = {"direct": 200, "broadcast": 1000, "latency": 1, "connect": 2000, "idle": 5000}
SCENARIOS: dict[str, Callable[[Options], Result]] = {
    "direct": run_direct,
    "broadcast": run_broadcast,
    "latency": run_latency,
    "connect": run_connect,
    "idle": run_idle,
}


def _arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m bench.load", description=__doc__)
    parser.add_argument(
        "scenario", choices=SCENARIOS, help="; ".join(f"{k}: {_first_line(v)}" for k, v in SCENARIOS.items())
    )
    parser.add_argument("--url", default="ws://127.0.0.1:8000", help="where the server is (%(default)s)")
    parser.add_argument(
        "--protocol", choices=("hubbub", "plain", "socketio"), default="hubbub", help="what it speaks (%(default)s)"
    )
    parser.add_argument("--data-dir", type=Path, help="the server's data directory, to measure its CPU time and memory")
    parser.add_argument("--pid", type=int, help="or supervisord's process id, for the same")
    parser.add_argument("--clients", type=int, help="connections (200; broadcast 1000, connect 2000, idle 5000)")
    parser.add_argument("--in-flight", type=int, help="unacknowledged sends of each sender (direct 4, else 1)")
    parser.add_argument("--senders", type=int, default=10, help="broadcast: how many write (%(default)s)")
    parser.add_argument("--partners", choices=("pairs", "all"), default="pairs", help="direct: whom one writes to")
    parser.add_argument("--content-bytes", type=int, default=100, help="text of a message (%(default)s)")
    parser.add_argument("--warmup", type=float, default=3.0, metavar="SECONDS", help="not measured (%(default)s)")
    parser.add_argument("--seconds", type=float, default=10.0, help="measured (%(default)s)")
    parser.add_argument("--concurrency", type=int, default=100, help="handshakes at a time (%(default)s)")
    parser.add_argument("--received", type=int, default=0, metavar="MS", help="clients say `received` so often (never)")
    return parser


def _first_line(scenario: Callable[..., object]) -> str:
    return (scenario.__doc__ or "").splitlines()[0].rstrip(".")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one scenario; the exit status is 0 only when it was clean."""
    given = _arguments().parse_args(arguments)
    root = procs.supervisor_pid(given.data_dir) if given.data_dir and given.pid is None else given.pid
    options = Options(
        url=given.url.rstrip("/"),
        root=root,
        clients=given.clients or DEFAULT_CLIENTS[given.scenario],
        in_flight=given.in_flight or (4 if given.scenario == "direct" else 1),
        senders=given.senders,
        partners=given.partners,
        content_bytes=given.content_bytes,
        warmup=given.warmup,
        seconds=given.seconds,
        concurrency=given.concurrency,
        protocol=given.protocol,
        received_ms=given.received,
    )
    try:
        result = SCENARIOS[given.scenario](options)
    except (CompilerError, GeneratorError) as exc:
        log(str(exc))
        return 2
    print(msgspec.json.format(msgspec.json.encode(result)).decode())
    if not result.clean:
        log(f"NOT CLEAN: {result.problems}")
    return 0 if result.clean else 1


if __name__ == "__main__":
    sys.exit(main())
