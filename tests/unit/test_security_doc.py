"""docs/security.md: every line of the threat model names code and tests that exist."""

import importlib
import re
from pathlib import Path

import pytest

TOP = Path(__file__).resolve().parents[2]
TEXT = (TOP / "docs/security.md").read_text("utf-8")
MODEL = TEXT[TEXT.index("\n## Who is kept from what") : TEXT.index("\n## What is not defended")]
ROWS = [
    line.strip("|").split("|")
    for line in MODEL.splitlines()
    if line.startswith("| ") and not line.startswith(("| who is kept from what", "| ---"))
]
CODE = re.compile(r"`((?:shards|broker|store|hubbub)[\w.]*):([\w.]+)`")
TEST = re.compile(r"`(tests/[\w/]+\.py)::(\w+)`")


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row[0].strip()[:60])
def test_a_line_of_the_threat_model(row: list[str]) -> None:
    assert len(row) == 3
    code, tests = CODE.findall(row[1]), TEST.findall(row[2])
    assert tests, "a line without a test"
    assert code or "`webclient/" in row[1] or "`scripts/" in row[1], "a line without code"
    for module, name in code:
        found = importlib.import_module(module)
        for part in name.split("."):
            found = getattr(found, part)
    for file in re.findall(r"`((?:webclient|scripts)/[\w.]+)`", row[1]):
        assert (TOP / file).exists(), file
    for file, name in tests:
        assert re.search(rf"^(?:async )?def {name}\(", (TOP / file).read_text("utf-8"), re.MULTILINE), f"{file}::{name}"


def test_the_model_has_its_lines() -> None:
    assert len(ROWS) > 40
