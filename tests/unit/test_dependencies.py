"""What is installed is what was chosen, and nothing that is known to be vulnerable; offline, see docs/security.md."""

import json
import re
from importlib import metadata
from pathlib import Path

from packaging.version import Version

TOP = Path(__file__).resolve().parents[2]
LISTED = json.loads((TOP / "tests/fixtures/advisories.json").read_text("utf-8"))["advisories"]
# What makes an environment brings these along.
TOOLS = {"hubbub", "pip", "setuptools", "wheel"}


def canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def pinned() -> dict[str, str]:
    """Version by package, of constraints.txt."""
    lines = (TOP / "constraints.txt").read_text("utf-8").splitlines()
    given = [line for line in lines if line and not line.startswith("#")]
    assert all("==" in line for line in given), "only exact versions"
    return {canonical(name): version for name, version in (line.split("==") for line in given)}


def vulnerable(versions: dict[str, str]) -> list[str]:
    """Which of *versions* an advisory names."""
    return [
        f"{name} {versions[name]}: {advisory}, use {fixed} or later"
        for name, fixed, advisory in LISTED
        if name in versions and Version(versions[name]) < Version(fixed)
    ]


def test_nothing_is_installed_that_was_not_chosen() -> None:
    installed = {canonical(one.metadata["Name"]): one.version for one in metadata.distributions()}
    versions = pinned()
    strangers = {
        name: version for name, version in installed.items() if name not in TOOLS and versions.get(name) != version
    }
    assert not strangers, f"not as in constraints.txt: {strangers}"
    assert {"tornado", "pyzmq", "psycopg", "pyjwt", "cryptography"} <= installed.keys()


def test_nothing_pinned_is_known_to_be_vulnerable() -> None:
    assert not vulnerable(pinned())


def test_an_old_version_would_be_found() -> None:
    assert vulnerable({"tornado": "6.4.1", "pyjwt": "2.10.1"}) == [
        "tornado 6.4.1: CVE-2024-52804, use 6.4.2 or later",
        "tornado 6.4.1: CVE-2025-47287, use 6.5 or later",
    ]


def test_every_advisory_is_of_something_that_is_pinned() -> None:
    assert {name for name, _, _ in LISTED} <= pinned().keys(), "a line that can find nothing"
