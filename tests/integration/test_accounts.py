"""Accounts from the first registration to the last revocation, against the real system."""

import asyncio
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

import pytest
from websockets.exceptions import InvalidStatus

from tests.integration.client import Connection, connection
from tests.integration.system import ROOT, Answer, System, running

PASSWORD = "correct horse battery"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    """One where anybody may register."""
    with running(tmp_path_factory.mktemp("accounts"), env={"HUBBUB_ACCOUNTS": "open"}) as system:
        yield system


def register(system: System, name: str, password: str = PASSWORD) -> dict[str, Any]:
    answer = system.post("/api/register", {"username": name, "password": password})
    assert answer.status == 201, answer.body
    session: dict[str, Any] = answer.json
    return session


def login(system: System, name: str, password: str = PASSWORD) -> Answer:
    return system.post("/api/login", {"username": name, "password": password})


def bearer(session: dict[str, Any]) -> dict[str, str]:
    return {"Authorization": f"Bearer {session['token']}"}


def command(system: System, *arguments: str, stdin: str = "") -> "subprocess.CompletedProcess[str]":
    """``hubbub user …`` on the server's data directory."""
    return subprocess.run(
        [sys.executable, "-m", "hubbub.cli", "user", *arguments, "--data-dir", str(system.data_dir)],
        cwd=ROOT, input=stdin, capture_output=True, text=True, timeout=30,
    )  # fmt: skip


async def test_a_life_of_an_account(server: System) -> None:
    session = register(server, "life-ann")
    assert session["username"] == "life-ann"
    assert session["role"] == "member"
    assert server.get("/api/me", bearer(session)).json["guest"] is False
    async with connection(server.ws, token=session["token"]) as ann:
        ack = await ann.say("my first words")
        assert ack["seq"] >= 1
        refreshed = server.post("/api/token", {"refresh_token": session["refresh_token"]}).json
        assert refreshed["refresh_token"] != session["refresh_token"]
        renewed = await ann.ask("welcome", type="token", token=refreshed["token"])
        assert renewed["username"] == "life-ann"
        assert renewed["token_expires_at"] == refreshed["token_expires_at"]

        others = [await Connection.open(server.ws, token=refreshed["token"]) for _ in range(4)]
        body = {"password": PASSWORD, "new_password": "another horse battery"}
        begun = time.monotonic()
        changed = server.post("/api/password", body, bearer(refreshed))
        assert changed.status == 200
        closes = await asyncio.gather(*(one.closed() for one in [ann, *others]))
        assert [code for code, _ in closes] == [4503] * 5
        assert time.monotonic() - begun < 1.3, "a second, and the time of two hashes"
    wait_until(lambda: all(server.get("/api/me", bearer(refreshed)).status == 401 for _ in range(20)))
    assert server.post("/api/token", {"refresh_token": refreshed["refresh_token"]}).status == 401
    async with connection(server.ws, token=changed.json["token"]) as ann:
        await ann.settled()
    assert login(server, "life-ann").status == 401
    again = login(server, "life-ann", "another horse battery").json
    assert server.post("/api/logout", {"refresh_token": again["refresh_token"]}).status == 204
    assert server.post("/api/token", {"refresh_token": again["refresh_token"]}).status == 401


def test_names_are_given_once(server: System) -> None:
    register(server, "once-ann")
    taken = server.post("/api/register", {"username": "once-ann", "password": PASSWORD})
    assert (taken.status, taken.error) == (409, "conflict")
    bodies: tuple[object, ...] = (
        {"username": "once a", "password": PASSWORD},
        {"username": "once-b", "password": "short"},
        {"username": "once-long-name", "password": "once-LONG-name"},
        {"username": "once-c", "password": PASSWORD, "admin": True},
        {"username": "once-d"},
        [],
    )
    for body in bodies:
        assert server.post("/api/register", body).status == 400, body
    wrong_type = server.post("/api/register", {}, {"Content-Type": "text/plain"})
    assert (wrong_type.status, wrong_type.error) == (415, "unsupported_media_type")


async def test_a_guests_name_cannot_be_taken_nor_an_accounts(server: System) -> None:
    async with connection(server.ws, "guest-ann") as guest:
        await guest.say("I am only a guest")
        taken = server.post("/api/register", {"username": "guest-ann", "password": PASSWORD})
        assert taken.status == 409
        adopted = command(server, "add", "guest-ann", "--password-stdin", "--adopt", stdin=PASSWORD + "\n")
        assert adopted.returncode == 0, adopted.stderr
        assert await guest.closed() == (4503, "access was revoked")
    wait_until(lambda: all(server.get("/api/messages?username=guest-ann").status == 401 for _ in range(20)))
    with pytest.raises(InvalidStatus) as refused:
        await Connection.open(server.ws, "guest-ann")
    assert refused.value.response.status_code == 401
    assert b"account" in (refused.value.response.body or b"")
    assert login(server, "guest-ann").status == 200


def test_a_refresh_token_that_was_stolen(server: System) -> None:
    session = register(server, "stolen-ann")
    first = session["refresh_token"]
    second = server.post("/api/token", {"refresh_token": first}).json["refresh_token"]
    lost = server.post("/api/token", {"refresh_token": first})
    assert lost.status == 200, "a client whose answer was lost asks again"
    server.rows("update refresh_tokens set used_at = used_at - interval '1 minute' where used_at is not null")
    assert server.post("/api/token", {"refresh_token": first}).status == 401
    for token in (second, lost.json["refresh_token"]):
        assert server.post("/api/token", {"refresh_token": token}).status == 401, "the whole family is void"
    assert server.rows("select encode(token_hash, 'hex') as h from refresh_tokens where username = 'stolen-ann'") == []


