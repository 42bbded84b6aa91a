"""Accounts over HTTP: register, sign in, stay signed in, sign out, change the password, revoke."""

import hashlib
import secrets
import time
import uuid
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import Annotated, Any, Literal

import msgspec
from msgspec import UNSET, Meta, UnsetType
from tornado import web

from hubbub import signing
from hubbub.passwords import check_password
from hubbub.protocol.conversation import check_username, user_slot
from hubbub.protocol.internal import (
    AccountFound,
    AddAccount,
    Done,
    DropRefresh,
    FindAccount,
    KeepRefresh,
    RefreshSwapped,
    Revoke,
    SetPassword,
    SwapRefresh,
)
from hubbub.protocol.messages import Name
from hubbub.protocol.refusals import ErrorCode, Refusal
from hubbub.settings import ShardSettings
from shards.http import Context, Handler, Operation, Route
from shards.hub import iso
from shards.limiter import Buckets
from shards.passwords import Passwords
from shards.questions import Questions

# Failed sign-ins: ten at once, then one in six seconds for a name and two a second for an address, behind which
# a whole office may sit.
_BY_NAME = (1 / 6, 10.0)
_BY_ADDRESS = (2.0, 100.0)
_REGISTRATIONS = (1 / 10, 20.0)  # for an address

Password = Annotated[str, Meta(max_length=1024)]
Token = Annotated[str, Meta(min_length=1, max_length=200)]


class Credentials(msgspec.Struct, forbid_unknown_fields=True):
    """A name and its password."""

    username: Name
    password: Password


class RefreshToken(msgspec.Struct, forbid_unknown_fields=True):
    """The refresh token of a session."""

    refresh_token: Token


class NewPassword(msgspec.Struct, forbid_unknown_fields=True):
    """The present password, and the next one."""

    password: Password
    new_password: Password


class Revocation(msgspec.Struct, forbid_unknown_fields=True):
    """What shall be void: one token by its `jti`, or a user's tokens issued before a time (now, if it is left out)."""

    token_id: Annotated[str, Meta(min_length=1, max_length=200)] | UnsetType = UNSET
    username: Name | UnsetType = UNSET
    before: Annotated[str, Meta(max_length=40)] | UnsetType = UNSET


class SignedIn(msgspec.Struct):
    """A session of an account. `token` goes into `Authorization: Bearer`; `refresh_token` gets the next one."""

    username: str
    role: Literal["member", "admin"]
    token: str
    token_expires_at: str
    refresh_token: str
    refresh_expires_at: str


@dataclass(frozen=True, kw_only=True)
class Accounts:
    """What the handlers share. *secret* signs the tokens."""

    settings: ShardSettings
    secret: bytes
    passwords: Passwords
    questions: Questions
    by_name: Buckets
    by_address: Buckets
    registrations: Buckets

    @classmethod
    def of(cls, settings: ShardSettings, secret: bytes, passwords: Passwords, questions: Questions) -> "Accounts":
        """With the limits that hold everywhere."""
        return cls(
            settings=settings,
            secret=secret,
            passwords=passwords,
            questions=questions,
            by_name=Buckets(*_BY_NAME),
            by_address=Buckets(*_BY_ADDRESS),
            registrations=Buckets(*_REGISTRATIONS),
        )

    def session(self, username: str, role: str, refresh: str, refresh_expires: int) -> SignedIn:
        """What a signed-in client is given."""
        settings = self.settings
        token, expires = signing.mint(
            self.secret,
            username,
            settings.token_ttl,
            user_claim=settings.token_user_claim,
            role_claim=settings.token_role_claim,
            role=role,
            audience=settings.token_audience,
            issuer=settings.token_issuer,
        )
        admin = role == "admin" or username in settings.admins
        return SignedIn(username, "admin" if admin else "member", token, iso(expires), refresh, iso(refresh_expires))

    async def begin(self, username: str, role: str) -> SignedIn:
        """A new session with a refresh token of its own. Raises `Refusal`."""
        refresh = secrets.token_urlsafe(32)
        expires = int(time.time()) + self.settings.refresh_ttl
        family = uuid.uuid4().hex
        hashed = _hash(refresh)
        await self.questions.ask(
            user_slot(username), lambda no: KeepRefresh(no, username, hashed, family, expires), Done
        )
        return self.session(username, role, refresh, expires)

    async def find(self, username: str) -> AccountFound:
        """The account, with an empty hash if there is none. Raises `Refusal`."""
        return await self.questions.ask(user_slot(username), lambda no: FindAccount(no, username), AccountFound)


