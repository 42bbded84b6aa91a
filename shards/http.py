"""HTTP beside the WebSocket, on the same port: history, who is online, probes, metrics.

`Context` is what all handlers share; `Handler` gives each of them the same headers, the same way to tell
who asks, and the same error object.
"""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from http import HTTPStatus
from math import ceil
from pathlib import Path
from types import TracebackType
from typing import Any

import msgspec
from structlog.typing import FilteringBoundLogger
from tornado import web

from hubbub.protocol.conversation import LOBBY, SLOTS, InvalidName, check_username, direct, may_read, slot_of
from hubbub.protocol.internal import HistoryRows, Online, ReadHistory, Refused, Reply, Request, WhoIsOnline
from hubbub.protocol.limits import GIVE_UP_AFTER, HISTORY_MAX, Limits
from hubbub.protocol.refusals import ErrorCode, Refusal
from shards.auth import Authenticator, Identity
from shards.hub import Hub

# For tornado.httpserver.HTTPServer. A request here is a line and some headers; nothing has a body yet.
SERVER_OPTIONS: dict[str, Any] = {
    # Allocated and cleared for every read, so this is CPU for each message; a read takes what is there, up to it.
    "chunk_size": 16 * 1024,
    "max_buffer_size": 1024 * 1024,
    "max_header_size": 16 * 1024,  # an 8 KB token, twice over
    "max_body_size": 64 * 1024,
    "body_timeout": 10.0,
    # Also how long headers may take to arrive: a client that drips them holds no socket for longer.
    "idle_connection_timeout": 60.0,
}
# Reads that wait for the store, over this shard. Past that they are refused, so that they never fill the
# table of unanswered requests that sends need too.
READS_MAX = 256
DEFAULT_PAGE = 50
SEQ_MAX = 2**53

_NOT_PAGES = "default-src 'none'; frame-ancestors 'none'"
_FORWARDED = ("Forwarded", "X-Forwarded-For", "X-Real-Ip")
_CREDENTIALS = ("username", "token")
_CODES = {
    400: ErrorCode.BAD_REQUEST,
    401: ErrorCode.UNAUTHORIZED,
    403: ErrorCode.FORBIDDEN,
    404: ErrorCode.NOT_FOUND,
    405: ErrorCode.BAD_REQUEST,
    413: ErrorCode.TOO_LARGE,
    500: ErrorCode.UNAVAILABLE,
}
_MESSAGES = {
    404: "there is nothing at this address",
    405: "this address does not know that method",
    426: "connect here with a WebSocket client: version 13, over HTTP/1.1",
    500: "something went wrong in the server; the attempt was logged",
}


@dataclass(frozen=True, kw_only=True)
class Context:
    """What the handlers of one shard share.

    *clock*: monotonic seconds, the hub's *now*. *wake*: to be called after any input, so that the tick's
    end writes what it caused. *metrics*: the text of ``/metrics``, None to have no such page.
    """

    hub: Hub
    authenticator: Authenticator
    limits: Limits
    allowed_origins: Sequence[str]
    clock: Callable[[], float]
    wake: Callable[[], None]
    metrics: Callable[[], bytes] | None
    webclient: Path
    log: FilteringBoundLogger


