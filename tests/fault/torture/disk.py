"""A disk that can be filled: a small tmpfs of our own, for the data directory."""

import errno
import os
import subprocess
from pathlib import Path

# initdb takes 40 MB, PostgreSQL keeps 256 MB of its log for reuse, the rest is for messages.
SIZE_MB = 900
_TRIES = 20


class NoDisk(Exception):
    """This machine does not let us mount one; says why."""


class Disk:
    """A tmpfs at *path*. Made by `mount`, removed by `unmount`."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._balloon = path / "balloon"

    @classmethod
    def mount(cls, path: Path) -> "Disk":
        """Mount it. Raises `NoDisk`."""
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        if os.geteuid() != 0:
            raise NoDisk("only root may mount a disk of its own")
        options = ["-t", "tmpfs", "-o", f"size={SIZE_MB}m,mode=0700", "hubbub-torture", str(path)]
        try:
            done = subprocess.run(["mount", *options], capture_output=True, text=True, check=False)
        except OSError as exc:
            raise NoDisk(f"mount cannot be run: {exc}") from exc
        if done.returncode:
            raise NoDisk(done.stderr.strip())
        return cls(path)

    def unmount(self) -> None:
        """Let go of it and of all that is on it."""
        subprocess.run(["umount", "--lazy", str(self._path)], check=True)

    def fill(self) -> int:
        """Leave no byte; returns how many there were. May be called again while it is full."""
        taken = 0
        with self._balloon.open("ab") as balloon:
            for _ in range(_TRIES):
                state = os.statvfs(self._path)
                free = state.f_bavail * state.f_frsize
                if not free:
                    break
                try:
                    os.posix_fallocate(balloon.fileno(), os.fstat(balloon.fileno()).st_size, free)
                except OSError as exc:
                    if exc.errno != errno.ENOSPC:
                        raise
                    continue  # somebody else has just taken a part of it
                taken += free
        return taken

    def free(self) -> None:
        """Give the space back."""
        self._balloon.unlink(missing_ok=True)
