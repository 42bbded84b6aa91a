"""Compare two configurations of the server: runs take turns, so that the machine's moods hit both alike.

A configuration is written as on a shell's command line: settings, then, if it is not `hubbub`, a command::

    python -m bench.routing --a 'HUBBUB_X=topics' --b 'HUBBUB_X=everything' --shards 2,8
    python -m bench.routing --b 'python -m some.runner'
"""

import argparse
import re
import shlex
import statistics
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from bench import report, server
from bench.measure import Result
from bench.scenarios import SCENARIOS, Scenario, figures, run

_ASSIGNMENT = re.compile(r"[A-Za-z_]\w*=")
_NAMES = ("direct, 4 in flight", "broadcast, 10 senders", "one client alone")


@dataclass(frozen=True)
class Configuration:
    """How a system is started: settings on top of the benchmark's, and the command."""

    env: dict[str, str]
    command: tuple[str, ...]

    @classmethod
    def parse(cls, text: str) -> "Configuration":
        """Read ``NAME=VALUE … [COMMAND …]``."""
        words = shlex.split(text)
        count = next((i for i, word in enumerate(words) if not _ASSIGNMENT.match(word)), len(words))
        env = dict(word.split("=", 1) for word in words[:count])
        return cls(env, tuple(words[count:]) or server.COMMAND)


class Comparison(msgspec.Struct, frozen=True):
    """One figure of one scenario: medians over the runs, and by how much b differs from a."""

    scenario: str
    shards: int
    figure: str
    a: float
    b: float
    ratio: float | None  # b / a; ``None`` when a is zero


def details(result: Result) -> dict[str, float]:
    """The usual figures, and the CPU of every kind of process for each message; all shards are one kind."""
    found = figures(result)
    for role, us in result.cpu_us_per_message.items():
        name = f"CPU-us/message {role.split('-')[0]}"
        if role != "total":
            found[name] = found.get(name, 0.0) + us
    return found


def compare(shards: int, a: Sequence[Result], b: Sequence[Result]) -> list[Comparison]:
    """Medians and ratios of what both sides measured of one scenario. Neither side may be empty."""
    left, right = [details(result) for result in a], [details(result) for result in b]
    rows = []
    for name in left[0]:
        if all(name in one for one in (*left, *right)):
            x, y = (statistics.median(one[name] for one in side) for side in (left, right))
            rows.append(Comparison(a[0].scenario, shards, name, x, y, round(y / x, 3) if x else None))
    return rows


def measure(
    scenario: Scenario, configurations: Sequence[Configuration], shards: int, runs: int, size: str
) -> list[list[Result]]:
    """Run each configuration *runs* times, each time on a fresh system, in turns and in alternating order."""
    results: list[list[Result]] = [[] for _ in configurations]
    for turn in range(runs):
        order = range(len(configurations)) if turn % 2 == 0 else reversed(range(len(configurations)))
        for index in order:
            side = configurations[index]
            print(
                f"[bench] {scenario.name}, {shards} shards, run {turn + 1}, {'ab'[index]}", file=sys.stderr, flush=True
            )
            with server.running(shards=shards, env=side.env, command=side.command) as system:
                results[index].append(run(scenario, system, size))
    return results


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the comparison; the exit status is 1 when any run was not clean."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.routing", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--a", default="", type=Configuration.parse, help="the one (as shipped)")
    parser.add_argument("--b", required=True, type=Configuration.parse, help="the other")
    parser.add_argument("--shards", default="2,8", help="numbers of shards to compare at (%(default)s)")
    parser.add_argument("--runs", type=int, default=5, help="of each side (%(default)s)")
    parser.add_argument("--size", choices=("full", "quick", "smoke"), default="full")
    parser.add_argument("--scenario", action="append", choices=[s.name for s in SCENARIOS], help="repeatable")
    parser.add_argument("--out", type=Path, help="also write everything to this JSON file")
    options = parser.parse_args(arguments)
    chosen = [s for s in SCENARIOS if s.name in (options.scenario or _NAMES)]
    rows: list[Comparison] = []
    everything: list[Result] = []
    for shards in (int(number) for number in options.shards.split(",")):
        for scenario in chosen:
            a, b = measure(scenario, (options.a, options.b), shards, options.runs, options.size)
            rows += compare(shards, a, b)
            everything += a + b
    print(f"{'scenario':<24} {'shards':>6} {'figure':<26} {'a':>12} {'b':>12} {'b/a':>7}")
    for row in rows:
        ratio = "-" if row.ratio is None else f"{row.ratio:.2f}"
        print(f"{row.scenario:<24} {row.shards:>6} {row.figure:<26} {row.a:>12,.2f} {row.b:>12,.2f} {ratio:>7}")
    if options.out:
        found = {"machine": report.machine(), "a": options.a, "b": options.b, "comparison": rows, "runs": everything}
        options.out.write_bytes(msgspec.json.format(msgspec.json.encode(found)) + b"\n")
    unclean = sum(not result.clean for result in everything)
    if unclean:
        print(f"{unclean} of {len(everything)} runs were NOT CLEAN")
    return 1 if unclean else 0


if __name__ == "__main__":
    sys.exit(main())
