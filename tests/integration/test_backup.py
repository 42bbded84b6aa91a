"""`hubbub backup` and `hubbub restore` on real servers: under load, cut off, refused, and what clients then do."""

import asyncio
import os
import resource
import shutil
import signal
import stat
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg import sql
from psycopg.rows import dict_row

from hubbub.doctor.database import restored
from hubbub.doctor.finding import Level
from hubbub.protocol.conversation import SLOT_SHIFT
from hubbub.runtime.restored import restoring
from tests.integration.system import ROOT, System, running
from tests.integration.talk import talk, what_they_hold_is_the_table

Rows = list[dict[str, Any]]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    with running(tmp_path_factory.mktemp("backup"), shards=1) as system:
        yield system


def hubbub(
    *arguments: object, program: Sequence[str] = ("-m", "hubbub.cli"), limit: int | None = None
) -> "subprocess.CompletedProcess[str]":
    """Run a command to its end. *limit*: bytes that a file may have, as on a disk that is full then."""

    def limited() -> None:
        if limit is not None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    return subprocess.run(
        [sys.executable, *program, *map(str, arguments)],
        cwd=ROOT,
        env={name: value for name, value in os.environ.items() if not name.startswith("HUBBUB_")},
        capture_output=True,
        text=True,
        timeout=100,
        preexec_fn=limited,
    )


def good(done: "subprocess.CompletedProcess[str]") -> str:
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


def bad(done: "subprocess.CompletedProcess[str]", says: str) -> None:
    assert done.returncode == 1, done.stderr
    assert done.stderr.startswith("Error: ") or "\nError: " in done.stderr
    assert "Traceback" not in done.stderr
    assert says in done.stderr


def rows_of(url: str, statement: str) -> Rows:
    with psycopg.connect(url, row_factory=dict_row) as conn:
        return conn.execute(statement).fetchall()


MESSAGES = "select * from messages order by id"


@pytest.fixture
def other_database(server: System) -> Iterator[str]:
    """A database of one's own: its URL."""
    server.rows("create database theirs")
    yield server.settings.postgres().url.replace("/hubbub?", "/theirs?")
    server.rows("drop database theirs with (force)")


# --- under load ----------------------------------------------------------------------------------------


async def test_a_backup_under_load_is_a_prefix_of_what_was_committed(
    server: System, other_database: str, tmp_path: Path
) -> None:
    server.rows("insert into accounts (username, password_hash, version) values ('acc', 'x', 7)")
    server.rows("insert into refresh_tokens values ('\\x00ff5c', 'acc', 'f', now(), null, null)")
    file = tmp_path / "load.tar"
    async with talk(server, *(f"load{i}" for i in range(6))) as crowd:
        crowd.begin()
        await crowd.until_said(100)
        before = dict(crowd.acknowledged)
        done = await asyncio.to_thread(hubbub, "backup", file, "--data-dir", server.data_dir)
        assert f"{file}: " in good(done)
        after = dict(crowd.acknowledged)
        await crowd.until_said(50)
        await crowd.silence()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    good(hubbub("restore", file, "--data-dir", tmp_path, "--database-url", other_database))
    there, here = rows_of(other_database, MESSAGES), server.rows(MESSAGES)
    ends = {row["id"] >> SLOT_SHIFT: row["id"] for row in there}
    assert there == [row for row in here if row["id"] <= ends.get(row["id"] >> SLOT_SHIFT, 0)]
    # All of what was acknowledged before it began, and, since one session writes everything, nothing newer left out.
    assert {row["client_key"] for row in there} >= before.keys()
    first_missing = min(row["timestamp"] for row in here if row["id"] > ends.get(row["id"] >> SLOT_SHIFT, 0))
    assert all(row["timestamp"] <= first_missing for row in there)
    assert len(before) <= len(there) < len(here)
    assert len(after) > 0
    cursors = {(row["username"], row["conversation"]): row for row in server.rows("select * from cursors")}
    for row in rows_of(other_database, "select * from cursors"):
        now = cursors[row["username"], row["conversation"]]
        assert row["delivered_seq"] <= now["delivered_seq"] and row["read_seq"] <= now["read_seq"]
    for table in ("accounts", "refresh_tokens", "access_version"):
        assert rows_of(other_database, f"select * from {table}") == server.rows(f"select * from {table}"), table
    (old,), (new,) = server.rows("select epoch from epoch"), rows_of(other_database, "select epoch from epoch")
    assert new["epoch"] > old["epoch"]