class Handler(web.RequestHandler):
    """Base of all handlers: headers, identity, errors. Nothing that went wrong shows a client more than a code."""

    def initialize(self, context: Context) -> None:
        """Called by Tornado with the route's arguments."""
        self.context = context

    def set_default_headers(self) -> None:
        """Called by Tornado, also before an error is written."""
        self.set_header("Server", "Hubbub")
        self.set_header("Cache-Control", "no-store")
        self.set_header("Content-Security-Policy", _NOT_PAGES)
        self.set_header("Referrer-Policy", "no-referrer")
        self.set_header("X-Content-Type-Options", "nosniff")

    def compute_etag(self) -> str | None:
        """Called by Tornado. No answer but a file is worth a hash."""
        return None

    def identify(self, offered: Sequence[str] = ()) -> Identity:
        """Who asks. *offered*: the WebSocket subprotocols. Raises `Refusal`."""
        headers = self.request.headers
        try:
            query = {name: [v.decode() for v in values] for name, values in self.request.query_arguments.items()}
        except UnicodeDecodeError as exc:
            raise Refusal(ErrorCode.BAD_REQUEST, "the query is not UTF-8") from exc
        return self.context.authenticator.authenticate(
            headers.get("Authorization"),
            offered,
            query,
            self.request.remote_ip or "",
            host=headers.get("Host", ""),
            forwarded=any(name in headers for name in _FORWARDED),
        )

    def answer(self, body: bytes, content_type: str = "application/json; charset=utf-8") -> None:
        """Finish with *body*."""
        self.set_header("Content-Type", content_type)
        self.finish(body)

    def refuse(self, refusal: Refusal, status: int | None = None, **more: object) -> None:
        """Finish with the error object; *more* stands beside it."""
        error: dict[str, object] = {
            "code": refusal.code.word,
            "message": refusal.message,
            "temporary": refusal.code.temporary,
        }
        self.set_status(refusal.code.status if status is None else status)
        if self.get_status() == HTTPStatus.UNAUTHORIZED:
            self.set_header("WWW-Authenticate", 'Bearer realm="hubbub"')
        wait_ms = refusal.retry_after_ms
        if wait_ms is None and refusal.code.temporary:
            wait_ms = 1000
        if wait_ms is not None:
            error["retry_after_ms"] = wait_ms
            self.set_header("Retry-After", str(ceil(wait_ms / 1000)))
        self.answer(msgspec.json.encode({"error": error, **more}))

    def write_error(self, status_code: int, **kwargs: Any) -> None:
        """Called by Tornado for every exception, and for what no handler knows."""
        exc: BaseException | None = kwargs["exc_info"][1] if "exc_info" in kwargs else None
        if isinstance(exc, Refusal):
            self.refuse(exc)
            return
        if isinstance(exc, InvalidName):
            self.refuse(Refusal(ErrorCode.BAD_REQUEST, str(exc)))
            return
        message = _MESSAGES.get(status_code, HTTPStatus(status_code).phrase.lower())
        if isinstance(exc, web.HTTPError) and exc.log_message and status_code == HTTPStatus.BAD_REQUEST:
            message = (exc.get_message() or message)[:200]
        if status_code == HTTPStatus.METHOD_NOT_ALLOWED:
            self.set_header("Allow", "GET, HEAD" if type(self).head is not web.RequestHandler.head else "GET")
        self.refuse(Refusal(_CODES.get(status_code, ErrorCode.BAD_REQUEST), message), status_code)

    def log_exception(
        self,
        typ: type[BaseException] | None,
        value: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        """Called by Tornado. Refusals are answers; everything else is a fault of ours."""
        if not isinstance(value, Refusal | InvalidName | web.HTTPError):
            self.context.log.error("request failed", path=self.request.path, exc_info=(typ, value, tb))


class _Reader(Handler):
    """A handler of GET and HEAD."""

    def head(self, *args: str) -> Any:
        """What GET says, without the body: Tornado leaves it out."""
        return self.get(*args)

    def parameters(self, *allowed: str) -> dict[str, str]:
        """The query; credentials are for `identify`. Raises `Refusal`."""
        found: dict[str, str] = {}
        for name, values in self.request.query_arguments.items():
            if name in _CREDENTIALS:
                continue
            if name not in allowed:
                known = ", ".join(allowed) or "none"
                raise Refusal(ErrorCode.BAD_REQUEST, f"unknown parameter {name[:100]!r}; known: {known}")
            if len(values) > 1:
                raise Refusal(ErrorCode.BAD_REQUEST, f"{name!r} was given more than once")
            found[name] = values[0].decode()
        return found


def _number(given: dict[str, str], name: str, low: int, high: int) -> int | None:
    text = given.get(name)
    if text is None:
        return None
    # The length is checked first: int() takes time that grows with the square of it.
    if not (text.isascii() and text.isdigit() and len(text) <= 16 and low <= int(text) <= high):
        raise Refusal(ErrorCode.BAD_REQUEST, f"{name!r} must be a whole number from {low} to {high}")
    return int(text)


class Reads:
    """Questions to the store on behalf of HTTP, bounded in number and time."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._waiting = 0
        self._online: asyncio.Task[list[str]] | None = None

    async def history(self, conversation: str, before: int | None, after: int | None, limit: int) -> HistoryRows:
        """A page of *conversation*. Raises `Refusal`."""

        def request(no: int) -> Request:
            return ReadHistory(no, conversation, before, after, limit)

        (rows,) = await self._ask([(slot_of(conversation), request)])
        if not isinstance(rows, HistoryRows):
            raise TypeError(f"a store answered ReadHistory with {type(rows).__name__}")
        return rows

    async def online(self) -> list[str]:
        """Who is online, sorted. Those who ask at the same time share one question. Raises `Refusal`."""
        if self._online is None or self._online.done():
            self._online = asyncio.create_task(self._read_online(), name="who is online")
        return await asyncio.shield(self._online)

    async def _read_online(self) -> list[str]:
        def request(slot: int, no: int) -> Request:
            return WhoIsOnline(no, slot, None)

        names: set[str] = set()
        for reply in await self._ask([(slot, partial(request, slot)) for slot in range(SLOTS)]):
            if not isinstance(reply, Online):
                raise TypeError(f"a store answered WhoIsOnline with {type(reply).__name__}")
            names.update(reply.users)
        return sorted(names)

    async def _ask(self, questions: list[tuple[int, Callable[[int], Request]]]) -> list[Reply]:
        if self._waiting >= READS_MAX:
            raise Refusal(ErrorCode.OVERLOADED, "too many reads at once; try again", retry_after_ms=1000)
        context = self._context
        replies: list[Reply] = []
        complete: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        def take(reply: Reply) -> None:
            replies.append(reply)
            if not complete.done() and (isinstance(reply, Refused) or len(replies) == len(questions)):
                complete.set_result(None)

        self._waiting += 1
        try:
            for slot, factory in questions:
                context.hub.ask(factory, slot, take, context.clock())
            context.wake()
            async with asyncio.timeout(GIVE_UP_AFTER):
                await complete
        except TimeoutError:
            text = "the store did not answer in time; try again"
            raise Refusal(ErrorCode.UNAVAILABLE, text, retry_after_ms=1000) from None
        finally:
            self._waiting -= 1
        refused = replies[-1]
        if isinstance(refused, Refused):
            raise Refusal(ErrorCode[refused.code], refused.message, retry_after_ms=refused.retry_after_ms)
        return replies


class _ReadsFromStore(_Reader):
    def initialize(self, context: Context, reads: Reads) -> None:  # type: ignore[override]  # Tornado's keywords
        super().initialize(context)
        self.reads = reads

    async def page(self, conversation: str, given: dict[str, str]) -> None:
        before, after = (_number(given, name, 0, SEQ_MAX) for name in ("before", "after"))
        limit = _number(given, "limit", 1, HISTORY_MAX)
        if before is not None and after is not None:
            raise Refusal(ErrorCode.BAD_REQUEST, "give 'before' or 'after', not both")
        rows = await self.reads.history(conversation, before, after, DEFAULT_PAGE if limit is None else limit)
        head = {"conversation": conversation, "from": rows.from_, "to": rows.to, "more": rows.more}
        # The events are the bytes that were encoded when they were stored; nobody decodes them.
        self.answer(msgspec.json.encode(head)[:-1] + b',"messages":[' + b",".join(rows.events) + b"]}")


class Messages(_ReadsFromStore):
    """``/api/messages?with=&before=&after=&limit=``: the direct conversation with a user, or the lobby."""

    async def get(self) -> None:
        """A page of messages."""
        identity = self.identify()
        given = self.parameters("with", "before", "after", "limit")
        other = given.get("with")
        conversation = LOBBY if other is None else direct(identity.username, check_username(other))
        await self.page(conversation, given)


class ConversationMessages(_ReadsFromStore):
    """``/api/conversations/{conversation}/messages?before=&after=&limit=``."""

    async def get(self, conversation: str) -> None:
        """A page of messages."""
        identity = self.identify()
        given = self.parameters("before", "after", "limit")
        if not may_read(identity.username, conversation):
            raise Refusal(ErrorCode.FORBIDDEN, f"you take no part in {conversation!r}")
        await self.page(conversation, given)


class OnlineUsers(_ReadsFromStore):
    """``/api/users/online``."""

    async def get(self) -> None:
        """Names and their number."""
        self.identify()
        self.parameters()
        users = await self.reads.online()
        self.answer(msgspec.json.encode({"users": users, "count": len(users)}))


class Alive(_Reader):
    """``/healthz``: the process runs its loop."""

    def get(self) -> None:
        """Always yes: who gets no answer knows."""
        self.answer(b'{"status":"alive"}')


class Ready(_Reader):
    """``/readyz``: whether to send clients here."""

    def get(self) -> None:
        """200, or 503 with what is missing."""
        hub = self.context.hub
        if hub.ready:
            self.answer(b'{"ready":true}')
            return
        missing = ["draining: the server is shutting down"] if hub.draining else []
        if not hub.bus.up:
            missing.append("bus: the broker has not answered")
        if not hub.positions.known:
            missing.append("store: not every slot's position is known")
        refusal = Refusal(ErrorCode.UNAVAILABLE, "not ready: " + "; ".join(missing), retry_after_ms=1000)
        self.refuse(refusal, ready=False, missing=missing)


class Metrics(_Reader):
    """``/metrics`` for Prometheus."""

    def get(self) -> None:
        """The exposition of every process on this host."""
        if self.context.metrics is None:
            raise web.HTTPError(404)
        self.answer(self.context.metrics(), "text/plain; version=0.0.4; charset=utf-8")


class Nothing(Handler):
    """Addresses that do not exist."""

    def prepare(self) -> None:
        """Whatever the method."""
        raise web.HTTPError(404)


def routes(context: Context) -> list[tuple[str, type[web.RequestHandler], dict[str, Any]]]:
    """Everything under ``/api`` and the probes; the page and the WebSocket have routes of their own."""
    shared = {"context": context}
    reading = {"context": context, "reads": Reads(context)}
    return [
        (r"/api/messages", Messages, reading),
        (r"/api/conversations/([^/]+)/messages", ConversationMessages, reading),
        (r"/api/users/online", OnlineUsers, reading),
        (r"/api(?:/.*)?", Nothing, shared),
        (r"/healthz", Alive, shared),
        (r"/readyz", Ready, shared),
        (r"/metrics", Metrics, shared),
    ]


def log_request(log: FilteringBoundLogger, handler: web.RequestHandler) -> None:
    """Tornado's `log_function`, with *log* bound: never the query, which may hold a token."""
    status = handler.get_status()
    if status == HTTPStatus.SWITCHING_PROTOCOLS:
        return  # its connection logs itself
    request = handler.request
    write = log.warning if status >= 500 else log.info if status >= 400 else log.debug
    milliseconds = round(1000 * request.request_time(), 1)
    write("request", method=request.method, path=request.path, status=status, ms=milliseconds, remote=request.remote_ip)
