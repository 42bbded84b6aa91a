"""The real system, started as a person starts it: `hubbub up` on a data directory of its own and a free port.

Every process that carries this data directory in its environment (or, PostgreSQL, as its working directory) is
ours; nothing else is ever signalled, and `stop` fails when one of them is left.
"""

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, cast
from xmlrpc.client import Error as XmlRpcError

import psycopg
import pytest
from psycopg.rows import dict_row

from hubbub import settings as hubbub_settings
from hubbub.runtime import lifecycle
from hubbub.up import supervisor

ROOT = Path(__file__).resolve().parents[2]
START_SECONDS = 60.0
STOP_SECONDS = 40.0
_LISTEN = "0A"  # TCP_LISTEN in /proc/net/tcp
_TAIL = 3000  # characters of each log that are shown
_WRITER_LOCK = 1213547074  # first key of the advisory locks that a slot's writer holds


class SystemFailed(AssertionError):
    """The system did not do in time what it must; carries the ends of all logs."""


class System:
    """One server with all its processes.

    Roles: ``up``, ``supervisord``, ``postgres`` (our program), ``postmaster`` and ``backend`` (the writer's) of
    PostgreSQL, ``broker``, ``store``, ``shard-0`` …
    """

    def __init__(self, home: Path, *, shards: int = 2, env: Mapping[str, str] | None = None) -> None:
        home.mkdir(parents=True, exist_ok=True)
        self.data_dir = home / "data"
        self.shards = shards
        self.port = free_port()
        self._output = home / "up.log"
        self._env = {name: value for name, value in os.environ.items() if not name.startswith("HUBBUB_")}
        self._env |= env or {}
        self._up: subprocess.Popen[bytes] | None = None
        self.settings = hubbub_settings.load(
            {name: value for name, value in self._env.items() if name.startswith("HUBBUB_") or name == "HOME"},
            overrides={"data_dir": str(self.data_dir), "port": str(self.port), "shards": str(shards)},
        )

    @property
    def url(self) -> str:
        """The base URL for HTTP."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def ws(self) -> str:
        """The URL of the WebSocket, without a query."""
        return f"ws://127.0.0.1:{self.port}/ws"

    # --- life ---------------------------------------------------------------------------------------

    def start(self) -> None:
        """Start everything and wait until each shard is ready. Raises `SystemFailed`."""
        self.launch()
        self.wait_ready()

    def launch(self) -> None:
        """Start everything; call it from the main thread, whose end is the server's."""
        self._up = self.command("up", "--port", str(self.port), "--shards", str(self.shards))

    def command(self, name: str, *arguments: str, output: Path | None = None) -> "subprocess.Popen[bytes]":
        """Run ``hubbub NAME`` on this data directory; what it says goes to *output* (the log of `up`)."""
        with (output or self._output).open("ab") as sink:
            return subprocess.Popen(
                [sys.executable, "-m", "hubbub.cli", name, "--data-dir", str(self.data_dir), *arguments],
                cwd=ROOT,
                env=self._env,
                stdin=subprocess.DEVNULL,
                stdout=sink,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # a Ctrl-C is for the tests, which stop us in order
                preexec_fn=_die_with_the_tests,
            )

    def wait_ready(self, seconds: float = START_SECONDS) -> None:
        """Until every shard listens and `/readyz` says yes to twice as many questions as there are shards."""
        answered = 0

        def ready() -> bool:
            nonlocal answered
            if self._up is not None and self._up.poll() is not None:
                raise SystemFailed(f"`hubbub up` ended with {self._up.returncode}\n{self.logs()}")
            # The kernel spreads connections, so a shard that does not listen yet would go unasked.
            answered = answered + 1 if listeners(self.port) >= self.shards and self._ready() else 0
            return answered >= 2 * self.shards

        self.until(ready, seconds, "ready")

    def stop(self) -> None:
        """End everything in order. Raises `SystemFailed` when a process was left (it is killed then)."""
        if self._up is not None and self._up.poll() is None:
            self._up.terminate()
            with suppress(subprocess.TimeoutExpired):
                self._up.wait(STOP_SECONDS)
        with suppress(SystemFailed):
            self.until(lambda: not self.family(), 15, "gone")
        left = self.family()
        for pid in left:
            signal_process(pid, signal.SIGKILL)
        if self._up is not None:
            if self._up.poll() is None:
                self._up.kill()
                left.setdefault(self._up.pid, "hubbub up")
            self._up.wait()
            self._up = None
        if left:
            raise SystemFailed(f"these processes did not end: {left}\n{self.logs()}")

    def wait_up_ended(self, seconds: float = STOP_SECONDS) -> int:
        """Wait for `hubbub up` to end by itself; its exit code."""
        if self._up is None:
            raise RuntimeError("it was not started")
        return self._up.wait(seconds)

    def signal_up(self, number: signal.Signals) -> None:
        """Send a signal to `hubbub up` alone, as a terminal's Ctrl-C does to the foreground."""
        signal_process(self.pid("up"), number)

    def output(self) -> str:
        """What `hubbub up` has printed."""
        return self._output.read_text(errors="replace") if self._output.exists() else ""

    def until(self, true: Callable[[], Any], seconds: float, what: str) -> None:
        """Wait until *true* says so. Raises `SystemFailed` with all logs after *seconds*."""
        give_up = time.monotonic() + seconds
        while not true():
            if time.monotonic() > give_up:
                raise SystemFailed(f"not {what} within {seconds:g} s\n{self.logs()}")
            time.sleep(0.02)

    def _ready(self) -> bool:
        try:
            return self.get("/readyz").status == http.HTTPStatus.OK
        except (OSError, http.client.HTTPException):
            return False

    # --- processes ----------------------------------------------------------------------------------

    def family(self) -> dict[int, str]:
        """Every living process of this server but `up` itself: pid -> command line."""
        mark = f"HUBBUB_DATA_DIR={self.data_dir}".encode()
        inside = os.path.realpath(self.data_dir)
        found = {}
        for entry in Path("/proc").iterdir():
            if not entry.name.isdigit():
                continue
            try:
                if (entry / "stat").read_text().rpartition(")")[2].split()[0] == "Z":
                    continue
                ours = mark in (entry / "environ").read_bytes().split(b"\0")
                if ours or os.readlink(entry / "cwd").startswith(inside):
                    command = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                    found[int(entry.name)] = command.strip()
            except OSError:
                continue  # it ended while we looked, or is somebody else's
        return found

    def programs(self) -> dict[str, dict[str, Any]]:
        """What supervisord says of each program, by name. Raises `OSError` or `xmlrpc.client.Error`."""
        with supervisor(self.settings) as proxy:
            answer = cast(list[dict[str, Any]], proxy.supervisor.getAllProcessInfo())
        return {one["name"]: one for one in answer}

    def pid(self, role: str) -> int:
        """The process that has *role* now."""
        match role:
            case "up":
                if self._up is None:
                    raise RuntimeError("it was not started")
                return self._up.pid
            case "supervisord":
                return int((self.data_dir / "run" / "supervisord.pid").read_text())
            case "postmaster":
                return int((self.data_dir / "postgres" / "postmaster.pid").read_text().split()[0])
            case "backend":
                held = "select pid from pg_locks where locktype = 'advisory' and classid = %s limit 1"
                return int(self.rows(held, _WRITER_LOCK)[0]["pid"])
            case _:
                return int(self.programs()[role]["pid"])

    def pids(self, role: str) -> list[int]:
        """What has to be stopped to stop *role*: of ``postmaster`` all of PostgreSQL, else the one process."""
        if role != "postmaster":
            return [self.pid(role)]
        inside = os.path.realpath(self.data_dir / "postgres")
        return [pid for pid in self.family() if _cwd(pid) == inside]

    def kill(self, role: str) -> int:
        """``kill -9`` it; returns the pid that died."""
        pid = self.pid(role)
        self._check_ours(pid)
        os.kill(pid, signal.SIGKILL)
        return pid

    def terminate(self, role: str) -> int:
        """SIGTERM it; returns its pid."""
        pid = self.pid(role)
        self._check_ours(pid)
        os.kill(pid, signal.SIGTERM)
        return pid

    def pause(self, role: str) -> list[int]:
        """SIGSTOP it; returns the pids for `resume`."""
        pids = self.pids(role)
        for pid in pids:
            self._check_ours(pid)
        for pid in pids:
            signal_process(pid, signal.SIGSTOP)
        return pids

    def resume(self, pids: Sequence[int]) -> None:
        """SIGCONT what `pause` returned."""
        for pid in pids:
            signal_process(pid, signal.SIGCONT)

    def wait_replaced(self, role: str, old: int, seconds: float = 30.0) -> int:
        """Until supervisord has another process in this role; its pid."""

        def replaced() -> bool:
            try:
                return self.pid(role) not in (0, old)
            except (OSError, XmlRpcError, psycopg.Error, KeyError, IndexError, ValueError):
                return False

        self.until(replaced, seconds, f"a new {role} after pid {old}")
        return self.pid(role)

    def _check_ours(self, pid: int) -> None:
        if pid not in self.family() and (self._up is None or pid != self._up.pid):
            raise RuntimeError(f"pid {pid} is no process of {self.data_dir}")

    # --- what can be seen from outside ----------------------------------------------------------------

    def get(self, path: str, headers: Mapping[str, str] | None = None) -> "Answer":
        """An HTTP GET on a connection of its own."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=15)
        try:
            connection.request("GET", path, headers=dict(headers or {}))
            answer = connection.getresponse()
            return Answer(answer.status, {k.lower(): v for k, v in answer.getheaders()}, answer.read())
        finally:
            connection.close()

    def post(self, path: str, body: object, headers: Mapping[str, str] | None = None) -> "Answer":
        """One POST of a JSON object."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=15)
        try:
            given = {"Content-Type": "application/json", **(headers or {})}
            connection.request("POST", path, json.dumps(body), given)
            response = connection.getresponse()
            return Answer(response.status, {k.lower(): v for k, v in response.getheaders()}, response.read())
        finally:
            connection.close()

    def rows(self, sql: str, *parameters: Any) -> list[dict[str, Any]]:
        """Rows of a query on a database session of its own."""
        url = self.settings.store().database_url
        with psycopg.connect(url, autocommit=True, row_factory=dict_row, connect_timeout=10) as connection:
            cursor = connection.execute(sql, parameters or None)
            return cursor.fetchall() if cursor.description else []

    def token(self, user: str, ttl: str = "1h") -> str:
        """What ``hubbub token USER`` prints."""
        command = [sys.executable, "-m", "hubbub.cli", "token", user, "--ttl", ttl, "--data-dir", str(self.data_dir)]
        done = subprocess.run(command, cwd=ROOT, env=self._env, check=True, capture_output=True, text=True)
        return done.stdout.strip()

    def log(self, program: str) -> list[dict[str, Any]]:
        """The JSON lines of a program's log; others (PostgreSQL's own) are left out."""
        lines = []
        for line in (self.data_dir / "logs" / f"{program}.log").read_text(errors="replace").splitlines():
            with suppress(ValueError):
                lines.append(json.loads(line))
        return lines

    def logs(self) -> str:
        """The ends of all logs, for a failed test."""
        parts = []
        for path in [self._output, *sorted(self.data_dir.glob("logs/*.log"))]:
            text = path.read_text(errors="replace").strip() if path.is_file() else ""
            if text:
                parts.append(f"--- {path.name}\n{text[-_TAIL:]}")
        return "\n".join(parts)


