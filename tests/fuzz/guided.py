"""Coverage-guided: libFuzzer chooses the inputs, by way of atheris (extra ``fuzz``)."""

import sys
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory

import atheris

from tests.fuzz.engine import corpus
from tests.fuzz.target import mutate


def follow(name: str, *, seconds: float | None, inputs: int | None, seed: int) -> int:
    """Until either bound is reached; a finding ends the process and lies in ``build/fuzz``."""
    with atheris.instrument_imports(include=["shards", "hubbub", "broker", "store"]):
        from tests.fuzz.targets import pure

        target = pure(name)
    kept = Path("build/fuzz")
    kept.mkdir(parents=True, exist_ok=True)

    def change(data: bytes, max_size: int, number: int) -> bytes:
        rng = Random(number)
        made = target.generate(rng) if rng.random() < 0.3 else mutate(rng, data, target.generate(rng))
        return made[:max_size]

    with TemporaryDirectory(prefix="hubbub-corpus-") as directory:
        for i, data in enumerate([*target.seeds(), *(path.read_bytes() for path in corpus(name))]):
            (Path(directory) / str(i)).write_bytes(data)
        limits = [f"-max_total_time={int(seconds)}"] if seconds else []
        limits += [f"-runs={inputs}"] if inputs else []
        arguments = [
            sys.argv[0],
            directory,
            f"-seed={seed}",
            "-max_len=65536",
            f"-artifact_prefix={kept}/{name}-",
            *limits,
        ]
        atheris.Setup(arguments, target.check, custom_mutator=change)
        atheris.Fuzz()
    return 0
