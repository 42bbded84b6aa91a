"""The embedded PostgreSQL: ``python -m hubbub.runtime.postgres`` runs one in the foreground, for supervisord.

It makes the database on the first start, then keeps ``postgres`` as its child and ends with it. The server listens
on a Unix socket in a directory of mode 0700 and nowhere else, so it asks for no password. If this program is
killed, the kernel sends the server a SIGINT (Linux), and the next generation waits for it to be gone.

With a database of your own (``HUBBUB_DATABASE_URL``) it ends at once, with exit code 64.
"""

import asyncio
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import structlog

from hubbub import settings as hubbub_settings
from hubbub.runtime import lifecycle, logs
from hubbub.runtime.files import FileError, private_dir
from hubbub.runtime.lifecycle import Life
from hubbub.runtime.postgres_setup import Account, Directory, Plan, PostgresError, data_path, plan
from hubbub.settings import PostgresSettings

log = structlog.get_logger()

# Recovery after a crash reads at most max_wal_size; on a slow disk that may take minutes, and cutting it short
# would only start it again. So this only says how often a line is logged.
STILL_STARTING_EVERY = 10.0
# SIGINT ends sessions and writes a checkpoint; then SIGQUIT, after which the next start recovers.
FAST_SHUTDOWN_SECONDS = 20.0
# The exit code that tells supervisord to let this program rest; after any other one, 0 too, it is started again.
NOT_WANTED = 64
DEADLINE = 28.0  # below supervisord.conf's stopwaitsecs
# How long an orphaned server may take to end itself.
OLD_SERVER_SECONDS = 30.0

# Written once into postgresql.conf, where an operator may change it.
CONFIGURATION = """
# Hubbub: a chat's many small commits on a machine that it shares. Durability stays at PostgreSQL's defaults
# (fsync and synchronous_commit on), which the store insists on.
shared_buffers = 128MB
max_connections = 50
max_wal_size = 2GB
min_wal_size = 256MB
checkpoint_timeout = 15min
jit = off                               # short statements: compiling them costs more than running them
max_parallel_workers_per_gather = 0     # leave the other cores to the shards
log_line_prefix = '%m [%p] '
log_timezone = 'UTC'
timezone = 'UTC'
"""
# After a crash PostgreSQL first syncs what is there, by default each of its 1,000 files: 0.4 to 3.6 s in 8 starts on a
# busy disk, against 0.1 to 0.35 s for the whole file system at once. Asked to stop during the former, it hung until
# SIGQUIT, 4 times of 4.
CONFIGURATION_LINUX = """\
recovery_init_sync_method = syncfs
"""


async def open_server(settings: PostgresSettings, life: Life) -> None:
    """Run the server for as long as *life* lasts; returns when it accepts connections.

    Raises `PostgresError`, `FileError` or `LockTimeout`.
    """
    try:
        private_dir(settings.data_dir)
        private_dir(settings.run_dir)
        await life.lock(settings.data_dir / "postgres.lock")
        found = plan(settings)
        await _old_server_gone(settings)
        if not (data_path(settings) / "PG_VERSION").exists():
            await _make_database(settings, found)
        await _start(settings, found, life)
    except FileError as exc:
        raise PostgresError(str(exc)) from exc


async def _make_database(settings: PostgresSettings, found: Plan) -> None:
    """initdb, the database and the configuration, under another name first: what is there is always complete."""
    started = time.monotonic()
    data, new = data_path(settings), settings.data_dir / "postgres.new"
    shutil.rmtree(new, ignore_errors=True)
    private_dir(new)
    _give(new, found.account)
    directory = Directory(new, found.account)
    try:
        initdb: list[str | Path] = [found.bin_dir / "initdb", "-D", directory.name, "-U", "hubbub", "-E", "UTF8"]
        await _run([*initdb, *_locale(found.major), "--auth-local=trust", "--auth-host=reject"], directory, found)
        single: list[str | Path] = [found.bin_dir / "postgres", "--single", "-D", directory.name]
        single += ["-c", "exit_on_error=on", "postgres"]
        await _run(single, directory, found, stdin="create database hubbub\n")
    finally:
        directory.close()
    with (new / "postgresql.conf").open("a") as configuration:
        configuration.write(CONFIGURATION)
        if sys.platform.startswith("linux") and found.major >= 14:
            configuration.write(CONFIGURATION_LINUX)
        configuration.flush()
        os.fsync(configuration.fileno())
    new.rename(data)
    _sync_directory(settings.data_dir)
    log.info("database made", data=str(data), seconds=round(time.monotonic() - started, 2))


