"""What `hubbub restore` does: a backup into a new database, which then takes the place of what is there.

Into the embedded one by a directory that is made beside it and put in its place when it is whole, see
`hubbub.runtime.restored`; into a database of your own in one transaction. Either way what was there is moved aside
and kept, and the new data has an epoch that no client knows, so that all of them discard what they hold.
"""

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg

from hubbub import settings as hubbub_settings
from hubbub.backup.archive import ArchiveReader, BackupError
from hubbub.backup.progress import Progress, at
from hubbub.backup.tables import load, move_aside, no_store, present, transaction
from hubbub.runtime import lifecycle
from hubbub.runtime.files import FileError, private_dir
from hubbub.runtime.postgres import using
from hubbub.runtime.postgres_setup import choose_account, data_path, find_binaries, readable_binaries
from hubbub.runtime.restored import commit, restoring, settle
from hubbub.settings import Settings
from hubbub.up import UpError, environment, prepare

_START_SECONDS = 120.0
_STOP_SECONDS = 60.0
# A backup of another machine's database bears the time of that one's clock.
_CLOCKS_APART = 60.0

Say = Callable[[str], None]


def restore(settings: Settings, path: Path, *, force: bool, say: Say) -> None:
    """Make the database what the backup at *path* holds. Raises `BackupError`."""
    with ArchiveReader(path) as archive:
        manifest = archive.manifest
        archive.verify(Progress(say, "checked").noted)
        if time.time() + _CLOCKS_APART < manifest.made_at:
            raise BackupError(
                f"this machine's clock is behind the moment at which the backup was made, {at(manifest.made_at)}: "
                "set it first, the new epoch is taken from it"
            )
        try:
            into = _into_another if settings.database_url else _into_embedded
            epoch, aside = into(settings, archive, force, say)
        except psycopg.Error as exc:
            raise BackupError(f"the database did not take it: {str(exc).strip()}; {_room(settings.data_dir)}") from exc
        except OSError as exc:
            raise BackupError(
                f"{exc.filename or settings.data_dir}: {exc.strerror}; {_room(settings.data_dir)}"
            ) from exc
        except (FileError, UpError, lifecycle.LifecycleError) as exc:
            raise BackupError(str(exc)) from exc
    if aside:
        say(f"what was there before is kept: {aside}")
    say(f"restored: {manifest.rows('messages'):,} messages as of {at(manifest.made_at)}; the new epoch is {epoch}")


def verify(path: Path, say: Say) -> None:
    """Read the backup at *path* and say what it holds. Raises `BackupError`."""
    with ArchiveReader(path) as archive:
        archive.verify(Progress(say, "checked").noted)
        manifest = archive.manifest
    version = f"Hubbub {manifest.hubbub}, migration {manifest.schema}, PostgreSQL {manifest.postgres // 10000}"
    say(f"{path} is whole: made {at(manifest.made_at)} by {version}")
    for table in manifest.tables:
        say(f"  {table.name:<20} {table.rows:>12,} rows")


def _into_another(settings: Settings, archive: ArchiveReader, force: bool, say: Say) -> tuple[int, str]:
    """Into the database of `database_url`; the new epoch, and where what was there is."""
    aside, before = "", 0
    with transaction(settings.database_url, "begin") as conn:
        no_store(conn)
        if present(conn):
            _only_with(force, "the database")
            schema = f"hubbub_before_{_stamp()}"
            before = move_aside(conn, schema)
            aside = f"the schema {schema} of the database"
        epoch = load(conn, archive, Progress(say, "restored").noted, epoch=before)
    return epoch, aside


def _into_embedded(settings: Settings, archive: ArchiveReader, force: bool, say: Say) -> tuple[int, str]:
    """Into a new embedded database; the new epoch, and where the old one is."""
    prepare(settings)
    data = data_path(settings.postgres())
    with _server_stopped(settings):
        work = restoring(settings.data_dir)
        exists = data.exists()
        if exists:
            _only_with(force, str(settings.data_dir))
        _remove(work)
        with _database_in(settings, work, say) as url:
            with transaction(url, "begin") as conn:
                epoch = load(conn, archive, Progress(say, "restored").noted)
            with psycopg.connect(url, autocommit=True) as plain:
                plain.execute("analyze")
        aside = f"postgres.before-{_stamp()}"
        commit(settings.data_dir, aside)
        settle(settings.data_dir)
    return epoch, str(settings.data_dir / aside) if exists else ""


