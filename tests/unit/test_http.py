"""REST, probes and the page over real HTTP, in front of a hub whose store answers as the test says."""

import asyncio
import json
import time
from types import SimpleNamespace
from typing import Any

import jwt
import pytest
import structlog
from tornado import web
from tornado.httpclient import AsyncHTTPClient, HTTPResponse
from tornado.httpserver import HTTPServer
from tornado.netutil import bind_sockets

from hubbub.protocol.internal import Done, HistoryRows, Online, ReadHistory, Refused, WhoIsOnline
from hubbub.protocol.limits import Limits
from shards import api, http, questions, static
from tests.builders import authenticator

SECRET = b"k" * 32


class AnsweringHub:
    """Keeps what was asked; `store` makes the replies, at once or (None) never."""

    def __init__(self) -> None:
        self.ready, self.draining = True, False
        self.bus = SimpleNamespace(up=True)
        self.positions = SimpleNamespace(known=True)
        self.asked: list[tuple[int, Any]] = []
        self.open: list[tuple[Any, int, Any]] = []
        self.store: Any = None

    def ask(self, factory, slot, answer, now):
        request = factory(len(self.asked) + 1)
        self.asked.append((slot, request))
        self.open.append((request, slot, answer))

    def work(self):
        """The end of a tick."""
        if self.store is not None:
            asked, self.open = self.open, []
            for request, slot, answer in asked:
                answer(self.store(request, slot))


class Site:
    def __init__(self, root) -> None:
        self.hub = AnsweringHub()
        self.access_loaded = True
        self.log = structlog.testing.CapturingLogger()
        auth = authenticator(SECRET)
        context = http.Context(
            hub=self.hub,  # type: ignore[arg-type]
            authenticator=auth,
            limits=Limits(),
            allowed_origins=(),
            clock=time.monotonic,
            wake=self.wake,
            metrics=lambda: b"up 1\n",
            webclient=root,
            log=self.log,
            access_loaded=lambda: self.access_loaded,
        )
        self.context = context
        self.questions = questions.Questions(self.hub, time.monotonic, self.wake)  # type: ignore[arg-type]
        app = web.Application(
            [
                *(route.for_tornado() for route in api.routes(context, self.questions, "closed")),
                *api.others(context),
                static.page_route(context),
            ],
            log_function=lambda handler: http.log_request(self.log, handler),
        )
        self.server = HTTPServer(app, **http.SERVER_OPTIONS)
        sockets = bind_sockets(0, "127.0.0.1")
        self.base = f"http://127.0.0.1:{sockets[0].getsockname()[1]}"
        self.server.add_sockets(sockets)

    def wake(self) -> None:
        asyncio.get_running_loop().call_soon(self.hub.work)

    async def get(self, path, *, method="GET", headers=None, body=None) -> HTTPResponse:
        given = {"method": method, "headers": headers or {}, "body": body, "raise_error": False}
        return await AsyncHTTPClient().fetch(self.base + path, follow_redirects=False, **given)

    async def refused(self, path, status, code, **more):
        answer = await self.get(path, **more)
        error = json.loads(answer.body)["error"]
        assert (answer.code, error["code"]) == (status, code)
        assert answer.headers["Content-Type"] == "application/json; charset=utf-8"
        assert error["message"]
        assert b"Traceback" not in answer.body
        assert error["temporary"] == ("Retry-After" in answer.headers)
        return error["message"]


@pytest.fixture
async def site(tmp_path):
    (tmp_path / "index.html").write_text("<!doctype html>hello")
    (tmp_path / "app.js").write_text("export {}")
    (tmp_path / "notes.py").write_text("secret = 1")
    site = Site(tmp_path)
    yield site
    site.server.stop()
    await site.server.close_all_connections()


def history(request, slot):
    return HistoryRows(request.no, 4, 9, True, [b'{"seq":5}', b'{"seq": 9}'])


