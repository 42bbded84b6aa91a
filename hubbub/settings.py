"""Settings: what an operator may choose, where each choice came from, and what each process gets of it.

One value may be given in four places; the first that has it wins: a command line option (``--port``), an
environment variable (``HUBBUB_PORT``), a TOML file (``port = 8000``), the default. An empty environment
variable counts as not given. Everything is checked once, in `load`; a `SettingsError` names the key as it was
written and says what is allowed. Nothing here opens a file but the TOML file it is given.
"""

import difflib
import hashlib
import ipaddress
import os
import re
import tomllib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, get_type_hints
from urllib.parse import quote

import msgspec

from hubbub.protocol.conversation import SLOTS
from hubbub.protocol.limits import Limits
from hubbub.values import (
    SOCKET_PATH_MAX,
    Reader,
    as_text,
    read_boolean,
    read_bus_url,
    read_database_url,
    read_host,
    read_http_url,
    read_list,
    read_networks,
    read_number,
    read_one_of,
    read_origins,
    read_path,
    read_paths,
    read_slots,
    read_text,
    read_usernames,
    read_whole,
)

PREFIX = "HUBBUB_"
LIMIT_PREFIX = "limit_"
# Variables with our prefix that are no settings: the TOML file itself, and what supervisord.conf passes on.
NOT_SETTINGS = frozenset({"HUBBUB_CONFIG", "HUBBUB_SHARD_INDEX", "HUBBUB_SOCKET_DIR"})
# Kubernetes and old Docker links put such variables beside any service that is called "hubbub".
_SERVICE_LINK = re.compile(r"HUBBUB_(SERVICE_|PORT_\d+_)")

# The longest name below the socket directory; the others (bus.sock, supervisor.sock.<pid>) are shorter.
_LONGEST_SOCKET = "/postgres/.s.PGSQL.5432"

Guests = Literal["loopback", "always", "never"]
Accounts = Literal["off", "closed", "open"]
LogLevel = Literal["debug", "info", "warning", "error"]
LogFormat = Literal["auto", "json", "pretty"]


class SettingsError(ValueError):
    """A setting that cannot be used. `key` is what the user wrote: a variable, a TOML key or an option."""

    def __init__(self, key: str, problem: str) -> None:
        super().__init__(f"{key}: {problem}")
        self.key = key
        self.problem = problem


def _is(parse: Reader, meaning: str, allowed: str, default: str = "") -> msgspec.Meta:
    """A setting's documentation, beside its field: how it is read, its *meaning* for the table, what is *allowed*
    for errors, and in words the *default* of one that is computed."""
    return msgspec.Meta(description=meaning, extra={"parse": parse, "allowed": allowed, "default": default})


