"""The programs in C of the benchmarks, compiled when they are needed and kept until their source changes."""

import hashlib
import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

FLAGS = ("-std=gnu11", "-D_GNU_SOURCE", "-O2", "-Wall", "-Wextra", "-Werror")


class CompilerError(RuntimeError):
    """There is no compiler, or it refused; the text says what to do."""


def cache_dir() -> Path:
    """Where benchmarks keep what they build and install: ``$XDG_CACHE_HOME/hubbub-bench``, else below ``~/.cache``."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "hubbub-bench"


def program(name: str, sources: Sequence[Path]) -> Path:
    """The program made of *sources*; headers among them count when it is decided whether to make it anew.

    Raises `CompilerError`.
    """
    compiler = shutil.which(os.environ.get("CC", "cc"))
    if compiler is None:
        raise CompilerError(
            "the load generator is written in C, and there is no C compiler: install one (on Debian and Ubuntu: "
            "apt-get install gcc libc6-dev), or set CC"
        )
    digest = hashlib.sha256("\0".join((compiler, *FLAGS)).encode())
    for path in sources:
        digest.update(path.read_bytes())
    made = cache_dir() / f"{name}-{digest.hexdigest()[:16]}"
    if not made.exists():
        made.parent.mkdir(parents=True, exist_ok=True)
        # Under another name first: two benchmarks may begin at once, and what is there must be whole.
        new = made.with_name(f"{made.name}.{os.getpid()}")
        words = [compiler, *FLAGS, "-o", str(new), *(str(path) for path in sources if path.suffix == ".c")]
        done = subprocess.run(words, capture_output=True, text=True, check=False)
        if done.returncode:
            raise CompilerError(f"{compiler} does not compile {name}:\n{done.stderr}")
        new.rename(made)
    return made
