"""What is done to a running system: signals to the processes of one role, and the operator's own commands."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from bench import procs
from bench.server import ROOT, Server, ServerFailed

REPLACED_SECONDS = 30.0


def pids(server: Server, role: str) -> list[int]:
    """The processes of *role* (``broker``, ``store``, ``shard-0`` …, ``postgres``: all of PostgreSQL's)."""
    return [pid for pid, (name, _) in procs.processes(server.pid).items() if name == role]


def kill(server: Server, role: str) -> list[int]:
    """``kill -9``; the processes that died."""
    found = pids(server, role)
    _signal(found, signal.SIGKILL)
    return found


@contextmanager
def stopped(server: Server, role: str) -> Iterator[None]:
    """SIGSTOP all processes of *role* for as long as the block lasts: they hang, and nobody is told."""
    found = pids(server, role)
    _signal(found, signal.SIGSTOP)
    try:
        yield
    finally:
        _signal(found, signal.SIGCONT)


@contextmanager
def down(server: Server, program: str) -> Iterator[None]:
    """Take *program* down as an operator does, and up again after the block."""
    supervisorctl(server, "stop", program)
    try:
        yield
    finally:
        supervisorctl(server, "start", program)


def environ(server: Server) -> dict[str, str]:
    """The environment that the system runs in."""
    pairs = (procs.PROC / str(server.pid) / "environ").read_text().split("\0")
    return dict(pair.split("=", 1) for pair in pairs if "=" in pair)


def supervisorctl(server: Server, *words: str) -> None:
    """``supervisorctl -c supervisord.conf …`` with the environment of the running system. Raises `ServerFailed`."""
    command = [sys.executable, "-m", "supervisor.supervisorctl", "-c", str(ROOT / "supervisord.conf"), *words]
    done = subprocess.run(command, env=environ(server), capture_output=True, text=True, check=False, timeout=60)
    if done.returncode:
        raise ServerFailed(f"{' '.join(words)}: {done.stdout}{done.stderr}")


def wait_replaced(server: Server, role: str, old: list[int]) -> None:
    """Until supervisord has started another process in this role. Raises `ServerFailed`."""
    give_up = time.monotonic() + REPLACED_SECONDS
    while not set(pids(server, role)) - set(old):
        if time.monotonic() > give_up:
            raise ServerFailed(f"no new {role} after {REPLACED_SECONDS:g} s")
        time.sleep(0.05)


def _signal(targets: list[int], number: signal.Signals) -> None:
    for pid in targets:
        try:
            os.kill(pid, number)
        except ProcessLookupError:
            continue  # a backend that ended while we looked