# --- history -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "conversation", "before", "after", "limit"),
    [
        ("/api/messages?username=al", "lobby", None, None, 50),
        ("/api/messages?username=al&with=bob", "direct:al:bob", None, None, 50),
        ("/api/messages?username=bob&with=al&before=7&limit=200", "direct:al:bob", 7, None, 200),
        ("/api/messages?username=al&with=al&after=0&limit=1", "direct:al:al", None, 0, 1),
        ("/api/messages?username=al&with=%C3%A9ve", "direct:al:éve", None, None, 50),
        ("/api/conversations/lobby/messages?username=al&limit=3", "lobby", None, None, 3),
        ("/api/conversations/direct:al:bob/messages?username=bob&after=2", "direct:al:bob", None, 2, 50),
        ("/api/conversations/direct%3Aal%3Abob/messages?username=bob", "direct:al:bob", None, None, 50),
    ],
)
async def test_a_page_of_history(site, path, conversation, before, after, limit):
    site.hub.store = history
    answer = await site.get(path)
    assert answer.code == 200
    ((_, request),) = site.hub.asked
    assert request == ReadHistory(1, conversation, before, after, limit)
    assert json.loads(answer.body) == {
        "conversation": conversation,
        "from": 4,
        "to": 9,
        "more": True,
        "messages": [{"seq": 5}, {"seq": 9}],
    }
    assert b'{"seq": 9}' in answer.body, "the bytes of the event are passed on as they are"
    assert answer.headers["Cache-Control"] == "no-store"
    assert answer.headers["X-Content-Type-Options"] == "nosniff"


async def test_an_empty_page(site):
    site.hub.store = lambda request, slot: HistoryRows(request.no, 0, 0, False, [])
    assert json.loads((await site.get("/api/messages?username=al")).body)["messages"] == []


@pytest.mark.parametrize(
    ("query", "text"),
    [
        ("limit=0", "'limit': Expected `int` >= 1"),
        ("limit=201", "'limit'"),
        ("limit=", "'limit'"),
        ("before=-1", "'before'"),
        ("before=1.5", "'before'"),
        ("after=9007199254740993", "'after'"),
        ("after=" + "9" * 5000, "'after'"),
        ("after=٣", "'after'"),
        ("before=1&after=2", "not both"),
        ("before=1&before=2", "more than once"),
        ("limt=5", "unknown parameter 'limt'"),
        ("with=a:b", "username"),
        ("with=", "'with'"),
        ("with=%ff", "UTF-8"),
    ],
)
async def test_a_bad_question_is_named(site, query, text):
    quoted = query.replace("٣", "%D9%A3")
    assert text in await site.refused(f"/api/messages?username=al&{quoted}", 400, "bad_request")
    assert not site.hub.asked


async def test_other_peoples_conversations(site):
    await site.refused("/api/conversations/direct:bob:carol/messages?username=al", 403, "forbidden")
    await site.refused("/api/conversations/direct:bob:al/messages?username=al", 400, "bad_request")
    await site.refused("/api/conversations/nonsense/messages?username=al", 400, "bad_request")
    await site.refused("/api/conversations/%ff/messages?username=al", 400, "bad_request")
    assert not site.hub.asked


async def test_who_asks(site):
    site.hub.store = history
    token = jwt.encode({"sub": "al"}, SECRET, "HS256")
    assert (await site.get("/api/messages", headers={"Authorization": f"Bearer {token}"})).code == 200
    for path in ("/api/messages", "/api/conversations/lobby/messages", "/api/users/online"):
        await site.refused(path, 401, "unauthorized")
    assert "expired" in await site.refused(
        "/api/messages",
        401,
        "unauthorized",
        headers={"Authorization": "Bearer " + jwt.encode({"sub": "al", "exp": 1}, SECRET, "HS256")},
    )
    for header in ({"X-Forwarded-For": "1.2.3.4"}, {"Host": "evil.example"}):
        await site.refused("/api/messages?username=al", 401, "unauthorized", headers=header)


# --- a store that does not help ----------------------------------------------------------------------


async def test_a_store_that_does_not_answer(site, monkeypatch):
    monkeypatch.setattr(questions, "GIVE_UP_AFTER", 0.05)
    await site.refused("/api/messages?username=al", 503, "unavailable")
    await site.refused("/api/users/online?username=al", 503, "unavailable")
    for request, _, answer in site.hub.open:
        answer(Done(request.no))  # too late, and harmless


async def test_a_store_that_refuses(site):
    site.hub.store = lambda request, slot: Refused(request.no, "OVERLOADED", "later", "no", 2500)
    answer = await site.get("/api/messages?username=al")
    assert answer.headers["Retry-After"] == "3"
    assert json.loads(answer.body)["error"]["retry_after_ms"] == 2500
    await site.refused("/api/users/online?username=al", 503, "overloaded")