_BOOLEAN = "true or false"


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """Every setting, checked. `origins` says of each name where its value came from."""

    data_dir: Annotated[
        Path,
        _is(read_path, "Where everything is kept: database, secrets, logs, sockets", "a path", "$XDG_DATA_HOME/hubbub"),
    ]
    host: Annotated[str, _is(read_host, "Address the shards listen on", "an IP address or a host name")] = "127.0.0.1"
    port: Annotated[int, _is(read_whole(1, 65535), "TCP port, shared by all shards", "a whole number, 1 to 65535")] = (
        8000
    )
    shards: Annotated[int, _is(read_whole(1, 256), "Shard processes", "a whole number, 1 to 256", "one for each core")]
    database_url: Annotated[
        str,
        _is(
            read_database_url,
            "Your own PostgreSQL; empty starts the embedded one",
            "postgresql://user:password@host/database, or empty",
        ),
    ] = ""
    postgres_bin_dir: Annotated[
        Path | None,
        _is(read_path, "Directory with initdb and postgres, instead of the ones installed with Hubbub", "a path"),
    ] = None
    postgres_user: Annotated[
        str,
        _is(read_text, "System user that the embedded PostgreSQL runs as when root starts Hubbub", "a user's name"),
    ] = ""
    bus_url: Annotated[
        str,
        _is(
            read_bus_url,
            "Where the processes meet",
            f"ipc:///an/absolute/path of at most {SOCKET_PATH_MAX} bytes (one host), or tcp://address:port "
            "(needs the keys that `hubbub keys` makes)",
            "ipc://<data_dir>/run/bus.sock",
        ),
    ]
    curve_dir: Annotated[
        Path, _is(read_path, "Directory of the CURVE keys that a tcp bus needs", "a path", "<data_dir>/secrets/curve")
    ]
    guests: Annotated[
        Guests,
        _is(
            read_one_of(Guests),
            "Whether ?username= is enough to sign in: loopback (while only this machine can connect), always or never",
            "loopback, always or never",
        ),
    ] = "loopback"
    token_secret_file: Annotated[
        Path, _is(read_path, "File with the secret that signs tokens (HS256)", "a path", "<data_dir>/secrets/token")
    ]
    token_in_query: Annotated[
        bool, _is(read_boolean, "Accept ?token= in the address, where proxies and logs may keep it", _BOOLEAN)
    ] = False
    token_keys: Annotated[
        tuple[str, ...],
        _is(read_paths, "Files with public keys (PEM) or key sets (JWKS) whose tokens count", "paths, with commas"),
    ] = ()
    token_jwks_url: Annotated[
        str, _is(read_http_url, "Where the identity provider publishes its keys (JWKS)", "an http(s) URL, or empty")
    ] = ""
    token_audience: Annotated[
        tuple[str, ...],
        _is(read_list, "Audiences (`aud`) of which a token must name one; empty: any", "names, with commas"),
    ] = ()
    token_issuer: Annotated[
        tuple[str, ...],
        _is(read_list, "Issuers (`iss`) whose tokens count; empty: any", "names, with commas"),
    ] = ()
    token_leeway: Annotated[
        int, _is(read_whole(0, 300), "Seconds by which clocks may differ", "a whole number, 0 to 300")
    ] = 5
    token_user_claim: Annotated[
        str, _is(read_text, "The claim that holds the username", "a claim's name, like sub or preferred_username")
    ] = "sub"  # noqa: S105 a claim's name
    token_role_claim: Annotated[
        str, _is(read_text, "The claim that makes an administrator, by the value admin", "a claim's name, or empty")
    ] = "role"  # noqa: S105 a claim's name
    admins: Annotated[
        tuple[str, ...],
        _is(read_usernames, "Users who are administrators, whatever their tokens say", "usernames, with commas"),
    ] = ()
    accounts: Annotated[
        Accounts,
        _is(
            read_one_of(Accounts),
            "Accounts with passwords: off, closed (only the operator adds some) or open (anybody may register)",
            "off, closed or open",
        ),
    ] = "closed"
    token_ttl: Annotated[
        int,
        _is(read_whole(5, 86400), "Seconds that a token of an account is valid", "a whole number, 5 to 86400"),
    ] = 900
    refresh_ttl: Annotated[
        int,
        _is(
            read_whole(60, 31_536_000),
            "Seconds after its last use that a device has to sign in again",
            "a whole number, 60 to 31536000",
        ),
    ] = 2_592_000
    trusted_proxies: Annotated[
        tuple[str, ...],
        _is(
            read_networks,
            "Proxies whose X-Forwarded-For tells the client's address",
            "addresses or networks, with commas",
        ),
    ] = ()
    allowed_origins: Annotated[
        tuple[str, ...],
        _is(
            read_origins,
            "Origins of web pages that may connect, besides the server's own",
            "origins like https://chat.example.org, separated by commas, or * for all",
        ),
    ] = ()
    store_slots: Annotated[
        tuple[int, ...],
        _is(read_slots, "Slots that this store takes", f"numbers and ranges from 0 to {SLOTS - 1}, like 0-31,40"),
    ] = tuple(range(SLOTS))
    log_level: Annotated[
        LogLevel, _is(read_one_of(LogLevel), "The least serious lines to log", "debug, info, warning or error")
    ] = "info"
    log_format: Annotated[
        LogFormat,
        _is(read_one_of(LogFormat), "JSON lines, or pretty ones; auto: pretty on a terminal", "auto, json or pretty"),
    ] = "auto"
    metrics: Annotated[bool, _is(read_boolean, "Serve /metrics", _BOOLEAN)] = True
    limits: Limits = Limits()
    origins: dict[str, str] = {}

    @property
    def run_dir(self) -> Path:
        """Locks, metrics snapshots and pid files; mode 0700."""
        return self.data_dir / "run"

    @property
    def socket_dir(self) -> Path:
        """Unix sockets: `run_dir`, or a directory under /tmp where that path is too long for a socket."""
        return socket_dir(self.data_dir)

    @property
    def guests_allowed(self) -> bool:
        """Whether a name without proof is let in."""
        return self.guests == "always" or (self.guests == "loopback" and is_loopback(self.host))

    def shard(self, index: int) -> "ShardSettings":
        """What shard number *index* (from 0) needs: no database, no other's keys."""
        return ShardSettings(
            index=index,
            name=f"shard-{index}",
            host=self.host,
            port=self.port,
            run_dir=self.run_dir,
            bus_url=self.bus_url,
            curve_dir=self.curve_dir,
            guests=self.guests,
            bound_to_loopback=is_loopback(self.host),
            token_secret_file=self.token_secret_file,
            token_in_query=self.token_in_query,
            token_keys=self.token_keys,
            token_jwks_url=self.token_jwks_url,
            token_audience=self.token_audience,
            token_issuer=self.token_issuer,
            token_leeway=self.token_leeway,
            token_user_claim=self.token_user_claim,
            token_role_claim=self.token_role_claim,
            admins=self.admins,
            accounts=self.accounts,
            token_ttl=self.token_ttl,
            refresh_ttl=self.refresh_ttl,
            trusted_proxies=self.trusted_proxies,
            allowed_origins=self.allowed_origins,
            limits=self.limits,
            metrics=self.metrics,
            log_level=self.log_level,
            log_format=self.log_format,
        )

    def broker(self) -> "BrokerSettings":
        """What the broker needs."""
        return BrokerSettings(
            name="broker",
            run_dir=self.run_dir,
            bus_url=self.bus_url,
            curve_dir=self.curve_dir,
            limits=self.limits,
            log_level=self.log_level,
            log_format=self.log_format,
        )

    def store(self) -> "StoreSettings":
        """What a store needs; its `database_url` is never empty."""
        return StoreSettings(
            name="store",
            run_dir=self.run_dir,
            bus_url=self.bus_url,
            curve_dir=self.curve_dir,
            database_url=self.database_url or self.postgres().url,
            slots=self.store_slots,
            limits=self.limits,
            log_level=self.log_level,
            log_format=self.log_format,
        )

    def postgres(self) -> "PostgresSettings":
        """What the program around the embedded PostgreSQL needs."""
        return PostgresSettings(
            name="postgres",
            wanted=not self.database_url,
            data_dir=self.data_dir,
            run_dir=self.run_dir,
            socket_dir=self.socket_dir / "postgres",
            bin_dir=self.postgres_bin_dir,
            user=self.postgres_user,
            log_level=self.log_level,
            log_format=self.log_format,
        )

    def environ(self) -> dict[str, str]:
        """These settings as environment variables: what supervisord.conf names, and all that is not a default."""
        needed = {"data_dir", "shards"}
        variables = {
            env_name(name): self.text(name)
            for name in names()
            if name in needed or self.origins.get(name, "default") != "default"
        }
        return {**variables, "HUBBUB_SOCKET_DIR": str(self.socket_dir)}

    def value(self, name: str) -> Any:
        """The value of the setting *name*, limits included."""
        if name.startswith(LIMIT_PREFIX):
            return getattr(self.limits, name.removeprefix(LIMIT_PREFIX))
        return getattr(self, name)

    def text(self, name: str) -> str:
        """The value of *name* as it would stand in an environment variable."""
        return as_text(self.value(name))


