"""Who is there: tokens (JWT, HS256) and guests."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from ipaddress import IPv6Address, ip_address
from typing import Any, Literal

import jwt

from hubbub.protocol.conversation import InvalidName, check_username
from hubbub.protocol.refusals import ErrorCode, Refusal

ALGORITHM = "HS256"
# RFC 7518, section 3.2: a key for HS256 has at least the size of the hash.
SECRET_MIN = 32
# Bytes of a token. It is looked at before its signature is known to be good, so its size is limited first.
TOKEN_MAX = 8192
SUBPROTOCOL_PREFIX = "bearer."

_OPTIONS: Any = {
    "require": ["sub"],
    # One server, one secret: there is no second audience to confuse it with.
    "verify_aud": False,
    # `iat` is information; `nbf` is what says "not yet". A minting host's clock a second ahead is no attack.
    "verify_iat": False,
}


@dataclass(frozen=True, slots=True)
class Identity:
    """Who somebody proved, or as a guest merely claimed, to be. `expires_at`: unix seconds, None for never."""

    username: str
    expires_at: float | None


class Authenticator:
    """Decides on credentials. Every refusal is `ErrorCode.UNAUTHORIZED` with a text that says what is wrong.

    *guests*: whether ``?username=`` is enough: ``always``, ``never``, or ``loopback``: from this machine
    while the server listens to it alone (*bound_to_loopback*). Raises `ValueError` for a short *secret*.
    """

    def __init__(
        self,
        secret: bytes,
        *,
        guests: Literal["loopback", "always", "never"],
        bound_to_loopback: bool,
        token_in_query: bool,
    ) -> None:
        if len(secret) < SECRET_MIN:
            raise ValueError(f"the token secret needs at least {SECRET_MIN} bytes")
        self._secret = secret
        self._guests = guests
        self._bound_to_loopback = bound_to_loopback
        self._token_in_query = token_in_query

    def authenticate(
        self,
        authorization: str | None,
        subprotocols: Sequence[str],
        query: Mapping[str, Sequence[str]],
        remote_ip: str,
        *,
        host: str | None = None,
        forwarded: bool = False,
    ) -> Identity:
        """Who sends a request with these credentials. Raises `Refusal`.

        *authorization* and *host* are the headers' values; *forwarded*: a proxy says that the request is
        not its own. Tokens are looked for in the header, the offered subprotocols (``bearer.<token>``) and,
        if switched on, ``?token=``; one that is given beats ``?username=``, which must then agree with it.
        """
        username = _single(query, "username")
        tokens = set(self._tokens(authorization, subprotocols, query))
        if not tokens:
            if username is None:
                raise _refused(
                    "no credentials: send a token (Authorization: Bearer …), or ?username=… where guests are allowed"
                )
            return self._guest(username, remote_ip, host, forwarded)
        if len(tokens) > 1:
            raise _refused("several different tokens were sent; send one")
        identity = self.verify(tokens.pop())
        if username is not None and username != identity.username:
            raise _refused("?username= names somebody else than the token; leave it out")
        return identity

    def verify(self, token: str) -> Identity:
        """Whose *token* it is. Raises `Refusal`."""
        if len(token) > TOKEN_MAX:
            raise _refused(f"the token is longer than {TOKEN_MAX} bytes")
        try:
            claims = jwt.decode(token, self._secret, algorithms=[ALGORITHM], options=_OPTIONS)
            expires = claims.get("exp")
            expires_at = None if expires is None else float(expires)
            return Identity(check_username(claims["sub"]), expires_at)
        except jwt.ExpiredSignatureError as exc:
            raise _refused("the token has expired") from exc
        except jwt.ImmatureSignatureError as exc:
            raise _refused("the token is not valid yet") from exc
        except jwt.InvalidAlgorithmError as exc:
            raise _refused(f"the token's algorithm is not accepted; this server accepts {ALGORITHM}") from exc
        except jwt.InvalidSignatureError as exc:
            raise _refused("the token's signature is not valid") from exc
        except (jwt.MissingRequiredClaimError, jwt.exceptions.InvalidSubjectError) as exc:
            raise _refused("the token names no user: its claim 'sub' must be a username") from exc
        except InvalidName as exc:
            raise _refused(f"the token's user is not valid: {exc}") from exc
        # ValueError: what json and base64 say of bytes that are neither; OverflowError: `exp` of 1e999;
        # RecursionError: a header nested a thousand deep, read before the signature can be checked.
        except (jwt.InvalidTokenError, ValueError, OverflowError, RecursionError) as exc:
            raise _refused("the token is malformed") from exc

    def _tokens(
        self, authorization: str | None, subprotocols: Sequence[str], query: Mapping[str, Sequence[str]]
    ) -> list[str]:
        tokens = [name[len(SUBPROTOCOL_PREFIX) :] for name in subprotocols if name.startswith(SUBPROTOCOL_PREFIX)]
        if authorization is not None:
            scheme, _, token = authorization.strip().partition(" ")
            if scheme.lower() != "bearer":
                raise _refused("the Authorization header must be 'Bearer <token>'")
            tokens.append(token.strip())
        in_query = _single(query, "token")
        if in_query is not None:
            if not self._token_in_query:
                raise _refused("tokens in the URL are not accepted here; use the Authorization header")
            tokens.append(in_query)
        return tokens

    def _guest(self, username: str, remote_ip: str, host: str | None, forwarded: bool) -> Identity:
        if self._guests == "never":
            raise _refused("guests are not allowed here; send a token")
        if self._guests == "loopback":
            if not self._bound_to_loopback or forwarded or not _is_loopback(remote_ip):
                raise _refused("guests are allowed from the server's own machine only; send a token")
            # A web page of a stranger whose name resolves to 127.0.0.1 (DNS rebinding) is same-origin with
            # us in its visitor's browser; only the Host header tells.
            if host is not None and not _is_loopback_host(host):
                raise _refused("guests must address the server as localhost or 127.0.0.1; or send a token")
        try:
            return Identity(check_username(username), None)
        except InvalidName as exc:
            raise _refused(str(exc)) from exc


def _refused(message: str) -> Refusal:
    return Refusal(ErrorCode.UNAUTHORIZED, message)


def _single(query: Mapping[str, Sequence[str]], name: str) -> str | None:
    values = query.get(name)
    if not values:
        return None
    if len(values) > 1:
        raise _refused(f"?{name}= was given more than once")
    return values[0]


def _is_loopback(address: str) -> bool:
    try:
        ip = ip_address(address)
    except ValueError:
        return False
    if isinstance(ip, IPv6Address) and ip.ipv4_mapped is not None:
        return ip.ipv4_mapped.is_loopback
    return ip.is_loopback


def _is_loopback_host(host: str) -> bool:
    name = host.lower()
    if name.startswith("["):
        name = name[1:].partition("]")[0]
    elif name.count(":") == 1:
        name = name.partition(":")[0]
    return name == "localhost" or name.endswith(".localhost") or _is_loopback(name)
