"""A backup file: a tar that holds each table as COPY's text in gzipped parts, and says at its end what must be there.

    messages/00001.copy.gz    some 8 MB of rows each; together one gzip stream
    messages/00002.copy.gz
    …
    manifest.json             `Manifest`: versions, tables, rows, and of each part its size and SHA-256
    manifest.sha256           the SHA-256 of manifest.json, as sha256sum prints it

What was not written to its end has no manifest, and so can never pass for a backup. While it is written its name ends
in ``.part``; the final name appears when everything is on the disk.
"""

import contextlib
import fcntl
import gzip
import hashlib
import io
import os
import tarfile
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Self

import msgspec

from hubbub.runtime.files import sync_directory

FORMAT = 1
# Uncompressed bytes of one part; also about what making or reading a backup takes of memory.
PART_BYTES = 8 * 1024 * 1024
# A chat shrinks to a quarter at level 1; at 6 it takes thrice the time for another tenth.
_LEVEL = 1
_MANIFEST, _CHECKSUM = "manifest.json", "manifest.sha256"

Noted = Callable[[str, int, int], None]  # told a table's name, its rows and bytes (uncompressed) so far


class BackupError(Exception):
    """Why a backup cannot be made or used; its text is fit for the operator's eyes."""


class Part(msgspec.Struct, frozen=True):
    """One member of the tar: its size there, and the SHA-256 of what it holds there."""

    name: str
    bytes: int
    sha256: str


class Table(msgspec.Struct, frozen=True):
    """One table; its parts hold these columns of all its rows, in COPY's text format."""

    name: str
    columns: list[str]
    rows: int
    parts: list[Part]


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """What a backup holds. `made_at` is in unix seconds, by the database's clock, `schema` the newest migration's
    number, `postgres` the server's version as PostgreSQL counts (180006). Tables come before those that refer to
    them."""

    format: int = FORMAT
    hubbub: str
    made_at: int
    schema: int
    epoch: int
    postgres: int
    tables: list[Table]

    def rows(self, table: str) -> int:
        """How many rows of *table* are in it."""
        return sum(one.rows for one in self.tables if one.name == table)


