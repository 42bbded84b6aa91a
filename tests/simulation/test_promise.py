"""Some hundred histories, the ones that once broke the promise, and the simulator's own word: replayable."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.simulation.history import Plan, make_plan, run
from tests.simulation.planted import FAULTS
from tests.simulation.shrink import shrink

ROOT = Path(__file__).parents[2]
HISTORIES = 300
PART = 50

# Seeds under which the faults that the simulator found in our own design show, if one puts them back.
REGRESSIONS: dict[str, tuple[int, ...]] = {
    "ours: sending moves delivered": (1, 2, 3),
    "ours: a ping overtakes what is held": (3, 37),
    "ours: a late page takes confirmation back": (45,),
    "ours: slots taken while greeting": (21,),
    "ours: a movement is given up": (37,),
    "ours: an old link's end takes the owner": (312, 792, 995),
    "ours: a transport's break goes unseen": (350,),
    "ours: conflict said from the queue": (720,),
    "ours: overloaded said of a copy": (71, 122),
    "ours: shown behind a gap": (87,),
}


def _broken(plan: Plan) -> str:
    lines: list[str] = []
    small = shrink(plan)
    problem = run(small, lines.append).problem
    config = {name: value for name, value in small.config.items()}
    return "\n".join([f"seed {plan.seed}", str(config), *lines, problem])


@pytest.mark.parametrize("first", range(1, HISTORIES, PART))
def test_the_promise_is_kept(first):
    for seed in range(first, first + PART):
        plan = make_plan(seed)
        if run(plan).problem:
            pytest.fail(_broken(plan), pytrace=False)


@pytest.mark.parametrize("fault", REGRESSIONS)
def test_what_once_went_wrong(fault):
    for seed in REGRESSIONS[fault]:
        plan = FAULTS[fault].bend(make_plan(seed))
        if run(plan).problem:
            pytest.fail(_broken(plan), pytrace=False)


def test_a_history_is_its_seed_whatever_the_hashes():
    def traces(hash_seed: str) -> bytes:
        code = (
            "from tests.simulation.history import make_plan, run\n"
            "for seed in range(1000, 1012): print(run(make_plan(seed), print))"
        )
        environment = {**os.environ, "PYTHONHASHSEED": hash_seed}
        command = [sys.executable, "-c", code]
        return subprocess.run(command, cwd=ROOT, env=environment, check=True, capture_output=True).stdout

    one = traces("1")
    assert len(one) > 10_000
    assert one == traces("2")


def test_something_happens_in_these_histories():
    stats = run(make_plan(1)).stats
    for seed in range(2, 60):
        stats.update(run(make_plan(seed)).stats)
    for name in ("acks", "deliveries", "duplicates", "recoveries", "replays", "reconnects", "peers cut", "resets"):
        assert stats[name] > 0, name
    faults = {name for name in stats if name.startswith("fault: ")}
    assert len(faults) == 21, sorted(faults)
