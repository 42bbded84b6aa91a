"""What was promised, as pure functions over a `History`: each yields what contradicts it."""

from collections.abc import Iterator

from tests.fault.torture.record import Check, History, Violation


def verdict(history: History, checks: tuple[Check, ...]) -> Iterator[Violation]:
    """Everything that *checks* find wrong with *history*."""
    for check in checks:
        yield from check(history)
