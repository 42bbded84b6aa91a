"""Secrets stay where they are: on the disk, in logs at their most talkative, in command lines, answers and metrics."""

import json
import re
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from websockets.exceptions import InvalidStatus

from hubbub.runtime.files import read_secret
from tests.integration.client import Connection, connection
from tests.integration.system import ROOT, System, running
from tests.integration.tokens import signed, unsigned

PASSWORD, NEXT, WRONG = "a-Secret-password-1", "a-Secret-password-2", "a-Secret-password-0"


@pytest.fixture(scope="module")
def talkative(tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    """A server that logs all it can, and takes tokens even where they do not belong."""
    env = {"HUBBUB_LOG_LEVEL": "debug", "HUBBUB_ACCOUNTS": "open", "HUBBUB_TOKEN_IN_QUERY": "true"}
    with running(tmp_path_factory.mktemp("talkative"), env=env) as system:
        yield system


async def test_no_secret_is_written_anywhere(talkative: System) -> None:
    server, answers = talkative, []
    session = server.post("/api/register", {"username": "sec-ann", "password": PASSWORD}).json
    secret = read_secret(server.settings.token_secret_file)
    forged, none = signed("sec-ann", b"somebody else's secret, quite long"), unsigned("sec-ann")
    expired = signed("sec-ann", secret, exp=1)
    for body in ({"username": "sec-ann", "password": WRONG}, {"username": "sec-nobody", "password": WRONG},
                 {"username": "sec ann", "password": WRONG}, {"username": "sec-ann", "password": WRONG, "more": WRONG},
                 {"username": 7, "password": WRONG}, {"password": [WRONG]}):  # fmt: skip
        answers.append(server.post("/api/login", body))
    bearer = {"Authorization": f"Bearer {session['token']}"}
    change = {"password": PASSWORD, "new_password": NEXT}
    second = server.post("/api/password", change, bearer)
    third = server.post("/api/token", {"refresh_token": second.json["refresh_token"]})
    for token in (forged, none, expired, third.json["token"] + "x", "nonsense-" + WRONG):
        answers.append(server.get("/api/me", {"Authorization": f"Bearer {token}"}))
        answers.append(server.get("/api/me", {"Authorization": f"Basic {token}"}))
        answers.append(server.get(f"/api/me?token={token}"))
        answers.append(server.get(f"/api/nothing?token={token}&token={token}"))
        answers.append(server.post("/api/token", {"refresh_token": token}))
        for options in ({"token": token}, {"protocols": ["hubbub.v1", f"bearer.{token}"]}):
            with pytest.raises(InvalidStatus) as refused:
                await Connection.open(server.ws, **options)
            assert token.encode() not in (refused.value.response.body or b"")
    async with connection(server.ws, token=third.json["token"]) as ann:
        await ann.say("a-Secret-message", "sec-ben")
        error = await ann.ask("error", type="token", token=forged)
        assert forged not in json.dumps(error)
    server.post("/api/logout", {"refresh_token": third.json["refresh_token"]})
    made = subprocess.run(
        [sys.executable, "-m", "hubbub.cli", "user", "add", "sec-carl", "--password-stdin",
         "--data-dir", str(server.data_dir)],
        cwd=ROOT, input=NEXT + "\n", capture_output=True, text=True, timeout=30, check=True,
    )  # fmt: skip

    given = [PASSWORD, NEXT, WRONG, forged, none, expired, secret.decode(), "a-Secret-message"]
    given += [part[name] for part in (session, second.json, third.json) for name in ("token", "refresh_token")]
    hashes = [row["password_hash"] for row in server.rows("select password_hash from accounts")]
    assert len(hashes) == 2
    places = {path.name: path.read_text(errors="replace") for path in (server.data_dir / "logs").iterdir()}
    assert '"level": "debug"' in places["shard-0.log"], "the logs are as talkative as they can be"
    places |= {"up": server.output(), "user add": made.stdout + made.stderr}
    places |= {f"the command line of {pid}": command for pid, command in server.family().items()}
    places |= {f"/metrics {i}": server.get("/metrics").body.decode() for i in range(4)}
    places |= {path.name: path.read_text(errors="replace") for path in (server.data_dir / "run").glob("*.prom")}
    for place, text in places.items():
        for one in (*given, *hashes):
            assert one not in text, place
    for answer in answers:
        assert answer.status >= 400
        for one in (*given, *hashes):
            assert one.encode() not in answer.body, answer.body


def test_a_database_s_password_is_in_no_log(tmp_path: Path) -> None:
    """Of a database that is not there, so that errors are what is logged."""
    url = "postgresql://hubbub:a-Secret-password@127.0.0.1:9/hubbub?sslpassword=a-Secret-key"
    home = tmp_path / "data"
    (home / "run").mkdir(parents=True)
    environment = {
        "PATH": "/usr/bin:/bin",
        "HOME": str(tmp_path),
        "HUBBUB_DATABASE_URL": url,
        "HUBBUB_LOG_LEVEL": "debug",
    }
    said = ""
    for command in (["doctor"], ["settings"], ["status"], ["user", "list"], ["doctor", "--json"]):
        done = subprocess.run(
            [sys.executable, "-m", "hubbub.cli", *command, "--data-dir", str(home)] if command != ["settings"]
            else [sys.executable, "-m", "hubbub.cli", "settings"],
            cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60,
        )  # fmt: skip
        said += done.stdout + done.stderr
    with subprocess.Popen(
        [sys.executable, "-m", "store"],
        cwd=ROOT,
        env={**environment, "HUBBUB_DATA_DIR": str(home), "HUBBUB_LOG_FORMAT": "json"},
        stderr=subprocess.PIPE,
        text=True,
    ) as store:
        assert store.stderr is not None
        for line in store.stderr:
            said += line
            if "database_away" in line or store.poll() is not None:
                break
        store.terminate()
        said += store.stderr.read()
    assert "database_away" in said
    assert "a-Secret" not in said


def test_nobody_else_can_look_into_the_data(talkative: System) -> None:
    top = talkative.data_dir
    assert stat.S_IMODE(top.stat().st_mode) == 0o700
    seen = 0
    for path in top.rglob("*"):
        mode = path.lstat().st_mode
        seen += 1
        assert not stat.S_ISLNK(mode) or top in path.resolve().parents, f"{path} leads outside"
        assert not mode & stat.S_IWOTH and not mode & (stat.S_ISUID | stat.S_ISGID), path
        if path.parent == top and stat.S_ISDIR(mode):
            assert stat.S_IMODE(mode) == 0o700, path  # so whatever the modes below are, nobody gets there
        if "secrets" in path.relative_to(top).parts and stat.S_ISREG(mode):
            assert stat.S_IMODE(mode) == 0o600, path
    assert seen > 100
    names = {path.name for path in top.iterdir()}
    assert {"logs", "postgres", "run", "secrets"} <= names
    sockets = [path for path in talkative.settings.socket_dir.rglob("*") if stat.S_ISSOCK(path.lstat().st_mode)]
    assert len(sockets) >= 3  # PostgreSQL, the bus, supervisord
    for path in sockets:
        closed = [parent for parent in path.parents if stat.S_IMODE(parent.stat().st_mode) & 0o077 == 0]
        assert closed, f"others reach {path}"


def test_nothing_but_the_shards_listens_on_the_network(talkative: System) -> None:
    inodes = {}
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A":
                inodes[fields[9]] = int(fields[1].rpartition(":")[2], 16), fields[1].rpartition(":")[0]
    ours = set()
    for pid in talkative.family():
        for descriptor in Path(f"/proc/{pid}/fd").glob("*"):
            try:
                found = re.fullmatch(r"socket:\[(\d+)\]", str(descriptor.readlink()))
            except OSError:
                continue
            if found and found[1] in inodes:
                ours.add(inodes[found[1]])
    assert ours == {(talkative.port, "0100007F")}, "127.0.0.1, and only the port"


def test_the_embedded_database_knows_no_passwords_and_no_network(talkative: System) -> None:
    shown = {row["name"]: row["setting"] for row in talkative.rows("select name, setting from pg_settings")}
    assert shown["listen_addresses"] == ""
    with pytest.raises(psycopg.OperationalError):
        psycopg.connect("postgresql://hubbub@127.0.0.1/hubbub", connect_timeout=2)