def test_every_table_and_column_is_in_it(server: System, tmp_path: Path) -> None:
    """Also those of migrations that are still to be written."""
    from hubbub.backup.archive import ArchiveReader

    good(hubbub("backup", tmp_path / "a.tar", "--data-dir", server.data_dir))
    wanted = server.rows(
        "select table_name, array_agg(column_name::text order by column_name) as columns "
        "from information_schema.columns join information_schema.tables using (table_schema, table_name) "
        "where table_schema = 'public' and table_type = 'BASE TABLE' group by table_name"
    )
    with ArchiveReader(tmp_path / "a.tar") as archive:
        found = {table.name: sorted(table.columns) for table in archive.manifest.tables}
    assert found == {row["table_name"]: row["columns"] for row in wanted}
    assert "messages" in good(hubbub("restore", "--verify", tmp_path / "a.tar"))


# --- restored, and clients ---------------------------------------------------------------------------------


async def test_restored_from_an_older_backup_clients_discard_and_sync_and_no_number_is_used_twice(
    tmp_path: Path,
) -> None:
    file = tmp_path / "old.tar"
    with running(tmp_path / "home", shards=2) as system:
        async with talk(system, "ann", "bob", "cem") as crowd:
            crowd.begin()
            await crowd.until_said(40)
            good(await asyncio.to_thread(hubbub, "backup", file, "--data-dir", system.data_dir))
            await crowd.until_said(60)
            await crowd.silence()
            first = dict(crowd.acknowledged)
            lost_later = {row["id"]: row["client_key"] for row in system.rows(MESSAGES)}
            before = {device.core.epoch for device in crowd.devices}
            await asyncio.to_thread(system.stop)  # they go on trying to connect
            good(await asyncio.to_thread(hubbub, "restore", file, "--data-dir", system.data_dir, "--force"))
            system.launch()
            await asyncio.to_thread(system.wait_ready)
            for device in crowd.devices:
                async with asyncio.timeout(60):
                    while device.core.epoch in before:
                        await device.changed()
            await crowd.settled()
            kept = {row["client_key"] for row in system.rows(MESSAGES)}
            assert 40 <= len(kept) < len(first)
            said = len(crowd.acknowledged)
            crowd.begin()
            await crowd.until_said(80)
            await crowd.silence()
            assert len(crowd.acknowledged) >= said + 80
            rows = system.rows(MESSAGES)
            # Ids of the lost future are given anew, but under another epoch: as (epoch, id) none is used twice.
            assert any(lost_later.get(row["id"], row["client_key"]) != row["client_key"] for row in rows)
            names = [(crowd.epochs[key], ack.message_id) for key, ack in crowd.acknowledged.items()]
            assert len(set(names)) == len(names)
            assert len({epoch for epoch, _ in names}) == 2
            what_they_hold_is_the_table(crowd.devices, rows)
    aside = list((tmp_path / "home" / "data").glob("postgres.before-*"))
    assert len(aside) == 1 and (aside[0] / "PG_VERSION").exists()


def test_the_same_backup_twice_gives_two_epochs(server: System, other_database: str, tmp_path: Path) -> None:
    """Else clients of the first restore would keep, in the second, what it has not."""
    good(hubbub("backup", tmp_path / "a.tar", "--data-dir", server.data_dir))
    epochs = []
    for _ in range(3):
        again = ("restore", tmp_path / "a.tar", "--data-dir", tmp_path, "--database-url", other_database, "--force")
        good(hubbub(*again))
        epochs += [row["epoch"] for row in rows_of(other_database, "select epoch from epoch")]
    assert epochs == sorted(set(epochs))


# --- refused -----------------------------------------------------------------------------------------------