async def test_too_many_reads_at_once(site, monkeypatch):
    monkeypatch.setattr(questions, "WAITING_MAX", 2)
    waiting = [asyncio.create_task(site.get("/api/messages?username=al")) for _ in range(2)]
    async with asyncio.timeout(5):
        while len(site.hub.asked) < 2:
            await asyncio.sleep(0.002)
    await site.refused("/api/messages?username=al", 503, "overloaded")
    site.hub.store = history
    site.hub.work()
    assert [answer.code for answer in await asyncio.gather(*waiting)] == [200, 200]


async def test_a_fault_of_ours_shows_nothing(site):
    site.hub.store = lambda request, slot: Done(request.no)
    message = await site.refused("/api/messages?username=al", 500, "internal")
    assert "Done" not in message
    (failure,) = [call for call in site.log.calls if call.method_name == "error"]
    assert failure.kwargs["exc_info"][0] is TypeError


# --- who is online -----------------------------------------------------------------------------------


async def test_who_is_online_is_merged_from_every_slot(site):
    site.hub.store = lambda request, slot: Online(request.no, {3: ["bob", "al"], 63: ["zoë"]}.get(slot, []))
    answer = await site.get("/api/users/online?username=al")
    assert json.loads(answer.body) == {"users": ["al", "bob", "zoë"], "count": 3}
    assert sorted(slot for slot, _ in site.hub.asked) == list(range(64))
    assert all(request == WhoIsOnline(request.no, slot, None) for slot, request in site.hub.asked)
    await site.refused("/api/users/online?username=al&limit=3", 400, "bad_request")


async def test_those_who_ask_at_once_share_one_question(site):
    reads = questions.Questions(site.hub, time.monotonic, site.wake)
    asking = [asyncio.create_task(reads.online()) for _ in range(5)]
    site.hub.store = lambda request, slot: Online(request.no, ["al"])
    assert await asyncio.gather(*asking) == [["al"]] * 5
    assert len(site.hub.asked) == 64
    assert await reads.online() == ["al"]
    assert len(site.hub.asked) == 128, "who asks later gets a newer answer"


# --- probes and the rest -----------------------------------------------------------------------------


async def test_probes(site):
    assert (await site.get("/healthz")).body == b'{"status":"alive"}'
    assert (await site.get("/readyz")).body == b'{"ready":true}'
    head = await site.get("/readyz", method="HEAD")
    assert (head.code, head.body) == (200, b"")
    assert (await site.get("/metrics")).body == b"up 1\n"
    site.access_loaded = False
    assert [line.split(":")[0] for line in json.loads((await site.get("/readyz")).body)["missing"]] == ["access"]
    site.hub.ready, site.hub.draining = False, True
    site.hub.bus.up = site.hub.positions.known = False
    message = await site.refused("/readyz", 503, "unavailable")
    assert [word in message for word in ("draining", "bus", "store", "access")] == [True] * 4
    assert len(json.loads((await site.get("/readyz")).body)["missing"]) == 4
    site.access_loaded = True
    assert "access" not in await site.refused("/readyz", 503, "unavailable")
    assert (await site.get("/healthz")).code == 200


async def test_what_does_not_exist(site):
    for path in ("/api", "/api/", "/api/nothing", "/nothing", "/nothing.js", "/notes.py", "/.git/config"):
        await site.refused(path, 404, "not_found")
    await site.refused("/%2e%2e/%2e%2e/etc/passwd", 404, "not_found")
    await site.refused("/api/users?username=al", 405, "bad_request", method="POST", body="{}")
    answer = await site.get("/healthz", method="DELETE")
    assert (answer.code, answer.headers["Allow"]) == (405, "GET, HEAD, OPTIONS")


async def test_the_page(site):
    page = await site.get("/")
    assert page.body == b"<!doctype html>hello"
    assert page.headers["Content-Type"] == "text/html; charset=utf-8"
    assert page.headers["Server"] == "Hubbub"
    assert page.headers["Cache-Control"] == "no-cache"
    policy = page.headers["Content-Security-Policy"]
    assert "default-src 'self'" in policy
    assert "unsafe" not in policy
    script = await site.get("/app.js", headers={"Range": "bytes=900-"})
    assert (script.code, script.headers["Content-Type"]) == (200, "text/javascript; charset=utf-8")
    assert (await site.get("/", headers={"If-None-Match": page.headers["Etag"]})).code == 304


async def test_a_token_never_reaches_the_log(site):
    await site.refused("/api/messages?token=very-secret", 401, "unauthorized")
    (call,) = site.log.calls
    assert call.kwargs["path"] == "/api/messages"
    assert "very-secret" not in str(call)