class _Process(msgspec.Struct, frozen=True, kw_only=True):
    """What every process has: a name of its own in logs and metrics, a place to run, a way to log."""

    name: str
    run_dir: Path
    log_level: LogLevel
    log_format: LogFormat


class _Peer(_Process, frozen=True, kw_only=True):
    """A process on the bus."""

    bus_url: str
    curve_dir: Path
    limits: Limits


class ShardSettings(_Peer, frozen=True, kw_only=True):
    """One shard's part of the settings."""

    index: int
    host: str
    port: int
    guests: Guests
    bound_to_loopback: bool
    token_secret_file: Path
    token_in_query: bool
    token_keys: tuple[str, ...]
    token_jwks_url: str
    token_audience: tuple[str, ...]
    token_issuer: tuple[str, ...]
    token_leeway: int
    token_user_claim: str
    token_role_claim: str
    admins: tuple[str, ...]
    accounts: Accounts
    token_ttl: int
    refresh_ttl: int
    trusted_proxies: tuple[str, ...]
    allowed_origins: tuple[str, ...]
    metrics: bool


class BrokerSettings(_Peer, frozen=True, kw_only=True):
    """The broker's part of the settings."""


class StoreSettings(_Peer, frozen=True, kw_only=True):
    """A store's part of the settings."""

    database_url: str
    slots: tuple[int, ...]