async def test_what_the_operator_does_holds_at_once(server: System) -> None:
    session = register(server, "op-ann")
    async with connection(server.ws, token=session["token"]) as ann:
        begun = time.monotonic()
        assert command(server, "disable", "op-ann").returncode == 0
        assert (await ann.closed())[0] == 4503
        assert time.monotonic() - begun < 3, "a second, and the start of a command"
    assert login(server, "op-ann").status == 403
    assert server.post("/api/token", {"refresh_token": session["refresh_token"]}).status == 401
    assert command(server, "enable", "op-ann").returncode == 0
    wait_until(lambda: login(server, "op-ann").status == 200)
    assert command(server, "role", "op-ann", "admin").returncode == 0
    assert login(server, "op-ann").json["role"] == "admin"
    shown = [json.loads(line) for line in command(server, "list", "--json").stdout.splitlines()]
    assert [one["role"] for one in shown if one["username"] == "op-ann"] == ["admin"]
    assert command(server, "passwd", "op-ann", "--password-stdin", stdin="a new one indeed\n").returncode == 0
    assert login(server, "op-ann", "a new one indeed").status == 200
    for arguments in (
        ("disable", "nobody-here"),
        ("passwd", "nobody-here", "--generate"),
        ("add", "op-ann", "--generate"),
    ):
        failed = command(server, *arguments)
        assert failed.returncode == 1
        assert "Traceback" not in failed.stderr
        assert "Error:" in failed.stderr


def wait_until(true: Any) -> None:
    deadline = time.monotonic() + 5
    while not true():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.05)


def test_guessing_is_slow(server: System) -> None:
    register(server, "guess-ann")
    statuses = [login(server, "guess-ann", f"guess number {i}").status for i in range(40)]  # over two shards
    assert statuses[:5] == [401] * 5
    assert statuses[-1] == 429
    limited = login(server, "guess-ann")
    assert limited.status == 429
    assert 1 <= int(limited.headers["retry-after"]) <= 7
    assert limited.json["error"]["temporary"] is True
    register(server, "guess-ben")
    assert login(server, "guess-ben").status == 200, "others are not held up"


def test_nobody_and_somebody_take_the_same_time(server: System) -> None:
    register(server, "time-ann")

    def seconds(name: str) -> float:
        begun = time.perf_counter()
        assert login(server, name, "wrong password").status == 401
        return time.perf_counter() - begun

    known = sorted(seconds("time-ann") for _ in range(7))[3]
    unknown = sorted(seconds(f"time-nobody-{i}") for i in range(7))[3]
    assert 0.5 < known / unknown < 2, (known, unknown)


def test_no_secret_is_in_the_logs(server: System) -> None:
    session = register(server, "log-ann", "a very secret password")
    login(server, "log-ann", "a very wrong password")
    text = server.logs() + "".join(path.read_text("utf-8") for path in (server.data_dir / "logs").iterdir())
    for secret in ("very secret", "very wrong", session["token"], session["refresh_token"]):
        assert secret not in text


def test_a_store_that_dies_leaves_no_half_account(server: System) -> None:
    server.kill("store")
    answer = server.post("/api/register", {"username": "half-ann", "password": PASSWORD})
    assert answer.status in (201, 503)
    wait_until(lambda: server.get("/readyz").status == 200)
    if answer.status == 503:
        assert "try again" in answer.json["error"]["message"]
    assert login(server, "half-ann").status == (200 if answer.status == 201 else 401)


async def test_signing_in_does_not_hold_up_the_chat(server: System) -> None:
    register(server, "crowd-ann")
    async with connection(server.ws, "crowd-ben") as ben:
        loop = asyncio.get_running_loop()
        crowd = [loop.run_in_executor(None, login, server, f"crowd-{i}", PASSWORD) for i in range(30)]
        waits = []
        for i in range(40):
            begun = time.perf_counter()
            await ben.say(f"still here {i}")
            waits.append(time.perf_counter() - begun)
        statuses = {answer.status for answer in await asyncio.gather(*crowd)}
    waits.sort()
    print(f"acknowledgements beside 30 sign-ins: p50 {waits[20] * 1000:.1f} ms, p99 {waits[-1] * 1000:.1f} ms")
    assert statuses <= {401, 503}
    assert waits[-1] < 1.0


def test_accounts_may_be_closed_or_off(tmp_path_factory: pytest.TempPathFactory) -> None:
    with running(tmp_path_factory.mktemp("off"), shards=1, env={"HUBBUB_ACCOUNTS": "off"}) as system:
        assert system.get("/api/config").json["accounts"] == "off"
        assert login(system, "ann").status == 404
        assert system.get("/api/me?username=ann").json["guest"] is True


def test_only_the_operator_adds_accounts_by_default(system: System) -> None:
    assert system.get("/api/config").json["accounts"] == "closed"
    refused = system.post("/api/register", {"username": "closed-ann", "password": PASSWORD})
    assert (refused.status, refused.error) == (403, "forbidden")
    assert command(system, "add", "closed-ann", "--password-stdin", stdin=PASSWORD + "\n").returncode == 0
    assert login(system, "closed-ann").status == 200
