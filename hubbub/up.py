"""What `hubbub up` does: prepare the data directory, run supervisord on it, say when the chat is ready, stop it all."""

import contextlib
import errno
import http.client
import os
import signal
import socket
import subprocess
import sys
import time
import xmlrpc.client
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, cast

import click
from supervisor.xmlrpc import SupervisorTransport

import hubbub
from hubbub.runtime import lifecycle, postgres_setup
from hubbub.runtime.files import FileError, asset, make_secret, private_dir
from hubbub.settings import Settings

READY_SECONDS = 60.0
# Longer than all stopwaitsecs in supervisord.conf together: programs are stopped one kind after the other.
STOP_SECONDS = 100.0
# An older supervisord that lost its `hubbub up` is stopping by itself.
OLD_SECONDS = 45.0
TAIL_LINES = 12


class UpError(click.ClickException):
    """Why the server cannot start; fit for the operator's eyes."""


def prepare(settings: Settings) -> None:
    """Make what the programs expect: directories of mode 0700 and the secret that signs tokens. Raises `UpError`."""
    try:
        for directory in (settings.data_dir, settings.run_dir, settings.data_dir / "logs"):
            private_dir(directory)
        if settings.socket_dir != settings.run_dir:
            private_dir(settings.socket_dir, strict=True)
        if settings.origins.get("token_secret_file", "default") == "default":
            make_secret(settings.token_secret_file)
    except FileError as exc:
        raise UpError(str(exc)) from exc


def environment(settings: Settings, environ: Mapping[str, str]) -> dict[str, str]:
    """*environ* with the settings in it, and with this Python first on PATH."""
    merged = {**environ, **settings.environ()}
    merged.pop("HUBBUB_CONFIG", None)  # all that it says is in the variables now
    binaries = str(Path(sys.executable).parent)
    path = merged.get("PATH", os.defpath)
    if path.split(os.pathsep)[0] != binaries:
        merged["PATH"] = binaries + os.pathsep + path
    source = Path(hubbub.__file__).resolve().parent.parent
    if (source / "pyproject.toml").exists():
        # A checkout that may not be installed. Never for site-packages: on PYTHONPATH it would come before the
        # standard library.
        paths = [part for part in merged.get("PYTHONPATH", "").split(os.pathsep) if part and part != str(source)]
        merged["PYTHONPATH"] = os.pathsep.join([str(source), *paths])
    return merged


def up(settings: Settings) -> int:
    """Run the server in the foreground until SIGINT or SIGTERM; the exit code. Raises `UpError`."""
    prepare(settings)
    _lock(settings)
    _wait_for_older(settings)
    _check_port(settings)
    if not settings.database_url:
        try:
            postgres_setup.plan(settings.postgres())
        except lifecycle.LifecycleError as exc:
            raise UpError(str(exc)) from exc
    for line in summary(settings):
        click.echo(line)
    stop = _Stop()  # from here on there is something to stop
    supervisord = _start_supervisord(settings)
    try:
        _wait_until_ready(settings, supervisord, stop)
        while not stop.asked and supervisord.poll() is None:
            stop.wait(1.0)
    finally:
        code = _stop_supervisord(settings, supervisord, asked=stop.asked)
    return code


def summary(settings: Settings) -> Iterator[str]:
    """The settings in use and where each came from: the main ones, and all others that were given."""
    main = ("data_dir", "host", "port", "shards", "database_url", "bus_url", "guests")
    shown = [*main, *(name for name, origin in settings.origins.items() if name not in main and origin != "default")]
    for name in shown:
        value = settings.text(name)
        if name == "database_url":
            value = _without_password(value) or "embedded PostgreSQL"
        yield f"  {name:<20} {value}  ({settings.origins[name]})"


def _without_password(url: str) -> str:
    before, at, after = url.rpartition("@")
    scheme, _, user = before.partition("://")
    return f"{scheme}://{user.partition(':')[0]}@{after.partition('?')[0]}" if at else url.partition("?")[0]


def address(settings: Settings) -> str:
    """The base URL a person on this machine opens."""
    host = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(settings.host, settings.host)  # noqa: S104 not bound here
    host = f"[{host}]" if ":" in host and not host.startswith("[") else host
    return f"http://{host}:{settings.port}"


