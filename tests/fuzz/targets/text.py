"""Small readers of text that people and pages send: settings, page cursors, searches, names."""

import re
from random import Random

from hubbub import settings
from hubbub.protocol.conversation import SLOTS, InvalidName, check_username, may_read, parties, slot_of, topics_of
from shards.proxies import client_address, networks
from store.directory import _behind, patterns
from tests.fuzz.target import TOKENS, mutate

NAMES = settings.names()
VALUES = (
    "8000", "0", "-1", "65536", "1e3", "true", "loopback", "ipc:///tmp/x", "tcp://[::1]:5", "tcp://*:99999", "0-3,9",
    "63-0", "٣", "10.0.0.0/8", "10.0.0.1/8", "::/0", "https://a.example", "https://a.example/x", "*", "http://[", "~/x",
    "postgresql://u:p@h/d", "postgres:x", "a,b,,c", "x" * 200, "\u2028", "1_0", " 7 ", "http://a:b@[::1", "0x10", "nan",
)  # fmt: skip
WORDS = (
    "hello",
    '"two words"',
    "-not",
    "x.200",
    "lobby",
    "direct:al:bob",
    "1700000000000.5",
    "1.1",
    "%",
    "_",
    "\\",
    "(",
)
TRUSTED = networks(["127.0.0.0/8", "::1"])


class Texts:
    """The first byte chooses the reader, the rest is the text."""

    def seeds(self) -> list[bytes]:
        """Something for each reader."""
        settings_ = [bytes((n,)) + value.encode() for n in range(len(NAMES)) for value in VALUES[:3]]
        return settings_ + [bytes((200 + n,)) + word.encode() for n in range(4) for word in WORDS]

    def generate(self, rng: Random) -> bytes:
        """A value that suits some setting, or some words."""
        if rng.random() < 0.6:
            text = rng.choice(VALUES).encode()
            return bytes((rng.randrange(200),)) + (
                mutate(rng, text, rng.choice(TOKENS)) if rng.random() < 0.7 else text
            )
        text = " ".join(rng.choice(WORDS) for _ in range(rng.randrange(5))).encode()
        return bytes((rng.randrange(200, 256),)) + (
            mutate(rng, text, rng.choice(TOKENS)) if rng.random() < 0.7 else text
        )

    def check(self, data: bytes) -> None:
        """See `Target`."""
        text = data[1:].decode(errors="replace")
        match data[:1]:
            case b"":
                return
            case first if first[0] < 200:
                read_setting(NAMES[first[0] % len(NAMES)], text)
            case first if first[0] % 4 == 0:
                behind = _behind(text)
                assert behind is None or all(0 <= number < 2**63 for number in behind if number is not None)
            case first if first[0] % 4 == 1:
                for pattern in (one for some in patterns(text) for one in some):
                    # PostgreSQL's edges of words are Python's, by another name.
                    re.compile(pattern.replace(r"\m", r"\b").replace(r"\M", r"\b"))
            case first if first[0] % 4 == 2:
                read_names(text)
            case _:
                assert isinstance(client_address("127.0.0.1", text.split("|"), TRUSTED), str)


def read_setting(name: str, text: str) -> None:
    """A value that is taken goes on to the processes as text, and must be the same there."""
    key = settings.env_name(name)
    try:
        found = settings.load({key: text, "HOME": "/nonexistent"}, cores=2)
    except settings.SettingsError as exc:
        assert exc.key
        assert name == "database_url" or len(str(exc)) < 20 * len(text) + 1000
        return
    again = settings.load({"HOME": "/nonexistent", **found.environ()}, cores=2)
    # But for white space at the end of a path, which nobody has.
    assert again.text(name).split() == found.text(name).split(), name


def read_names(text: str) -> None:
    """A name that is accepted has its place everywhere."""
    try:
        name = check_username(text)
    except InvalidName:
        pass
    else:
        assert parties(f"direct:{name}:{name}") == (name, name)
    try:
        parties(text)
    except InvalidName:
        return
    assert 0 <= slot_of(text) < SLOTS
    assert topics_of(text)
    assert isinstance(may_read("al", text), bool)
