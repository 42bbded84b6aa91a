"""HTTP beside the WebSocket, on the same port: what all handlers share.

`Handler` gives each of them the same headers, the same way to tell who asks, typed bodies and queries, and
the same error object. A `Route` says what is served where; Tornado's routes and the OpenAPI document are made
from the same ones.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from http import HTTPStatus
from math import ceil
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, TypeVar
from urllib.parse import urlsplit

import msgspec
from structlog.typing import FilteringBoundLogger
from tornado import web

from hubbub.protocol.conversation import InvalidName
from hubbub.protocol.limits import Limits
from hubbub.protocol.refusals import ErrorCode, Refusal
from shards.auth import Authenticator, Identity, KeyUnknown
from shards.hub import Hub
from shards.proxies import Network, client_address

S = TypeVar("S", bound=msgspec.Struct)

# For tornado.httpserver.HTTPServer.
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
    415: ErrorCode.UNSUPPORTED,
    500: ErrorCode.INTERNAL,
}
_MESSAGES = {
    404: "there is nothing at this address",
    405: "this address does not know that method",
    426: "connect here with a WebSocket client: version 13, over HTTP/1.1",
    500: "something went wrong in the server; the attempt was logged",
}


@dataclass(frozen=True, kw_only=True)
class Operation:
    """What one method of an address does, for people and programs.

    `answers`: the body's type by status, None for none. `errors`: the statuses of refusals beside those that
    every operation may have. `public`: asks for no credentials.
    """

    summary: str
    query: type[msgspec.Struct] | None = None
    body: type[msgspec.Struct] | None = None
    answers: Mapping[int, type[msgspec.Struct] | None] = field(default_factory=dict)
    errors: Sequence[int] = ()
    public: bool = False
    idempotent: bool = False


class Route(NamedTuple):
    """An address: its *path* as OpenAPI writes it, who serves it, with which arguments, and its operations."""

    path: str
    handler: type[web.RequestHandler]
    arguments: dict[str, Any]
    operations: Mapping[str, Operation]

    def for_tornado(self) -> tuple[str, type[web.RequestHandler], dict[str, Any]]:
        """The same for `tornado.web.Application`."""
        return re.sub(r"\{\w+\}", "([^/]+)", self.path), self.handler, self.arguments


@dataclass(frozen=True, kw_only=True)
class Context:
    """What the handlers of one shard share.

    *clock*: monotonic seconds, the hub's *now*. *wake*: to be called after any input, so that the tick's
    end writes what it caused. *access_loaded*: whether the list of accounts and revocations has come.
    *metrics*: the text of ``/metrics``, None to have no such page.
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
    access_loaded: Callable[[], bool]
    trusted_proxies: Sequence[Network] = ()

    @property
    def ready(self) -> bool:
        """Whether clients may come."""
        return self.hub.ready and self.access_loaded()


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

    def prepare(self) -> None:
        """Called by Tornado before the method. Raises `Refusal` for a page of a stranger that wants to write."""
        request = self.request
        forwarded = request.headers.get_list("X-Forwarded-For")
        if forwarded:
            request.remote_ip = client_address(request.remote_ip or "", forwarded, self.context.trusted_proxies)
        origin = request.headers.get("Origin")
        if origin is not None and request.method not in ("GET", "HEAD", "OPTIONS") and not self.origin_allowed(origin):
            text = f"pages of {origin[:200]!r} may not write here; the setting allowed_origins lists those that may"
            raise Refusal(ErrorCode.FORBIDDEN, text)

    def origin_allowed(self, origin: str) -> bool:
        """Whether a page of *origin* may use this server."""
        # The browser itself says so, and no page can make it lie.
        if self.request.headers.get("Sec-Fetch-Site") == "same-origin":
            return True
        return origin_allowed(origin, self.request.headers.get("Host", ""), self.context.allowed_origins)

    def options(self, *args: str) -> None:
        """What a browser asks before a page of another origin may do something (CORS preflight)."""
        self.set_header("Allow", ", ".join(self.methods()))
        self.set_header("Access-Control-Allow-Methods", ", ".join(self.methods()))
        self.set_header("Access-Control-Allow-Headers", "Authorization, Content-Type, Idempotency-Key")
        self.set_header("Access-Control-Max-Age", "600")
        self.done()

    def methods(self) -> list[str]:
        """The methods that this address knows."""
        known = [
            name
            for name in ("GET", "HEAD", "POST")
            if getattr(type(self), name.lower()) is not getattr(web.RequestHandler, name.lower())
        ]
        return [*known, "OPTIONS"]

    def identify_now(self, offered: Sequence[str] = ()) -> Identity:
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
            forwarded=self.forwarded(),
        )

    def forwarded(self) -> bool:
        """Whether a proxy says that the request is not its own."""
        return any(name in self.request.headers for name in _FORWARDED)

    async def identify(self, offered: Sequence[str] = ()) -> Identity:
        """Who asks; waits a bounded time for a key that is not known yet. Raises `Refusal`."""
        try:
            return self.identify_now(offered)
        except KeyUnknown:
            await self.context.authenticator.key_arrived()
            return self.identify_now(offered)

    def query(self, kind: type[S]) -> S:
        """The query as a struct; credentials are for `identify`. Raises `Refusal`."""
        found: dict[str, str] = {}
        for name, values in self.request.query_arguments.items():
            if name in _CREDENTIALS:
                continue
            if len(values) > 1:
                raise Refusal(ErrorCode.BAD_REQUEST, f"{name[:100]!r} was given more than once")
            try:
                found[name] = values[0].decode()
            except UnicodeDecodeError as exc:
                raise Refusal(ErrorCode.BAD_REQUEST, "the query is not UTF-8") from exc
        known = [one.encode_name for one in msgspec.structs.fields(kind)]
        for name in found:
            if name not in known:
                text = f"unknown parameter {name[:100]!r}; known: {', '.join(known) or 'none'}"
                raise Refusal(ErrorCode.BAD_REQUEST, text)
        if any("\0" in value for value in found.values()):
            raise Refusal(ErrorCode.BAD_REQUEST, "a parameter contains U+0000")
        try:
            return msgspec.convert(found, kind, strict=False)
        except msgspec.ValidationError as exc:
            raise _misfit(exc) from exc

    def body(self, kind: type[S]) -> S:
        """The JSON body as a struct. Raises `Refusal`."""
        content_type = self.request.headers.get("Content-Type", "").partition(";")[0].strip().lower()
        if content_type != "application/json":
            raise Refusal(ErrorCode.UNSUPPORTED, "send a JSON object with Content-Type: application/json")
        try:
            return msgspec.json.decode(self.request.body, type=kind)
        except msgspec.ValidationError as exc:
            raise _misfit(exc) from exc
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as exc:
            raise Refusal(ErrorCode.BAD_REQUEST, f"not a JSON object: {exc}") from exc

    def reply(self, body: msgspec.Struct, status: int = 200) -> None:
        """Finish with *body* as JSON."""
        self.set_status(status)
        self.answer(msgspec.json.encode(body))

    def done(self) -> None:
        """Finish with nothing to say (204)."""
        self.set_status(204)
        self.clear_header("Content-Type")
        self._share()
        self.finish()

    def answer(self, body: bytes, content_type: str = "application/json; charset=utf-8") -> None:
        """Finish with *body*."""
        self.set_header("Content-Type", content_type)
        self._share()
        self.finish(body)

    def _share(self) -> None:
        """Let pages of allowed origins read the answer (CORS). No credentials: they travel in headers of ours."""
        origin = self.request.headers.get("Origin")
        self.set_header("Vary", "Origin")
        if origin is not None and self.origin_allowed(origin):
            self.set_header("Access-Control-Allow-Origin", origin)
            self.set_header("Access-Control-Expose-Headers", "Retry-After")

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
        if wait_ms is None and refusal.code.temporary and self.get_status() != HTTPStatus.INTERNAL_SERVER_ERROR:
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
            self.set_header("Allow", ", ".join(self.methods()))
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


