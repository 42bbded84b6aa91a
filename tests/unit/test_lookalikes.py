# ruff: noqa: RUF001 look-alikes are what this is about
"""Nobody goes by a name that passes for somebody else's."""

import unicodedata

import pytest

from hubbub.protocol.conversation import InvalidName, check_username
from hubbub.protocol.internal import AccessPage, AccessRule
from hubbub.protocol.lookalikes import _ASCII, likenesses
from shards.access import AccessList
from tests.unit.shard import Someone

REFUSED = {
    "аlice": "a Cyrillic а among Latin letters",
    "alicе": "a Cyrillic е at the end",
    "αlice": "a Greek alpha",
    "bоb": "a Cyrillic о",
    "alice\u1160": "an invisible Hangul filler",
    "\u115f": "nothing but an invisible filler",
    "\u3164": "a filler that NFKC makes another of",
    "al\u200bice": "a zero width space",
    "al\u200dice": "a zero width joiner",
    "al\u2060ice": "a word joiner",
    "al\ufeffice": "a byte order mark",
    "al\u00adice": "a soft hyphen",
    "\u202eecila": "an override of direction",
    "\u2066alice\u2069": "an isolate of direction",
    "alice\u200f": "a mark of direction",
    "ａｌｉｃｅ": "full width",
    "alicé".replace("é", "e\u0301"): "a letter and its accent apart",
    "alice\ufe0f": "a variation selector",
    "alice\U000e0061": "a tag character",
    "ali\u034fce": "a grapheme joiner",
    "𝐚𝐥𝐢𝐜𝐞": "mathematical letters",
    "alice\n": "a line feed",
    "alice\x1b[2J": "an escape sequence",
    "alice\x85": "a C1 control character",
    "al ice": "a space",
    "al\u00a0ice": "a space that does not break",
    "alice\ud800": "half a surrogate pair",
    "٣alice": "Arabic digits before Latin letters",
}
ALLOWED = [
    "alice",
    "Zoë",
    "Łukasz",
    "Дмитрий",
    "Δημήτρης",
    "李雷",
    "山田タロウ",
    "山田taro",
    "김철수",
    "김kim",
    "מיכאל",
    "user_42",
    "дмитрий.2",
    "x" * 64,
    "山々",
]


@pytest.mark.parametrize("name", REFUSED, ids=REFUSED.values())
def test_names_that_are_not_what_they_seem(name):
    with pytest.raises(InvalidName):
        check_username(name)


@pytest.mark.parametrize("name", ALLOWED)
def test_names_that_people_have(name):
    assert check_username(name) == name


ALIKE = [
    ("alice", "Alice"),
    ("alice", "ALICE"),
    ("paypal", "paypaI"),
    ("paypal", "paypa1"),
    ("bob0", "bobO"),
    ("coco", "сосо"),
    ("ocean", "оcеаn"),
    ("BOB", "ВОВ"),
    ("alice", "ɑlice"),
    ("mark", "rnark"),
    ("xerxes", "хerxes"),
    ("pi", "рі"),
    ("groß", "gross"),
]
UNLIKE = [
    ("alice", "alicia"),
    ("Neil", "Nell"),
    ("kai", "kal"),
    ("zoe", "zoë"),
    ("bob", "b-ob"),
    ("李雷", "李蕾"),
    ("Сара", "sara"),
]


@pytest.mark.parametrize(("one", "other"), ALIKE)
def test_names_that_look_alike_have_a_likeness_in_common(one, other):
    assert set(likenesses(one)) & set(likenesses(other))


@pytest.mark.parametrize(("one", "other"), UNLIKE)
def test_names_of_different_people_have_none(one, other):
    assert not set(likenesses(one)) & set(likenesses(other))


def test_the_table_holds_what_a_username_may_contain_and_nothing_twice():
    letters = [letter for row in _ASCII.values() for letter in row]
    assert len(letters) == len(set(letters)) > 400
    for letter in letters:
        assert not letter.isascii()
        assert unicodedata.normalize("NFKC", letter) == letter


def rules(*names: str, after: int = 0) -> AccessPage:
    lines = [AccessRule("account", name) for name in names]
    return AccessPage(1, 5, after + len(lines), lines, False)


def test_guests_cannot_pass_for_accounts():
    access = AccessList(lambda: 0.0)
    access.apply(rules("alice", "coco"))
    access.apply(rules("ivan", after=2))
    for name in ("Alice", "aIice", "сосо", "IVAN"):
        guest = Someone(name, None, guest=True)
        assert access.refusal(guest) is not None, name
    assert access.refusal(Someone("bob", None, guest=True)) is None
    assert access.refusal(Someone("Alice", None)) is None, "who signs tokens is trusted with names"
    assert access.passes_for("ALICE") == "alice"
    assert access.passes_for("alice") is None
    assert access.passes_for("malice") is None


def test_accounts_that_look_alike_already_stay_themselves():
    access = AccessList(lambda: 0.0)
    access.apply(rules("alice", "Alice"))
    assert access.passes_for("Alice") == "alice"
    assert access.refusal(Someone("Alice", None)) is None