class PostgresSettings(_Process, frozen=True, kw_only=True):
    """The part of the program that runs the embedded PostgreSQL. `wanted` is false with a database of your own."""

    wanted: bool
    data_dir: Path
    socket_dir: Path
    bin_dir: Path | None
    user: str

    @property
    def url(self) -> str:
        """How to connect. No password: the socket's directory lets nobody else in."""
        return f"postgresql://hubbub@/hubbub?host={quote(str(self.socket_dir), safe='')}"


_LIMIT_MEANINGS = {
    "content_bytes": "Bytes of UTF-8 in a message's text",
    "frame_bytes": "Bytes of a whole command",
    "rate": "Commands a second for a session, sustained; 0 is unlimited, and lifts limit_user_rate too",
    "burst": "Commands a session may send at once",
    "user_rate": "Messages a second of one user over all shards, or 1/50 as many searches; 0 is unlimited",
    "user_burst": "Messages that one user may send at once",
    "in_flight": "Sends of a session that wait for their acknowledgement",
    "outbox_bytes": "Unsent bytes at which a session that does not read is closed",
    "held_bytes": "Bytes of live events held while a session's backlog is read",
    "sessions_per_user": "Sessions of one user over all shards",
    "sessions_per_address": "Sessions from one address (a /64 of IPv6) on a shard; this machine's own are not counted",
    "sessions": "Sessions on a shard; a quarter of its file descriptors are kept for HTTP",
    "http_connections": "HTTP connections of a shard, handshakes included; past that the slowest makes room",
    "pending": "Unanswered requests of a shard; past that clients get `overloaded`",
    "store_queue": "Sends waiting for a store's next batch; past that clients get `overloaded`",
    "batch": "Sends in one statement",
}


class Setting(msgspec.Struct, frozen=True):
    """One line of the table of settings."""

    name: str
    default: str
    allowed: str
    meaning: str

    @property
    def env(self) -> str:
        """Its environment variable."""
        return env_name(self.name)

    @property
    def option(self) -> str:
        """Its command line option."""
        return option_name(self.name)


