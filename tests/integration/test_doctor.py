"""`hubbub doctor`: silent about a good deployment, and each check finds what was really broken."""

import http.server
import json
import resource
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from hubbub import settings as hubbub_settings
from hubbub.doctor import checks, database, machine, network
from hubbub.doctor.checks import CHECKS
from hubbub.doctor.finding import Finding, Level
from hubbub.settings import Settings
from tests.integration.system import ROOT, System, free_port, running


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    with running(tmp_path_factory.mktemp("doctor"), shards=1) as system:
        yield system


def like(system: System, **changes: str) -> Settings:
    """The settings of *system*, changed as an operator would."""
    given = {"data_dir": str(system.data_dir), "port": str(system.port), "shards": "1", **changes}
    return hubbub_settings.load({}, overrides=given)


def test_a_good_deployment(server: System) -> None:
    command = [sys.executable, "-m", "hubbub.cli", "doctor", "--json", "--data-dir", str(server.data_dir)]
    done = subprocess.run([*command, "--port", str(server.port)], cwd=ROOT, capture_output=True, text=True, timeout=60)
    found = {line["check"]: line for line in map(json.loads, done.stdout.splitlines())}
    assert list(found) == list(CHECKS)
    bad = {name: line for name, line in found.items() if line["level"]}
    assert not bad, bad
    assert done.returncode == 0


class _Other(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(404)
        self.end_headers()

    def log_message(self, *args: Any) -> None:
        pass


@pytest.fixture
def somebody_else() -> Iterator[int]:
    """Another program's HTTP server; its port."""
    other = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Other)
    threading.Thread(target=other.serve_forever, daemon=True).start()
    yield other.server_address[1]
    other.shutdown()
    other.server_close()


def loose(path: Path, mode: int) -> Callable[[], None]:
    before = path.stat().st_mode
    path.chmod(mode)
    return lambda: path.chmod(before)


def test_files_that_others_can_read(server: System) -> None:
    for check, path, mode in (
        (machine.data_directory, server.data_dir / "secrets", 0o755),
        (machine.secrets, server.settings.token_secret_file, 0o644),
    ):
        undo = loose(path, mode)
        try:
            finding = check(like(server))
        finally:
            undo()
        assert finding.level is Level.PROBLEM
        assert "chmod" in finding.remedy
        assert check(like(server)).level is Level.OK


def test_what_is_not_there_yet(tmp_path: Path) -> None:
    nowhere = hubbub_settings.load({}, overrides={"data_dir": str(tmp_path / "none"), "port": str(free_port())})
    for check in (
        machine.data_directory,
        machine.secrets,
        machine.programs,
        database.reachable,
        network.ready,
        network.page,
    ):
        assert check(nowhere).level is Level.WARNING, check
    for check in (database.durable, database.schema, database.pooler, database.clocks):
        assert check(nowhere).level is Level.WARNING, check
    assert network.port(nowhere).level is Level.OK


def test_a_short_secret(server: System, tmp_path: Path) -> None:
    path = tmp_path / "secret"
    path.write_text("short")
    path.chmod(0o600)
    assert machine.secrets(like(server, token_secret_file=str(path))).level is Level.PROBLEM


def test_a_full_disk(server: System, monkeypatch: pytest.MonkeyPatch) -> None:
    for free, level in ((50 * 2**20, Level.PROBLEM), (2**30, Level.WARNING), (2**40, Level.OK)):
        monkeypatch.setattr(shutil, "disk_usage", lambda _, free=free: SimpleNamespace(free=free))
        assert machine.free_space(like(server)).level is level


def test_keys_that_cannot_be_used(server: System, tmp_path: Path, somebody_else: int) -> None:
    (tmp_path / "key.pem").write_text("nothing")
    assert machine.token_keys(like(server, token_keys=str(tmp_path / "key.pem"))).level is Level.PROBLEM
    away = like(server, token_jwks_url=f"http://127.0.0.1:{somebody_else}/keys")
    assert machine.token_keys(away).level is Level.PROBLEM
    tcp = like(server, bus_url="tcp://127.0.0.1:7000", curve_dir=str(tmp_path))
    assert "hubbub keys" in machine.bus_keys(tcp).remedy
    for name in ("broker.public", "peer.public", "peer.secret"):
        (tmp_path / name).write_text("x")
    (tmp_path / "peer.secret").chmod(0o644)
    assert "chmod" in machine.bus_keys(tcp).remedy
    (tmp_path / "peer.secret").chmod(0o600)
    assert machine.bus_keys(tcp).level is Level.OK


