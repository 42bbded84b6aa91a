"""A fresh system for a benchmark: started with an empty data directory, waited for, stopped, removed."""

import http.client
import os
import resource
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from bench import procs

ROOT = Path(__file__).resolve().parent.parent
COMMAND = (sys.executable, "-m", "hubbub.cli")
# What a benchmark needs beside the defaults: a closed loop is far above what one person may send.
SETTINGS = {"HUBBUB_LIMIT_RATE": "0", "HUBBUB_LIMIT_IN_FLIGHT": "1000"}
START_SECONDS = 60.0
STOP_SECONDS = 30.0
_LISTEN = "0A"  # TCP_LISTEN in /proc/net/tcp
_LOG_TAIL = 4000  # characters of each log shown when something went wrong


class ServerFailed(RuntimeError):
    """The system did not start, stopped by itself, or did not stop; carries the logs' ends."""


@dataclass(frozen=True)
class Server:
    """A running system. `pid` is supervisord's."""

    host: str
    port: int
    shards: int
    data_dir: Path
    pid: int

    @property
    def url(self) -> str:
        """Where WebSocket clients connect, without a path."""
        return f"ws://{self.host}:{self.port}"


@contextmanager
def running(
    *, shards: int | None = None, env: Mapping[str, str] | None = None, command: Sequence[str] = COMMAND
) -> Iterator[Server]:
    """Start ``COMMAND up`` on a free port of the loopback and yield it once every shard is ready.

    `shards`: one for each core unless given. `env` comes on top of the environment and `SETTINGS`.
    Raises `ServerFailed`; whatever fails inside, the logs' ends go to standard error.
    """
    count = shards or os.cpu_count() or 1
    port = _free_port()
    home = Path(tempfile.mkdtemp(prefix="hubbub-bench-"))
    data_dir = home / "data"
    # Every connection of a benchmark takes a descriptor; children inherit the limit.
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    output = home / "up.log"
    try:
        with output.open("wb") as sink:
            process = subprocess.Popen(
                [*command, "up", "--data-dir", str(data_dir), "--port", str(port), "--shards", str(count)],
                cwd=ROOT,
                env={**os.environ, **SETTINGS, **(env or {})},
                stdin=subprocess.DEVNULL,
                stdout=sink,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # a Ctrl-C is ours to pass on, in order
            )
        try:
            _wait_ready(process, port, count)
            yield Server("127.0.0.1", port, count, data_dir, procs.supervisor_pid(data_dir))
        except BaseException:
            print(_logs(output, data_dir), file=sys.stderr)
            raise
        finally:
            _stop(process)
    finally:
        shutil.rmtree(home, ignore_errors=True)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _wait_ready(process: "subprocess.Popen[bytes]", port: int, shards: int) -> None:
    """Until every shard listens and says, twice over, that it is ready."""
    deadline = time.monotonic() + START_SECONDS
    ready = 0
    while ready < 2 * shards:
        if process.poll() is not None:
            raise ServerFailed(f"the server stopped by itself with status {process.returncode}")
        if time.monotonic() > deadline:
            raise ServerFailed(f"the server was not ready after {START_SECONDS:g} s")
        # The kernel spreads connections over the shards, so a shard that has not yet begun to listen
        # would go unasked.
        if _listeners(port) >= shards and _ready(port):
            ready += 1
        else:
            ready = 0
            time.sleep(0.05)


def _listeners(port: int) -> int:
    suffix = f":{port:04X}"
    lines = Path("/proc/net/tcp").read_text().splitlines()[1:]
    return sum(fields[1].endswith(suffix) and fields[3] == _LISTEN for fields in map(str.split, lines))


def _ready(port: int) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", "/readyz")
        return connection.getresponse().status == http.HTTPStatus.OK
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def _stop(process: "subprocess.Popen[bytes]") -> None:
    if process.poll() is not None:
        return
    try:
        family = list(procs.processes(process.pid))
    except ProcessLookupError:
        family = [process.pid]
    process.terminate()
    try:
        process.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired as exc:
        for pid in family:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        process.wait()
        raise ServerFailed(f"the server did not stop within {STOP_SECONDS:g} s") from exc


def _logs(output: Path, data_dir: Path) -> str:
    parts = []
    for path in [output, *sorted(data_dir.glob("logs/*"))]:
        if path.is_file():
            text = path.read_text(errors="replace").strip()
            if text:
                parts.append(f"--- {path.name}\n{text[-_LOG_TAIL:]}")
    return "\n".join(parts)