class _Stop:
    """SIGINT and SIGTERM, remembered."""

    def __init__(self) -> None:
        self.asked = False
        # A signal's number is written into this pipe, which ends a wait without a race.
        self._reader, writer = socket.socketpair()
        self._reader.settimeout(0)
        writer.setblocking(False)
        self._writer = writer
        signal.set_wakeup_fd(writer.fileno(), warn_on_full_buffer=False)
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, self._on_signal)

    def _on_signal(self, number: int, frame: object) -> None:
        self.asked = True

    def wait(self, seconds: float) -> None:
        """Return after *seconds*, or as soon as a signal comes."""
        self._reader.settimeout(seconds)
        with contextlib.suppress(TimeoutError):
            self._reader.recv(64)


def _lock(settings: Settings) -> None:
    path = settings.run_dir / "up.lock"
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    if not lifecycle.try_lock(descriptor):  # held, and the descriptor open, as long as we live
        holder = lifecycle.lock_holder(path)
        raise UpError(
            f"Hubbub already runs on {settings.data_dir} (pid {holder}). Stop it first, or choose another --data-dir."
        )


def _wait_for_older(settings: Settings) -> None:
    """Let an older supervisord end whose `hubbub up` was killed; one that runs in earnest is an error."""
    pid = _supervisord_pid(settings)
    if not _is_supervisord(pid):
        return
    with contextlib.suppress(OSError, xmlrpc.client.Error, http.client.HTTPException):
        with supervisor(settings) as server:
            state = cast(dict[str, str], server.supervisor.getState())
        if state["statename"] != "SHUTDOWN":
            raise UpError(f"supervisord (pid {pid}) already runs on {settings.data_dir}; stop it first")
    click.echo(f"Waiting for an older supervisord (pid {pid}) to stop …")
    if not _until(lambda: not _is_supervisord(pid), OLD_SECONDS):
        raise UpError(f"supervisord (pid {pid}) still runs on {settings.data_dir}")


def _supervisord_pid(settings: Settings) -> int:
    try:
        return int((settings.run_dir / "supervisord.pid").read_text())
    except (OSError, ValueError):
        return 0


def _is_supervisord(pid: int) -> bool:
    if pid <= 0:
        return False
    try:
        os.kill(pid, 0)
        return b"supervisord" in Path(f"/proc/{pid}/cmdline").read_bytes()
    except FileNotFoundError:
        return not Path("/proc/self").exists()  # no such process, or no /proc to ask
    except OSError:
        return False


def _check_port(settings: Settings) -> None:
    """The shards share their port, so they would share it with a stranger's too. Raises `UpError`."""
    problem = _port_problem(settings)
    if problem and _older_programs(settings):
        click.echo("Waiting for older shards to let go of the port …")
        _until(lambda: not _port_problem(settings), OLD_SECONDS)
        problem = _port_problem(settings)
    if problem:
        raise UpError(problem)


