"""What `hubbub backup` does: a backup of the running database, and a note of when it was made."""

import time
from collections.abc import Callable
from pathlib import Path

import msgspec
import psycopg

from hubbub.backup.archive import ArchiveWriter, BackupError, Manifest
from hubbub.backup.progress import Progress, at, moved
from hubbub.backup.tables import dump, transaction
from hubbub.runtime.files import write_whole
from hubbub.settings import Settings

# In the data directory; what `hubbub doctor` reads.
_NOTE = "last-backup.json"


class LastBackup(msgspec.Struct):
    """When the last backup was made (unix seconds), and where it was put."""

    made_at: int
    file: str


def backup(settings: Settings, path: Path, say: Callable[[str], None]) -> Manifest:
    """Write a backup to *path* while the server runs. Raises `BackupError`."""
    url = settings.database_url or settings.postgres().url
    began = time.monotonic()
    try:
        with (
            ArchiveWriter(path) as archive,
            transaction(url, "begin isolation level repeatable read, read only") as conn,
        ):
            manifest = dump(conn, archive, Progress(say).noted)
    except psycopg.OperationalError as exc:
        hint = "" if settings.database_url else " (the embedded one runs while the server does: hubbub up)"
        raise BackupError(f"the database does not answer{hint}: {str(exc).strip()}") from exc
    except psycopg.Error as exc:
        raise BackupError(f"the database refused: {str(exc).strip()}") from exc
    if settings.data_dir.is_dir():
        note = LastBackup(manifest.made_at, str(path))
        write_whole(settings.data_dir / _NOTE, msgspec.json.encode(note))
    size, seconds = moved(path.stat().st_size), time.monotonic() - began
    say(f"{path}: {manifest.rows('messages'):,} messages as of {at(manifest.made_at)}, {size} in {seconds:.1f} s")
    return manifest


def last_backup(data_dir: Path) -> LastBackup | None:
    """The newest one that was made here; None where there is none, or no telling."""
    try:
        return msgspec.json.decode((data_dir / _NOTE).read_bytes(), type=LastBackup)
    except (OSError, msgspec.DecodeError):
        return None
