"""Two PostgreSQL servers, one of which follows the other, from the binaries that Hubbub itself would take."""

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import mkdtemp
from typing import Any
from urllib.parse import quote

import psycopg

from hubbub import settings as hubbub_settings
from hubbub.runtime import lifecycle
from hubbub.runtime.postgres import using
from hubbub.runtime.postgres_setup import Plan, plan

_SECONDS = 60.0
_CONFIGURATION = """
listen_addresses = ''
shared_buffers = 32MB
max_connections = 40
recovery_init_sync_method = syncfs
wal_keep_size = 256MB
"""


class Node:
    """One server, below *home*; it listens on a socket there."""

    def __init__(self, home: Path, name: str, found: Plan) -> None:
        self.name = name
        self.data = home / name
        self.sockets = home / f"{name}-socket"
        self.log = home / f"{name}.log"
        self._found = found
        self._user: dict[str, Any] = {}
        if found.account.change:
            self._user = {"user": found.account.uid, "group": found.account.gid, "extra_groups": []}
        self.sockets.mkdir()
        self._own(self.sockets)
        self._process: subprocess.Popen[bytes] | None = None

    def create(self) -> None:
        """A new primary, with an empty database ``hubbub``."""
        self._run("initdb", "-D", self.data, "-U", "hubbub", "-E", "UTF8", "--locale=C", "--auth=trust")
        with (self.data / "postgresql.conf").open("a") as file:
            file.write(_CONFIGURATION)
        self.start()
        self.rows("create database hubbub", database="postgres")

    def follow(self, primary: "Node") -> None:
        """Begin anew, as a standby of *primary*."""
        shutil.rmtree(self.data, ignore_errors=True)
        self._run("pg_basebackup", "-h", primary.sockets, "-U", "hubbub", "-D", self.data, "-R", "-c", "fast")
        self.start()
        _until(lambda: primary.rows("select 1 from pg_stat_replication where state = 'streaming'"), "streaming")

    def start(self) -> None:
        """Start it, and wait until it answers."""
        postgres: list[str | Path] = [self._found.bin_dir / "postgres", "-D", self.data]
        with self.log.open("ab") as output:
            self._process = subprocess.Popen(
                [*postgres, "-c", f"unix_socket_directories={self.sockets}"],
                cwd="/",
                env={"PATH": os.defpath, "LC_ALL": "C"},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                umask=0o077,
                preexec_fn=lambda: lifecycle.set_parent_death_signal(signal.SIGINT),
                **self._user,
            )
        _until(self._answers, f"{self.name} answers")

    def kill(self) -> None:
        """As when its machine loses its power: all of its processes at once."""
        for pid in using(self.data):
            os.kill(pid, signal.SIGKILL)
        if self._process is not None:
            self._process.wait(_SECONDS)
        _until(lambda: not using(self.data), f"{self.name} gone")
        (self.data / "postmaster.pid").unlink(missing_ok=True)

    def promote(self) -> None:
        """A standby becomes a primary; returns when it has."""
        self.rows("select pg_promote(true, 60)")

    def synchronous(self, names: str) -> None:
        """Whom its commits wait for: ``*`` for any standby, nothing for none."""
        self.rows(f"alter system set synchronous_standby_names = '{names}'")
        self.rows("select pg_reload_conf()")
        _until(lambda: self.rows("show synchronous_standby_names") == [(names,)], "reloaded")
        if names:
            _until(lambda: self.rows("select 1 from pg_stat_replication where sync_state = 'sync'"), "synchronous")

    def rows(self, statement: str, *, database: str = "hubbub") -> list[tuple[Any, ...]]:
        """Rows of one statement on this server."""
        with psycopg.connect(
            host=str(self.sockets), user="hubbub", dbname=database, autocommit=True, connect_timeout=10
        ) as conn:
            cursor = conn.execute(statement)
            return cursor.fetchall() if cursor.description else []

    def stop(self) -> None:
        """End it, gently."""
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(signal.SIGINT)
            try:
                self._process.wait(20)
            except subprocess.TimeoutExpired:
                self.kill()

    def _answers(self) -> bool:
        try:
            return bool(self.rows("select 1", database="postgres"))
        except psycopg.OperationalError:
            if self._process is not None and self._process.poll() is not None:
                raise AssertionError(f"{self.name} ended\n{self.log.read_text()}") from None
            return False

    def _run(self, program: str, *arguments: str | Path) -> None:
        done = subprocess.run(
            [self._found.bin_dir / program, *arguments], cwd="/", capture_output=True, text=True, umask=0o077,
            env={"PATH": os.defpath, "LC_ALL": "C"}, timeout=_SECONDS, **self._user,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr

    def _own(self, path: Path) -> None:
        if self._found.account.change:
            os.chown(path, self._found.account.uid, self._found.account.gid)


class Pair:
    """A primary, and a standby that its commits wait for."""

    def __init__(self, home: Path) -> None:
        found = plan(hubbub_settings.load({}, overrides={"data_dir": home / "none"}).postgres())
        self.primary, self.standby = Node(home, "a", found), Node(home, "b", found)
        if found.account.change:
            os.chown(home, found.account.uid, found.account.gid)
        hosts = ",".join(quote(str(node.sockets), safe="/") for node in (self.primary, self.standby))
        self.url = f"postgresql://hubbub@/hubbub?host={hosts}&target_session_attrs=read-write"

    def start(self) -> None:
        """Make both."""
        self.primary.create()
        self.renew()

    def fail_over(self) -> None:
        """The primary loses its power, and the standby takes its place."""
        self.primary.kill()
        self.standby.promote()
        self.primary, self.standby = self.standby, self.primary

    def renew(self) -> None:
        """The other one follows the one that lives, which waits for it."""
        self.standby.follow(self.primary)
        self.primary.synchronous("*")

    def stop(self) -> None:
        """End both, the primary first: its last commits wait for the standby."""
        self.primary.stop()
        self.standby.stop()


@contextmanager
def replicated() -> Iterator[Pair]:
    """A `Pair`, in a directory that its user can reach; gone at the end."""
    home = Path(mkdtemp(prefix="hubbub-pair-", dir="/tmp"))
    home.chmod(0o755)
    pair = Pair(home)
    try:
        pair.start()
        yield pair
    finally:
        try:
            pair.stop()
        finally:
            for node in (pair.primary, pair.standby):
                if using(node.data):
                    node.kill()
            shutil.rmtree(home, ignore_errors=True)


def _until(true: Any, what: str) -> None:
    give_up = time.monotonic() + _SECONDS
    while not true():
        assert time.monotonic() < give_up, f"not {what} within {_SECONDS:g} s"
        time.sleep(0.01)