def _locale(major: int) -> list[str]:
    """UTF-8 without the system's locales, which differ between machines and change under an index's feet."""
    if major >= 17:
        return ["--locale-provider=builtin", "--builtin-locale=C.UTF-8", "--locale=C"]
    return ["--locale=C.UTF-8" if sys.platform.startswith("linux") else "--locale=C"]


async def _run(args: list[str | Path], directory: Directory, found: Plan, stdin: str | None = None) -> None:
    """Run one of PostgreSQL's programs to its end. Raises `PostgresError` with what it said."""
    process = _spawn(args, [directory], found.account, signal.SIGKILL, pipes=True)
    output, _ = await asyncio.to_thread(process.communicate, stdin.encode() if stdin is not None else None)
    if process.returncode:
        said = output.decode(errors="replace").strip()
        raise PostgresError(f"{Path(args[0]).name} ended with {process.returncode}: {said}")


async def _start(settings: PostgresSettings, found: Plan, life: Life) -> None:
    started = time.monotonic()
    data = data_path(settings)
    private_dir(settings.socket_dir.parent, strict=settings.socket_dir.parent != settings.run_dir)
    private_dir(settings.socket_dir)
    _give(settings.socket_dir, found.account)
    data_dir, sockets = Directory(data, found.account), Directory(settings.socket_dir, found.account)
    life.stack.callback(data_dir.close)
    life.stack.callback(sockets.close)
    quoted = sockets.name.replace('"', '""')
    args: list[str | Path] = [found.bin_dir / "postgres", "-D", data_dir.name]
    for option in (f'unix_socket_directories="{quoted}"', "listen_addresses=", "unix_socket_permissions=0700"):
        args += ["-c", option]
    process = _spawn(args, [data_dir, sockets], found.account, signal.SIGINT)
    life.stack.push_async_callback(_stop, process)
    life.spawn(_watch(process, life), "postgres")
    nagged = started
    while not _is_ready(data, process.pid):
        if life.stop.is_set():
            return
        if time.monotonic() - nagged > STILL_STARTING_EVERY:
            nagged = time.monotonic()
            log.info("PostgreSQL is still starting", seconds=round(nagged - started))
        await asyncio.sleep(0.01)
    log.info(
        "PostgreSQL is ready",
        pid=process.pid,
        version=found.major,
        binaries=str(found.bin_dir),
        uid=found.account.uid,
        sockets=str(settings.socket_dir),
        seconds=round(time.monotonic() - started, 2),
    )


def _is_ready(data: Path, pid: int) -> bool:
    """postmaster.pid: line 1 is the server's pid, line 8 its state, padded with blanks."""
    try:
        lines = (data / "postmaster.pid").read_text().splitlines()
    except (FileNotFoundError, UnicodeDecodeError):
        return False
    return len(lines) >= 8 and lines[0].strip() == str(pid) and lines[7].strip() == "ready"


async def _watch(process: subprocess.Popen[bytes], life: Life) -> None:
    # A thread waits. Only the *spawning* thread's end would count as the parent's death, and that is the main one.
    code = await asyncio.to_thread(process.wait)
    if not life.stop.is_set():
        life.fail(f"PostgreSQL ended by itself, {_how(code)}")


def _how(code: int) -> str:
    return f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"


async def _stop(process: subprocess.Popen[bytes]) -> None:
    for number, seconds in ((signal.SIGINT, FAST_SHUTDOWN_SECONDS), (signal.SIGQUIT, 5.0)):
        process.send_signal(number)
        if await _until(lambda: process.poll() is not None, seconds):
            return
        log.warning("PostgreSQL does not stop", after=number.name, seconds=seconds)


