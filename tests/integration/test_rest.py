"""HTTP on the same port: history, who is online, probes, the page."""

from typing import Any

import pytest

from tests.integration.client import connection
from tests.integration.system import System, running


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


async def test_history_comes_in_pages(system: System) -> None:
    async with connection(system.ws, "rest-ann") as ann:
        for i in range(7):
            await ann.say(f"message {i}", "rest-ben")
    both = "direct:rest-ann:rest-ben"

    def page(query: str) -> tuple[int, int, bool, list[str]]:
        answer = system.get(f"/api/messages?username=rest-ben&with=rest-ann{query}").json
        assert answer["conversation"] == both
        return answer["from"], answer["to"], answer["more"], [one["content"][-1] for one in answer["messages"]]

    assert page("") == (0, 7, False, list("0123456"))
    assert page("&limit=2") == (5, 7, True, list("56"))
    assert page("&limit=2&before=6") == (3, 5, True, list("34"))
    assert page("&limit=3&after=0") == (0, 3, True, list("012"))
    assert page("&after=6") == (6, 7, False, list("6"))
    by_name = system.get(f"/api/conversations/{both}/messages?username=rest-ann").json
    assert by_name == system.get("/api/messages?username=rest-ann&with=rest-ben").json
    assert by_name["messages"][0]["sender"] == "rest-ann"


async def test_without_a_user_it_is_the_lobby(system: System) -> None:
    async with connection(system.ws, "rest-cat") as cat:
        ack = await cat.say("to everybody")
    answer = system.get("/api/messages?username=rest-dan&limit=1").json
    assert answer["conversation"] == "lobby"
    assert answer["to"] == answer["messages"][0]["seq"] == ack["seq"]
    assert answer["messages"][0]["content"] == "to everybody"


async def test_a_token_says_who_asks(system: System) -> None:
    token = system.token("rest-eve")
    async with connection(system.ws, token=token) as eve:
        await eve.say("to myself", "rest-eve")
    answer = system.get("/api/messages?with=rest-eve", bearer(token))
    assert [one["content"] for one in answer.json["messages"]] == ["to myself"]
    assert system.get("/api/messages?with=rest-eve").status == 401
    refused = system.get("/api/messages?with=rest-eve", bearer(token[:-4] + "AAAA"))
    assert (refused.status, refused.error) == (401, "unauthorized")


async def test_who_is_online(system: System) -> None:
    async with connection(system.ws, "rest-fay") as fay, connection(system.ws, "rest-gus"):
        await fay.ask("presence", type="watch", users=["rest-gus"])

        def both_are_there() -> bool:
            answer = system.get("/api/users/online?username=rest-fay").json
            assert answer["count"] == len(answer["users"])
            assert answer["users"] == sorted(answer["users"])
            return {"rest-fay", "rest-gus"} <= {*answer["users"]}

        system.until(both_are_there, 10, "online")
    assert system.get("/api/users/online").status == 401


@pytest.mark.parametrize(
    ("path", "status", "code", "says"),
    [
        ("/api/conversations/direct:rest-a:rest-b/messages?username=rest-c", 403, "forbidden", "no part"),
        ("/api/conversations/direct:b:a/messages?username=a", 400, "bad_request", "sorted"),
        ("/api/messages?username=rest-a&with=a:b", 400, "bad_request", "username"),
        ("/api/messages?username=rest-a&limt=5", 400, "bad_request", "limt"),
        ("/api/messages?username=rest-a&limit=0", 400, "bad_request", "limit"),
        ("/api/messages?username=rest-a&limit=1000", 400, "bad_request", "limit"),
        ("/api/messages?username=rest-a&before=-1", 400, "bad_request", "before"),
        ("/api/messages?username=rest-a&before=1&after=1", 400, "bad_request", "not both"),
        ("/api/messages?username=rest-a&limit=1&limit=2", 400, "bad_request", "more than once"),
        ("/api/messages?username=rest%00a", 401, "unauthorized", "username"),
        ("/api/nothing?username=rest-a", 404, "not_found", "nothing"),
        ("/ws", 400, "bad_request", "WebSocket"),
    ],
)
def test_what_is_wrong_is_said(system: System, path: str, status: int, code: str, says: str) -> None:
    answer = system.get(path)
    error: dict[str, Any] = answer.json["error"]
    if path == "/ws":
        status = 426
    assert (answer.status, error["code"]) == (status, code)
    assert says in error["message"]
    assert error["temporary"] is False


