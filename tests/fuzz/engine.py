"""Makes inputs, counts them, and of one that breaks something the shortest that still does."""

import hashlib
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from random import Random

from tests.fuzz.target import Target, mutate

CORPUS = Path(__file__).parent / "corpus"
# A minimizer that has not come to an end by then keeps what it has.
MINIMIZE_SECONDS = 20.0
KEPT = 500  # inputs that are mutated again


@dataclass(frozen=True)
class Problem:
    """What an input raised: the type and the line, by which two are the same, and the traceback."""

    kind: tuple[type[Exception], str, int | None]
    text: str


@dataclass(frozen=True)
class Finding:
    """An input that breaks something."""

    data: bytes
    problem: Problem


@dataclass
class Run:
    """What was done."""

    inputs: int
    bytes: int
    seconds: float
    finding: Finding | None


def corpus(name: str) -> list[Path]:
    """The committed inputs of a target: each broke something once."""
    return sorted((CORPUS / name).glob("*"))


def problem_of(check: Callable[[bytes], None], data: bytes) -> Problem | None:
    """What *data* raises, or None."""
    try:
        check(data)
    except Exception as exc:
        where = traceback.extract_tb(exc.__traceback__)[-1]
        return Problem((type(exc), where.filename, where.lineno), traceback.format_exc())
    return None


def inputs_of(target: Target, rng: Random, known: list[bytes]) -> bytes:
    """The next input: made, or made of one that was."""
    choice = rng.random()
    if choice < 0.5 or not known:
        data = target.generate(rng)
    elif choice < 0.97:
        data = mutate(rng, rng.choice(known), rng.choice(known))
    else:
        return rng.randbytes(rng.choice((1, 10, 100, 1000)))
    if len(known) < KEPT:
        known.append(data)
    elif rng.random() < 0.01:
        known[rng.randrange(len(known))] = data
    return data


def fuzz(target: Target, *, seed: int, inputs: int | None, seconds: float | None) -> Run:
    """Until either bound is reached or something breaks. The same seed makes the same inputs."""
    rng = Random(seed)
    known = [*target.seeds()]
    begun = time.monotonic()
    count = size = 0
    for data in [*known]:
        count, size = count + 1, size + len(data)
        problem = problem_of(target.check, data)
        if problem is not None:
            return Run(count, size, time.monotonic() - begun, Finding(data, problem))
    while (inputs is None or count < inputs) and (seconds is None or time.monotonic() - begun < seconds):
        data = inputs_of(target, rng, known)
        count, size = count + 1, size + len(data)
        problem = problem_of(target.check, data)
        if problem is not None:
            return Run(count, size, time.monotonic() - begun, Finding(data, problem))
    return Run(count, size, time.monotonic() - begun, None)


def minimize(check: Callable[[bytes], None], finding: Finding) -> bytes:
    """The shortest part of the input found in time that still raises the same."""
    data = finding.data
    give_up = time.monotonic() + MINIMIZE_SECONDS
    size = len(data)
    while size and time.monotonic() < give_up:
        at = 0
        while at < len(data) and time.monotonic() < give_up:
            shorter = data[:at] + data[at + size :]
            problem = problem_of(check, shorter)
            if problem is not None and problem.kind == finding.problem.kind:
                data = shorter
            else:
                at += size
        size //= 2
    return data


def keep(directory: Path, name: str, data: bytes) -> Path:
    """Write a finding down; its file is named for what is in it."""
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / f"{name}-{hashlib.sha256(data).hexdigest()[:12]}"
    path.write_bytes(data)
    return path
