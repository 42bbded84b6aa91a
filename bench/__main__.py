"""Measure everything: each scenario on a fresh system, one after the other.

The exit status is 1 when a run was not clean (a message lost, repeated, out of order or unanswered). A
missed goal is shown but is no failure: it says as much about the machine as about the server.
"""

import argparse
import shlex
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from bench import report, server
from bench.measure import Result
from bench.scenarios import SCENARIOS, GeneratorFailed, Scenario, run


def measure(
    chosen: Sequence[Scenario], size: str, shards: int | None, command: Sequence[str]
) -> tuple[list[Result], int]:
    """Run the *chosen* scenarios; their results, and how many shards the system had."""
    results: list[Result] = []
    used = 0
    with ExitStack() as shared:
        system: server.Server | None = None
        for scenario in chosen:
            print(f"[bench] {scenario.name}", file=sys.stderr, flush=True)
            if size == "smoke":
                # Starting is most of a smoke run's time, and its figures are not for comparison.
                system = system or shared.enter_context(server.running(shards=shards, command=command))
                results.append(run(scenario, system, "smoke"))
                used = system.shards
            else:
                with server.running(shards=shards, command=command) as fresh:
                    results.append(run(scenario, fresh, size))
                    used = fresh.shards
    return results, used


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the scenarios, print the table, write ``bench.json`` and ``bench.png``.

    The exit status is 1 when a run was not clean, 2 when the server or the generator failed altogether.
    """
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    size = parser.add_mutually_exclusive_group()
    size.add_argument("--quick", action="store_const", const="quick", dest="size", help="the same for 4 s each")
    size.add_argument(
        "--smoke",
        action="store_const",
        const="smoke",
        dest="size",
        help="small, on one system: shows that all of it works",
    )
    parser.add_argument(
        "--scenario", action="append", metavar="NAME", help="only those whose name begins so; repeatable"
    )
    parser.add_argument("--shards", type=int, help="how many (one for each core)")
    parser.add_argument(
        "--out", type=Path, default=server.ROOT / "bench" / "results", help="where the report goes (%(default)s)"
    )
    parser.add_argument("--command", default=shlex.join(server.COMMAND), help="what to run with `up` (%(default)s)")
    options = parser.parse_args(arguments)
    chosen = [s for s in SCENARIOS if not options.scenario or s.name.startswith(tuple(options.scenario))]
    if not chosen:
        parser.error(f"no such scenario; there are: {', '.join(s.name for s in SCENARIOS)}")
    try:
        results, shards = measure(chosen, options.size or "full", options.shards, shlex.split(options.command))
    except (server.ServerFailed, GeneratorFailed) as exc:
        print(f"[bench] {exc}", file=sys.stderr)
        return 2
    settings: dict[str, object] = {"size": options.size or "full", "shards": shards, "environment": server.SETTINGS}
    options.out.mkdir(parents=True, exist_ok=True)
    report.write_json(options.out / "bench.json", results, settings)
    report.write_chart(options.out / "bench.png", results, settings)
    print(report.table(results, goals_apply=options.size != "smoke"))
    print(f"\nReport: {options.out}/bench.json and bench.png")
    return 0 if all(result.clean for result in results) else 1


if __name__ == "__main__":
    sys.exit(main())
