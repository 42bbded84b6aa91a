"""The chat over HTTP: history, posting, lists, search, who is here; and the probes."""

from datetime import UTC, datetime
from http import HTTPStatus
from typing import Annotated, Any, Literal

import msgspec
from msgspec import UNSET, Meta, Raw, UnsetType
from tornado import web

import hubbub
from hubbub.protocol import messages
from hubbub.protocol.conversation import LOBBY, check_username, direct, may_read, parties, slot_of, user_slot
from hubbub.protocol.internal import (
    ConversationList,
    FindUsers,
    Found,
    ListConversations,
    LogEvent,
    Refused,
    Search,
    Users,
)
from hubbub.protocol.limits import HISTORY_MAX, KEY_MAX, KEY_MIN, MENTIONS_MAX
from hubbub.protocol.messages import Name, Seq
from hubbub.protocol.refusals import ErrorCode, Refusal
from shards.http import Context, Nothing, Operation, Reader, Route
from shards.limiter import Buckets
from shards.questions import Questions

DEFAULT_PAGE = 50
Limit = Annotated[int, Meta(ge=1, le=HISTORY_MAX)]
Cursor = Annotated[str, Meta(pattern=r"^[0-9]{1,15}\.[0-9]{1,16}$")]


class NoQuery(msgspec.Struct):
    """No parameters."""


class Page(msgspec.Struct):
    """A page of a conversation: the newest, the one before a seq, or the one after it."""

    before: Seq | UnsetType = UNSET
    after: Seq | UnsetType = UNSET
    limit: Limit = DEFAULT_PAGE


class MessagesPage(Page):
    """The direct conversation `with` a user; without one, the lobby."""

    with_: Name | UnsetType = msgspec.field(default=UNSET, name="with")


class ListPage(msgspec.Struct):
    """`after`: the `next` of the page before."""

    after: Cursor | UnsetType = UNSET
    limit: Limit = DEFAULT_PAGE


class SearchQuery(msgspec.Struct):
    """Words as in a search engine: all of them, "phrases", -without; the last word may be unfinished."""

    q: Annotated[str, Meta(min_length=1, max_length=200)]
    conversation: Name | UnsetType = UNSET
    before: Cursor | UnsetType = UNSET
    limit: Limit = DEFAULT_PAGE


class UsersQuery(msgspec.Struct):
    """`q`: how the name begins, in upper or lower case."""

    q: Annotated[str, Meta(min_length=1, max_length=64)]
    limit: Annotated[int, Meta(ge=1, le=50)] = 20


class History(msgspec.Struct, rename={"from_": "from"}):
    """The messages of ``(from, to]``, oldest first. `more`: there is more in the direction asked."""

    conversation: str
    from_: int
    to: int
    more: bool
    messages: list[messages.Message]


class Config(msgspec.Struct):
    """What a page needs to know before anybody signs in."""

    version: str
    accounts: Literal["off", "closed", "open"]
    guests: bool


class Me(msgspec.Struct):
    """Who asks."""

    username: str
    guest: bool
    role: Literal["member", "admin"]
    token_expires_at: str | UnsetType = UNSET


class ListedConversation(msgspec.Struct):
    """One of your conversations with its newest event."""

    conversation: str
    last_seq: int
    delivered_seq: int
    read_seq: int
    unread: int
    last_message: messages.Message
    peer: str | UnsetType = UNSET


class Conversations(msgspec.Struct):
    """Newest activity first. `next`: what to give as `after` for more."""

    conversations: list[ListedConversation]
    next: str | None


class SearchResult(msgspec.Struct):
    """Newest first. `next`: what to give as `before` for more."""

    messages: list[messages.Message]
    next: str | None


class OnlineUser(msgspec.Struct):
    """A name, and whether somebody of it is here."""

    username: str
    online: bool


class UsersFound(msgspec.Struct):
    """Names in alphabetical order."""

    users: list[OnlineUser]


class OnlineNow(msgspec.Struct):
    """Everybody who is here."""

    users: list[str]
    count: int