class _AccountHandler(Handler):
    def initialize(self, context: Context, accounts: Accounts) -> None:  # type: ignore[override]  # Tornado's keywords
        super().initialize(context)
        self.accounts = accounts

    def prepare(self) -> None:
        """Called by Tornado."""
        super().prepare()
        if self.accounts.settings.accounts == "off":
            raise Refusal(ErrorCode.NOT_FOUND, "this server has no accounts; sign in with a token")

    async def check(self, username: str, password: str) -> AccountFound:
        """The account whose password this is. Raises `Refusal`, the same for a wrong name and a wrong password."""
        accounts, now, address = self.accounts, self.context.clock(), self.request.remote_ip or ""
        # By the name as it was given: neither the answer nor its time tells whether there is such an account.
        wait = max(accounts.by_name.wait(username, now), accounts.by_address.wait(address, now))
        if wait:
            text = "too many failed attempts; wait before the next"
            raise Refusal(ErrorCode.RATE_LIMITED, text, retry_after_ms=int(wait * 1000) + 1)
        # Taken before the hash is computed: attempts that run side by side count too.
        accounts.by_name.take(username, now)
        accounts.by_address.take(address, now)
        account = await accounts.find(username)
        good = await accounts.passwords.verify(account.password_hash, password)
        if not good:
            raise Refusal(ErrorCode.UNAUTHORIZED, "the name or the password is wrong")
        if account.disabled:
            raise Refusal(ErrorCode.FORBIDDEN, "this account is disabled; ask the operator")
        accounts.by_name.forgive(username)
        return account


class Register(_AccountHandler):
    """``/api/register``."""

    async def post(self) -> None:
        """Make an account and sign in."""
        given = self.body(Credentials)
        accounts = self.accounts
        if accounts.settings.accounts != "open":
            raise Refusal(ErrorCode.FORBIDDEN, "only the operator adds accounts here")
        username = check_username(given.username)
        check_password(username, given.password)
        wait = accounts.registrations.take(self.request.remote_ip or "", self.context.clock())
        if wait:
            text = "too many registrations from your address"
            raise Refusal(ErrorCode.RATE_LIMITED, text, retry_after_ms=int(wait * 1000) + 1)
        found = await accounts.find(username)
        if found.password_hash:
            raise Refusal(ErrorCode.CONFLICT, "there is an account of this name; choose another one")
        hashed = await accounts.passwords.hash(given.password)
        await accounts.questions.ask(user_slot(username), lambda no: AddAccount(no, username, hashed), Done)
        self.reply(await accounts.begin(username, "member"), 201)


class Login(_AccountHandler):
    """``/api/login``."""

    async def post(self) -> None:
        """Sign in."""
        given = self.body(Credentials)
        username = check_username(given.username)
        account = await self.check(username, given.password)
        accounts = self.accounts
        if accounts.passwords.outdated(account.password_hash):
            hashed = await accounts.passwords.hash(given.password)
            await accounts.questions.ask(user_slot(username), lambda no: SetPassword(no, username, hashed, None), Done)
        self.reply(await accounts.begin(username, account.role))


class Refresh(_AccountHandler):
    """``/api/token``."""

    async def post(self) -> None:
        """The next token; the refresh token is replaced as well."""
        old = _hash(self.body(RefreshToken).refresh_token)
        accounts = self.accounts
        refresh = secrets.token_urlsafe(32)
        new, expires = _hash(refresh), int(time.time()) + accounts.settings.refresh_ttl
        swapped = await accounts.questions.ask(
            _slot(old), lambda no: SwapRefresh(no, old, new, expires), RefreshSwapped
        )
        self.reply(accounts.session(swapped.username, swapped.role, refresh, expires))


class Logout(_AccountHandler):
    """``/api/logout``."""

    async def post(self) -> None:
        """Void a refresh token and its successors; unknown ones are void already."""
        old = _hash(self.body(RefreshToken).refresh_token)
        await self.accounts.questions.ask(_slot(old), lambda no: DropRefresh(no, old), Done)
        self.set_status(204)
        self.clear_header("Content-Type")
        self.finish()


