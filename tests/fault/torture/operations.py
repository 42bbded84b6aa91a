"""What people do. An operation is one small type: how often, what it does, and what must hold of it.

Rooms, edits, reactions and the rest join by a type of their own at the end of `OPERATIONS`.
"""

from random import Random
from typing import Protocol

from hubbub.protocol.conversation import LOBBY, direct
from tests.fault.torture.checks import cursors, delivery, presence, table
from tests.fault.torture.crowd import Crowd, Person
from tests.fault.torture.record import Check

# Above `Limits.content_bytes`, below what would cost the connection.
OVERLONG = 17 * 1024
PATCH = 6  # users that somebody watches


class Operation(Protocol):
    """One thing that people do."""

    @property
    def weight(self) -> float:
        """How often, against the others."""

    @property
    def checks(self) -> tuple[Check, ...]:
        """What must hold of it."""

    def perform(self, crowd: Crowd, person: Person, rng: Random) -> None:
        """*person* does it, with one of the devices that are connected; or nothing where it makes no sense."""


class Talk:
    """A message to a friend; now and then several at once, or one to oneself."""

    weight = 10.0
    checks = table.CHECKS + delivery.CHECKS

    def perform(self, crowd: Crowd, person: Person, rng: Random) -> None:
        device = person.talking(rng)
        if device is not None:
            recipient = person.name if rng.random() < 0.02 else rng.choice(person.friends)
            for _ in range(rng.choice((1, 1, 1, 3))):
                device.say(crowd.sentence(person), recipient)


class Announce:
    """A message to the lobby."""

    weight = 0.8
    checks = table.CHECKS + delivery.CHECKS

    def perform(self, crowd: Crowd, person: Person, rng: Random) -> None:
        device = person.talking(rng)
        if device is not None:
            device.say(crowd.sentence(person), None)


class Repeat:
    """The same message under the same key from another device of the same user: it is one message."""

    weight = 0.5
    checks = (table.acknowledged_is_stored, table.stored_was_said)

    def perform(self, crowd: Crowd, person: Person, rng: Random) -> None:
        device, other = person.two(rng)
        if device is not None and other is not None:
            key = device.say(text := crowd.sentence(person), friend := rng.choice(person.friends))
            other.say(text, friend, key)


class Contradict:
    """Another text under a key that is taken: it is refused, and never stored."""

    weight = 0.3
    checks = (table.refused_for_good_is_nowhere, table.refused_is_not_stored)

    def perform(self, crowd: Crowd, person: Person, rng: Random) -> None:
        device, other = person.two(rng)
        if device is None or other is None:
            return
        acked = next((key for key in reversed(device.acknowledged) if key not in other.contents), None)
        if acked is not None:
            ack = device.acknowledged[acked]
            recipient = None if ack.conversation == LOBBY else person.partner(ack.conversation)
            other.say(crowd.forbidden(crowd.sentence(person)), recipient, acked)


class Overdo:
    """A text that is too long: it is refused, and never stored."""

    weight = 0.1
    checks = (table.refused_for_good_is_nowhere,)

    def perform(self, crowd: Crowd, person: Person, rng: Random) -> None:
        device = person.talking(rng)
        if device is not None:
            device.say(crowd.forbidden(crowd.sentence(person).ljust(OVERLONG, "!")), rng.choice(person.friends))


class Read:
    """Somebody looks at a conversation."""

    weight = 5.0
    checks = cursors.CHECKS

    def perform(self, crowd: Crowd, person: Person, rng: Random) -> None:
        device = person.connected(rng)
        if device is not None and device.applied:
            device.read(rng.choice(list(device.applied)))


class Type:
    """A typing notice, which may be lost but not be overheard."""

    weight = 1.0
    checks = (delivery.nobody_overhears,)

    def perform(self, crowd: Crowd, person: Person, rng: Random) -> None:
        device = person.connected(rng)
        if device is not None:
            device.typing(rng.choice(person.friends))


class Pry:
    """Somebody asks for a conversation of others."""

    weight = 0.3
    checks = (delivery.nobody_overhears,)

    def perform(self, crowd: Crowd, person: Person, rng: Random) -> None:
        device = person.connected(rng)
        a, b = rng.sample(crowd.names, 2)
        if device is not None and person.name not in (a, b):
            device.pry(direct(a, b))


class Watch:
    """Somebody wants to know who of some users is here; now and then, who of all."""

    weight = 0.5
    checks = presence.CHECKS

    def perform(self, crowd: Crowd, person: Person, rng: Random) -> None:
        device = person.connected(rng)
        if device is not None:
            users = rng.sample(crowd.names, min(PATCH, len(crowd.names)))
            device.watch(tuple(users), everybody=rng.random() < 0.2)


class Leave:
    """A device goes offline and comes back after some seconds."""

    weight = 0.6
    checks = delivery.CHECKS + presence.CHECKS

    def perform(self, crowd: Crowd, person: Person, rng: Random) -> None:
        device = person.connected(rng)
        if device is not None:
            device.leave()
            crowd.later(rng.uniform(0.2, 15.0), device.come_back)


class Stumble:
    """A connection breaks, and the device is back at once."""

    weight = 0.6
    checks = delivery.CHECKS

    def perform(self, crowd: Crowd, person: Person, rng: Random) -> None:
        device = person.connected(rng)
        if device is not None:
            device.cut()


class Switch:
    """Somebody puts one device away and takes another."""

    weight = 0.4
    checks = delivery.CHECKS + presence.CHECKS

    def perform(self, crowd: Crowd, person: Person, rng: Random) -> None:
        device = person.connected(rng)
        away = [one for one in person.devices if not one.here]
        if device is not None and away:
            device.leave()
            rng.choice(away).come_back()


class Lose:
    """A device is lost with all it remembers; a new one takes its place."""

    weight = 0.1
    checks = delivery.CHECKS

    def perform(self, crowd: Crowd, person: Person, rng: Random) -> None:
        crowd.replace(person, rng.choice(person.devices))


OPERATIONS: tuple[Operation, ...] = (
    Talk(),
    Announce(),
    Repeat(),
    Contradict(),
    Overdo(),
    Read(),
    Type(),
    Pry(),
    Watch(),
    Leave(),
    Stumble(),
    Switch(),
    Lose(),
)


def checks_of(operations: tuple[Operation, ...]) -> tuple[Check, ...]:
    """What must hold of all that they do, each check once."""
    return tuple(dict.fromkeys(check for one in operations for check in one.checks))