def _port_problem(settings: Settings) -> str:
    try:
        family, kind, protocol, _, where = socket.getaddrinfo(
            settings.host, settings.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # connections that are just ending
            probe.bind(where)
    except OSError as exc:
        if exc.errno == errno.EADDRINUSE:
            return f"port {settings.port} on {settings.host} is in use; choose another with --port"
        return f"cannot listen on {settings.host} port {settings.port}: {exc.strerror}; see --host and --port"
    return ""


def _older_programs(settings: Settings) -> bool:
    """Whether a program of an older generation still holds its lock."""
    return any(lifecycle.is_locked(path) for path in settings.run_dir.glob("*.lock") if path.name != "up.lock")


def _start_supervisord(settings: Settings) -> "subprocess.Popen[bytes]":
    def in_child() -> None:
        if sys.platform.startswith("linux"):
            lifecycle.set_parent_death_signal(signal.SIGTERM)

    with (settings.data_dir / "logs" / "supervisord.out").open("wb") as output:
        return subprocess.Popen(
            [sys.executable, "-P", "-m", "supervisor.supervisord", "-s", "-c", asset("supervisord.conf")],
            env=environment(settings, os.environ),
            cwd=settings.data_dir,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            preexec_fn=in_child,
            start_new_session=True,  # Ctrl-C goes to us alone, and the programs are stopped in their order
        )


def _wait_until_ready(settings: Settings, supervisord: "subprocess.Popen[bytes]", stop: _Stop) -> None:
    started = time.monotonic()
    warned = False
    while not stop.asked and supervisord.poll() is None:
        missing = _not_ready(settings)
        if not missing:
            click.echo(f"Hubbub is ready: {address(settings)}")
            return
        if not warned and time.monotonic() - started > READY_SECONDS:
            warned = True
            click.echo(f"Hubbub is not ready after {READY_SECONDS:.0f} seconds: {missing}", err=True)
            click.echo(_troubles(settings), err=True)
            click.echo("Still trying; Ctrl-C stops it.", err=True)
        stop.wait(0.1)


def _not_ready(settings: Settings) -> str:
    """What /readyz lacks, or an empty text."""
    host, port = address(settings).removeprefix("http://").rsplit(":", 1)
    connection = http.client.HTTPConnection(host, int(port), timeout=2.0)
    try:
        connection.request("GET", "/readyz")
        answer = connection.getresponse()
        body = answer.read(2000).decode(errors="replace").strip()
    except OSError as exc:
        return f"no shard answers on {address(settings)} ({exc.strerror or exc})"
    except http.client.HTTPException as exc:
        return f"{address(settings)} does not speak HTTP ({exc!r})"
    finally:
        connection.close()
    return "" if answer.status == 200 else f"/readyz says {answer.status}: {body}"


def _troubles(settings: Settings) -> str:
    """The state of every program, and the end of the log of those that look unwell."""
    lines, unwell = [], []
    try:
        for name, state, description, uptime in programs(settings):
            lines.append(f"  {name:<12} {state:<10} {description}")
            if state != "EXITED" and uptime < READY_SECONDS / 2:
                unwell.append(name)
    except UpError as exc:
        lines.append(f"  {exc.message}")
    logs = settings.data_dir / "logs"
    for name in unwell or ["store", "shard-0"]:
        lines.append(f"  the end of {logs / name}.log:")
        lines += [f"    {line}" for line in _tail(logs / f"{name}.log")]
    return "\n".join(lines)


def _tail(path: Path) -> list[str]:
    try:
        return path.read_text(errors="replace").splitlines()[-TAIL_LINES:]
    except OSError:
        return []


def _stop_supervisord(settings: Settings, supervisord: "subprocess.Popen[bytes]", *, asked: bool) -> int:
    if supervisord.poll() is None:
        click.echo("Stopping …")
        supervisord.terminate()
        try:
            supervisord.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            supervisord.kill()  # its programs notice, see `lifecycle.die_with_parent`
            supervisord.wait()
    if asked:
        click.echo("Stopped.")
        return 0
    logs = settings.data_dir / "logs"
    said = _tail(logs / "supervisord.out") or _tail(logs / "supervisord.log")
    raise UpError(f"supervisord ended by itself (code {supervisord.returncode}):\n" + "\n".join(said))


def supervisor(settings: Settings) -> xmlrpc.client.ServerProxy:
    """A connection to the supervisord of *settings*; made at the first call."""
    server = f"unix://{settings.socket_dir / 'supervisor.sock'}"
    return xmlrpc.client.ServerProxy("http://127.0.0.1", transport=SupervisorTransport(None, None, server))


def programs(settings: Settings) -> list[tuple[str, str, str, float]]:
    """(name, state, description, seconds it has run) of every program. Raises `UpError` where nothing runs."""
    try:
        with supervisor(settings) as server:
            answer = cast(list[dict[str, Any]], server.supervisor.getAllProcessInfo())
    except (OSError, xmlrpc.client.Error, http.client.HTTPException) as exc:
        raise UpError(f"Hubbub does not run on {settings.data_dir}") from exc
    return [(one["name"], one["statename"], one["description"], one["now"] - one["start"]) for one in answer]


def _until(true: Callable[[], bool], seconds: float) -> bool:
    give_up = time.monotonic() + seconds
    while not true():
        if time.monotonic() > give_up:
            return False
        time.sleep(0.05)
    return True
