"""``python -m tests.simulation``: run many histories, or one by its seed."""

import argparse
import multiprocessing
import sys
import time
from collections import Counter
from collections.abc import Iterable

from tests.simulation.history import make_plan, run
from tests.simulation.shrink import shrink

_CHUNK = 50


def _some(seeds: range) -> tuple[int, Counter[str], list[tuple[int, str]]]:
    stats: Counter[str] = Counter()
    problems: list[tuple[int, str]] = []
    for seed in seeds:
        result = run(make_plan(seed))
        stats.update(result.stats)
        if result.problem:
            problems.append((seed, result.problem))
    return len(seeds), stats, problems


def _many(first: int, count: int, jobs: int, keep_going: bool) -> int:
    chunks = [range(at, min(at + _CHUNK, first + count)) for at in range(first, first + count, _CHUNK)]
    stats: Counter[str] = Counter()
    problems: list[tuple[int, str]] = []
    done = 0
    begun = shown = time.monotonic()
    pool = multiprocessing.Pool(jobs) if jobs > 1 else None
    results: Iterable[tuple[int, Counter[str], list[tuple[int, str]]]]
    results = map(_some, chunks) if pool is None else pool.imap_unordered(_some, chunks)
    for number, some, found in results:
        done += number
        stats.update(some)
        problems += found
        now = time.monotonic()
        for seed, problem in found:
            print(f"seed {seed}: {problem}", flush=True)
        if now - shown >= 10:
            shown = now
            rate = 60 * done / (now - begun)
            print(f"{done:,} of {count:,} histories, {rate:,.0f} a minute, {len(problems)} broken", flush=True)
        if problems and not keep_going:
            break
    if pool is not None:
        pool.terminate()
    seconds = time.monotonic() - begun
    print(f"\n{done:,} histories in {seconds:,.0f} s ({60 * done / seconds:,.0f} a minute), {len(problems)} broken")
    for name, value in sorted(stats.items()):
        print(f"  {name:<24} {value:>14,}  {value / done:10.2f} a history")
    if problems and not keep_going:
        _explain(min(problems)[0])
    return 1 if problems else 0


def _explain(seed: int) -> None:
    plan = shrink(make_plan(seed))
    print(f"\n--- seed {seed}, shrunk to {len(plan.decisions)} decisions ---")
    print({key: value for key, value in plan.config.items()})
    result = run(plan, print)
    print(f"--- {result.problem or 'no problem'}")


def main() -> int:
    """Parse the command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description=__doc__)
    parser.add_argument("--seed", type=int, help="run this one history")
    parser.add_argument("--trace", action="store_true", help="with --seed: print its timeline")
    parser.add_argument("--shrink", action="store_true", help="with --seed: make it small first")
    parser.add_argument("--histories", type=int, default=1000)
    parser.add_argument("--first", type=int, default=1, help="the first seed")
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--keep-going", action="store_true", help="do not end at the first broken history")
    options = parser.parse_args()
    if options.seed is None:
        return _many(options.first, options.histories, options.jobs, options.keep_going)
    if options.shrink:
        _explain(options.seed)
        return 1
    result = run(make_plan(options.seed), print if options.trace else None)
    print(result.problem or "the promise was kept")
    for name, value in sorted(result.stats.items()):
        print(f"  {name:<24} {value:>10,}")
    return 1 if result.problem else 0


if __name__ == "__main__":
    sys.exit(main())
