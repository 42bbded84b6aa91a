"""Clients in traffic, and the check of what they were promised.

A `Crowd` is some dozen devices that all talk in a closed loop, to everybody and to one another, each message
with a key and sent until it is acknowledged. `Crowd.check` then compares three witnesses: what was acknowledged,
what the table holds, and what each device applied.
"""

import asyncio
import itertools
import random
import time
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field, fields
from typing import Any, Self

from hubbub.protocol import client as rule
from hubbub.protocol.conversation import LOBBY, SLOT_SHIFT, SLOTS, direct, may_read, split_id
from tests.integration.client import Device
from tests.integration.system import System, SystemFailed

SETTLE_SECONDS = 60.0
# Seconds between an acknowledgement and the next message of a device.
THINK = (0.1, 0.5)
# A device that pings often leaves a stopped shard and meets another; a patient one waits for it.
PATIENCE = (4.0, 60.0)
LOBBY_SHARE = 0.3

Row = dict[str, Any]


@dataclass
class Counts:
    """What one round, or all of them, came to."""

    acknowledged: int = 0
    lost: int = 0  # acknowledged and not in the table as acknowledged, or in the table and not applied
    duplicated: int = 0  # applied twice by one device, after the client's rule
    misordered: int = 0  # applied in another order, or as something else, than the table has it
    refused: int = 0
    resent: int = 0
    reconnects: int = 0
    quiet_ms: int = 0  # the longest time in which nobody got an acknowledgement
    wait_ms: int = 0  # the longest time that anybody waited for one

    def __add__(self, other: Self) -> "Counts":
        sums = {one.name: getattr(self, one.name) + getattr(other, one.name) for one in fields(self)}
        sums["quiet_ms"] = max(self.quiet_ms, other.quiet_ms)
        sums["wait_ms"] = max(self.wait_ms, other.wait_ms)
        return Counts(**sums)

    @property
    def kept(self) -> bool:
        """Whether the promise was."""
        return not (self.lost or self.duplicated or self.misordered or self.refused)

    def __str__(self) -> str:
        return (
            f"acknowledged {self.acknowledged:5}  lost {self.lost}  duplicated {self.duplicated}  "
            f"misordered {self.misordered}  refused {self.refused}  resent {self.resent:4}  "
            f"reconnects {self.reconnects:3}  nobody served {self.quiet_ms:5} ms  longest wait {self.wait_ms:5} ms"
        )


@dataclass
class _Talker:
    """One device's loop."""

    device: Device
    rng: random.Random
    sent_at: float | None = None  # of the message that waits for its acknowledgement
    acked_of: float = 0.0  # when the last acknowledged message was sent
    said: dict[str, tuple[str, str | None, str]] = field(default_factory=dict)  # key -> conversation, recipient, text
    before: int = 0  # connections and repetitions before this round
    resent_before: int = 0