def table() -> list[Setting]:
    """Every setting in the order of its definition, limits last."""
    defaults = {field.name: field.default for field in msgspec.structs.fields(Settings)}
    rows = [
        Setting(name, extra["default"] or as_text(defaults[name]), extra["allowed"], _MEANINGS[name])
        for name, extra in _EXTRA.items()
    ]
    for field in msgspec.structs.fields(Limits):
        name = LIMIT_PREFIX + field.name
        rows.append(Setting(name, as_text(field.default), _extra(name)["allowed"], _LIMIT_MEANINGS[field.name]))
    return rows


def names() -> list[str]:
    """The names of all settings."""
    return [setting.name for setting in table()]


def env_name(name: str) -> str:
    """``port`` -> ``HUBBUB_PORT``."""
    return PREFIX + name.upper()


def option_name(name: str) -> str:
    """``data_dir`` -> ``--data-dir``."""
    return "--" + name.replace("_", "-")


def socket_dir(data_dir: Path) -> Path:
    """The directory of the Unix sockets that belong to *data_dir* (see `Settings.socket_dir`)."""
    run_dir = data_dir / "run"
    if len(os.fsencode(run_dir)) + len(_LONGEST_SOCKET) <= SOCKET_PATH_MAX:
        return run_dir
    return Path("/tmp") / f"hubbub-{hashlib.sha256(os.fsencode(data_dir)).hexdigest()[:16]}"  # noqa: S108 its owner and mode are checked when it is made


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach *host*."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def default_data_dir(environ: Mapping[str, str]) -> Path:
    """``$XDG_DATA_HOME/hubbub``, else ``~/.local/share/hubbub``. Raises `SettingsError`."""
    if data_home := environ.get("XDG_DATA_HOME"):
        return Path(data_home) / "hubbub"
    if home := environ.get("HOME"):
        return Path(home) / ".local" / "share" / "hubbub"
    raise SettingsError("HUBBUB_DATA_DIR", "must be set, since neither XDG_DATA_HOME nor HOME is")


def load(
    environ: Mapping[str, str],
    toml_path: Path | str | None = None,
    overrides: Mapping[str, object] | None = None,
    *,
    cores: int | None = None,
) -> Settings:
    """Put the settings together and check them. Raises `SettingsError`.

    *overrides* are command line options by setting name; those that are ``None`` were not given.
    *cores* is the default number of shards; ``None`` counts those this process may use.
    """
    given = _collect(environ, toml_path, overrides or {})
    values = {name: _parse(name, key, value) for name, (key, value, _) in given.items()}
    if "data_dir" not in values:
        values["data_dir"] = default_data_dir(environ)
    data_dir = values["data_dir"]
    values.setdefault("shards", cores if cores is not None else _cores())
    values.setdefault("bus_url", f"ipc://{socket_dir(data_dir)}/bus.sock")
    values.setdefault("curve_dir", data_dir / "secrets" / "curve")
    values.setdefault("token_secret_file", data_dir / "secrets" / "token")
    limits = {name.removeprefix(LIMIT_PREFIX): values.pop(name) for name in given if name.startswith(LIMIT_PREFIX)}
    origins = {name: given[name][2] if name in given else "default" for name in names()}
    settings = Settings(**values, limits=Limits(**limits), origins=origins)
    _check_together(settings, {name: key for name, (key, _, _) in given.items()})
    return settings


def from_environ(environ: Mapping[str, str]) -> Settings:
    """The settings of a process that was started by supervisord. Raises `SettingsError`."""
    return load(environ, environ.get("HUBBUB_CONFIG") or None)


def shard_index(environ: Mapping[str, str]) -> int:
    """This shard's number, which supervisord.conf passes on. Raises `SettingsError`."""
    value = environ.get("HUBBUB_SHARD_INDEX", "0")
    if not value.isascii() or not value.isdigit():
        raise SettingsError("HUBBUB_SHARD_INDEX", f"{value!r} is not allowed; a whole number from 0")
    return int(value)


