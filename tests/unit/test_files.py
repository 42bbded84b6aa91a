import os
import stat

import pytest

from hubbub.runtime.files import FileError, asset, make_secret, private_dir, read_secret, write_whole


def mode(path):
    return stat.S_IMODE(path.stat().st_mode)


def test_a_private_dir_is_closed_and_its_parents_stay(tmp_path):
    tmp_path.chmod(0o755)
    (tmp_path / "open").mkdir(mode=0o755)
    private_dir(tmp_path / "open" / "new")
    assert mode(tmp_path / "open" / "new") == 0o700
    assert mode(tmp_path / "open") == 0o755
    private_dir(tmp_path / "open")
    assert mode(tmp_path / "open") == 0o700


def test_a_file_is_no_directory(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(FileError, match="is not a directory"):
        private_dir(tmp_path / "file")
    with pytest.raises(FileError, match="cannot use the directory"):
        private_dir(tmp_path / "file" / "below")


def test_where_others_write_a_link_is_a_trap(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    private_dir(tmp_path / "link")
    with pytest.raises(FileError, match="is not a directory"):
        private_dir(tmp_path / "link", strict=True)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a directory away")
def test_where_others_write_a_strangers_directory_is_a_trap(tmp_path):
    (tmp_path / "theirs").mkdir()
    os.chown(tmp_path / "theirs", 12345, 12345)
    private_dir(tmp_path / "theirs")
    with pytest.raises(FileError, match="belongs to another user"):
        private_dir(tmp_path / "theirs", strict=True)


def test_a_secret_is_made_once(tmp_path):
    path = tmp_path / "secrets" / "token"
    make_secret(path)
    first = read_secret(path)
    make_secret(path)
    assert read_secret(path) == first
    assert len(first) == 64
    assert mode(path) == 0o600
    assert mode(path.parent) == 0o700
    assert [entry.name for entry in path.parent.iterdir()] == ["token"]


def test_a_secret_that_is_none(tmp_path):
    path = tmp_path / "token"
    with pytest.raises(FileError, match="No such file"):
        read_secret(path)
    path.write_text("short\n")
    path.chmod(0o600)
    with pytest.raises(FileError, match="holds 5 bytes"):
        read_secret(path)
    path.write_text("x" * 40)
    path.chmod(0o644)
    with pytest.raises(FileError, match="chmod 600"):
        read_secret(path)


def test_writing_whole_replaces(tmp_path):
    path = tmp_path / "a"
    write_whole(path, b"one")
    with path.open("rb") as old:
        write_whole(path, b"two")
        assert old.read() == b"one"
    assert path.read_bytes() == b"two"
    assert mode(path) == 0o600
    assert list(tmp_path.iterdir()) == [path]


def test_the_files_that_ship_with_us_are_there():
    assert "[supervisord]" in asset("supervisord.conf").read_text()
