"""The two vocabularies of refusal, both stable.

An *error* answers one command and leaves the connection open. A *close* ends the connection, and the
range of its code says what to do: 4000-4499 reconnect, 4500-4999 do not.
"""

from enum import Enum, IntEnum


class ErrorCode(Enum):
    """Words a program may switch on: ``(word, HTTP status, whether trying again later can help)``."""

    BAD_REQUEST = ("bad_request", 400, False)
    UNAUTHORIZED = ("unauthorized", 401, False)
    FORBIDDEN = ("forbidden", 403, False)
    NOT_FOUND = ("not_found", 404, False)
    CONFLICT = ("conflict", 409, False)
    TOO_LARGE = ("too_large", 413, False)
    UNSUPPORTED = ("unsupported_media_type", 415, False)
    RATE_LIMITED = ("rate_limited", 429, True)
    INTERNAL = ("internal", 500, False)
    OVERLOADED = ("overloaded", 503, True)
    UNAVAILABLE = ("unavailable", 503, True)

    def __init__(self, word: str, status: int, temporary: bool) -> None:
        self.word = word
        self.status = status
        self.temporary = temporary


class CloseCode(IntEnum):
    """Why the server closed a connection."""

    GOING_AWAY = 1001
    RESTARTING = 4000
    SLOW_CONSUMER = 4001
    TOKEN_EXPIRED = 4002
    NO_PONG = 4003
    MISSED_TOO_MUCH = 4004
    INVALID_TOKEN = 4500
    PROTOCOL_VIOLATION = 4501
    TOO_MANY_CONNECTIONS = 4502
    REVOKED = 4503

    @property
    def reason(self) -> str:
        """A short text for the close frame (at most 123 bytes by RFC 6455) and the goodbye."""
        return _REASONS[self]

    @property
    def reconnect(self) -> bool:
        """Whether a client should come back."""
        return self < 4500


_REASONS = {
    CloseCode.GOING_AWAY: "going away",
    CloseCode.RESTARTING: "the server is restarting; reconnect",
    CloseCode.SLOW_CONSUMER: "you read too slowly; reconnect and sync",
    CloseCode.TOKEN_EXPIRED: "the token expired; reconnect with a fresh one",
    CloseCode.NO_PONG: "no answer to pings; reconnect",
    CloseCode.MISSED_TOO_MUCH: "you missed too much to catch up; reconnect and sync",
    CloseCode.INVALID_TOKEN: "the token is not valid",
    CloseCode.PROTOCOL_VIOLATION: "the client broke the WebSocket protocol",
    CloseCode.TOO_MANY_CONNECTIONS: "too many connections for this user",
    CloseCode.REVOKED: "access was revoked",
}


class Refusal(Exception):
    """A command refused; carries what the error object says."""

    def __init__(self, code: ErrorCode, message: str, *, retry_after_ms: int | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.retry_after_ms = retry_after_ms