def _collect(
    environ: Mapping[str, str], toml_path: Path | str | None, overrides: Mapping[str, object]
) -> dict[str, tuple[str, object, str]]:
    """name -> (key as the user wrote it, value, origin); later sources replace earlier ones."""
    known = names()
    found: dict[str, tuple[str, object, str]] = {}
    if toml_path is not None:
        for name, value in _read_toml(Path(toml_path)).items():
            _refuse_unknown(name, name, known, lambda known_name: known_name, f" in {toml_path}")
            found[name] = (f"{name} in {toml_path}", value, f"{toml_path}")
    for key, text in environ.items():
        if not key.startswith(PREFIX) or key in NOT_SETTINGS or _SERVICE_LINK.match(key):
            continue
        name = key.removeprefix(PREFIX).lower()
        _refuse_unknown(key, name, known, env_name)
        if text != "":
            found[name] = (key, text, key)
    for name, value in overrides.items():
        _refuse_unknown(option_name(name), name, known, option_name)
        if value is not None:
            found[name] = (option_name(name), value, option_name(name))
    return found


def _refuse_unknown(key: str, name: str, known: list[str], spell: Callable[[str], str], where: str = "") -> None:
    if name in known:
        return
    close = difflib.get_close_matches(name, known, n=1)
    hint = f"; did you mean {spell(close[0])}?" if close else "; `hubbub settings` lists them all"
    raise SettingsError(key + where, f"there is no such setting{hint}")


def _read_toml(path: Path) -> dict[str, object]:
    try:
        return tomllib.loads(path.read_text("utf-8"))
    except OSError as exc:
        raise SettingsError("HUBBUB_CONFIG", f"cannot read {path}: {exc.strerror}") from exc
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as exc:
        raise SettingsError(str(path), f"is not valid TOML: {exc}") from exc


def _parse(name: str, key: str, value: object) -> Any:
    """One value as its field has it. Raises `SettingsError` with *key*."""
    extra = _extra(name)
    try:
        return extra["parse"](value)
    except ValueError:
        shown = "this value" if name == "database_url" else repr(value)  # it may hold a password
        raise SettingsError(key, f"{shown} is not allowed; allowed: {extra['allowed']}") from None


def _check_together(settings: Settings, keys: Mapping[str, str]) -> None:
    """What no field can say alone. *keys* are the names as the user wrote them."""
    limits = settings.limits
    if limits.frame_bytes < limits.content_bytes:
        name = "limit_frame_bytes" if "limit_frame_bytes" in keys else "limit_content_bytes"
        raise SettingsError(
            keys.get(name, name),
            f"a command of {limits.frame_bytes} bytes cannot carry a text of {limits.content_bytes}; "
            "limit_frame_bytes must be at least limit_content_bytes",
        )


def _extra(name: str) -> dict[str, Any]:
    """What stands beside the field of *name*."""
    if not name.startswith(LIMIT_PREFIX):
        return _EXTRA[name]
    return _RATE if name in (LIMIT_PREFIX + "rate", LIMIT_PREFIX + "user_rate") else _LIMIT


def _cores() -> int:
    """Cores this process may use: a container's share where the kernel tells."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _described() -> tuple[dict[str, dict[str, Any]], dict[str, str]]:
    """Of each setting but the limits what stands beside its field, and its meaning."""
    extras, meanings = {}, {}
    for name, hint in get_type_hints(Settings, include_extras=True).items():
        for meta in getattr(hint, "__metadata__", ()):
            extras[name], meanings[name] = meta.extra, meta.description
    return extras, meanings


_EXTRA, _MEANINGS = _described()
_LIMIT = {"allowed": "a whole number from 1", "parse": read_whole(1)}
_RATE = {"allowed": "a number, 0 for unlimited", "parse": read_number}
