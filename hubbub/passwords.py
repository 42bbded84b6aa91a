"""Passwords: which may be used, and the one way in which Hubbub hashes them."""

from argon2 import PasswordHasher

from hubbub.protocol.refusals import ErrorCode, Refusal

# OWASP's first choice: two passes over 19 MiB, about 30 ms of a core.
_PASSES, _KIB, _LANES = 2, 19 * 1024, 1
PASSWORD_MIN = 8
PASSWORD_MAX = 1024


def check_password(username: str, password: str) -> None:
    """Raise `Refusal` for a password that is not to be used. Its bytes are kept as they come: what a person
    typed on one keyboard must not become another password on the next."""
    if not PASSWORD_MIN <= len(password) or len(password.encode("utf-8", "surrogatepass")) > PASSWORD_MAX:
        text = f"a password has at least {PASSWORD_MIN} characters and at most {PASSWORD_MAX} bytes"
        raise Refusal(ErrorCode.BAD_REQUEST, text)
    if password.casefold() == username.casefold():
        raise Refusal(ErrorCode.BAD_REQUEST, "the password must not be the username")


def hasher() -> PasswordHasher:
    """Argon2id with the parameters of today."""
    return PasswordHasher(time_cost=_PASSES, memory_cost=_KIB, parallelism=_LANES)
