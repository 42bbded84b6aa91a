"""Putting a restored database into its place, cut off anywhere."""

from pathlib import Path

import pytest

from hubbub.runtime.restored import UnfinishedRestore, check_finished, commit, restoring, settle

ASIDE = "postgres.before-then"


class Died(Exception):
    """Stands for kill -9."""


def prepared(data_dir: Path, *, old: bool) -> None:
    """A data directory in which a new database was made."""
    for path, text in ((data_dir / "postgres", "old"), (restoring(data_dir) / "postgres", "new")):
        if text == "new" or old:
            path.mkdir(parents=True)
            (path / "PG_VERSION").write_text(text)


def told(path: Path) -> str:
    return (path / "PG_VERSION").read_text()


def test_without_a_restore_nothing_happens(tmp_path: Path) -> None:
    check_finished(tmp_path)
    settle(tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("old", [True, False])
def test_until_it_is_committed_the_old_stays_and_nothing_starts(tmp_path: Path, old: bool) -> None:
    prepared(tmp_path, old=old)
    for look in (check_finished, settle):
        with pytest.raises(UnfinishedRestore, match="Repeat it"):
            look(tmp_path)
    assert not old or told(tmp_path / "postgres") == "old"


@pytest.mark.parametrize("old", [True, False])
@pytest.mark.parametrize("dies_at", range(8))
def test_committed_it_is_finished_wherever_it_was_cut_off(
    tmp_path: Path, old: bool, dies_at: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before every step, and after the last one."""
    prepared(tmp_path, old=old)
    commit(tmp_path, ASIDE)
    steps = 0

    def dying(real):
        def step(*arguments, **named):
            nonlocal steps
            if steps == dies_at:
                raise Died
            steps += 1
            return real(*arguments, **named)

        return step

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", dying(Path.rename))
        for name in ("shutil.rmtree", "hubbub.runtime.restored.sync_directory", "os.unlink", "os.rmdir"):
            module, _, function = name.rpartition(".")
            target = __import__(module, fromlist=[function])
            patch.setattr(target, function, dying(getattr(target, function)))
        try:
            settle(tmp_path)
        except Died:
            pass
    check_finished(tmp_path)
    settle(tmp_path)
    assert told(tmp_path / "postgres") == "new"
    assert (told(tmp_path / ASIDE) == "old") if old else not (tmp_path / ASIDE).exists()
    assert not restoring(tmp_path).exists()
    settle(tmp_path)
    assert told(tmp_path / "postgres") == "new"