def test_probes(system: System) -> None:
    assert system.get("/healthz").json == {"status": "alive"}
    assert system.get("/readyz").json == {"ready": True}


def test_the_page_lets_nothing_else_in(system: System) -> None:
    page = system.get("/")
    assert page.status == 200
    assert page.headers["content-type"].startswith("text/html")
    assert "default-src 'self'" in page.headers["content-security-policy"]
    assert page.headers["x-content-type-options"] == "nosniff"
    for path in ("/../pyproject.toml", "/%2e%2e/pyproject.toml", "/app.js/../../pyproject.toml"):
        assert system.get(path).status in (400, 403, 404)


# --- posting, lists, search ---------------------------------------------------------------------------


async def test_a_post_is_a_message_like_any_other(system: System) -> None:
    token = system.token("post-ann")
    async with connection(system.ws, token=token) as device, connection(system.ws, "post-ben") as ben:
        body, key = {"content": "by HTTP", "recipient": "post-ben"}, {"Idempotency-Key": "post-key-00000001"}
        first = system.post("/api/messages", body, {**bearer(token), **key})
        assert first.status == 201
        assert (await ben.take("message", content="by HTTP"))["seq"] == first.json["seq"]
        assert (await device.take("message", content="by HTTP"))["client_id"] == "post-key-00000001"
        again = system.post("/api/messages", body, {**bearer(token), **key})
        assert (again.status, again.json) == (200, {**first.json, "duplicate": True})
        by_socket = await device.ask(
            "ack", type="send", id="post-key-00000001", content="by HTTP", recipient="post-ben"
        )
        assert (by_socket["seq"], by_socket["duplicate"]) == (first.json["seq"], True)
        other = system.post("/api/messages", {**body, "content": "another"}, {**bearer(token), **key})
        assert (other.status, other.error, other.json["stored"]) == (409, "conflict", "no")
    rows = system.rows("select content from messages where sender = 'post-ann'")
    assert [row["content"] for row in rows] == ["by HTTP"]


@pytest.mark.parametrize(
    ("body", "headers", "status"),
    [
        ({"content": ""}, {}, 400),
        ({"content": "x", "recipent": "ben"}, {}, 400),
        ({"content": "a\0b"}, {}, 400),
        ({"content": "x", "recipient": "a b"}, {}, 400),
        ({"content": "x" * 20_000}, {}, 413),
        ({"content": "x"}, {"Idempotency-Key": "short"}, 400),
        ({"content": "x"}, {"Idempotency-Key": "~server-made-key-1"}, 400),
        ({"content": "x"}, {"Content-Type": "text/plain"}, 415),
        ({"content": "x"}, {"Origin": "https://evil.example"}, 403),
    ],
)
def test_a_bad_post_is_refused(system: System, body: object, headers: dict[str, str], status: int) -> None:
    answer = system.post("/api/messages?username=bad-poster", body, headers)
    assert answer.status == status, answer.body
    assert not system.rows("select 1 from messages where sender = 'bad-poster'")