class Post(msgspec.Struct, forbid_unknown_fields=True):
    """A message to one user, or without `recipient` to everybody."""

    content: Annotated[str, Meta(min_length=1)]
    recipient: Name | UnsetType = UNSET
    reply_to: Seq | UnsetType = UNSET
    mentions: Annotated[tuple[Name, ...], Meta(max_length=MENTIONS_MAX)] = ()


class Posted(msgspec.Struct, omit_defaults=True):
    """The message is committed. `duplicate`: by an earlier request with the same key."""

    message_id: int
    conversation: str
    seq: int
    timestamp: str
    duplicate: bool = False


class Asking(Reader):
    """A reader that asks the store."""

    def initialize(self, context: Context, questions: Questions) -> None:  # type: ignore[override]  # Tornado's keywords
        super().initialize(context)
        self.questions = questions

    async def page(self, conversation: str, given: Page) -> None:
        """Answer with a page of *conversation*. Raises `Refusal`."""
        before, after = (None if isinstance(one, UnsetType) else one for one in (given.before, given.after))
        if before is not None and after is not None:
            raise Refusal(ErrorCode.BAD_REQUEST, "give 'before' or 'after', not both")
        rows = await self.questions.history(conversation, before, after, given.limit)
        head = {"conversation": conversation, "from": rows.from_, "to": rows.to, "more": rows.more}
        # The events are the bytes that were encoded when they were stored; nobody decodes them.
        self.answer(msgspec.json.encode(head)[:-1] + b',"messages":[' + b",".join(rows.events) + b"]}")


class Messages(Asking):
    """``/api/messages``."""

    def initialize(  # type: ignore[override]  # Tornado's keywords
        self, context: Context, questions: Questions, posts: Buckets
    ) -> None:
        super().initialize(context, questions)
        self.posts = posts

    async def get(self) -> None:
        """A page of messages."""
        identity = await self.identify()
        given = self.query(MessagesPage)
        other = given.with_
        conversation = LOBBY if isinstance(other, UnsetType) else direct(identity.username, check_username(other))
        await self.page(conversation, given)

    async def post(self) -> None:
        """Say something; answered when it is committed."""
        identity = await self.identify()
        self.query(NoQuery)
        given = self.body(Post)
        key = self.request.headers.get("Idempotency-Key")
        if key is not None and not (KEY_MIN <= len(key) <= KEY_MAX and key.isascii() and key.isprintable()):
            text = f"Idempotency-Key has {KEY_MIN} to {KEY_MAX} printable ASCII characters"
            raise Refusal(ErrorCode.BAD_REQUEST, text)
        wait = self.posts.take(identity.username, self.context.clock())
        if wait:
            text = f"more than {self.context.limits.rate:g} messages a second"
            self.refuse(Refusal(ErrorCode.RATE_LIMITED, text, retry_after_ms=int(wait * 1000) + 1), stored="no")
            return
        command = messages.Send(
            content=given.content,
            recipient=None if isinstance(given.recipient, UnsetType) else given.recipient,
            reply_to=None if isinstance(given.reply_to, UnsetType) else given.reply_to,
            mentions=given.mentions,
            id=key,
        )
        try:
            outcome = await self.questions.post(identity.username, command)
        except Refusal as refusal:
            self.refuse(refusal, stored="no")
            return
        if isinstance(outcome, Refused):
            code = ErrorCode[outcome.code]
            why = Refusal(code, outcome.message, retry_after_ms=outcome.retry_after_ms)
            self.refuse(why, stored=outcome.stored)
            return
        name = LOBBY if command.recipient is None else direct(identity.username, command.recipient)
        fresh = isinstance(outcome, LogEvent)
        posted = Posted(outcome.id, name, outcome.seq, outcome.timestamp, not fresh)
        self.reply(posted, HTTPStatus.CREATED if fresh else HTTPStatus.OK)


