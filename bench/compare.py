"""Hubbub and other servers under the same load: they take turns, so that the machine's moods hit all alike.

Each run has a fresh system with an empty database. The report keeps what it holds of scenarios that are not measured
now. The exit status is 1 when a run of Hubbub's was not clean, or a peer lost or repeated a message; 2 when something
could not be started.
"""

import argparse
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from bench import comparison, peers, procs, report, server
from bench.compiler import CompilerError
from bench.measure import Result
from bench.scenarios import SCENARIOS, GeneratorFailed, Scenario, run

US = "hubbub"
# What CI can run: it takes neither Node nor Redis.
SMOKE_PEERS = ("yardstick", "tornado")
SMOKE_SCENARIOS = ("direct, 4 in flight", "broadcast, 10 senders")
OUT = server.ROOT / "docs" / "benchmarks"


@contextmanager
def running(name: str) -> Iterator[server.Server]:
    """A fresh system of a contestant."""
    with server.running() if name == US else peers.running(peers.PEERS[name]) as system:
        yield system


def measure(scenario: Scenario, names: Sequence[str], rounds: int, size: str) -> dict[str, list[Result]]:
    """Run *scenario* on each contestant *rounds* times, in turns and in alternating order."""
    results: dict[str, list[Result]] = {name: [] for name in names}
    for turn in range(rounds):
        for name in names if turn % 2 == 0 else reversed(names):
            print(f"[bench] {scenario.name}, round {turn + 1}, {name}", file=sys.stderr, flush=True)
            with running(name) as system:
                results[name].append(run(scenario, system, size))
    return results


def measure_small(scenarios: Sequence[Scenario], names: Sequence[str]) -> list[dict[str, list[Result]]]:
    """Run all *scenarios* once on one system of each contestant: shows that all of it works, in little time."""
    results: list[dict[str, list[Result]]] = [{} for _ in scenarios]
    for name in names:
        with running(name) as system:
            for scenario, found in zip(scenarios, results, strict=True):
                found[name] = [run(scenario, system, "smoke")]
    return results


def busy(seconds: float = 1.0) -> float:
    """How many cores other programs use now."""
    before = procs.machine_busy()
    time.sleep(seconds)
    return (procs.machine_busy() - before) / 1e6 / seconds


def _one_of(known: Sequence[str], text: str) -> list[str]:
    """Names separated by ``;``; each may be a beginning. Raises `argparse.ArgumentTypeError`."""
    found = [name for part in text.split(";") for name in known if name.startswith(part.strip())]
    if not found:
        raise argparse.ArgumentTypeError(f"none of: {'; '.join(known)}")
    return list(dict.fromkeys(found))


def _peers(text: str) -> list[str]:
    return _one_of(list(peers.PEERS), text)


def _scenarios(text: str) -> list[str]:
    return _one_of([scenario.name for scenario in SCENARIOS], text)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the comparison and write the report."""
    parser = argparse.ArgumentParser(prog="python -m bench.compare", description=__doc__)
    parser.add_argument("--peers", type=_peers, help="beginnings of names, separated by ';' (all)")
    parser.add_argument("--scenarios", type=_scenarios, help="the same for scenarios (all)")
    parser.add_argument("--rounds", type=int, default=3, help="runs of each (%(default)s)")
    parser.add_argument("--size", choices=("full", "quick"), default="full")
    parser.add_argument("--smoke", action="store_true", help="one small round of what needs no other software")
    parser.add_argument("--anyway", action="store_true", help="measure although other programs use the CPU")
    parser.add_argument("--out", type=Path, help=f"where the report goes ({OUT.relative_to(server.ROOT)})")
    options = parser.parse_args(arguments)
    names = [US, *(options.peers or (SMOKE_PEERS if options.smoke else peers.PEERS))]
    wanted = options.scenarios or (SMOKE_SCENARIOS if options.smoke else [s.name for s in SCENARIOS])
    chosen = [scenario for scenario in SCENARIOS if scenario.name in wanted]
    if not options.smoke and not options.anyway and (cores := busy()) > report.FOREIGN_MAX:
        print(f"[bench] other programs use {cores:.2f} cores: close them, or say --anyway", file=sys.stderr)
        return 2
    out = options.out or (server.ROOT / "bench" / "results" if options.smoke else OUT)
    try:
        for name in names[1:]:
            peers.installed(peers.PEERS[name].kind)
        versions = {name: peers.version(peers.PEERS[name]) for name in names[1:]}
        if options.smoke:
            found = measure_small(chosen, names)
        else:
            found = [measure(scenario, names, options.rounds, options.size) for scenario in chosen]
    except (
        server.ServerFailed,
        GeneratorFailed,
        peers.PeerMissing,
        CompilerError,
        subprocess.CalledProcessError,
    ) as exc:
        print(f"[bench] {exc}", file=sys.stderr)
        return 2
    measured = [
        comparison.Measured(
            scenario=scenario.name,
            kind=scenario.kind,
            size="smoke" if options.smoke else options.size,
            machine=report.machine(),
            versions=versions,
            runs=runs,
        )
        for scenario, runs in zip(chosen, found, strict=True)
    ]
    comparison.write(out, measured)
    print(comparison.markdown(measured))
    print(f"Report: {out}/peers.md, peers.json, peers.png and peers.html")
    return (
        0 if all(comparison.acceptable(name, one) for m in measured for name, rs in m.runs.items() for one in rs) else 1
    )


if __name__ == "__main__":
    sys.exit(main())
