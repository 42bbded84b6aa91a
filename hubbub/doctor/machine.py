"""Checks of this machine: the interpreter, files, limits, programs."""

import platform
import resource
import shutil
import stat
from pathlib import Path

from hubbub.doctor.finding import Finding, ok, problem, warning
from hubbub.runtime.files import FileError, read_secret
from hubbub.settings import Settings
from hubbub.up import UpError
from hubbub.up import programs as running

_SPACE_LOW, _SPACE_GONE = 2 * 2**30, 200 * 2**20
# Beside its connections a shard has some files of its own open: logs, sockets, the interpreter's.
_FILES_BESIDE = 64
_FILES_FEW = 4096


def python(settings: Settings) -> Finding:
    """The interpreter and its event loop."""
    try:
        import uvloop  # noqa: F401 whether it loads is what is asked
    except ImportError as exc:
        return problem(f"uvloop does not load: {exc}", "pip install uvloop, in Hubbub's environment")
    return ok(f"Python {platform.python_version()} with uvloop")


def data_directory(settings: Settings) -> Finding:
    """Whether it is there and ours alone."""
    path = settings.data_dir
    if not path.is_dir():
        return warning(f"{path} does not exist yet", "start the server (hubbub up), or name another with --data-dir")
    for name in ("secrets", "run"):
        inner = path / name
        if inner.exists() and stat.S_IMODE(inner.stat().st_mode) & 0o077:
            return problem(f"others can look into {inner}", f"chmod 700 '{inner}'")
    return ok(f"{path}")


def free_space(settings: Settings) -> Finding:
    """Room for what is written."""
    place = next(one for one in (settings.data_dir, *settings.data_dir.parents) if one.exists())
    free = shutil.disk_usage(place).free
    text = f"{free / 2**30:.1f} GiB free at {place}"
    if free < _SPACE_GONE:
        return problem(text, "make room: PostgreSQL stops when its disk is full, and nothing is acknowledged then")
    return warning(text, "make room before it runs out") if free < _SPACE_LOW else ok(text)


def secrets(settings: Settings) -> Finding:
    """The secret that signs tokens."""
    path = settings.token_secret_file
    if not path.exists():
        return warning(f"{path} does not exist yet", "it is made at the first start")
    if stat.S_IMODE(path.stat().st_mode) & 0o077:
        return problem(f"others can read {path}, and sign tokens with it", f"chmod 600 '{path}', and replace it")
    try:
        read_secret(path)
    except FileError as exc:
        return problem(str(exc), f"remove '{path}' and restart: another is made, and everybody signs in again")
    return ok(f"{path} is private")


def token_keys(settings: Settings) -> Finding:
    """Public keys of token issuers, and where key sets are fetched."""
    from shards.keys import UnusableKey, read_keys

    found: list[str] = []
    for path in settings.token_keys:
        try:
            found += [key.algorithm for key in read_keys(Path(path))]
        except UnusableKey as exc:
            return problem(str(exc), "correct the file, or the setting token_keys")
    if settings.token_jwks_url:
        import urllib.request

        from shards.keys import parse_set

        try:
            with urllib.request.urlopen(settings.token_jwks_url, timeout=5) as answer:  # noqa: S310 the operator's own URL
                found += [key.algorithm for key in parse_set(answer.read(256 * 1024))]
        except (OSError, ValueError) as exc:
            text = f"{settings.token_jwks_url} does not give a key set: {exc}"
            return problem(text, "correct token_jwks_url, or let this machine reach it; known keys count meanwhile")
    return ok(f"keys for {', '.join(found)}" if found else "none but the secret")


def bus_keys(settings: Settings) -> Finding:
    """CURVE keys, where the bus leaves this machine."""
    if not settings.bus_url.startswith("tcp://"):
        return ok("not needed: the bus is a Unix socket")
    missing = [
        name for name in ("broker.public", "peer.public", "peer.secret") if not (settings.curve_dir / name).exists()
    ]
    if missing:
        return problem(
            f"{', '.join(missing)} missing in {settings.curve_dir}", "hubbub keys makes them; copy them over"
        )
    for path in settings.curve_dir.glob("*.secret"):
        if stat.S_IMODE(path.stat().st_mode) & 0o077:
            return problem(f"others can read {path}", f"chmod 600 '{path}', and make new keys (hubbub keys --force)")
    return ok(f"in {settings.curve_dir}")


def open_files(settings: Settings) -> Finding:
    """How many connections the limit of open files allows."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = min(settings.limits.sessions + _FILES_BESIDE, 65536)
    if hard < _FILES_FEW:
        text = f"only {hard} files may be open, so a shard takes about {max(0, hard - _FILES_BESIDE)} connections"
        return warning(text, "raise it: LimitNOFILE=65536 in the systemd unit, or ulimit -Hn as root")
    return ok(f"{soft} of at most {hard}, of {wanted} that a full shard wants")


def programs(settings: Settings) -> Finding:
    """What supervisord says of its programs."""
    try:
        found = running(settings)
    except UpError:
        return warning(f"no server runs on {settings.data_dir}", "start it: hubbub up")
    bad = [f"{name} ({state})" for name, state, _, _ in found if state not in ("RUNNING", "EXITED")]
    if bad:
        logs = settings.data_dir / "logs"
        return problem(f"{', '.join(bad)} not running", f"read the end of the program's log in {logs}")
    young = [name for name, state, _, seconds in found if state == "RUNNING" and seconds < 10]
    oldest = max((seconds for _, state, _, seconds in found if state == "RUNNING"), default=0.0)
    if young and oldest > 60:
        text = f"{', '.join(young)} restarted within the last 10 s"
        return warning(text, f"if it goes on, read the program's log in {settings.data_dir / 'logs'}")
    return ok(f"{sum(state == 'RUNNING' for _, state, _, _ in found)} run")
