"""A restore of the embedded database takes effect whole, or is found unfinished.

`hubbub restore` makes the new database in ``<data>/restoring``. Until `commit` that directory stands for a restore
that did not come to its end, and no server starts beside it: it might begin an empty chat where one is to be
restored. From `commit` on, `settle` puts the new database into its place, and may be repeated wherever it was cut off.
"""

import shutil
from pathlib import Path

from hubbub.runtime.files import FileError, sync_directory, write_whole

_COMMITTED = "committed"


class UnfinishedRestore(FileError):
    """A restore was begun in `path` and not finished."""

    def __init__(self, path: Path) -> None:
        super().__init__(
            f"a restore did not come to its end. Repeat it (hubbub restore), or remove {path} to go on with what was "
            "there before, if anything was"
        )
        self.path = path


def restoring(data_dir: Path) -> Path:
    """Where the new database of *data_dir* is made: a data directory of its own."""
    return data_dir / "restoring"


def check_finished(data_dir: Path) -> None:
    """Raise `UnfinishedRestore` where a restore was begun and not committed."""
    work = restoring(data_dir)
    if work.exists() and not (work / _COMMITTED).exists():
        raise UnfinishedRestore(work)


def commit(data_dir: Path, aside: str) -> None:
    """The database in `restoring` is whole, and nobody uses it: it is the one that counts. What it replaces will be
    called *aside*, beside it. Raises OSError."""
    work = restoring(data_dir)
    write_whole(work / _COMMITTED, aside.encode(), sync=True)
    sync_directory(work)
    sync_directory(data_dir)


def settle(data_dir: Path) -> None:
    """Finish a restore that was committed. Call it before anything looks for the database, with its lock held.

    Raises `UnfinishedRestore`, OSError.
    """
    check_finished(data_dir)
    work, data = restoring(data_dir), data_dir / "postgres"
    done = data_dir / "restored"
    shutil.rmtree(done, ignore_errors=True)
    if not work.exists():
        return
    if (work / "postgres").exists():
        if data.exists():
            data.rename(data_dir / (work / _COMMITTED).read_text())
        (work / "postgres").rename(data)
        sync_directory(data_dir)
    work.rename(done)  # at once: without its mark, what is left of it would be a restore unfinished
    shutil.rmtree(done, ignore_errors=True)