class ConversationMessages(Asking):
    """``/api/conversations/{conversation}/messages``."""

    async def get(self, conversation: str) -> None:
        """A page of messages."""
        identity = await self.identify()
        given = self.query(Page)
        if not may_read(identity.username, conversation):
            raise Refusal(ErrorCode.FORBIDDEN, f"you take no part in {conversation!r}")
        await self.page(conversation, given)


class ConversationsOfMine(Asking):
    """``/api/conversations``."""

    async def get(self) -> None:
        """Newest activity first."""
        username = (await self.identify()).username
        given = self.query(ListPage)
        after = None if isinstance(given.after, UnsetType) else given.after
        found = await self.questions.ask(
            user_slot(username), lambda no: ListConversations(no, username, after, given.limit), ConversationList
        )
        rows: list[dict[str, Any]] = []
        for one in found.conversations:
            row = msgspec.structs.asdict(one)
            row["last_message"] = Raw(row.pop("last"))
            pair = parties(one.conversation)
            if pair is not None:
                row["peer"] = pair[0] if pair[1] == username else pair[1]
            rows.append(row)
        self.answer(msgspec.json.encode({"conversations": rows, "next": found.next}))


class SearchMessages(Asking):
    """``/api/search``."""

    async def get(self) -> None:
        """Messages that the asker may read."""
        username = (await self.identify()).username
        given = self.query(SearchQuery)
        conversation = None if isinstance(given.conversation, UnsetType) else given.conversation
        before = None if isinstance(given.before, UnsetType) else given.before
        if conversation is not None and not may_read(username, conversation):
            raise Refusal(ErrorCode.FORBIDDEN, f"you take no part in {conversation!r}")
        found = await self.questions.ask(
            user_slot(username), lambda no: Search(no, username, given.q, conversation, before, given.limit), Found
        )
        listed = [Raw(one) for one in found.messages]
        self.answer(msgspec.json.encode({"messages": listed, "next": found.next}))


class PeopleByName(Asking):
    """``/api/users``."""

    async def get(self) -> None:
        """Names that begin like this."""
        await self.identify()
        given = self.query(UsersQuery)
        online = set(await self.questions.online())
        known = await self.questions.ask(slot_of(LOBBY), lambda no: FindUsers(no, given.q, given.limit), Users)
        beginning = given.q.lower()
        # Who is here for the first time is in no table yet.
        names = {*known.users, *(name for name in online if name.lower().startswith(beginning))}
        users = [OnlineUser(name, name in online) for name in sorted(names, key=lambda name: (name.lower(), name))]
        self.reply(UsersFound(users[: given.limit]))


class OnlineUsers(Asking):
    """``/api/users/online``."""

    async def get(self) -> None:
        """Names and their number."""
        await self.identify()
        self.query(NoQuery)
        users = await self.questions.online()
        self.reply(OnlineNow(users, len(users)))


class WhoAmI(Reader):
    """``/api/me``."""

    async def get(self) -> None:
        """Who the credentials are of."""
        identity = await self.identify()
        self.query(NoQuery)
        expires = identity.expires_at
        at = UNSET if expires is None else datetime.fromtimestamp(expires, UTC).isoformat().replace("+00:00", "Z")
        self.reply(Me(username=identity.username, guest=identity.guest, role=identity.role, token_expires_at=at))


class Configuration(Reader):
    """``/api/config``."""

    def initialize(self, context: Context, accounts: Literal["off", "closed", "open"]) -> None:  # type: ignore[override]
        super().initialize(context)
        self.accounts = accounts

    def get(self) -> None:
        """What a page needs to know before anybody signs in."""
        self.query(NoQuery)
        guests = self.context.authenticator.welcomes_guest(
            self.request.remote_ip or "", self.request.headers.get("Host", ""), self.forwarded()
        )
        self.reply(Config(hubbub.__version__, self.accounts, guests))