async def test_conversations_are_listed_with_what_is_unread(system: System) -> None:
    async with connection(system.ws, "list-ann") as ann:
        for i in range(3):
            await ann.say(f"to ben {i}", "list-ben")
        await ann.say("to cat", "list-cat")
        await ann.say("to ben, at last", "list-ben")
    listed = system.get("/api/conversations?username=list-ben").json["conversations"]
    mine = next(one for one in listed if one["conversation"] == "direct:list-ann:list-ben")
    assert (mine["unread"], mine["last_seq"], mine["peer"]) == (4, 4, "list-ann")
    assert mine["last_message"]["content"] == "to ben, at last"
    names, after = [], ""
    while after is not None:
        page = system.get(f"/api/conversations?username=list-ann&limit=1{after and '&after=' + after}").json
        names += [one["conversation"] for one in page["conversations"]]
        after = page["next"]
    direct = [name for name in names if name.startswith("direct")]
    assert direct == ["direct:list-ann:list-ben", "direct:list-ann:list-cat"]
    assert len(names) == len(set(names))


async def test_search_finds_what_one_may_read(system: System) -> None:
    async with connection(system.ws, "find-ann") as ann:
        await ann.say("the zeppelin has landed", "find-ben")
        await ann.say("Zeppelins are quiet", "find-cat")
        await ann.say("a zeppelin for everybody")

    def found(who: str, query: str) -> list[str]:
        answer = system.get(f"/api/search?username={who}&q={query}")
        assert answer.status == 200, answer.body
        return [one["content"] for one in answer.json["messages"]]

    assert found("find-ben", "zeppelin") == ["a zeppelin for everybody", "the zeppelin has landed"]
    assert found("find-cat", "ZEPP") == ["a zeppelin for everybody", "Zeppelins are quiet"]
    assert found("find-dan", "zeppelin") == ["a zeppelin for everybody"]
    assert found("find-ann", "zeppelin%20-everybody") == ["the zeppelin has landed"]
    assert found("find-ann", "%22has%20landed%22") == ["the zeppelin has landed"]
    assert found("find-ann", "nothing-like-it") == []
    for strange in ("%27", "a%22", "%26%7C!", ":*", "a%3A%3Ab", "%5C", "(", "%5Ba", "a%7B2", "x%5Cm"):
        assert found("find-ann", strange) == []
    for nothing in ("-", "-zeppelin", "%22%22", "%20"):
        assert system.get(f"/api/search?username=find-ann&q={nothing}").status in (200, 400)
    first = system.get("/api/search?username=find-ann&q=zeppelin&limit=1").json
    rest = system.get(f"/api/search?username=find-ann&q=zeppelin&before={first['next']}").json
    assert len(rest["messages"]) == 2
    narrowed = system.get("/api/search?username=find-ann&q=zepp&conversation=direct:find-ann:find-ben").json
    assert [one["content"] for one in narrowed["messages"]] == ["the zeppelin has landed"]
    assert system.get("/api/search?username=find-dan&q=z&conversation=direct:find-ann:find-ben").status == 403


async def test_people_are_found_by_the_beginning_of_their_names(system: System) -> None:
    async with connection(system.ws, "Who-Ann"), connection(system.ws, "who-ben"):

        def found() -> list[tuple[str, bool]]:
            users = system.get("/api/users?username=x&q=WHO-").json["users"]
            return [(one["username"], one["online"]) for one in users]

        system.until(lambda: found() == [("Who-Ann", True), ("who-ben", True)], 5, "both found")
    assert system.get("/api/users?username=x&q=100%25").json["users"] == []


def test_pages_of_other_origins(tmp_path_factory: pytest.TempPathFactory) -> None:
    origin = "https://shop.example"
    with running(tmp_path_factory.mktemp("cors"), shards=1, env={"HUBBUB_ALLOWED_ORIGINS": origin}) as system:
        answer = system.get("/api/config", {"Origin": origin})
        assert answer.headers["access-control-allow-origin"] == origin
        assert answer.headers["vary"] == "Origin"
        assert (
            "access-control-allow-origin" not in system.get("/api/config", {"Origin": "https://evil.example"}).headers
        )
        refused = system.get("/api/me", {"Origin": origin})
        assert (refused.status, refused.headers["access-control-allow-origin"]) == (401, origin)
        posted = system.post("/api/messages?username=shop", {"content": "hi"}, {"Origin": origin})
        assert posted.status == 201, posted.body