def _misfit(exc: msgspec.ValidationError) -> Refusal:
    """What does not fit its type, with the name of the field first."""
    text, _, place = str(exc).partition(" - at `$.")
    return Refusal(ErrorCode.BAD_REQUEST, f"{place.rstrip('`')!r}: {text}" if place else text)


class Reader(Handler):
    """A handler of GET and HEAD."""

    def head(self, *args: str) -> Any:
        """What GET says, without the body: Tornado leaves it out."""
        return self.get(*args)


class Nothing(Handler):
    """Addresses that do not exist."""

    def prepare(self) -> None:
        """Whatever the method."""
        raise web.HTTPError(404)


def origin_allowed(origin: str, host: str, allowed: Sequence[str]) -> bool:
    """Whether a page of *origin* may use *host*: its own server's pages may, and those in *allowed*."""
    origin = origin.lower()
    try:
        same = urlsplit(origin).netloc == host.lower()
    except ValueError:
        return False
    return (same and bool(host)) or "*" in allowed or origin in allowed


def log_request(log: FilteringBoundLogger, handler: web.RequestHandler) -> None:
    """Tornado's `log_function`, with *log* bound: never the query, which may hold a token."""
    status = handler.get_status()
    if status == HTTPStatus.SWITCHING_PROTOCOLS:
        return  # its connection logs itself
    request = handler.request
    write = log.warning if status >= 500 else log.info if status >= 400 else log.debug
    milliseconds = round(1000 * request.request_time(), 1)
    write("request", method=request.method, path=request.path, status=status, ms=milliseconds, remote=request.remote_ip)
