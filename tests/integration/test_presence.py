"""Who is there: told to those who watch, without the noise of reconnects, and right again after a crash."""

import asyncio
import time
from contextlib import AsyncExitStack
from pathlib import Path

from hubbub.protocol.limits import LEASE_SECONDS, PRESENCE_GRACE
from tests.integration.client import connection, open_on, shard_of
from tests.integration.system import System, running


async def test_who_watches_hears_of_comings_and_goings(system: System) -> None:
    async with connection(system.ws, "pres-ann") as ann:
        now = await ann.ask("presence", type="watch", users=["pres-ben", "pres-cat"])
        assert now["users"] == {"pres-ben": "offline", "pres-cat": "offline"}
        async with connection(system.ws, "pres-ben"):
            await ann.take("presence", users={"pres-ben": "online"})
            left_at = time.monotonic()
        # A short absence would stay hidden.
        await ann.take("presence", users={"pres-ben": "offline"})
        assert time.monotonic() - left_at >= PRESENCE_GRACE - 0.5
        seen = "select 1 from users where username = 'pres-ben' and last_seen > now() - interval '1 minute'"
        await asyncio.to_thread(system.until, lambda: system.rows(seen), 5, "last seen")


async def test_a_reconnect_stays_hidden(system: System) -> None:
    async with connection(system.ws, "hide-ann") as ann:
        await ann.ask("presence", type="watch", users=["hide-ben", "hide-cat"])
        async with connection(system.ws, "hide-ben"):
            await ann.take("presence", users={"hide-ben": "online"})
        async with connection(system.ws, "hide-ben"), connection(system.ws, "hide-ben"):
            pass
        async with connection(system.ws, "hide-ben"), connection(system.ws, "hide-cat"):
            await ann.take("presence", users={"hide-cat": "online"})
            again = await ann.ask("presence", type="watch", users=["hide-ben"])
            assert again["users"] == {"hide-ben": "online"}
        told = [one["users"] for one in ann.heard if one["type"] == "presence" and "id" not in one]
        assert told == [{"hide-ben": "online"}, {"hide-cat": "online"}]


async def test_the_lobby_is_told_once_a_second(system: System) -> None:
    async with connection(system.ws, "crowd-ann") as ann:
        await ann.ask("presence", type="watch", lobby=True)
        began = time.monotonic()
        names = {f"crowd-{i}" for i in range(5)}
        async with AsyncExitStack() as stack:
            for name in sorted(names):
                await stack.enter_async_context(connection(system.ws, name))
            heard: set[str] = set()
            while not names <= heard:
                heard |= (await ann.take("presence")).get("users", {}).keys()
        notices = [one for one in ann.heard if one["type"] == "presence" and "id" not in one]
        assert len(notices) <= time.monotonic() - began + 2


async def test_a_killed_shard_takes_its_sessions_with_it(tmp_path: Path) -> None:
    with running(tmp_path) as system:
        ann = await open_on(system.ws, "killed-ann", lambda shard: shard == "shard-0")
        ben = await open_on(system.ws, "killed-ben", lambda shard: shard == "shard-1")
        cat = await open_on(system.ws, "killed-cat", lambda shard: shard == "shard-1")
        await ann.ask("presence", type="watch", users=["killed-ben", "killed-cat"])
        await wait_online(system, {"killed-ann", "killed-ben", "killed-cat"})
        old = system.kill("shard-1")
        killed_at = time.monotonic()
        assert (await ben.closed())[0] == 1006
        # Cat comes back, Ben does not.
        async with connection(system.ws, "killed-cat") as back:
            await ann.take("presence", users={"killed-ben": "offline"})
            assert time.monotonic() - killed_at < LEASE_SECONDS + PRESENCE_GRACE + 3
            assert system.get("/api/users/online?username=killed-ann").json["users"] == ["killed-ann", "killed-cat"]
            told = [one["users"] for one in ann.heard if one["type"] == "presence" and "id" not in one]
            assert {"killed-cat": "offline"} not in told
            assert shard_of(back.heard[0])
        system.wait_replaced("shard-1", old)
        for one in (ann, ben, cat):
            await one.close()


async def wait_online(system: System, users: set[str]) -> None:
    """Until these are online and nobody else."""
    path = "/api/users/online?username=killed-ann"
    system.until(lambda: {*system.get(path).json["users"]} == users, 10, f"{users} online")
