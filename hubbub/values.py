"""How one setting's value is read, from text or as TOML has it, and written back as text.

Each reader raises `ValueError` for what its setting does not allow; `hubbub.settings` says whose value it was.
"""

import os
import re
from collections.abc import Callable
from ipaddress import ip_network
from pathlib import Path
from typing import Any, get_args
from urllib.parse import urlsplit

from hubbub.protocol.conversation import SLOTS, check_username

# sockaddr_un holds 108 bytes, one of them the closing NUL.
SOCKET_PATH_MAX = 107

Reader = Callable[[object], Any]


def read_text(value: object) -> str:
    if not isinstance(value, str) or "\0" in value:
        raise ValueError(value)
    return value.strip()


def read_path(value: object) -> Path:
    """An absolute path: the processes run in another directory than the one the user typed it in."""
    text = str(value) if isinstance(value, Path) else read_text(value)
    if not text:
        raise ValueError(value)
    return Path(os.path.abspath(os.path.expanduser(text)))


def read_boolean(value: object) -> bool:
    if isinstance(value, bool):
        return value
    word = read_text(value).lower()
    if word not in ("true", "yes", "on", "1", "false", "no", "off", "0"):
        raise ValueError(value)
    return word in ("true", "yes", "on", "1")


def read_whole(least: int, most: int | None = None) -> Reader:
    def parse(value: object) -> int:
        number = value if type(value) is int else int(read_text(value))
        if number < least or (most is not None and number > most):
            raise ValueError(value)
        return number

    return parse


def read_number(value: object) -> float:
    """A finite number from 0."""
    number = float(value) if type(value) in (int, float) else float(read_text(value))  # type: ignore[arg-type]
    if not 0 <= number < float("inf"):
        raise ValueError(value)
    return number


def read_share(value: object) -> float:
    """A number from 0 to 1."""
    number = read_number(value)
    if number > 1:
        raise ValueError(value)
    return number


def read_one_of(kind: Any) -> Reader:
    def parse(value: object) -> str:
        word = read_text(value).lower()
        if word not in get_args(kind):
            raise ValueError(value)
        return word

    return parse


def read_host(value: object) -> str:
    text = read_text(value)
    if not re.fullmatch(r"[0-9A-Za-z.:_%-]+", text):
        raise ValueError(value)
    return text


def read_database_url(value: object) -> str:
    text = read_text(value)
    if text and (urlsplit(text).scheme not in ("postgresql", "postgres") or "://" not in text):
        raise ValueError(value)
    return text


def read_bus_url(value: object) -> str:
    text = read_text(value)
    if re.fullmatch(r"tcp://(\*|\[[0-9A-Fa-f:.]+\]|[0-9A-Za-z._-]+):\d{1,5}", text):
        return text
    path = text.removeprefix("ipc://")
    if path == text or not path.startswith("/") or len(os.fsencode(path)) > SOCKET_PATH_MAX:
        raise ValueError(value)
    return text


def read_origins(value: object) -> tuple[str, ...]:
    items = read_text(value).split(",") if isinstance(value, str) else value
    if not isinstance(items, (list, tuple)):
        raise ValueError(value)
    origins = [read_text(item).rstrip("/").lower() for item in items]
    for origin in filter(None, origins):
        parts = urlsplit(origin)
        if origin != "*" and (not parts.scheme or not parts.netloc or parts.path or parts.query or parts.fragment):
            raise ValueError(value)
    return tuple(filter(None, origins))


def read_list(value: object) -> tuple[str, ...]:
    """``a, b`` -> ``("a", "b")``; a TOML array of strings does as well."""
    items = read_text(value).split(",") if isinstance(value, str) else value
    if not isinstance(items, (list, tuple)):
        raise ValueError(value)
    return tuple(filter(None, (read_text(item) for item in items)))


def read_paths(value: object) -> tuple[str, ...]:
    """Several paths, each made absolute as in `read_path`."""
    return tuple(str(read_path(item)) for item in read_list(value))


def read_usernames(value: object) -> tuple[str, ...]:
    return tuple(check_username(name) for name in read_list(value))


def read_networks(value: object) -> tuple[str, ...]:
    """Addresses and networks: ``127.0.0.1``, ``10.0.0.0/8``."""
    return tuple(str(ip_network(item)) for item in read_list(value))


def read_http_url(value: object) -> str:
    text = read_text(value)
    parts = urlsplit(text)
    if text and (parts.scheme not in ("http", "https") or not parts.hostname):
        raise ValueError(value)
    return text


def read_slots(value: object) -> tuple[int, ...]:
    """``0-3,9`` -> ``(0, 1, 2, 3, 9)``; a TOML array of numbers does as well."""
    if isinstance(value, (list, tuple)):
        value = ",".join(str(item) for item in value)
    slots: set[int] = set()
    for part in read_text(value).split(","):
        match = re.fullmatch(r"\s*(\d+)\s*(?:-\s*(\d+)\s*)?", part)
        if not match:
            raise ValueError(value)
        first, last = int(match[1]), int(match[2] or match[1])
        if not first <= last < SLOTS:
            raise ValueError(value)
        slots.update(range(first, last + 1))
    return tuple(sorted(slots))


def as_text(value: object) -> str:
    """*value* as it would stand in an environment variable."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, tuple) and value and isinstance(value[0], int):
        return _ranges(value)
    if isinstance(value, tuple):
        return ",".join(value)
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value)


def _ranges(numbers: tuple[int, ...]) -> str:
    """``(0, 1, 2, 3, 9)`` -> ``0-3,9``."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and runs[-1][1] == number - 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    return ",".join(str(first) if first == last else f"{first}-{last}" for first, last in runs)