class ArchiveWriter:
    """Writes a new backup; a context manager. Leave it without `finish`, and nothing stays.

    Raises `BackupError` where *path* exists, another backup writes to it, or the disk does not take it.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._part = path.with_name(path.name + ".part")
        if path.exists():
            raise BackupError(f"{path} exists already, and a backup is never overwritten")
        try:
            self._file = self._open()
        except OSError as exc:
            raise BackupError(f"cannot write {self._part}: {exc.strerror}") from exc
        self._tar = tarfile.open(fileobj=self._file, mode="w", format=tarfile.PAX_FORMAT)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._file.closed:
            return
        self._part.unlink(missing_ok=True)
        with contextlib.suppress(OSError):  # it writes what it still holds, for nobody
            self._file.close()
        if isinstance(exc, OSError):
            raise BackupError(f"cannot write {self._part}: {exc.strerror}; nothing was kept") from exc

    def table(self, name: str, rows: Iterable[bytes | bytearray | memoryview], noted: Noted) -> tuple[list[Part], int]:
        """Write *rows*, each ended by a line feed; the parts, and how many rows they hold. Raises `OSError`."""
        parts: list[Part] = []
        gathered = bytearray()
        count = total = 0
        for row in rows:
            gathered += row
            count += 1
            if len(gathered) >= PART_BYTES:
                parts.append(self._compressed(name, len(parts) + 1, gathered))
                total += len(gathered)
                gathered.clear()
                noted(name, count, total)
        if gathered:
            parts.append(self._compressed(name, len(parts) + 1, gathered))
        noted(name, count, total + len(gathered))
        return parts, count

    def finish(self, manifest: Manifest) -> None:
        """Everything is in it: give it its name. Raises `OSError` or `BackupError`."""
        encoded = msgspec.json.format(msgspec.json.encode(manifest), indent=1) + b"\n"
        self._add(_MANIFEST, encoded)
        self._add(_CHECKSUM, f"{hashlib.sha256(encoded).hexdigest()}  {_MANIFEST}\n".encode())
        self._tar.close()
        self._file.flush()
        os.fsync(self._file.fileno())
        try:
            os.link(self._part, self.path)  # unlike a rename, this never replaces a file that has come meanwhile
        except FileExistsError as exc:
            raise BackupError(f"{self.path} exists already, and a backup is never overwritten") from exc
        self._part.unlink()
        sync_directory(self.path.parent)
        self._file.close()

    def _open(self) -> BinaryIO:
        file = os.fdopen(os.open(self._part, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600), "r+b")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # Another one may have given this very file its final name between our two steps: it must not be touched.
            ours = self._part.exists() and os.path.samestat(os.fstat(file.fileno()), self._part.stat())
        except BlockingIOError:
            ours = False
        if not ours:
            file.close()
            raise BackupError(f"another backup is just being written to {self.path}")
        os.fchmod(file.fileno(), 0o600)
        os.ftruncate(file.fileno(), 0)  # what one that was killed has left
        return file

    def _compressed(self, table: str, number: int, data: bytearray) -> Part:
        packed = gzip.compress(data, compresslevel=_LEVEL, mtime=0)
        name = f"{table}/{number:05}.copy.gz"
        self._add(name, packed)
        return Part(name, len(packed), hashlib.sha256(packed).hexdigest())

    def _add(self, name: str, data: bytes) -> None:
        member = tarfile.TarInfo(name)
        member.size, member.mode, member.mtime = len(data), 0o600, int(time.time())
        self._tar.addfile(member, io.BytesIO(data))


class ArchiveReader:
    """Reads a backup; a context manager. `manifest` says what it holds.

    Raises `BackupError` for a file that is none, is incomplete, or was made by a newer format.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        with contextlib.ExitStack() as undo:
            try:
                file = undo.enter_context(path.open("rb"))
                self._tar = undo.enter_context(tarfile.open(fileobj=file, mode="r:"))
                self._members = {member.name: member for member in self._tar.getmembers()}
            except tarfile.TarError as exc:
                raise BackupError(f"{path} is no backup, or only the beginning of one: {exc}") from exc
            except OSError as exc:
                raise BackupError(f"cannot read {path}: {exc.strerror}") from exc
            self.manifest = self._read_manifest()
            self._close = undo.pop_all().close

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._close()

    def rows(self, table: Table) -> Iterator[bytes]:
        """The parts of *table*, unpacked, each checked before it is given away. Raises `BackupError`."""
        for part in table.parts:
            data = self._read(part.name)
            if len(data) != part.bytes or hashlib.sha256(data).hexdigest() != part.sha256:
                raise BackupError(f"{self.path} is damaged: {part.name} is not what was written")
            yield gzip.decompress(data)

    def verify(self, noted: Noted) -> None:
        """Read all of it once. Raises `BackupError` where a part is missing or damaged, or rows are."""
        for table in self.manifest.tables:
            rows = size = 0
            for data in self.rows(table):
                rows += data.count(b"\n")  # COPY writes those inside of values as \n
                size += len(data)
                noted(table.name, rows, size)
            if rows != table.rows:
                raise BackupError(f"{self.path} is damaged: {table.name} has {rows} rows instead of {table.rows}")

    def _read_manifest(self) -> Manifest:
        if _CHECKSUM not in self._members:
            raise BackupError(f"{self.path} is incomplete: whatever made it did not come to its end")
        encoded = self._read(_MANIFEST)
        if self._read(_CHECKSUM).split()[:1] != [hashlib.sha256(encoded).hexdigest().encode()]:
            raise BackupError(f"{self.path} is damaged: its manifest is not what was written")
        form = msgspec.json.decode(encoded, type=dict[str, object]).get("format")
        if form != FORMAT:
            raise BackupError(f"{self.path} has format {form}, which this version of Hubbub does not know")
        return msgspec.json.decode(encoded, type=Manifest)

    def _read(self, name: str) -> bytes:
        member = self._members.get(name)
        file = self._tar.extractfile(member) if member is not None else None
        if member is None or file is None:
            raise BackupError(f"{self.path} is damaged: {name} is missing")
        data = file.read()
        if len(data) != member.size:
            raise BackupError(f"{self.path} is damaged: it ends within {name}")
        return data
