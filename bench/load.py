"""The load generator: one scenario against a running server, JSON on standard output, progress on standard error.

The exit status is 1 when the run was not clean: a send without its acknowledgement, an error, a message
missing, repeated or out of order. Figures of such a run mean nothing.
"""

import argparse
import asyncio
import gc
import resource
import secrets
import sys
import time
from collections.abc import Callable, Coroutine, Sequence
from pathlib import Path
from typing import Any

import msgspec
import uvloop

from bench import procs
from bench.client import Client, Tally, open_all
from bench.measure import Latency, Options, Result, Window, latency

DRAIN_SECONDS = 20.0  # past the server's ten seconds after which a send is answered in any case
# Latency is kept for the deliveries of this many clients at most; all deliveries are counted and checked.
TIMED_CLIENTS = 50


def log(text: str) -> None:
    """Tell the person who waits."""
    print(f"[bench] {text}", file=sys.stderr, flush=True)


async def _exchange(
    scenario: str, options: Options, tally: Tally, clients: list[Client], senders: list[Client]
) -> Result:
    """Connect, run the closed loop, measure its middle, let it come to rest, and check it."""
    log(f"{scenario}: connecting {len(clients)} clients")
    await open_all(clients, options.url, concurrency=options.concurrency)
    # What exists now lives to the end: keep the collector from walking over it in the window.
    gc.collect()
    gc.freeze()
    tally.sending = True
    for _ in range(options.in_flight):
        for client in senders:
            client.send_next()
    log(f"{scenario}: {options.warmup:g} s of warm-up, then {options.seconds:g} s measured")
    await asyncio.sleep(options.warmup)
    acked, delivered = tally.acked, tally.delivered
    tally.recording = True
    window = Window(options.root)
    await asyncio.sleep(options.seconds)
    _close(window, tally)
    tally.recording = tally.sending = False
    acked, delivered = tally.acked - acked, tally.delivered - delivered
    deadline = time.perf_counter() + DRAIN_SECONDS
    # Polled: to see on every frame whether it was the last would cost the hot path more.
    while not tally.settled(clients) and time.perf_counter() < deadline:  # noqa: ASYNC110
        await asyncio.sleep(0.02)
    tally.settle(clients)
    if not tally.ack_seconds:
        tally.problems["no acknowledgement in the measured window"] += 1
    for client in clients:
        client.close()
    samples = {"ack": tally.ack_seconds, "delivery": tally.delivery_seconds}
    return Result(
        scenario=scenario,
        options=options,
        clean=tally.clean,
        problems=dict(+tally.problems),
        seconds=round(window.seconds, 3),
        acks=acked,
        deliveries=delivered,
        acks_per_second=round(acked / window.seconds, 1),
        deliveries_per_second=round(delivered / window.seconds, 1),
        latency_ms={name: latency(values) for name, values in samples.items() if values},
        cpu_us=window.cpu_us,
        cpu_us_per_message=window.per(acked),
        cpu_us_per_delivery=window.per(delivered),
        generator_cpu_share=window.generator_cpu_share,
        foreign_cpu_share=window.foreign_cpu_share,
    )


def _close(window: Window, tally: Tally) -> None:
    try:
        window.close()
    except RuntimeError as exc:
        tally.problems[str(exc)] += 1


def _tally() -> Tally:
    return Tally(secrets.token_hex(4))


async def run_direct(options: Options) -> Result:
    """Everybody writes to a partner, or to all others in turn, with a number of sends in flight."""
    tally = _tally()
    count = options.clients - options.clients % 2
    clients = [Client(tally, f"bench-{i}", content_bytes=options.content_bytes) for i in range(count)]
    for i, client in enumerate(clients):
        if options.partners == "pairs":
            client.write_to([clients[i ^ 1].username])
        else:
            # In turn rather than by dice: every conversation is used equally, and each starts elsewhere.
            client.write_to([clients[(i + step) % count].username for step in range(1, count)])
    return await _exchange("direct", options, tally, clients, clients)


