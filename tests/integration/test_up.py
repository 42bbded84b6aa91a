"""``hubbub up`` as an operator meets it: what it says, what it refuses, how it ends, how it comes back."""

import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from store.database import migrations
from tests.integration.client import connection
from tests.integration.system import ROOT, System, SystemFailed, free_port, running


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> System:
    """A system in a path with a space in it, that is not started."""
    return System(tmp_path_factory.mktemp("a place") / "with a space", shards=1)


def test_it_says_what_it_uses_and_where_it_is(system: System) -> None:
    said = system.output()
    assert f"port                 {system.port}  (--port)" in said
    assert "database_url         embedded PostgreSQL  (default)" in said
    assert f"Hubbub is ready: {system.url}" in said


def test_every_program_runs_and_status_says_so(system: System, tmp_path: Path) -> None:
    assert {name: one["statename"] for name, one in system.programs().items()} == dict.fromkeys(
        ("postgres", "broker", "store", "shard-0", "shard-1"), "RUNNING"
    )
    output = tmp_path / "status"
    assert system.command("status", output=output).wait(20) == 0
    lines = output.read_text().splitlines()
    assert sorted(line.split()[:2] for line in lines) == sorted([name, "RUNNING"] for name in system.programs())


def test_nobody_else_may_look_into_the_data(system: System) -> None:
    for path in (system.data_dir, system.settings.run_dir, system.settings.socket_dir, system.data_dir / "logs"):
        assert path.stat().st_mode & 0o777 == 0o700, path
    assert system.settings.token_secret_file.stat().st_mode & 0o777 == 0o600


async def test_a_token_from_the_command_line_signs_in(system: System) -> None:
    async with connection(system.ws, token=system.token("up-ann")) as ann:
        assert ann.heard[0]["username"] == "up-ann"
        assert "token_expires_at" in ann.heard[0]


def test_a_second_one_on_the_same_data_is_refused(system: System, tmp_path: Path) -> None:
    output = tmp_path / "second"
    second = system.command("up", "--port", str(free_port()), output=output)
    assert second.wait(30) != 0
    said = output.read_text()
    assert f"already runs on {system.data_dir}" in said
    assert f"pid {system.pid('up')}" in said
    assert "Traceback" not in said
    assert system.get("/readyz").status == 200


def test_a_port_that_is_taken_is_refused(system: System, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as somebody:
        for port in (somebody.getsockname()[1], system.port):
            other = System(tmp_path / str(port), shards=1)
            refused = other.command("up", "--port", str(port))
            assert refused.wait(30) != 0
            assert f"port {port} on 127.0.0.1 is in use; choose another with --port" in other.output()
            assert "Traceback" not in other.output()
            assert other.family() == {}


def test_a_setting_that_does_not_exist_is_refused(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "hubbub.cli", "up", "--data-dir", tmp_path / "data"],
        cwd=ROOT,
        env={"HUBBUB_PROT": "8000", "PATH": "/usr/bin:/bin", "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert done.returncode != 0
    assert "HUBBUB_PROT: there is no such setting; did you mean HUBBUB_PORT?" in done.stderr


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_it_stops_all_of_it_and_starts_again_on_the_same_data(own: System, number: signal.Signals) -> None:
    own.start()
    async with connection(own.ws, "stop-ann") as ann:
        key = f"until {number.name} at {time.time():.3f}"
        await ann.say(key, "stop-ann")
        family = own.family()
        began = time.monotonic()
        own.signal_up(number)
        assert (await ann.take("goodbye"))["code"] == 4000
    assert own.wait_up_ended() == 0
    assert time.monotonic() - began < 15
    assert own.family() == {}
    assert len(family) > 10  # supervisord, four programs of ours, PostgreSQL with its own
    assert own.output().rstrip().endswith("Stopped.")
    own.start()
    try:
        page = own.get("/api/messages?username=stop-ann&with=stop-ann&limit=1").json
        assert [one["content"] for one in page["messages"]] == [key]
    finally:
        own.stop()


@pytest.mark.parametrize("role", ["supervisord", "up"])
async def test_when_it_is_killed_everything_ends_and_a_new_one_works(own: System, role: str) -> None:
    own.start()
    try:
        async with connection(own.ws, "kill-ann") as ann:
            key = f"until {role} was killed"
            await ann.say(key, "kill-ann")
            own.kill(role)
            # All programs go with it, by themselves and in the orderly way: she is told.
            assert (await ann.take("goodbye"))["code"] == 4000
        assert own.wait_up_ended() != 0
        if role == "supervisord":
            assert "supervisord ended by itself" in own.output()
        own.until(lambda: not own.family(), 30, "gone")
        own.start()
        page = own.get("/api/messages?username=kill-ann&with=kill-ann&limit=1").json
        assert [one["content"] for one in page["messages"]] == [key]
        assert len([line for line in own.log("store") if line["event"] == "migrated"]) == len(migrations())
    finally:
        own.stop()


def test_a_new_one_need_not_wait_for_the_killed_ones_programs(own: System) -> None:
    own.start()
    try:
        own.kill("supervisord")
        own.wait_up_ended()
        own.start()  # two generations at once; locks keep them apart
        assert own.get("/readyz").status == 200
    finally:
        own.stop()


def test_the_harness_tells_when_the_server_does_not_start(tmp_path: Path) -> None:
    broken = System(tmp_path, shards=1, env={"HUBBUB_POSTGRES_BIN_DIR": "/nowhere"})
    with pytest.raises(SystemFailed, match="/nowhere"):
        broken.start()
    broken.stop()


async def test_another_database_can_be_used(system: System, tmp_path: Path) -> None:
    """`HUBBUB_DATABASE_URL`: here the first system's server, with a database of its own for the second."""
    system.rows("create database theirs")
    url = system.settings.store().database_url.replace("/hubbub?", "/theirs?")
    with running(tmp_path, shards=1, env={"HUBBUB_DATABASE_URL": url}) as second:
        assert not any("postgres" in command.split()[0] for command in second.family().values())
        assert second.programs()["postgres"]["statename"] == "EXITED"
        async with connection(second.ws, "theirs-ann") as ann:
            await ann.say("in a database of my own", "theirs-ann")
        assert second.rows("select sender from messages") == [{"sender": "theirs-ann"}]
        assert "password" not in second.output()
