"""HTTP on the same port: history, who is online, probes, the page."""

from typing import Any

import pytest

from tests.integration.client import connection
from tests.integration.system import System


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
