"""How a search's words become patterns."""

import pytest

from store.directory import patterns


@pytest.mark.parametrize(
    ("query", "wanted", "unwanted"),
    [
        ("hello", [r"\mhello"], []),
        ("hello wor", [r"\mhello\M", r"\mwor"], []),
        ('"two words"', [r"\mtwo\ words\M"], []),
        ("yes -no", [r"\myes\M"], [r"\mno\M"]),
        ('-"not this" that', [r"\mthat"], [r"\mnot\ this\M"]),
        ("c++ (x)", [r"\mc\+\+", r"\(x\)"], []),
        ("  ", [], []),
        ('""', [], []),
    ],
)
def test_patterns(query: str, wanted: list[str], unwanted: list[str]) -> None:
    assert patterns(query) == (wanted, unwanted)
