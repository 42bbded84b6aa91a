"""Profiles of stress, each on a fresh system: what is promised is checked, what is bounded is measured.

The exit status is 1 when a message was lost, repeated, out of order or wrongly refused, or a bound was missed; 2 when
server or generator failed.
"""

import argparse
import resource
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

import msgspec
import uvloop

from bench.profiles import PROFILES
from bench.profiles.crowd import NotSettled
from bench.profiles.outcome import Outcome, line
from bench.profiles.scene import Scene
from bench.report import machine
from bench.server import Server, ServerFailed, running


def main(arguments: Sequence[str] | None = None) -> int:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m bench.profiles", description=__doc__)
    parser.add_argument("--profile", action="append", choices=PROFILES, help="which; repeatable (all of them)")
    parser.add_argument("--clients", type=int, help="connections (each profile's own number)")
    parser.add_argument("--seconds", type=float, help="of the main part (each profile's own)")
    parser.add_argument("--shards", type=int, default=2, help="processes that hold connections (%(default)s)")
    parser.add_argument("--seed", type=int, default=1, help="of everything random (%(default)s)")
    parser.add_argument("--tiny", action="store_true", help="all small, on one system, without bounds on times")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write everything that was measured there")
    options = parser.parse_args(arguments)
    _allow_open_files()
    outcomes: list[Outcome] = []
    try:
        with ExitStack() as shared:
            server: Server | None = None
            for name in options.profile or PROFILES:
                profile = PROFILES[name]
                if options.tiny:
                    server = server or shared.enter_context(running(shards=options.shards, settings={}))
                    scene = Scene(name, server, options.clients or 120, options.seconds or 2, options.seed, tiny=True)
                    outcomes.append(uvloop.run(profile.run(scene)))
                else:
                    with running(shards=options.shards, settings=profile.settings) as fresh:
                        clients, seconds = options.clients or profile.clients, options.seconds or profile.seconds
                        outcomes.append(uvloop.run(profile.run(Scene(name, fresh, clients, seconds, options.seed))))
                print(line(outcomes[-1]), flush=True)
    except (ServerFailed, NotSettled) as exc:
        print(f"[profiles] {name}: {exc}", file=sys.stderr)
        return 2
    finally:
        if options.json is not None:
            report = {"machine": machine(), "options": vars(options) | {"json": None}, "outcomes": outcomes}
            options.json.write_bytes(msgspec.json.format(msgspec.json.encode(report)) + b"\n")
    return 0 if all(one.good for one in outcomes) else 1


def _allow_open_files() -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


if __name__ == "__main__":
    sys.exit(main())