async def run_broadcast(options: Options) -> Result:
    """A few write to the lobby, one send in flight each unless asked otherwise; everybody listens."""
    tally = _tally()
    step = max(1, options.clients // TIMED_CLIENTS)
    clients = [
        Client(tally, f"bench-{i}", content_bytes=options.content_bytes, timed=i % step == 0)
        for i in range(options.clients)
    ]
    for client in clients:
        client.write_to([None])
    return await _exchange("broadcast", options, tally, clients, clients[: options.senders])


async def run_latency(options: Options) -> Result:
    """One client, one send in flight, to somebody who is away: what a single person waits."""
    tally = _tally()
    client = Client(tally, "bench-0", content_bytes=options.content_bytes)
    client.write_to(["bench-1"])
    alone = msgspec.structs.replace(options, clients=1, in_flight=1)
    return await _exchange("latency", alone, tally, [client], [client])


async def run_connect(options: Options) -> Result:
    """Handshakes up to `welcome`, and with other users up to `synced`; the connections stay open meanwhile."""
    tally = _tally()
    rates: dict[str, float] = {}
    latencies: dict[str, Latency] = {}
    per_connect: dict[str, float] = {}
    total = 0.0
    for number, goal in enumerate(("welcome", "synced")):
        first = number * options.clients
        clients = [Client(tally, f"bench-{i}") for i in range(first, first + options.clients)]
        log(f"connect: {len(clients)} handshakes to {goal}, {options.concurrency} at a time")
        window = Window(options.root)
        times = await open_all(clients, options.url, concurrency=options.concurrency, sync=goal == "synced")
        _close(window, tally)
        tally.settle(clients)
        for client in clients:
            client.close()
        rates[goal] = round(len(times) / window.seconds, 1)
        latencies[goal] = latency([pair[number] for pair in times])
        per_connect[goal] = window.per(len(times)).get("total", 0.0)
        total += window.seconds
    problems = dict(+tally.problems)
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


async def run_idle(options: Options) -> Result:
    """What an open, synced, silent connection takes of the server's memory.

    A few connections come first, so that what the server loads with its first client is not counted.
    """
    tally = _tally()
    clients = [Client(tally, f"bench-{i}") for i in range(options.clients + options.concurrency)]
    early, counted = clients[: options.concurrency], clients[options.concurrency :]
    await open_all(early, options.url, concurrency=options.concurrency)
    before = await _steady_memory(options.root)
    log(f"idle: opening {len(counted)} connections")
    began = time.perf_counter()
    times = await open_all(
        counted, options.url, concurrency=options.concurrency, progress=lambda n: log(f"idle: {n} connections")
    )
    seconds = time.perf_counter() - began
    after = await _steady_memory(options.root)
    tally.settle(clients)
    for client in clients:
        client.close()
    growth: dict[str, dict[str, float]] = {}
    for kind in ("rss", "pss"):
        by_role = {
            role: round((after[role][kind] - before.get(role, {}).get(kind, 0)) / len(counted) / 1024, 2)
            for role in after
            if kind in after[role]
        }
        if by_role:
            growth[kind] = {**by_role, "total": round(sum(by_role.values()), 2)}
    return Result(
        scenario="idle",
        options=options,
        clean=tally.clean,
        problems=dict(+tally.problems),
        seconds=round(seconds, 3),
        connects_per_second={"synced": round(len(times) / seconds, 1)},
        memory_kib_per_connection=growth,
    )


async def _steady_memory(root: int | None) -> dict[str, dict[str, int]]:
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
        await asyncio.sleep(1.0)
    return found


DEFAULT_CLIENTS = {"direct": 200, "broadcast": 1000, "latency": 1, "connect": 2000, "idle": 5000}
SCENARIOS: dict[str, Callable[[Options], Coroutine[Any, Any, Result]]] = {
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
    )
    _allow_open_files()
    result: Result = uvloop.run(SCENARIOS[given.scenario](options))
    print(msgspec.json.format(msgspec.json.encode(result)).decode())
    if not result.clean:
        log(f"NOT CLEAN: {result.problems}")
    return 0 if result.clean else 1


def _allow_open_files() -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


if __name__ == "__main__":
    sys.exit(main())