def test_few_open_files(server: System, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _: (1024, 1024))
    assert "LimitNOFILE" in machine.open_files(like(server)).remedy


def test_an_environment_without_uvloop(server: System, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "uvloop", None)
    assert machine.python(like(server)).level is Level.PROBLEM


def test_a_program_that_does_not_run(tmp_path: Path) -> None:
    with running(tmp_path / "stopped", shards=1) as system:
        from hubbub.up import supervisor

        with supervisor(system.settings) as remote:
            remote.supervisor.stopProcess("broker")
        finding = machine.programs(like(system))
        assert (finding.level, "broker" in finding.text) == (Level.PROBLEM, True)
        system.until(lambda: network.ready(like(system)).level is Level.PROBLEM, 20, "not ready")


def test_a_port_that_somebody_else_has(server: System, tmp_path: Path, somebody_else: int) -> None:
    alone = hubbub_settings.load({}, overrides={"data_dir": str(tmp_path), "port": str(somebody_else)})
    assert network.port(alone).level is Level.PROBLEM
    assert network.port(like(server, port=str(somebody_else))).level is Level.PROBLEM
    assert network.page(like(server, port=str(somebody_else))).level is Level.PROBLEM
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        assert network.port(like(server, port=str(silent.getsockname()[1]))).level is Level.PROBLEM


def test_a_database_that_does_not_answer_or_forgets(server: System) -> None:
    away = like(server, database_url=f"postgresql://nobody@127.0.0.1:{free_port()}/none")
    assert database.reachable(away).level is Level.PROBLEM
    server.rows("create database without_tables")
    empty = server.settings.postgres().url.replace("/hubbub?", "/without_tables?")
    assert database.schema(like(server, database_url=empty)).level is Level.WARNING
    for setting in ("full_page_writes", "fsync"):
        server.rows(f"alter system set {setting} = off")
        server.rows("select pg_reload_conf()")
        try:
            server.until(lambda: database.durable(like(server)).level is Level.PROBLEM, 5, "found")
        finally:
            server.rows(f"alter system reset {setting}")
            server.rows("select pg_reload_conf()")
    server.until(lambda: database.durable(like(server)).level is Level.OK, 5, "mended")


def test_tables_of_another_version(server: System) -> None:
    server.rows("insert into schema_migrations (number, name) values (9999, 'from the future')")
    try:
        assert database.schema(like(server)).level is Level.PROBLEM
    finally:
        server.rows("delete from schema_migrations where number = 9999")
    assert database.schema(like(server)).level is Level.OK


def test_clocks_that_differ(server: System, monkeypatch: pytest.MonkeyPatch) -> None:
    real = time.time
    monkeypatch.setattr(time, "time", lambda: real() + 60)
    assert "NTP" in database.clocks(like(server)).remedy


def test_a_pooler(server: System, monkeypatch: pytest.MonkeyPatch) -> None:
    """A pooler in transaction mode shows as other backends behind one connection."""

    direct = database._connect

    class Pooled:
        def __init__(self) -> None:
            self._real = [direct(like(server)) for _ in range(2)]
            self._turn = 0

        def execute(self, *arguments: Any) -> Any:
            self._turn += 1
            return self._real[self._turn % 2].execute(*arguments)

        def __enter__(self) -> "Pooled":
            return self

        def __exit__(self, *_: object) -> None:
            for one in self._real:
                one.close()

    monkeypatch.setattr(database, "_connect", lambda _: Pooled())
    assert "pooler" in database.pooler(like(server)).text


@pytest.mark.parametrize(
    "changes",
    [
        {"host": "0.0.0.0", "guests": "always"},
        {"allowed_origins": "*"},
        {"token_in_query": "true"},
        {"host": "0.0.0.0"},
    ],
)
def test_what_is_open_to_strangers(server: System, changes: dict[str, str]) -> None:
    assert network.exposure(like(server, **changes)).level is Level.WARNING


def test_a_check_that_breaks_hides_no_other(server: System, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    from hubbub import doctor

    def broken(_: Settings) -> Finding:
        raise RuntimeError("oops")

    monkeypatch.setitem(checks.CHECKS, "python", broken)
    assert doctor.examine(like(server)) == 1
    said = capsys.readouterr().out
    assert "oops" in said
    assert "page: served under its policy" in said


def test_the_document_lists_every_check() -> None:
    text = (ROOT / "docs/operations.md").read_text("utf-8")
    table = text[text.index("| check |") :].split("\n\n")[0]
    assert [line.split("|")[1].strip() for line in table.splitlines()[2:]] == list(CHECKS)