class Crowd:
    """*devices* devices of somewhat fewer users, on whatever shard the kernel gave them."""

    def __init__(self, system: System, *, devices: int, rng: random.Random) -> None:
        self._system = system
        self._rng = rng
        self._serial = itertools.count(1)
        # Every fifth user has two devices.
        users = [f"user{i}" for i in range(devices - devices // 5)]
        self._users = users
        owners = users + users[: devices // 5]
        self._talkers = [
            _Talker(
                Device(system.ws, owner, patience=PATIENCE[i % 2], rng=random.Random(rng.random())),
                random.Random(rng.random()),
            )
            for i, owner in enumerate(owners)
        ]
        self._tasks: list[asyncio.Task[None]] = []
        self._talking = False
        self._ack_times: list[float] = []
        self._wait = 0.0
        # What was verified in earlier rounds: each slot's n, each conversation's (seq, ordinal).
        self._slots = [0] * SLOTS
        self._ends: dict[str, tuple[int, int]] = {}
        self.complaints: list[str] = []

    @property
    def devices(self) -> list[Device]:
        """All of them."""
        return [talker.device for talker in self._talkers]

    async def spread(self) -> None:
        """Send devices from the fullest shard to the emptiest until they differ by a quarter: whoever lost its
        shard went to another and stayed. Raises `TimeoutError`."""
        async with asyncio.timeout(SETTLE_SECONDS):
            while True:
                for device in self.devices:
                    await device.until_settled()
                on: dict[str, list[Device]] = {f"shard-{i}": [] for i in range(self._system.shards)}
                for device in self.devices:
                    on[device.shard].append(device)
                most, least = max(on.values(), key=len), min(on.values(), key=len)
                surplus = (len(most) - len(least)) // 2
                if surplus <= len(self.devices) // 8:
                    return
                for device in self._rng.sample(most, surplus):
                    before = device.counts["connections"]
                    device.cut()
                    while device.counts["connections"] == before:
                        await device.changed()

    def talk(self) -> None:
        """Everybody begins."""
        self._talking = True
        self._ack_times = []
        self._wait = 0.0
        for talker in self._talkers:
            talker.before = talker.device.counts["connections"]
            talker.resent_before = talker.device.counts["resent"]
        self._tasks = [asyncio.create_task(self._talk(talker), name="talker") for talker in self._talkers]

    async def served_since(self, moment: float, seconds: float) -> None:
        """Wait until each device has had a message acknowledged that it sent after *moment*. Raises `SystemFailed`."""
        give_up = time.monotonic() + seconds
        while waiting := [talker for talker in self._talkers if talker.acked_of <= moment]:
            for task in self._tasks:
                if task.done():
                    await task  # its exception
            if time.monotonic() > give_up:
                names = sorted(talker.device.username for talker in waiting)
                raise SystemFailed(f"{names} were not served again within {seconds:g} s\n{self._system.logs()}")
            await asyncio.sleep(0.02)

    async def fall_silent(self) -> Counts:
        """Everybody finishes, and is told everything. What the devices themselves counted."""
        self._talking = False
        async with asyncio.timeout(SETTLE_SECONDS):
            for task in self._tasks:
                await task
        quiet = max((b - a for a, b in itertools.pairwise(self._ack_times)), default=0.0)
        return Counts(
            acknowledged=len(self._ack_times),
            resent=sum(talker.device.counts["resent"] - talker.resent_before for talker in self._talkers),
            reconnects=sum(talker.device.counts["connections"] - talker.before for talker in self._talkers),
            quiet_ms=round(quiet * 1000),
            wait_ms=round(self._wait * 1000),
        )

    async def check(self) -> Counts:
        """Compare what was acknowledged, the table, and what each device applied, since the last check.

        `complaints` says what differs. Call it after `fall_silent`.
        """
        rows = await asyncio.to_thread(self._new_rows)
        by_conversation: defaultdict[str, list[Row]] = defaultdict(list)
        for row in rows:
            by_conversation[row["conversation"]].append(row)
        counts = self._check_numbers(rows, by_conversation)
        counts += self._check_acknowledged(rows)
        await self._all_heard({name: found[-1]["seq"] for name, found in by_conversation.items()})
        for device in self.devices:
            for conversation in {*by_conversation, *device.applied}:
                counts += self._check_applied(device, conversation, by_conversation.get(conversation, []))
        for conversation, found in by_conversation.items():
            self._ends[conversation] = found[-1]["seq"], found[-1]["ordinal"]
        for row in rows:
            slot, n = split_id(row["id"])
            self._slots[slot] = max(self._slots[slot], n)
        return counts

    async def close(self) -> None:
        """Everybody leaves."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for device in self.devices:
            await device.close()

    async def _talk(self, talker: _Talker) -> None:
        device = talker.device
        while self._talking:
            others = [user for user in self._users if user != device.username]
            recipient = None if talker.rng.random() < LOBBY_SHARE else talker.rng.choice(others)
            text = f"{device.username} says {next(self._serial)}"
            sent_at = talker.sent_at = time.monotonic()
            key = device.send(text, recipient)
            conversation = LOBBY if recipient is None else direct(device.username, recipient)
            talker.said[key] = (conversation, recipient, text)
            ack = await device.outcome(key)
            now = time.monotonic()
            self._wait = max(self._wait, now - sent_at)
            talker.sent_at = None
            if ack is not None:
                self._ack_times.append(now)
                talker.acked_of = sent_at
            await asyncio.sleep(talker.rng.uniform(*THINK))

    # --- the three witnesses --------------------------------------------------------------------------

    def _new_rows(self) -> list[Row]:
        after = [(slot << SLOT_SHIFT) + n for slot, n in enumerate(self._slots)]
        before = [(slot + 1) << SLOT_SHIFT for slot in range(SLOTS)]
        return self._system.rows(
            "select m.* from unnest(%s::bigint[], %s::bigint[]) as log (after, before) "
            "join messages m on m.id > log.after and m.id < log.before order by m.conversation, m.seq",
            after,
            before,
        )

    def _complain(self, kind: str, count: int, text: str) -> Counts:
        self.complaints.append(f"{kind}: {text}")
        return Counts(**{kind: count})

    def _check_numbers(self, rows: list[Row], by_conversation: dict[str, list[Row]]) -> Counts:
        """Each number is there once, without a hole."""
        counts = Counts()
        logs: defaultdict[int, list[int]] = defaultdict(list)
        for row in rows:
            slot, n = split_id(row["id"])
            logs[slot].append(n)
        for slot, numbers in logs.items():
            last = self._slots[slot]
            if sorted(numbers) != list(range(last + 1, last + 1 + len(numbers))):
                counts += self._complain("misordered", 1, f"slot {slot} goes on after {last} with {numbers}")
        for conversation, found in by_conversation.items():
            seq, ordinal = self._ends.get(conversation, (0, 0))
            for i, row in enumerate(found, 1):
                if (row["seq"], row["ordinal"]) != (seq + i, ordinal + i):
                    text = f"{conversation} has {row['seq']}, {row['ordinal']} in place of {seq + i}, {ordinal + i}"
                    counts += self._complain("misordered", 1, text)
        return counts

    def _check_acknowledged(self, rows: list[Row]) -> Counts:
        """Each acknowledged message is in the table, once, as it was said and as it was acknowledged."""
        counts = Counts()
        stored: defaultdict[str, list[Row]] = defaultdict(list)
        for row in rows:
            stored[row["client_key"]].append(row)
        for talker in self._talkers:
            device = talker.device
            for key, ack in device.acknowledged.items():
                said = talker.said.pop(key)
                found = [
                    (row["conversation"], row["recipient"], row["content"], row["sender"], row["id"], row["seq"])
                    for row in stored.pop(key, [])
                ]
                if found != [(*said, device.username, ack.message_id, ack.seq)]:
                    counts += self._complain("lost", 1, f"{ack} for {said} is in the table as {found}")
            device.acknowledged.clear()
            for error in device.rejected:
                counts += self._complain("refused", 1, f"{device.username} was told {error}")
            device.rejected.clear()
        for key, strange in stored.items():
            text = f"{key} is in the table, but nobody waited for it: {strange}"
            counts += self._complain("duplicated", len(strange), text)
        return counts

    async def _all_heard(self, ends: dict[str, int]) -> None:
        """Wait for every device to have reached the ends of its conversations, or for too long."""
        give_up = time.monotonic() + SETTLE_SECONDS

        def behind(device: Device) -> bool:
            mine = ((name, end) for name, end in ends.items() if may_read(device.username, name))
            return not device.settled or any((device.core.position(name) or 0) < end for name, end in mine)

        while any(behind(device) for device in self.devices) and time.monotonic() < give_up:
            await asyncio.sleep(0.02)

    def _check_applied(self, device: Device, conversation: str, rows: list[Row]) -> Counts:
        """The device applied what the table holds of its conversations, all of it, in that order, and no more."""
        applied = device.applied.pop(conversation, [])
        begin = max(device.from_seq.get(conversation, 0), self._ends.get(conversation, (0, 0))[0])
        expected = [row for row in rows if row["seq"] > begin] if may_read(device.username, conversation) else []
        if _numbers(applied) == [row["seq"] for row in expected] and all(map(_same, applied, expected)):
            return Counts()
        numbers = _numbers(applied)
        lost = {row["seq"] for row in expected} - set(numbers)
        twice = len(numbers) - len(set(numbers))
        stage = f"{device.core.stage.value} on {device.shard} at {device.core.position(conversation)}"
        text = f"{device.username} ({stage}) in {conversation} from {begin}, table to {rows[-1]['seq'] if rows else 0}"
        counts = Counts()
        if lost:
            counts += self._complain("lost", len(lost), f"{text}: without {sorted(lost)}")
        if twice:
            counts += self._complain("duplicated", twice, f"{text}: {numbers}")
        if counts.kept:
            counts += self._complain("misordered", 1, f"{text}: {applied}")
        return counts


def _numbers(applied: Iterable[rule.Applied]) -> list[int]:
    return [one.seq for one in applied]


def _same(one: rule.Applied, row: Row) -> bool:
    """Whether an applied event is the row. An own message that was only acknowledged has no ordinal."""
    return (one.id, one.sender, one.recipient, one.content, one.key) == (
        row["id"],
        row["sender"],
        row["recipient"],
        row["content"],
        row["client_key"],
    ) and one.ordinal in (None, row["ordinal"])