class ChangePassword(_AccountHandler):
    """``/api/password``."""

    async def post(self) -> None:
        """Replace the password; whoever is signed in elsewhere has to sign in again."""
        identity = await self.identify()
        given = self.body(NewPassword)
        if identity.guest:
            raise Refusal(ErrorCode.FORBIDDEN, "a guest has no password")
        username, accounts = identity.username, self.accounts
        check_password(username, given.new_password)
        account = await self.check(username, given.password)
        hashed = await accounts.passwords.hash(given.new_password)
        before = time.time()
        await accounts.questions.ask(user_slot(username), lambda no: SetPassword(no, username, hashed, before), Done)
        self.reply(await accounts.begin(username, account.role))


class Revocations(_AccountHandler):
    """``/api/revocations``: your own tokens, or anybody's as an administrator."""

    def prepare(self) -> None:
        """Called by Tornado. Tokens can be revoked without any account."""
        Handler.prepare(self)

    async def post(self) -> None:
        """Void one token, or a user's tokens up to a time."""
        identity = await self.identify()
        given = self.body(Revocation)
        if identity.guest:
            raise Refusal(ErrorCode.FORBIDDEN, "a guest has no tokens")
        token_id = None if isinstance(given.token_id, UnsetType) else given.token_id
        username = None if isinstance(given.username, UnsetType) else check_username(given.username)
        if (token_id is None) == (username is None):
            raise Refusal(ErrorCode.BAD_REQUEST, "give either 'token_id' or 'username'")
        if identity.role != "admin" and username != identity.username and token_id != (identity.token_id or ""):
            raise Refusal(ErrorCode.FORBIDDEN, "only administrators revoke other people's tokens")
        before = _time(given.before)
        if "\0" in (token_id or ""):
            raise Refusal(ErrorCode.BAD_REQUEST, "'token_id' must not contain U+0000")
        # A token whose end is not known is remembered for as long as any token of ours could live, and longer.
        expires = None if token_id is None else int(time.time()) + 400 * 86400
        slot = user_slot(username or identity.username)
        request = partial(Revoke, token_id=token_id, username=username, before=before, expires=expires)
        await self.accounts.questions.ask(slot, lambda no: request(no), Done)
        self.set_status(204)
        self.clear_header("Content-Type")
        self.finish()


def _hash(token: str) -> bytes:
    """Refresh tokens are 256 random bits, so a plain hash keeps them as secret as a slow one would."""
    return hashlib.sha256(token.encode()).digest()


def _slot(hashed: bytes) -> int:
    """Where a question about a refresh token goes: its owner is not known yet, and any store can answer."""
    return hashed[0] % 64


def _time(text: str | UnsetType) -> float:
    if isinstance(text, UnsetType):
        return time.time()
    try:
        return msgspec.convert(text, type=_Moment).timestamp()
    except (msgspec.ValidationError, OverflowError, OSError) as exc:
        raise Refusal(ErrorCode.BAD_REQUEST, "'before' must be a time like 2026-01-31T12:00:00Z") from exc


_Moment = Annotated[datetime, Meta(tz=True)]


def routes(context: Context, accounts: Accounts) -> list[Route]:
    """The addresses of this module."""
    shared = {"context": context, "accounts": accounts}

    def post(path: str, handler: type[web.RequestHandler], **operation: Any) -> Route:
        return Route(path, handler, shared, {"post": Operation(**operation)})

    signed_in = {200: SignedIn}
    return [
        post(
            "/api/register",
            Register,
            summary="Make an account and sign in",
            body=Credentials,
            answers={201: SignedIn},
            errors=(403, 404, 409, 429),
            public=True,
        ),
        post(
            "/api/login",
            Login,
            summary="Sign in with name and password",
            body=Credentials,
            answers=signed_in,
            errors=(401, 403, 404, 429),
            public=True,
        ),
        post(
            "/api/token",
            Refresh,
            summary="The next token of a session",
            body=RefreshToken,
            answers=signed_in,
            errors=(401, 404),
            public=True,
        ),
        post(
            "/api/logout",
            Logout,
            summary="End a session",
            body=RefreshToken,
            answers={204: None},
            errors=(404,),
            public=True,
        ),
        post(
            "/api/password",
            ChangePassword,
            summary="Change your password; every other session ends",
            body=NewPassword,
            answers=signed_in,
            errors=(403, 404, 429),
        ),
        post(
            "/api/revocations",
            Revocations,
            summary="Void a token, or all of a user's tokens up to now",
            body=Revocation,
            answers={204: None},
            errors=(403,),
        ),
    ]
