"""Accounts, refresh tokens, revocations, and what people look up: one request, one answer, on one connection.

Shards ask again while they have no answer, so everything here may be carried out twice and must then lead to the
same. What is refused is an answer; what PostgreSQL could not do raises `psycopg.Error` and is asked again.
"""

import re
from typing import Any

from hubbub.protocol.internal import (
    AccessPage,
    AccessRule,
    AccountFound,
    AddAccount,
    ConversationList,
    Done,
    DropRefresh,
    FindAccount,
    FindUsers,
    Found,
    KeepRefresh,
    ListConversations,
    ListedConversation,
    ReadAccess,
    RefreshSwapped,
    Refused,
    Reply,
    Revoke,
    Search,
    SetPassword,
    SwapRefresh,
    Users,
)
from hubbub.protocol.refusals import ErrorCode
from store.core import Lookup
from store.database import DIRECTORY, Connection
from store.events import Row, payload_of_row

# Lines of the access list in one answer: about 200 KB.
ACCESS_PAGE = 4_000
_CURSOR = re.compile(r"(\d{1,15})\.(\d{1,16})")
# How far back a search looks in each conversation: a tenth of a second's work.
SEARCH_HORIZON = 50_000
_TERM = re.compile(r'(-?)(?:"([^"]*)"|(\S+))')


class Directory:
    """Answers on one connection."""

    def __init__(self, conn: Connection) -> None:
        self._conn = conn

    async def answer(self, request: Lookup, *, epoch: int, online: bool = False) -> Reply:
        """Carry *request* out. *epoch*: the database's incarnation; *online*: whether somebody without an account
        uses the name of an `AddAccount` now."""
        match request:
            case ReadAccess():
                return await self._access(request, epoch)
            case FindAccount():
                rows = await self._rows("find_account", request.username)
                return AccountFound(request.no, *(rows[0] if rows else (request.username, "", "member", False)))
            case AddAccount():
                return await self._add(request, online)
            case SetPassword():
                rows = await self._rows("set_password", request.username, request.password_hash, request.before)
                return (
                    Done(request.no) if rows else _refused(request.no, ErrorCode.NOT_FOUND, "there is no such account")
                )
            case KeepRefresh():
                expires, family = request.expires, request.family
                await self._conn.execute(
                    DIRECTORY["keep_refresh"], [request.token_hash, request.username, family, expires], prepare=True
                )
                return Done(request.no)
            case SwapRefresh():
                return await self._swap(request)
            case DropRefresh():
                await self._conn.execute(DIRECTORY["drop_family"], [request.token_hash], prepare=True)
                return Done(request.no)
            case Revoke():
                kind, subject = ("user", request.username) if request.username else ("token", request.token_id)
                before = request.before if request.username else None
                await self._conn.execute(DIRECTORY["revoke"], [kind, subject, before, request.expires], prepare=True)
                return Done(request.no)
            case ListConversations():
                return await self._list(request)
            case Search():
                return await self._search(request)
            case FindUsers():
                pattern = re.sub(r"([\\%_])", r"\\\1", request.prefix.lower()) + "%"
                return Users(request.no, [row[0] for row in await self._rows("find_users", pattern, request.limit)])

    async def _access(self, request: ReadAccess, epoch: int) -> AccessPage:
        ((version,),) = await self._rows("access_version")
        if version <= request.after:
            return AccessPage(request.no, epoch, version, [], False)
        rows = await self._rows("access_changes", request.after, version, ACCESS_PAGE)
        more = len(rows) == ACCESS_PAGE
        rules = [AccessRule(*row[1:]) for row in rows]
        return AccessPage(request.no, epoch, rows[-1][0] if more else version, rules, more)

    async def _add(self, request: AddAccount, online: bool) -> Reply:
        found = await self._rows("find_account", request.username)
        if not found and not online:
            added = await self._rows("add_account", request.username, request.password_hash, "member", False)
            if added:
                return Done(request.no)
            found = await self._rows("find_account", request.username)
        if found and found[0][1] == request.password_hash:
            return Done(request.no)
        text = "there is an account of this name" if found else "this name was used by somebody without an account"
        return _refused(request.no, ErrorCode.CONFLICT, text + "; choose another one")

    async def _swap(self, request: SwapRefresh) -> Reply:
        async with self._conn.transaction():
            rows = await self._rows("find_refresh", request.token_hash)
            if not rows:
                return _refused(request.no, ErrorCode.UNAUTHORIZED, "the refresh token is not known; sign in again")
            username, _, role, successor, void, used, late = rows[0]
            if void:
                return _refused(request.no, ErrorCode.UNAUTHORIZED, "the refresh token has expired; sign in again")
            if used and late and successor != request.new_hash:
                # Whoever comes second is the thief or the robbed; nobody can tell, so both sign in again.
                await self._conn.execute(DIRECTORY["drop_family"], [request.token_hash], prepare=True)
                return _refused(request.no, ErrorCode.UNAUTHORIZED, "the refresh token was used before; sign in again")
            await self._conn.execute(
                DIRECTORY["swap_refresh"], [request.token_hash, request.new_hash, request.expires], prepare=True
            )
            return RefreshSwapped(request.no, username, role)

    async def _list(self, request: ListConversations) -> Reply:
        behind = _behind(request.before)
        if behind is None:
            return _refused(request.no, ErrorCode.BAD_REQUEST, "'after' must be the 'next' of the page before")
        rows = await self._rows("list_for_user", request.username, *behind, request.limit + 1)
        page = rows[: request.limit]
        listed = [
            ListedConversation(name, last_seq, delivered, read, unread, payload_of_row(Row(*event)))
            for name, delivered, read, last_seq, unread, *event in page
        ]
        return ConversationList(request.no, listed, _cursor(page, rows))

    async def _search(self, request: Search) -> Reply:
        behind = _behind(request.before)
        if behind is None:
            return _refused(request.no, ErrorCode.BAD_REQUEST, "'before' must be the 'next' of the page before")
        wanted, unwanted = patterns(request.query)
        if not wanted:
            return _refused(request.no, ErrorCode.BAD_REQUEST, "'q' names no word to be found")
        rows = await self._rows(
            "search_messages",
            request.username,
            wanted,
            unwanted,
            request.conversation,
            *behind,
            request.limit + 1,
            SEARCH_HORIZON,
        )
        page = rows[: request.limit]
        return Found(request.no, [payload_of_row(Row(*event)) for event in page], _cursor(page, rows))

    async def _rows(self, name: str, *parameters: Any) -> list[tuple[Any, ...]]:
        cursor = await self._conn.execute(DIRECTORY[name], parameters, prepare=True)
        return await cursor.fetchall()


