"""The documents say what the code does: every name in their tables exists, and none is missing."""

import re
from pathlib import Path
from typing import get_args

import msgspec
import pytest
from click.testing import CliRunner

from hubbub import settings
from hubbub.cli import main
from hubbub.protocol import messages
from hubbub.protocol.refusals import CloseCode, ErrorCode

TOP = Path(__file__).resolve().parents[2]
PROTOCOL = (TOP / "docs/protocol.md").read_text("utf-8")
ROW = re.compile(r"^\| `?([\w]+)`? \|", re.MULTILINE)


def section(title: str) -> str:
    """The text under a heading, up to the next one."""
    found = re.search(rf"^## {title}$(.*?)(?=^## |\Z)", PROTOCOL, re.MULTILINE | re.DOTALL)
    assert found, f"docs/protocol.md has no section {title!r}"
    return found[1]


def tags(union: object) -> dict[str, type[msgspec.Struct]]:
    """The types of a union by their tag."""
    return {kind.__struct_config__.tag: kind for kind in get_args(union)}


@pytest.mark.parametrize(
    ("title", "union"), [("Client to server", messages.Command), ("Server to client", messages.Event)]
)
def test_every_message_is_in_its_table(title: str, union: object) -> None:
    documented = set(ROW.findall(section(title))) - {"type"}
    assert documented == set(tags(union))


@pytest.mark.parametrize(
    ("title", "union"), [("Client to server", messages.Command), ("Server to client", messages.Event)]
)
def test_every_field_is_named_where_its_message_stands(title: str, union: object) -> None:
    text = section(title)
    for tag, kind in tags(union).items():
        row = next(line for line in text.splitlines() if line.startswith((f"| `{tag}` ", f"| {tag} ")))
        for field in msgspec.structs.fields(kind):
            if field.encode_name in ("id", "room"):  # said once for all, below or above the table
                continue
            assert field.encode_name in row, f"{tag}.{field.encode_name} is not in docs/protocol.md"


def test_every_refusal_is_in_its_table() -> None:
    text = section("Refusals")
    rows = dict(re.findall(r"^\| `(\w+)` \|.*\| (\d+) \|$", text, re.MULTILINE))
    assert rows == {code.word: str(code.status) for code in ErrorCode}
    closes = {int(code) for code in re.findall(r"^\| (4\d\d\d) \|", text, re.MULTILINE)}
    assert closes == {int(code) for code in CloseCode if code >= 4000}


def test_the_metrics_that_operations_names_exist() -> None:
    text = (TOP / "docs/operations.md").read_text("utf-8")
    source = "".join(
        path.read_text("utf-8")
        for folder in ("shards", "broker", "store", "hubbub/runtime")
        for path in (TOP / folder).rglob("*.py")
    )
    names = re.findall(r"`(hubbub_(?:shard|store|broker|bus|loop)_\w+?)(?:_total)?(?:\{\w+\})?`", text)
    assert len(names) > 8
    for name in names:
        assert f'"{name}"' in source, f"docs/operations.md names {name}"


def test_the_settings_that_the_documents_name_exist() -> None:
    known = {setting.env for setting in settings.table()} | settings.NOT_SETTINGS
    for path in [TOP / "README.md", *(TOP / "docs").rglob("*.md"), *(TOP / "bench").glob("*.md")]:
        for name in re.findall(r"\bHUBBUB_[A-Z_]+\b", path.read_text("utf-8")):
            assert name in known, f"{path.name} names {name}"


def test_the_links_between_the_documents_lead_somewhere() -> None:
    for path in [TOP / "README.md", *(TOP / "docs").rglob("*.md"), *(TOP / "bench").glob("*.md")]:
        for target in re.findall(r"\]\(([^)#:]+)\)", path.read_text("utf-8")):
            assert (path.parent / target).exists(), f"{path.relative_to(TOP)} links to {target}"


def test_the_make_targets_that_the_documents_name_exist() -> None:
    makefile = (TOP / "Makefile").read_text("utf-8")
    for path in [TOP / "README.md", *(TOP / "docs").rglob("*.md"), *(TOP / "bench").glob("*.md")]:
        for target in re.findall(r"(?:^    |`)make ([a-z-]+)", path.read_text("utf-8"), re.MULTILINE):
            assert re.search(rf"^{target}:", makefile, re.MULTILINE), f"{path.name} names make {target}"


def test_the_table_of_settings_is_the_one_that_the_command_prints() -> None:
    printed = CliRunner().invoke(main, ["settings"]).output
    assert printed.count("\n") == 2 + len(settings.table())
    written = (TOP / "docs/settings.md").read_text("utf-8")
    assert written.endswith(f"\n\n{printed}"), "run scripts/documents"
