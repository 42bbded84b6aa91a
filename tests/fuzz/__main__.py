"""``python -m tests.fuzz``: throw bytes at one target, or replay a finding."""

import argparse
import sys
from pathlib import Path

from tests.fuzz.engine import Finding, fuzz, keep, minimize, problem_of
from tests.fuzz.target import Target
from tests.fuzz.targets import LIVE, PURE, opened

FINDINGS = Path("build/fuzz")


def main() -> int:
    """Parse the command line. The exit code is 1 when something was found."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--target", choices=[*PURE, *LIVE], required=True)
    parser.add_argument("--seconds", type=float)
    parser.add_argument("--inputs", type=int)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--guided", action="store_true", help="let atheris (extra 'fuzz') follow the coverage")
    parser.add_argument("--replay", type=Path, help="feed this file once")
    options = parser.parse_args()
    if options.guided:
        if options.target in LIVE:
            parser.error("--guided needs a target of this process")
        from tests.fuzz.guided import follow

        return follow(options.target, seconds=options.seconds, inputs=options.inputs, seed=options.seed)
    if options.seconds is None and options.inputs is None:
        options.seconds = 60.0
    with opened(options.target) as target:
        if options.replay is not None:
            problem = problem_of(target.check, options.replay.read_bytes())
            print(problem.text if problem else "nothing is wrong with it")
            return 1 if problem else 0
        run = fuzz(target, seed=options.seed, inputs=options.inputs, seconds=options.seconds)
        print(
            f"{options.target}: {run.inputs:,} inputs, {run.bytes:,} bytes in {run.seconds:.0f} s "
            f"({run.inputs / run.seconds:,.0f} a second), seed {options.seed}: "
            f"{'a finding' if run.finding else 'nothing found'}"
        )
        if run.finding is not None:
            report(options.target, target, run.finding)
    return 1 if run.finding else 0


def report(name: str, target: Target, finding: Finding) -> None:
    """Make it small, write it down, and say how to see it again."""
    print(finding.problem.text)
    path = keep(FINDINGS, name, minimize(target.check, finding))
    print(f"python -m tests.fuzz --target {name} --replay {path}")


if __name__ == "__main__":
    sys.exit(main())
