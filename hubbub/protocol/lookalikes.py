# ruff: noqa: RUF001 RUF002 look-alikes are what this is about
"""Names that pass for one another. Pure.

Two defences, as Unicode's security mechanisms (UTS #39) propose them. A name whose letters come from several scripts is
no name, but for those that are written together; that takes the Cyrillic `а` out of `аlice`. And what is left of it,
names of one script that look like others (`сосо`, all Cyrillic) or differ in case only, have a `likeness` in common.
"""

import unicodedata
from functools import lru_cache

# The first word of a character's Unicode name, for scripts that go by several.
_ALIASES = {"IDEOGRAPHIC": "CJK", "KATAKANA-HIRAGANA": "KATAKANA"}
_TOGETHER = (
    {"LATIN", "CJK", "HIRAGANA", "KATAKANA"},
    {"LATIN", "CJK", "HANGUL"},
    {"LATIN", "CJK", "BOPOMOFO"},
)
# Letters by Unicode's book that show nothing.
_INVISIBLE = "\u115f\u1160"

# What looks like ASCII among all that a username may contain, by what it looks like: from Unicode's confusables.txt.
# Characters that run from right to left or lie outside the first plane are escaped, or editors show them out of order.
_ASCII = {
    "+": "\U0001029b",
    "-": "Ⲻ",
    ".": "\u0660۰ꓸ",
    "..": "ꓺ",
    "2": "ƧϨᒿꙄꛯꝚ",
    "3": "ƷȜЗӠⳌꝪꞫ\U000118ca\U00016f3b",
    "4": "Ꮞ\U000118af",
    "5": "Ƽ\U000118bb",
    "6": "бᏮⳒ\U000118d5",
    "7": "\U000104d2\U000118c6",
    "8": "Ȣȣ৪੪\U0001031a\U0001e8cb",
    "9": "৭੧୨൭ⳊꝮ\U000118ac\U000118cc\U000118d6",
    "A": "ΑАᎪᗅꓮ\U000102a0\U00016f40",
    "AA": "Ꜳ",
    "AE": "ÆӔ",
    "AO": "Ꜵ",
    "AU": "Ꜷ",
    "AV": "ꜸꜺ",
    "AY": "Ꜽ",
    "B": "ΒВᏴᗷꓐꞴ\U00010282\U000102a1\U00010301",
    "C": "СᏟⲤꓚ\U000102a2\U00010302\U00010415\U0001051c\U000118e9\U000118f2",
    "D": "Ꭰᗞᗪꓓ",
    "E": "ΕЕᎬⴹꓰ\U00010286\U000118a6\U000118ae",
    "F": "ϜᖴꓝꞘ\U00010287\U000102a5\U00010525\U000118a2\U000118c2",
    "G": "ԌᏀᏳꓖ",
    "H": "ΗНᎻᕼⲎꓧ\U000102cf",
    "J": "ͿЈᎫᒍꓙꞲ",
    "K": "ΚКᏦᛕⲔꓗ\U00010518",
    "L": "ᏞᒪⳐꓡ\U0001041b\U00010526\U000118a3\U000118b2\U00016f16",
    "M": "ΜϺМᎷᗰᛖⲘꓟ\U000102b0\U00010311",
    "N": "ΝⲚꓠ\U00010513",
    "O": "ΟОՕ\u07c0০ଠ୦ዐⲞⵔ〇ꓳ\U00010292\U000102ab\U00010404\U000104c2\U00010516\U000114d0\U000118b5\U000118e0",
    "OE": "Œ",
    "OO": "ꚘꝎ",
    "P": "ΡРᏢᑭⲢꓑ\U00010295",
    "Q": "ⵕ",
    "R": "ƦᎡᏒᖇꓣ\U000104b4\U00016f35",
    "S": "ЅՏᏕᏚꓢ\U00010296\U00010420\U00016f3a",
    "T": "ΤТᎢⲦꓔ\U00010297\U000102b1\U00010315\U000118bc\U00016f0a",
    "T3": "Ꜩ",
    "U": "Սሀᑌꓴ\U000104ce\U000118b8\U00016f42",
    "V": "Ѵ\u0667۷Ꮩᐯⴸꓦꛟ\U0001051d\U000118a0\U00016f08",
    "W": "ԜᎳᏔꓪ\U000118e6\U000118ef",
    "X": "ΧХᚷⲬⵝꓫꞳ\U00010290\U000102b4\U00010317\U00010322\U00010527\U000118ec",
    "Y": "ΥУҮᎩᎽⲨꓬ\U000102b2\U000118a4\U00016f43",
    "Z": "ΖᏃꓜ\U000102f5\U000118a9\U000118e5",
    "_": "\u07fa",
    "a": "ɑαа",
    "aa": "ꜳ",
    "ae": "æӕ",
    "ao": "ꜵ",
    "au": "ꜷ",
    "av": "ꜹꜻ",
    "ay": "ꜽ",
    "b": "ƄЬᏏᑲᖯ",
    "bl": "Ы",
    "c": "сᴄⲥꮯ\U0001043d",
    "d": "ԁᏧᑯꓒ",
    "dz": "ʣ",
    "e": "еҽꬲ",
    "f": "քẝꞙꬵ",
    "g": "ƍɡցᶃ",
    "h": "һհᏂ",
    "i": "ıɩɪιіӏᎥꙇꭵ\U000118c3",
    "j": "ϳј",
    "l": "ƖǀΙІӀ\u05d5\u05df\u0627\u0661۱\u07caᛁⲒⵏꓲ\U0001028a\U00010309\U00010320\U00016f28\U0001e8c7",
    "lO": "Ю",
    "ll": "ǁ\u05f0",
    "ls": "ʪ",
    "lz": "ʫ",
    "n": "ոռ",
    "o": "οσоօ\u05e1\u0647\u0665\u06be\u06c1\u06d5۵०੦૦௦౦೦ഠ൦๐໐ဝ၀ჿᴏᴑⲟꬽ\U0001042c\U000104ea\U000118c8\U000118d7",
    "oe": "œ",
    "oo": "ꚙꝏ",
    "p": "ρрⲣ",
    "q": "ԛգզ",
    "r": "гᴦⲅꭇꭈꮁ",
    "rn": "\U00011700\U000118e3",
    "s": "ƽѕꜱꮪ\U00010448\U000118c1",
    "tf": "ꝷ",
    "ts": "ʦ",
    "u": "ʋυսᴜꞟꭎꭒ\U000104f6\U000118d8",
    "ue": "ᵫ",
    "uo": "ꭣ",
    "v": "νѵ\u05d8ᴠꮩ\U00011706\U000118c0",
    "w": "ɯѡԝաᴡꮃ\U0001170a\U0001170e\U0001170f",
    "x": "хᕁᕽ",
    "y": "ɣʏγуүყᶌỿꭚ\U000118dc",
    "z": "ᴢꮓ\U000118c4",
}
_TO_ASCII = str.maketrans({letter: ascii_ for ascii_, letters in _ASCII.items() for letter in letters})
# And within ASCII, in most typefaces.
_ALIKE = str.maketrans({"I": "l", "1": "l", "0": "O", "m": "rn"})


def is_invisible(name: str) -> bool:
    """Whether part of *name* cannot be seen."""
    return any(letter in name for letter in _INVISIBLE)


def is_mixed(name: str) -> bool:
    """Whether the letters of *name* come from scripts that nobody writes in one word."""
    if name.isascii():
        return False
    scripts = {_script(letter) for letter in name} - {""}
    return len(scripts) > 1 and not any(scripts <= together for together in _TOGETHER)


def likenesses(name: str) -> tuple[str, str]:
    """Keys of a valid *name*; two names that share one differ in case only, or pass for each other at a glance."""
    plain = name if name.isascii() else name.translate(_TO_ASCII)
    return "case:" + plain.casefold(), "look:" + plain.translate(_ALIKE)


@lru_cache(maxsize=4096)
def _script(letter: str) -> str:
    """The script of a letter or digit; empty for those that belong to all."""
    if letter.isascii() and not letter.isalpha():
        return ""
    word = unicodedata.name(letter, "").partition(" ")[0]
    return _ALIASES.get(word, word)
