"""What a check found."""

from enum import IntEnum

import msgspec


class Level(IntEnum):
    """How bad it is; also the exit status of `hubbub doctor`."""

    OK = 0
    WARNING = 1
    PROBLEM = 2


class Finding(msgspec.Struct, frozen=True):
    """One sentence that says what is so, and one that says how to mend it."""

    level: Level
    text: str
    remedy: str = ""


def ok(text: str) -> Finding:
    """All is well."""
    return Finding(Level.OK, text)


def warning(text: str, remedy: str) -> Finding:
    """It works, but."""
    return Finding(Level.WARNING, text, remedy)


def problem(text: str, remedy: str) -> Finding:
    """It does not work, or not as promised."""
    return Finding(Level.PROBLEM, text, remedy)
