"""A short form of every target, and what each has found before. `python -m tests.fuzz --help` looks longer."""

from pathlib import Path

import pytest

from tests.fuzz.engine import Finding, corpus, fuzz, minimize, problem_of
from tests.fuzz.live import beside
from tests.fuzz.targets import PURE, live, pure
from tests.integration.system import System
from tests.integration.system import system as system  # a fixture

SECONDS = 2.0  # for each target of this process: some thousand inputs
LIVE_INPUTS = 1_000
FOUND = [pytest.param(name, path, id=f"{name}: {path.name}") for name in PURE for path in corpus(name)]


@pytest.mark.parametrize("name", PURE)
def test_a_while(name: str) -> None:
    run = fuzz(pure(name), seed=1, inputs=None, seconds=SECONDS)
    assert run.finding is None, f"{run.finding.data!r}\n{run.finding.problem.text}"
    assert run.inputs > 100


@pytest.mark.parametrize("name", ["http", "socket"])
def test_a_running_server(system: System, name: str) -> None:
    with beside(system):
        run = fuzz(live(name, system), seed=1, inputs=LIVE_INPUTS, seconds=10.0)
    assert run.finding is None, f"{run.finding.data!r}\n{run.finding.problem.text}"
    assert run.inputs > 100


@pytest.mark.parametrize(("name", "path"), FOUND)
def test_what_was_found_before(name: str, path: Path) -> None:
    pure(name).check(path.read_bytes())


def test_a_finding_is_made_small() -> None:
    def check(data: bytes) -> None:
        assert b"ab" not in data
        int(data[:0] or b"0")

    data = bytes(range(256)).replace(b"ab", b"") + b"ab" + bytes(100)
    problem = problem_of(check, data)
    assert problem is not None
    assert minimize(check, Finding(data, problem)) == b"ab"


def test_the_same_seed_makes_the_same_inputs() -> None:
    class Noting:
        def __init__(self) -> None:
            self.heard: list[bytes] = []
            self._target = pure("frames")
            self.seeds, self.generate = self._target.seeds, self._target.generate

        def check(self, data: bytes) -> None:
            self.heard.append(data)

    first, second = Noting(), Noting()
    for one in (first, second):
        one.seeds = lambda: [b"seed"]
        fuzz(one, seed=7, inputs=200, seconds=None)
    assert first.heard == second.heard
    assert len(set(first.heard)) > 150


def test_a_target_that_breaks_is_found() -> None:
    class Broken:
        def seeds(self) -> list[bytes]:
            return [b"harmless"]

        def generate(self, rng: object) -> bytes:
            return b"harmless too"

        def check(self, data: bytes) -> None:
            if b"\xff" in data:
                raise ValueError("what nobody documented")

    run = fuzz(Broken(), seed=1, inputs=100_000, seconds=None)
    assert run.finding is not None
    assert b"\xff" in run.finding.data