def test_what_is_refused(server: System, tmp_path: Path) -> None:
    file, data = tmp_path / "a.tar", ("--data-dir", server.data_dir)
    good(hubbub("backup", file, *data))
    before = file.read_bytes()
    bad(hubbub("backup", file, *data), "exists already")
    assert file.read_bytes() == before
    bad(hubbub("restore", file, *data), "stop the server first")
    bad(hubbub("restore", file, *data, "--force"), "stop the server first")
    bad(hubbub("backup", tmp_path / "b.tar", "--data-dir", tmp_path / "none"), "the database does not answer")
    bad(hubbub("backup", tmp_path / "none" / "b.tar", *data), "No such file or directory")
    (tmp_path / "short.tar").write_bytes(before[: len(before) // 2])
    bad(hubbub("restore", tmp_path / "short.tar", "--data-dir", tmp_path / "new"), "short.tar is")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.tar", "short.tar"]


def test_a_database_of_ones_own(server: System, other_database: str, tmp_path: Path) -> None:
    """Moved aside, never deleted; not under a store; not at all when the backup is of a newer schema."""
    file, into = tmp_path / "a.tar", ("--data-dir", tmp_path / "data", "--database-url", other_database)
    bad(hubbub("backup", file, *into), "no tables of Hubbub")
    good(hubbub("backup", file, "--data-dir", server.data_dir))
    with psycopg.connect(other_database, autocommit=True) as conn:
        conn.execute("create table strangers (a int)")
        good(hubbub("restore", file, *into))
        conn.execute("update epoch set epoch = 2000000000")
        bad(hubbub("restore", file, *into), "--force")
        said = good(hubbub("restore", file, *into, "--force"))
        (aside,) = [word for word in said.split() if word.startswith("hubbub_before_")]
        kept = conn.execute(sql.SQL("select count(*) from {}.slots").format(sql.Identifier(aside))).fetchone()
        assert kept == (64,)
        assert conn.execute("select epoch from epoch").fetchone() == (2_000_000_001,)
        assert conn.execute("select count(*) from strangers").fetchone() == (0,)
        # A store in waiting, and one that holds a slot.
        with psycopg.connect(other_database, application_name="hubbub store"):
            bad(hubbub("restore", file, *into, "--force"), "stop the server first")
        conn.execute("select pg_advisory_lock(1213547074, 63)")
        bad(hubbub("restore", file, *into, "--force"), "stop the server first")
        conn.execute("select pg_advisory_unlock(1213547074, 63)")
        conn.execute("insert into schema_migrations values (9999, 'of the future')")
        good(hubbub("backup", tmp_path / "newer.tar", *into))
    bad(hubbub("restore", tmp_path / "newer.tar", *into, "--force"), "install that version")


def test_a_disk_that_is_full(server: System, tmp_path: Path) -> None:
    file = tmp_path / "a.tar"
    bad(hubbub("backup", file, "--data-dir", server.data_dir, limit=4096), "nothing was kept")
    assert list(tmp_path.iterdir()) == []
    good(hubbub("backup", file, "--data-dir", server.data_dir))
    bad(hubbub("restore", file, "--data-dir", tmp_path / "new", limit=300_000), "MiB are free")
    assert not (tmp_path / "new" / "postgres").exists()
    good(hubbub("restore", file, "--data-dir", tmp_path / "new"))
    assert (tmp_path / "new" / "postgres" / "PG_VERSION").exists()


# --- cut off -------------------------------------------------------------------------------------------------

# Runs `hubbub` and kills itself, as kill -9 would, where the named function is called (or has returned).
_DYING = """
import importlib, os, signal, sys
module, name, when = sys.argv[1].split(":")
there = importlib.import_module(module)
real = getattr(there, name)
def dying(*arguments, **named):
    if when == "after":
        real(*arguments, **named)
    os.kill(os.getpid(), signal.SIGKILL)
setattr(there, name, dying)
from hubbub.cli import main
main(sys.argv[2:])
"""


def killed(where: str, *arguments: object) -> None:
    done = hubbub(where, *arguments, program=("-c", _DYING))
    assert done.returncode == -signal.SIGKILL, done.stderr


def test_a_backup_that_is_killed_is_no_backup(server: System, tmp_path: Path) -> None:
    file, data = tmp_path / "a.tar", ("--data-dir", server.data_dir)
    for where in ("hubbub.backup.making:dump:before", "hubbub.backup.tables:_in_order:after", "os:fsync:before"):
        killed(where, "backup", file, *data)
        assert [path.name for path in tmp_path.iterdir()] == ["a.tar.part"], where
    # It was killed when all was written and nothing was sure; the ones before have left less.
    part = tmp_path / "a.tar.part"
    part.write_bytes(part.read_bytes()[:-12000])
    bad(hubbub("restore", part, "--data-dir", tmp_path / "new"), "a.tar.part is")
    good(hubbub("backup", file, *data))
    good(hubbub("restore", "--verify", file))
    assert [path.name for path in tmp_path.iterdir()] == ["a.tar"]


@pytest.fixture(scope="module")
def stopped(tmp_path_factory: pytest.TempPathFactory) -> tuple[System, Path]:
    """A server with one message, and a backup of it from before that message; it does not run."""
    home = tmp_path_factory.mktemp("stopped")
    with running(home, shards=1) as system:
        good(hubbub("backup", home / "a.tar", "--data-dir", system.data_dir))
        system.rows("insert into messages values (1, 'lobby', 1, 1, 'ann', null, 'later', now(), 'k', null)")
    return system, home / "a.tar"


@pytest.mark.parametrize(
    ("where", "committed"),
    [
        ("hubbub.backup.restoring:load:before", False),
        ("hubbub.backup.restoring:load:after", False),
        ("hubbub.backup.restoring:commit:before", False),
        ("hubbub.backup.restoring:commit:after", True),
        ("os:rename:after", True),
    ],
)
def test_a_restore_that_is_killed(
    stopped: tuple[System, Path], where: str, committed: bool, request: pytest.FixtureRequest
) -> None:
    """Before its point of no return the server does not start, and what was there is untouched; from there on the
    server itself brings it to its end. Repeated, it succeeds in either case."""
    system, file = stopped
    aside = len(list(system.data_dir.glob("postgres.before-*")))
    killed(where, "restore", file, "--data-dir", system.data_dir, "--force")
    if committed:
        system.start()
        try:
            assert system.rows("select count(*) from messages") == [{"count": 0}]
            system.rows("insert into messages values (1, 'lobby', 1, 1, 'ann', null, 'later', now(), 'k', null)")
        finally:
            system.stop()
        assert len(list(system.data_dir.glob("postgres.before-*"))) == aside + 1
    else:
        assert restored(system.settings).level is Level.PROBLEM
        bad(hubbub("up", "--data-dir", system.data_dir, "--port", system.port), "a restore did not come to its end")
        program = hubbub(program=("-c", f"import os; os.environ['HUBBUB_DATA_DIR'] = {str(system.data_dir)!r}\n"
                                        "from hubbub.runtime.postgres import main; main()"))  # fmt: skip
        assert (program.returncode, "a restore did not come to its end" in program.stderr) == (1, True)
        assert len(list(system.data_dir.glob("postgres.before-*"))) == aside
    good(hubbub("restore", file, "--data-dir", system.data_dir, "--force"))
    assert len(list(system.data_dir.glob("postgres.before-*"))) > aside
    assert not restoring(system.data_dir).exists()
    assert restored(system.settings).level is Level.OK


def test_a_restore_that_is_killed_and_given_up(stopped: tuple[System, Path]) -> None:
    """What was there before goes on when the half of it is removed, as the error says."""
    system, file = stopped
    killed("hubbub.backup.restoring:load:after", "restore", file, "--data-dir", system.data_dir, "--force")
    system.until(lambda: not system.family(), 30, "gone")  # its database ends with it
    shutil.rmtree(restoring(system.data_dir))
    with running(system.data_dir.parent, shards=1) as again:
        assert again.rows("select count(*) from messages") == [{"count": 0}]
