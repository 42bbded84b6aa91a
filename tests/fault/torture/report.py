"""The verdict in words and numbers, and the timeline of a violation."""

from collections import Counter
from statistics import median

from hubbub.protocol.conversation import may_read
from tests.fault.torture import record
from tests.fault.torture.record import History, Violation
from tests.fault.torture.run import Outcome

SHOWN = 10
# Of everybody's presence and of the nemesis a timeline shows what happened so many seconds around the violation.
AROUND = 12.0
LINES_MAX = 4_000


def counts(outcome: Outcome) -> dict[str, int]:
    """What happened in a run, in numbers."""
    history, strokes = outcome.history, outcome.strokes
    kinds = Counter(type(one).__name__ for one in history.records)
    refused = Counter(one.stored for one in history.records if isinstance(one, record.Refused))
    said = {one.key for one in history.records if isinstance(one, record.Said)}
    asked = {(one.device, one.key) for one in history.records if isinstance(one, record.Said)}
    restarts = [one for one in history.records if isinstance(one, record.Blow) and one.kind == "restart"]
    acked = {one.key for one in history.records if isinstance(one, record.Acked)}
    found = {
        "messages said": len(said),
        "acknowledged": len(said & acked),
        "stored": len(history.rows),
        "never answered": len(said - acked - {one.key for one in history.records if isinstance(one, record.Refused)}),
        "refused: not stored": refused["no"],
        "refused: outcome unknown": refused["unknown"],
        "posted again": kinds["Posted"] - len(asked),
        "arrived live": sum(isinstance(one, record.Arrived) and one.live for one in history.records),
        "arrived by sync": sum(isinstance(one, record.Arrived) and not one.live for one in history.records),
        "receipts": kinds["Receipt"],
        "connections": kinds["Opened"],
        "connections cut by the proxy": outcome.connections_cut,
        "restarts of `hubbub up`": len(restarts),
    }  # fmt: skip
    return found | outcome.metrics | dict(sorted(strokes.items()))


def verdict_text(outcome: Outcome) -> str:
    """For the terminal."""
    plan = outcome.plan
    lines = [f"seed {plan.seed}: {plan.clients} clients, {plan.shards} shards, {outcome.seconds:.0f} s"]
    lines += [f"  {name:<30} {count:>8}" for name, count in counts(outcome).items()]
    if outcome.recovery:
        longest, middle = max(outcome.recovery), median(outcome.recovery)
        lines.append(f"  all served after a storm: median {middle:.1f} s, longest {longest:.1f} s")
    memory: dict[str, float] = {}
    for one in outcome.history.samples:
        memory[one.role] = max(memory.get(one.role, 0.0), one.resident_mb)
    lines.append("  most memory, MB: " + ", ".join(f"{role} {size:.0f}" for role, size in memory.items()))
    lines += [f"  ended by itself, {times} times: {why}" for why, times in outcome.failures.most_common(SHOWN)]
    lines += [f"  not tried: {what}" for what in outcome.skipped]
    for violation in outcome.violations[:SHOWN]:
        lines.append(f"VIOLATION {violation}")
    if len(outcome.violations) > SHOWN:
        lines.append(f"… and {len(outcome.violations) - SHOWN} more")
    lines.append("the promise was broken" if outcome.violations else "the promise was kept")
    return "\n".join(lines)


def timeline(history: History, violation: Violation) -> str:
    """Everything that concerns *violation*, in the order in which it happened."""
    lines = [str(violation), ""]
    places = {violation.seq - 1, violation.seq} if violation.seq else set()
    keys = {row.key for row in history.conversations.get(violation.conversation, []) if row.seq in places}
    keys |= {violation.key} - {""}
    times = [violation.at] if violation.at >= 0 else []
    shown: list[str] = []
    for one in history.records:
        if _concerns(one, violation, places, keys, history):
            times.append(one.at)
    first, last = (min(times) - AROUND, max(times) + AROUND) if times else (0.0, float("inf"))
    for one in history.records:
        near = first <= one.at <= last
        if _concerns(one, violation, places, keys, history) or (near and isinstance(one, record.Blow | record.Calm)):
            values = ", ".join(f"{name}={value!r}" for name, value in zip(one._fields[1:], one[1:], strict=True))
            shown.append(f"{one.at:9.3f}  {type(one).__name__:<10} {values}")
    lines += shown[:LINES_MAX]
    lines += ["", "the table:"]
    for row in history.conversations.get(violation.conversation, []):
        if not places or abs(row.seq - violation.seq) <= 3:
            lines.append(f"  {row}")
    return "\n".join(lines[: LINES_MAX + 400]) + "\n"


def _concerns(one: record.Record, violation: Violation, places: set[int], keys: set[str], history: History) -> bool:
    user = history.users.get(getattr(one, "device", ""), "")
    match one:
        case record.Opened() | record.Closed() if violation.device:
            return one.device == violation.device
        case (
            record.Arrived() | record.Acked() | record.Reached() | record.Synced() | record.Confirmed() | record.Said()
        ) if one.device == violation.device and one.conversation == violation.conversation:
            return True
        case record.Said() | record.Posted() | record.Refused() | record.Acked():
            return one.key in keys
        case record.Arrived() | record.Reached() if one.conversation == violation.conversation and places:
            return one.seq in places and violation.user in ("", user)
        case record.Receipt() | record.Confirmed() | record.Synced() if one.conversation == violation.conversation:
            mine = violation.user and may_read(violation.user, one.conversation)
            return bool(mine) and (one.seq >= violation.seq if isinstance(one, record.Confirmed) else True)
        case record.Opened() | record.Closed():
            return user == violation.user
        case record.Presence():
            return violation.kind.startswith("presence") and any(name == violation.user for name, _ in one.users)
        case _:
            return False
