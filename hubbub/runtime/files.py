"""Private directories, secrets, files that are replaced whole, and the files that ship with us."""

import os
import secrets
import stat
from pathlib import Path

import hubbub

# HS256 wants a key of at least the hash's 32 bytes (RFC 7518, 3.2).
SECRET_MIN = 32


class FileError(Exception):
    """A file or directory that cannot be used as it is; its text is fit for the operator's eyes."""


def private_dir(path: Path, *, strict: bool = False) -> Path:
    """Make *path* a directory of mode 0700 that is ours; missing parents are made, the others stay as they are.

    Root also takes a directory that it, or a ``sudo``, gave to somebody else, unless *strict*: below /tmp that
    is a trap, and so is a symbolic link. Raises `FileError`.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            path.mkdir(mode=0o700)
        except FileExistsError:
            pass
        status = path.lstat()
        if not stat.S_ISDIR(status.st_mode) and not (path.is_dir() and not strict):
            raise FileError(f"{path} is not a directory")
        if path.is_symlink():
            status = path.stat()
        if status.st_uid != os.geteuid() and (strict or os.geteuid() != 0):
            raise FileError(f"{path} belongs to another user (uid {status.st_uid})")
        if stat.S_IMODE(status.st_mode) != 0o700:
            path.chmod(0o700)
    except OSError as exc:
        raise FileError(f"cannot use the directory {path}: {exc.strerror}") from exc
    return path


def write_whole(path: Path, data: bytes, *, mode: int = 0o600) -> None:
    """Replace *path* by *data* so that a reader sees the old or the new, never a part. Not fsynced."""
    part = path.with_name(f".{path.name}.{os.getpid()}")
    descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, mode)
    with os.fdopen(descriptor, "wb") as file:
        file.write(data)
    part.replace(path)


def make_secret(path: Path) -> None:
    """Create *path* with 256 random bits, for its owner only; an existing one is left alone. Raises `FileError`."""
    private_dir(path.parent)
    part = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600)
        with os.fdopen(descriptor, "w") as file:
            file.write(secrets.token_hex(32) + "\n")
            file.flush()
            os.fsync(descriptor)
        try:
            os.link(part, path)  # unlike a rename, this never replaces a secret that another start just made
        except FileExistsError:
            pass
        finally:
            part.unlink()
    except OSError as exc:
        raise FileError(f"cannot write the secret {path}: {exc.strerror}") from exc


def read_secret(path: Path) -> bytes:
    """A secret without the line end around it. Raises `FileError` where it is missing, short or readable by others."""
    try:
        mode = stat.S_IMODE(path.stat().st_mode)
        secret = path.read_bytes().strip()
    except OSError as exc:
        raise FileError(f"cannot read the secret {path}: {exc.strerror}") from exc
    if mode & 0o007:
        raise FileError(f"{path} is open to every user (mode {mode:04o}); chmod 600 it")
    if len(secret) < SECRET_MIN:
        raise FileError(f"{path} holds {len(secret)} bytes; a secret has at least {SECRET_MIN}")
    return secret


def asset(name: str) -> Path:
    """A file or directory that ships with us: ``webclient``, ``supervisord.conf``.

    In a checkout they stand at the top; installed, inside the package.
    """
    package = Path(hubbub.__file__).resolve().parent
    inside = package / name
    return inside if inside.exists() else package.parent / name