def _spawn(
    args: list[str | Path],
    directories: list[Directory],
    account: Account,
    parent_death: signal.Signals,
    *,
    pipes: bool = False,
) -> "subprocess.Popen[bytes]":
    """Start a program of PostgreSQL's as *account*. It gets *parent_death* when this thread ends: call it from the
    main one. Nothing of our environment goes with it: a PGDATA or an LC_ALL would change what it does."""
    parent = os.getpid()

    def in_child() -> None:
        # After the change of user, which would undo it.
        if sys.platform.startswith("linux"):
            lifecycle.set_parent_death_signal(parent_death)
            if os.getppid() != parent:
                os._exit(1)

    change: dict[str, object] = (
        {"user": account.uid, "group": account.gid, "extra_groups": []} if account.change else {}
    )
    try:
        return subprocess.Popen(  # type: ignore[call-overload,no-any-return]
            args,
            cwd="/",
            env={"PATH": os.defpath, "LC_ALL": "C"},
            umask=0o077,
            preexec_fn=in_child,
            pass_fds=[descriptor for directory in directories for descriptor in directory.descriptors],
            stdin=subprocess.PIPE if pipes else subprocess.DEVNULL,
            stdout=subprocess.PIPE if pipes else None,
            stderr=subprocess.STDOUT if pipes else None,
            **change,
        )
    except (OSError, subprocess.SubprocessError) as exc:
        raise PostgresError(f"cannot run {args[0]}: {exc}") from exc


async def _old_server_gone(settings: PostgresSettings) -> None:
    """Make sure that no server of an older generation uses the data, then remove what a killed one left behind.

    We hold the lock, so whatever still runs has lost its supervisor. PostgreSQL itself would judge by the pid in
    its lock files alone, and refuse to start for ever when that pid went to somebody else. Raises `PostgresError`.
    """
    if not sys.platform.startswith("linux"):
        return  # no /proc to look into: then PostgreSQL's own, more timid judgement holds
    data = data_path(settings)
    if servers := using(data):
        log.info("waiting for an older PostgreSQL to end", pids=servers)
        postmaster = _postmaster_pid(data)
        if postmaster in servers:
            os.kill(postmaster, signal.SIGINT)
        if not await _until(lambda: not using(data), OLD_SERVER_SECONDS):
            raise PostgresError(f"an older PostgreSQL still uses {data}: pids {using(data)}")
    for leftover in (data / "postmaster.pid", *settings.socket_dir.glob(".s.PGSQL.*")):
        if leftover.exists():
            log.info("removing what a killed PostgreSQL left", file=str(leftover))
            leftover.unlink()


def using(data: Path) -> list[int]:
    """The pids of all PostgreSQL processes that run on *data*: each has it as its working directory (Linux)."""
    found = []
    real = os.path.realpath(data)
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            if (
                os.readlink(entry / "cwd") == real  # a shell that somebody left in there is no reason to wait
                and os.path.basename(os.readlink(entry / "exe")).startswith("postgres")
            ):
                found.append(int(entry.name))
        except OSError:
            continue  # it ended, or belongs to somebody else
    return found


def _postmaster_pid(data: Path) -> int:
    try:
        return int((data / "postmaster.pid").read_text().splitlines()[0])
    except (OSError, ValueError, IndexError):
        return 0


async def _until(true: Callable[[], bool], seconds: float) -> bool:
    """Wait until *true* says so, at most *seconds*; what it said last."""
    give_up = time.monotonic() + seconds
    while not true():
        if time.monotonic() >= give_up:
            return False
        await asyncio.sleep(0.01)
    return True


def _give(path: Path, account: Account) -> None:
    if account.change:
        os.chown(path, account.uid, account.gid, follow_symlinks=False)


def _sync_directory(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def main() -> None:
    """The program."""
    try:
        settings = hubbub_settings.from_environ(os.environ).postgres()
    except hubbub_settings.SettingsError as exc:
        lifecycle.refuse_to_start(str(exc))
    logs.configure(settings.name, level=settings.log_level, format=settings.log_format)
    if not settings.wanted:
        log.info("HUBBUB_DATABASE_URL is set: no embedded PostgreSQL")
        sys.exit(NOT_WANTED)
    lifecycle.run(partial(open_server, settings), name=settings.name, deadline=DEADLINE)


if __name__ == "__main__":
    main()