def patterns(query: str) -> tuple[list[str], list[str]]:
    """What a message must match and must not, as PostgreSQL's regular expressions.

    Words and "phrases" stand whole, a -word must not be there, and the last word may be unfinished.
    """
    wanted: list[str] = []
    unwanted: list[str] = []
    terms = list(_TERM.finditer(query))
    for term in terms:
        text = (term[2] if term[2] is not None else term[3]).strip()
        if not text:
            continue
        # What is no word has no edges that a pattern could ask for.
        start = r"\m" if text[0].isalnum() else ""
        unfinished = term is terms[-1] and term[3] is not None and not term[1]
        end = "" if unfinished or not text[-1].isalnum() else r"\M"
        (unwanted if term[1] else wanted).append(start + re.escape(text) + end)
    return wanted, unwanted


def _behind(cursor: str | None) -> tuple[int | None, int | None] | None:
    """A page's ``(unix ms, id)`` to go on behind; None for a cursor that is none of ours."""
    if cursor is None:
        return None, None
    match = _CURSOR.fullmatch(cursor)
    return (int(match[1]), int(match[2])) if match else None


def _cursor(page: list[tuple[Any, ...]], rows: list[tuple[Any, ...]]) -> str | None:
    """What to give for the next page, from the last event's columns; None if this was the last."""
    if len(rows) == len(page):
        return None
    event = page[-1][-10:]
    return f"{event[9]}.{event[0]}"


def _refused(no: int, code: ErrorCode, message: str) -> Refused:
    return Refused(no, code.name, message, "no")
