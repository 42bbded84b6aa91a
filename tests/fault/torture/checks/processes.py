"""What the processes use, and whether they come back."""

from collections import defaultdict
from collections.abc import Iterator

from tests.fault.torture.record import History, Sample, Violation

# Resident memory of one process: several times what any of them needs here (shards 60 to 90 MB, see the samples).
MEMORY_MB = 300.0
# Growth of one process between two calm moments, beyond what is allocated for good in its first one.
GROWTH_MB = 80.0
# File descriptors that a process may have more than it had at its first calm moment, its sessions set aside: links
# and database sessions under repair, requests of ours.
SPARE_DESCRIPTORS = 24


def memory_is_bounded(history: History) -> Iterator[Violation]:
    """No process grows past a bound, nor without end."""
    first: dict[tuple[str, int], Sample] = {}
    for one in history.samples:
        before = first.setdefault((one.role, one.pid), one)
        if one.resident_mb > MEMORY_MB or one.resident_mb - before.resident_mb > GROWTH_MB:
            text = f"{one.role} (pid {one.pid}) went from {before.resident_mb:.0f} to {one.resident_mb:.0f} MB"
            yield Violation("memory without bound", text, at=one.at)
            return


def no_descriptor_leaks(history: History) -> Iterator[Violation]:
    """At calm moments a process holds a descriptor for each session, and otherwise as many as at the first."""
    bases: defaultdict[str, list[int]] = defaultdict(list)
    for one in history.samples:
        role = one.role.partition("-")[0]
        own = one.descriptors - one.sessions
        bases[role].append(own)
        if own > bases[role][0] + SPARE_DESCRIPTORS:
            text = f"{one.role} (pid {one.pid}) holds {own} descriptors without sessions, {bases[role][0]} at first"
            yield Violation("descriptors leak", text, at=one.at)
            return


def everything_came_back(history: History) -> Iterator[Violation]:
    """After each storm all programs ran and everybody was served, in time and by themselves."""
    for trouble in history.troubles:
        yield Violation("did not come back", trouble)


CHECKS = (memory_is_bounded, no_descriptor_leaks, everything_came_back)
