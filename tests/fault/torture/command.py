"""The command line of the torture."""

import argparse
import random
import shutil
import tempfile
from pathlib import Path

from tests.fault.torture import planted
from tests.fault.torture.report import timeline, verdict_text
from tests.fault.torture.run import Outcome, Plan, Run


def say(line: str) -> None:
    """A line of progress."""
    print(line, flush=True)


def torture(plan: Plan, home: Path | None, logs: Path) -> Outcome:
    """Carry out *plan*; after a violation its timeline and the system's logs are left in *logs*."""
    with tempfile.TemporaryDirectory(prefix="torture-", ignore_cleanup_errors=True) as temporary:
        place = home or Path(temporary)
        run = Run(plan, place, say)
        outcome = run.carry_out()
        if outcome.violations:
            logs.mkdir(parents=True, exist_ok=True)
            path = logs / f"torture-{plan.planted.replace(' ', '-') or 'seed'}-{plan.seed}.txt"
            path.write_text(timeline(outcome.history, outcome.violations[0]))
            say(f"timeline: {path}")
            if (place / "failed.log").exists():
                shutil.copy(place / "failed.log", path.with_suffix(".log"))
    return outcome


def main(description: str, arguments: list[str] | None = None) -> int:
    """The command."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.fault.torture",
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--minutes", type=float, default=10.0, help="storms and calms together, about [%(default)g]")
    parser.add_argument("--seed", type=int, help="of what is done when [at random]")
    parser.add_argument("--clients", type=int, default=240, help="devices [%(default)s]")
    parser.add_argument("--shards", type=int, default=2, help="[%(default)s]")
    parser.add_argument("--storm", type=float, default=30.0, help="seconds of faults between two calms [%(default)g]")
    parser.add_argument("--every", type=float, default=1.5, help="seconds between faults, on average [%(default)g]")
    parser.add_argument("--tcp", action="store_true", help="the processes meet over tcp with CURVE, not in files")
    parser.add_argument("--planted", metavar="NAME", help="planted faults, with commas; `all`, or `list`")
    parser.add_argument("--logs", type=Path, default=Path("torture-logs"), help="where timelines go [%(default)s]")
    parser.add_argument("--home", type=Path, help="run here, in place of a directory that is removed")
    options = parser.parse_args(arguments)
    seed = options.seed if options.seed is not None else random.randrange(1_000_000)
    if options.planted:
        return planted.find_all(options.planted, seed, torture, options.logs)
    plan = Plan(
        seed,
        options.minutes * 60,
        clients=options.clients,
        shards=options.shards,
        storm=options.storm,
        every=options.every,
        tcp=options.tcp,
    )
    say(f"seed {seed}, {options.minutes:g} minutes, {plan.clients} clients on {plan.shards} shards")
    outcome = torture(plan, options.home, options.logs)
    say(verdict_text(outcome))
    return 1 if outcome.violations else 0