def _remove(work: Path) -> None:
    """Remove what a restore that was cut off has left; its database ends with it, but takes a moment. Raises
    `BackupError`."""
    give_up = time.monotonic() + _STOP_SECONDS
    while lifecycle.is_locked(work / "postgres.lock") or using(work / "postgres"):
        if time.monotonic() > give_up:
            raise BackupError(f"another restore still works in {work}")
        time.sleep(0.05)
    if work.exists():
        shutil.rmtree(work)


def _only_with(force: bool, where: str) -> None:
    if not force:
        raise BackupError(f"{where} holds data already; with --force it is moved aside, and kept")


def _stamp() -> str:
    return time.strftime("%Y%m%d_%H%M%S", time.gmtime())


@contextmanager
def _server_stopped(settings: Settings) -> Iterator[None]:
    """Hold the places of those who would start the server. Raises `BackupError` where any of it runs."""
    ours = (settings.run_dir / "up.lock", settings.data_dir / "postgres.lock")
    held: list[int] = []
    try:
        for path in ours:
            held.append(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
            if not lifecycle.try_lock(held[-1]):
                raise BackupError(_still_runs(path))
        for path in settings.run_dir.glob("*.lock"):
            if path not in ours and lifecycle.is_locked(path):
                raise BackupError(_still_runs(path))
        yield
    finally:
        for descriptor in held:
            os.close(descriptor)


def _still_runs(lock: Path) -> str:
    return f"{lock.stem} (pid {lifecycle.lock_holder(lock)}) runs on this data directory: stop the server first"


@contextmanager
def _database_in(settings: Settings, work: Path, say: Say) -> Iterator[str]:
    """A new embedded database in the data directory *work*, running; its URL. Raises `BackupError`."""
    postgres = settings.postgres()
    account = choose_account(postgres)
    private_dir(work)
    if account.change:
        os.chown(work, account.uid, account.gid)
    inner = hubbub_settings.load(
        {},
        overrides={
            "data_dir": work,
            "postgres_bin_dir": readable_binaries(find_binaries(postgres.bin_dir), account, settings.data_dir),
            "log_format": "json",
        },
    )
    private_dir(inner.run_dir)
    log = work / "postgres.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", "hubbub.runtime.postgres"],
            env=environment(inner, {"PATH": os.environ.get("PATH", os.defpath)}),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
        )
    try:
        _wait_until_it_answers(process, inner.postgres().url, log)
        say("a new database is ready")
        yield inner.postgres().url
    finally:
        process.terminate()
        try:
            process.wait(_STOP_SECONDS)
        finally:
            process.kill()
        if inner.socket_dir != inner.run_dir:
            shutil.rmtree(inner.socket_dir, ignore_errors=True)
    if process.returncode != 0:
        raise BackupError(f"the new database did not stop as it must:\n{_tail(log)}")


def _wait_until_it_answers(process: "subprocess.Popen[bytes]", url: str, log: Path) -> None:
    give_up = time.monotonic() + _START_SECONDS
    while True:
        try:
            psycopg.connect(url, connect_timeout=5).close()
            return
        except psycopg.OperationalError as exc:
            if process.poll() is not None or time.monotonic() > give_up:
                raise BackupError(f"the new database does not start; {_room(log.parent)}:\n{_tail(log)}") from exc
        time.sleep(0.05)


def _tail(log: Path) -> str:
    return "\n".join(log.read_text(errors="replace").splitlines()[-8:])


def _room(path: Path) -> str:
    """The first thing to look at when something could not be written."""
    place = next(one for one in (path, *path.parents) if one.exists())
    return f"{shutil.disk_usage(place).free / 2**20:,.0f} MiB are free at {place}"
