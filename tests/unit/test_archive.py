"""A backup file: whole, or known not to be."""

import gzip
import io
import stat
import tarfile
from pathlib import Path

import msgspec
import pytest

from hubbub.backup import archive
from hubbub.backup.archive import ArchiveReader, ArchiveWriter, BackupError, Manifest, Table

ROWS = [f"{i}\tsaid {i}\n".encode() for i in range(1000)]


def nobody(table: str, rows: int, size: int) -> None:
    """Not interested in progress."""


def write(path: Path, rows: list[bytes] = ROWS, *, finish: bool = True) -> None:
    with ArchiveWriter(path) as writer:
        parts, count = writer.table("messages", rows, nobody)
        empty, none = writer.table("users", [], nobody)
        manifest = Manifest(
            hubbub="1", made_at=1, schema=2, epoch=3, postgres=180006,
            tables=[Table("messages", ["a", "b"], count, parts), Table("users", ["c"], none, empty)],
        )  # fmt: skip
        if finish:
            writer.finish(manifest)


@pytest.fixture
def made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A backup of several parts."""
    monkeypatch.setattr(archive, "PART_BYTES", 4000)
    write(tmp_path / "a.tar")
    return tmp_path / "a.tar"


def test_what_goes_in_comes_out(made: Path) -> None:
    seen: list[tuple[str, int]] = []
    with ArchiveReader(made) as reader:
        messages, users = reader.manifest.tables
        assert len(messages.parts) > 3
        assert b"".join(reader.rows(messages)) == b"".join(ROWS)
        assert list(reader.rows(users)) == []
        reader.verify(lambda table, rows, size: seen.append((table, rows)))
    assert seen[-1] == ("messages", 1000)
    assert stat.S_IMODE(made.stat().st_mode) == 0o600
    assert [path.name for path in made.parent.iterdir()] == ["a.tar"]


def test_it_can_be_read_with_tar_and_gunzip(made: Path) -> None:
    """By hand, years later: the parts of a table, one after the other, are one gzip stream."""
    with tarfile.open(made) as tar:
        packed = b"".join(
            tar.extractfile(member).read()  # type: ignore[union-attr]
            for member in tar.getmembers()
            if member.name.startswith("messages/")
        )
    assert gzip.decompress(packed) == b"".join(ROWS)


def test_a_file_that_exists_is_never_replaced(made: Path, tmp_path: Path) -> None:
    before = made.read_bytes()
    with pytest.raises(BackupError, match="exists already"):
        write(made)
    late = tmp_path / "late.tar"
    with pytest.raises(BackupError, match="exists already"), ArchiveWriter(late) as writer:
        late.write_bytes(b"somebody else's")
        writer.finish(Manifest(hubbub="1", made_at=1, schema=2, epoch=3, postgres=180006, tables=[]))
    assert (made.read_bytes(), late.read_bytes()) == (before, b"somebody else's")


def test_two_do_not_write_to_one_file(tmp_path: Path) -> None:
    with ArchiveWriter(tmp_path / "a.tar"):
        with pytest.raises(BackupError, match="another backup"):
            ArchiveWriter(tmp_path / "a.tar")


def test_what_was_left_is_written_over(tmp_path: Path) -> None:
    (tmp_path / "a.tar.part").write_bytes(b"x" * 1_000_000)
    write(tmp_path / "a.tar")
    with ArchiveReader(tmp_path / "a.tar") as reader:
        reader.verify(nobody)


def test_nothing_stays_of_one_that_fails(tmp_path: Path) -> None:
    write(tmp_path / "a.tar", finish=False)
    with pytest.raises(BackupError, match="No space left on device; nothing was kept"):
        with ArchiveWriter(tmp_path / "b.tar"):
            raise OSError(28, "No space left on device")
    assert list(tmp_path.iterdir()) == []


def test_every_cut_is_noticed(made: Path, tmp_path: Path) -> None:
    """Whatever length a copy or a killed backup got to: it is refused, and never half a restore."""
    whole = made.read_bytes()
    end = whole.rindex(b"manifest.json\n") + len(b"manifest.json\n")  # behind it come zeros only
    for length in [0, 1, 511, 512, *range(513, end, 97), end - 1]:
        short = tmp_path / "short"
        short.write_bytes(whole[:length])
        with pytest.raises(BackupError), ArchiveReader(short) as reader:
            reader.verify(nobody)


def test_every_flipped_byte_of_a_part_or_the_manifest_is_noticed(made: Path, tmp_path: Path) -> None:
    whole = bytearray(made.read_bytes())
    with tarfile.open(made) as tar:
        places = [(member.offset_data, member.size) for member in tar.getmembers() if member.name != "manifest.sha256"]
    for begin, size in places:
        for at in {begin, begin + size // 2, begin + size - 1}:
            whole[at] ^= 0x20
            (tmp_path / "bent").write_bytes(whole)
            whole[at] ^= 0x20
            with pytest.raises(BackupError, match="damaged"), ArchiveReader(tmp_path / "bent") as reader:
                reader.verify(nobody)


def test_what_is_no_backup(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("hello\n" * 500)
    with tarfile.open(tmp_path / "other.tar", "w") as tar:
        tar.addfile(tarfile.TarInfo("hello"), io.BytesIO())
    for name, says in (("text", "no backup"), ("other.tar", "incomplete"), ("none", "No such file")):
        with pytest.raises(BackupError, match=says):
            ArchiveReader(tmp_path / name)


def test_a_format_from_the_future(tmp_path: Path) -> None:
    with ArchiveWriter(tmp_path / "a.tar") as writer:
        writer.finish(msgspec.structs.replace(_EMPTY, format=2))
    with pytest.raises(BackupError, match="format 2"):
        ArchiveReader(tmp_path / "a.tar")


_EMPTY = Manifest(hubbub="1", made_at=1, schema=2, epoch=3, postgres=180006, tables=[])