class Answer:
    """An HTTP answer; header names in lower case."""

    def __init__(self, status: int, headers: Mapping[str, str], body: bytes) -> None:
        self.status = status
        self.headers = headers
        self.body = body

    @property
    def json(self) -> Any:
        """The body, decoded."""
        return json.loads(self.body)

    @property
    def error(self) -> str:
        """The code of the error object."""
        return str(self.json["error"]["code"])


@contextmanager
def running(home: Path, *, shards: int = 2, env: Mapping[str, str] | None = None) -> Iterator[System]:
    """A started `System`, stopped at the end whatever happens."""
    system = System(home, shards=shards, env=env)
    try:
        system.start()
        yield system
    finally:
        system.stop()


_SHARED = pytest.StashKey[System]()


@pytest.fixture
def system(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    """A running system of two shards that many tests share: each takes user names of its own and breaks nothing.

    What is printed at the end stands beside the failure of a test that failed, and nowhere else.
    """
    shared = request.config.stash.get(_SHARED, None)
    if shared is None:
        shared = System(tmp_path_factory.mktemp("system"))
        request.config.stash[_SHARED] = shared
        request.config.add_cleanup(shared.stop)
        shared.start()
    yield shared
    print(shared.logs())


def free_port() -> int:
    """A port of the loopback on which nobody listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def listeners(port: int) -> int:
    """How many sockets listen on *port* (IPv4)."""
    lines = Path("/proc/net/tcp").read_text().splitlines()[1:]
    return sum(fields[1].endswith(f":{port:04X}") and fields[3] == _LISTEN for fields in map(str.split, lines))


def signal_process(pid: int, number: signal.Signals) -> None:
    """Send a signal; a process that is gone already is no error."""
    with suppress(ProcessLookupError):
        os.kill(pid, number)


def _cwd(pid: int) -> str:
    try:
        return os.readlink(f"/proc/{pid}/cwd")
    except OSError:
        return ""


def _die_with_the_tests() -> None:
    lifecycle.set_parent_death_signal(signal.SIGTERM)