class Document(Reader):
    """A description of this server's interface, made once."""

    def initialize(self, context: Context, document: bytes) -> None:  # type: ignore[override]  # Tornado's keywords
        super().initialize(context)
        self.document = document

    def get(self) -> None:
        """The same for everybody."""
        self.answer(self.document)


class Alive(Reader):
    """``/healthz``: the process runs its loop."""

    def get(self) -> None:
        """Always yes: who gets no answer knows."""
        self.answer(b'{"status":"alive"}')


class Ready(Reader):
    """``/readyz``: whether to send clients here."""

    def get(self) -> None:
        """200, or 503 with what is missing."""
        context = self.context
        if context.ready:
            self.answer(b'{"ready":true}')
            return
        hub = context.hub
        missing = ["draining: the server is shutting down"] if hub.draining else []
        if not hub.bus.up:
            missing.append("bus: the broker has not answered")
        if not hub.positions.known:
            missing.append("store: not every slot's position is known")
        if not context.access_loaded():
            missing.append("access: the list of accounts and revocations has not come yet")
        refusal = Refusal(ErrorCode.UNAVAILABLE, "not ready: " + "; ".join(missing), retry_after_ms=1000)
        self.refuse(refusal, ready=False, missing=missing)


class Metrics(Reader):
    """``/metrics`` for Prometheus."""

    def get(self) -> None:
        """The exposition of every process on this host."""
        if self.context.metrics is None:
            raise web.HTTPError(404)
        self.answer(self.context.metrics(), "text/plain; version=0.0.4; charset=utf-8")


def routes(context: Context, questions: Questions, accounts: Literal["off", "closed", "open"]) -> list[Route]:
    """The addresses of this module under ``/api``."""
    asking: dict[str, Any] = {"context": context, "questions": questions}
    limits = context.limits
    posting = {**asking, "posts": Buckets(limits.rate, limits.burst)}

    def get(path: str, handler: type[web.RequestHandler], arguments: dict[str, Any], **operation: Any) -> Route:
        return Route(path, handler, arguments, {"get": Operation(**operation)})

    page = Operation(
        summary="A page of a direct conversation, or of the lobby", query=MessagesPage, answers={200: History}
    )
    say = Operation(
        summary="Say something; answered when it is committed",
        body=Post,
        answers={201: Posted, 200: Posted},
        errors=(404, 409, 429),
        idempotent=True,
    )
    return [
        get(
            "/api/config",
            Configuration,
            {"context": context, "accounts": accounts},
            summary="What a page needs to know before anybody signs in",
            answers={200: Config},
            public=True,
        ),
        get("/api/me", WhoAmI, {"context": context}, summary="Who the credentials are of", answers={200: Me}),
        Route("/api/messages", Messages, posting, {"get": page, "post": say}),
        get(
            "/api/conversations",
            ConversationsOfMine,
            asking,
            summary="Your conversations, newest activity first",
            query=ListPage,
            answers={200: Conversations},
        ),
        get(
            "/api/conversations/{conversation}/messages",
            ConversationMessages,
            asking,
            summary="A page of a conversation by its name",
            query=Page,
            answers={200: History},
            errors=(403,),
        ),
        get(
            "/api/users/online",
            OnlineUsers,
            asking,
            summary="Everybody who is here",
            answers={200: OnlineNow},
        ),
        get(
            "/api/users",
            PeopleByName,
            asking,
            summary="People whose names begin like this",
            query=UsersQuery,
            answers={200: UsersFound},
        ),
        get(
            "/api/search",
            SearchMessages,
            asking,
            summary="Messages that you may read, by their words",
            query=SearchQuery,
            answers={200: SearchResult},
            errors=(403,),
        ),
    ]


def others(context: Context) -> list[tuple[str, type[web.RequestHandler], dict[str, Any]]]:
    """The probes, and what is nowhere; behind all of ``/api``."""
    shared = {"context": context}
    return [
        (r"/api(?:/.*)?", Nothing, shared),
        (r"/healthz", Alive, shared),
        (r"/readyz", Ready, shared),
        (r"/metrics", Metrics, shared),
    ]
