"""The rules and the dashboard against a real Prometheus that scrapes the real server."""

import asyncio
import json
import os
import re
import shutil
import subprocess
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.integration.client import connection
from tests.integration.system import ROOT, System, free_port, running

DEPLOY = ROOT / "deploy"
RULES = (DEPLOY / "prometheus/rules.yml").read_text("utf-8")
PANELS = {
    panel["title"]: panel["targets"][0]["expr"]
    for panel in json.loads((DEPLOY / "grafana/hubbub.json").read_text("utf-8"))["panels"]
}


def tool(name: str) -> str:
    found = shutil.which(name)
    if found is None:
        if os.environ.get("CI"):
            pytest.fail(f"there is no {name}; apt-get install prometheus")
        pytest.skip(f"there is no {name}")
    return found


@pytest.mark.parametrize("arguments", [["check", "rules", "rules.yml"], ["test", "rules", "rules_test.yml"]])
def test_the_rules_are_valid_and_do_what_they_shall(arguments: list[str]) -> None:
    done = subprocess.run(
        [tool("promtool"), *arguments], cwd=DEPLOY / "prometheus", capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stdout + done.stderr


class Prometheus:
    def __init__(self, url: str) -> None:
        self.url = url

    def query(self, expression: str) -> list[dict[str, Any]]:
        address = f"{self.url}/api/v1/query?{urllib.parse.urlencode({'query': expression})}"
        with urllib.request.urlopen(address, timeout=10) as answer:
            found: list[dict[str, Any]] = json.loads(answer.read())["data"]["result"]
        return found


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    with running(tmp_path_factory.mktemp("scraped")) as system:
        yield system


@pytest.fixture(scope="module")
def prometheus(server: System, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    home: Path = tmp_path_factory.mktemp("prometheus")
    text = (DEPLOY / "prometheus/prometheus.yml").read_text("utf-8")
    text = text.replace("127.0.0.1:8000", f"127.0.0.1:{server.port}").replace("5s", "1s")
    (home / "prometheus.yml").write_text(text)
    (home / "rules.yml").write_text(RULES)
    port = free_port()
    with (home / "log").open("wb") as log:
        process = subprocess.Popen(
            [
                tool("prometheus"),
                f"--config.file={home}/prometheus.yml",
                f"--storage.tsdb.path={home}/data",
                f"--web.listen-address=127.0.0.1:{port}",
            ],
            stdout=log,
            stderr=log,
        )
    try:
        yield Prometheus(f"http://127.0.0.1:{port}")
    finally:
        process.terminate()
        process.wait(20)


async def test_every_panel_and_every_rule_has_something_to_show(server: System, prometheus: Prometheus) -> None:
    deadline = time.monotonic() + 40
    missing: dict[str, str] = dict(PANELS)
    async with connection(server.ws, "scraped-ann") as ann:
        await ann.send(type="history", conversation="nonsense")  # a refusal, so that there is a code to count
        while missing and time.monotonic() < deadline:
            await ann.say("something to count")
            await asyncio.sleep(0.25)  # it scrapes once a second
            for title, expression in list(missing.items()):
                try:
                    if prometheus.query(expression):
                        del missing[title]
                except OSError:
                    break  # it has not started yet
            # A code that was never used has no series; that of closes comes with the drain of other tests.
            missing.pop("Closes a second by code", None)
    assert not missing
    for record in re.findall(r"record: (\S+)", RULES):
        assert prometheus.query(record), record


def test_every_metric_of_the_rules_and_panels_exists(server: System) -> None:
    served = server.get("/metrics").body.decode()
    text = RULES + " ".join(PANELS.values())
    names = set(re.findall(r"\b((?:hubbub|process)_[a-z_]+)", text))
    assert len(names) > 15
    conditional = {"hubbub_shard_jwks_age_seconds"}  # only where a key set is fetched
    for name in names - conditional:
        assert re.search(rf"^(# TYPE )?{name.removesuffix('_total')}", served, re.MULTILINE), name
