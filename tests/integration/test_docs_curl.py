"""The curl examples of the documents, run in their order against a real server."""

import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator

import pytest

from tests.integration.system import ROOT, System, running

BLOCK = re.compile(r"^```sh\n(.*?)^```", re.MULTILINE | re.DOTALL)
EXAMPLES = [
    (name, i, block)
    for name in ("docs/rest.md", "docs/accounts.md")
    for i, block in enumerate(BLOCK.findall((ROOT / name).read_text("utf-8")))
]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    with running(tmp_path_factory.mktemp("curl"), env={"HUBBUB_ACCOUNTS": "open"}) as system:
        yield system


@pytest.mark.parametrize(("name", "i", "block"), EXAMPLES)
def test_an_example_works(server: System, name: str, i: int, block: str) -> None:
    script = block.replace("127.0.0.1:8000", f"127.0.0.1:{server.port}")
    script = script.replace("curl -s ", "curl -sS --fail-with-body ")
    script = script.replace(".venv/bin/python", shlex.quote(sys.executable))
    environment = {**os.environ, "HUBBUB_DATA_DIR": str(server.data_dir)}
    done = subprocess.run(["sh", "-ec", script], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=30)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "error" not in json.loads(done.stdout)


def test_there_are_examples_of_every_read_and_of_posting() -> None:
    text = "".join(block for _, _, block in EXAMPLES)
    paths = json.loads((ROOT / "docs/openapi.json").read_text("utf-8"))["paths"]
    shown = {path for path in paths if path.replace("{conversation}", "lobby") in text}
    assert shown >= {path for path, methods in paths.items() if "get" in methods and not path.endswith(".json")}
