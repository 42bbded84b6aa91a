"""The page's files: vendored as the manifest says, imports that lead somewhere, a worker that knows them all."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from shards.static import Files

TOP = Path(__file__).resolve().parents[2]
PAGE = TOP / "webclient"
ADMIN = {"admin.html", "admin.js", "admin.css"}
IMPORT = re.compile(r"""^(?:import|export)\s[^"';]*?from\s*["']([^"']+)["']|^import\s*["']([^"']+)["']""", re.MULTILINE)


def test_vendored_files_are_those_of_the_manifest() -> None:
    subprocess.run([sys.executable, TOP / "scripts/vendor", "--check"], check=True)


def test_every_import_leads_to_a_file() -> None:
    found = 0
    for path in PAGE.glob("*.js"):
        for match in IMPORT.finditer(path.read_text("utf-8")):
            target = match[1] or match[2]
            assert target.startswith("./"), f"{path.name} imports {target}"
            assert (path.parent / target).is_file(), f"{path.name} imports {target}"
            found += 1
    assert found > 40


def test_nothing_makes_code_or_html_of_strings() -> None:
    for path in PAGE.glob("*.js"):
        text = path.read_text("utf-8")
        for word in ("innerHTML", "outerHTML", "insertAdjacentHTML", "eval(", "new Function", "document.write"):
            assert word not in text, f"{path.name} uses {word}"


def test_the_worker_keeps_every_file_of_the_page() -> None:
    text = (PAGE / "sw.js").read_text("utf-8")
    listed = set(re.findall(r'"(/[^"]*)"', text[text.index("SHELL") : text.index("];")]))
    files = {f"/{path.relative_to(PAGE)}" for path in PAGE.rglob("*") if path.is_file()}
    files -= {"/sw.js", "/index.html", "/vendor/manifest.json", "/vendor/LICENSES.txt"}
    assert listed == (files - {f"/{name}" for name in ADMIN}) | {"/"}


def test_a_changed_file_is_read_again_and_nothing_outside_is(tmp_path: Path) -> None:
    root = tmp_path / "page"
    root.mkdir()
    (root / "index.html").write_text("one" * 100)
    (tmp_path / "secret.html").write_text("secret")
    (root / "link.html").symlink_to(tmp_path / "secret.html")
    files = Files(root)
    first = files.find("")
    assert first is not None
    assert first.packed is not None
    assert len(first.packed) < len(first.plain)
    assert files.find("index.html") is not None
    (root / "index.html").write_text("another text")
    second = files.find("")
    assert second is not None
    assert (second.plain, second.tag != first.tag) == (b"another text", True)
    for path in ("../secret.html", "link.html", "nothing.html", "index.py", "a\0.html", "../../etc/passwd"):
        assert files.find(path) is None


@pytest.mark.parametrize("name", ["index.html"])
def test_the_document_has_no_inline_script_or_style(name: str) -> None:
    text = (PAGE / name).read_text("utf-8")
    assert not re.search(r"<script(?![^>]*\bsrc=)|<style|\sstyle=|\son\w+=", text)
