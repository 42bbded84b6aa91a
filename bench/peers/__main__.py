"""Run one peer in the foreground, with its database and all it needs; says `ready` when it is.

It ends with a SIGTERM, or with its standard input, so that none is left behind by a benchmark that was killed.
"""

import argparse
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

import psycopg

from bench.peers import HERE, PEERS, Peer, installed

START_SECONDS = 60.0
STOP_SECONDS = 10.0
# One index, on what names a row: less than Hubbub's own table has.
SCHEMA = """
CREATE TABLE messages (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    sender text NOT NULL,
    recipient text,
    content text NOT NULL,
    sent_at timestamptz NOT NULL DEFAULT now()
)
"""


def start(stack: ExitStack, words: Sequence[str], *, ready: int = 0, **environment: str) -> None:
    """Start a program that ends with *stack*, and wait until *ready* of its processes have said so.

    Raises `RuntimeError` when it ends first.
    """
    process = subprocess.Popen(
        words,
        env={**os.environ, **environment},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE if ready else 2,
        text=True,
    )
    stack.callback(_end, process)
    for _ in range(ready):
        if process.stdout is None or process.stdout.readline() != "ready\n":
            raise RuntimeError(f"{words[0]} did not start")


def _end(process: "subprocess.Popen[str]") -> None:
    process.terminate()
    try:
        process.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def start_postgres(stack: ExitStack, home: Path) -> Path:
    """Hubbub's own embedded PostgreSQL with Hubbub's configuration, and a table in it; its socket's directory."""
    data_dir = home / "postgres"
    start(stack, [sys.executable, "-m", "hubbub.runtime.postgres"], HUBBUB_DATA_DIR=str(data_dir))
    sockets = data_dir / "run" / "postgres"
    deadline = time.monotonic() + START_SECONDS
    while True:
        try:
            with psycopg.connect(host=str(sockets), user="hubbub", dbname="hubbub", autocommit=True) as connection:
                connection.execute(SCHEMA)
            return sockets
        except psycopg.OperationalError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)


def start_redis(stack: ExitStack, home: Path) -> str:
    """Redis on a socket of its own that writes nothing to disk; its URL."""
    path = home / "redis.sock"
    words = ["redis-server", "--port", "0", "--unixsocket", str(path), "--save", "", "--appendonly", "no"]
    start(stack, [*words, "--daemonize", "no", "--loglevel", "warning"])
    deadline = time.monotonic() + START_SECONDS
    while not path.exists():
        if time.monotonic() > deadline:
            raise RuntimeError("redis-server did not start")
        time.sleep(0.02)
    return f"unix://{path}"


def start_peer(stack: ExitStack, peer: Peer, port: int, home: Path) -> None:
    """Start *peer* and what it stands on."""
    place = installed(peer.kind)
    environment = {"PORT": str(port)}
    if peer.stored:
        environment["DATABASE"] = str(start_postgres(stack, home))
    match peer.kind:
        case "yardstick":
            start(stack, [str(place), str(port)], ready=1)
        case "tornado":
            start(stack, [sys.executable, str(HERE / "tornado_chat.py")], ready=1, **environment)
        case "socketio":
            environment |= {"PROCESSES": str(peer.processes), "NODE_PATH": str(place / "node_modules")}
            words = ["node", str(HERE / "socketio" / "server.js")]
            start(stack, words, ready=peer.processes, NODE_ENV="production", **environment)
        case "python_socketio":
            environment |= {"REDIS": start_redis(stack, home), "PYTHONPATH": str(place)}
            words = [sys.executable, "-m", "uvicorn", "chat:app", "--app-dir", str(HERE / "python_socketio")]
            words += ["--host", "127.0.0.1", "--port", str(port), "--workers", str(peer.processes), "--loop", "uvloop"]
            words += ["--ws-per-message-deflate", "false", "--log-level", "warning", "--backlog", "4096"]
            start(stack, words, ready=peer.processes, **environment)
        case _:
            raise ValueError(f"no such kind of peer: {peer.kind}")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a peer until a SIGTERM, a SIGINT or the end of standard input."""
    parser = argparse.ArgumentParser(prog="python -m bench.peers", description=__doc__)
    parser.add_argument("name", choices=PEERS)
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--data-dir", type=Path, required=True, help="an empty directory for its data")
    options = parser.parse_args(arguments)
    stopping = (signal.SIGTERM, signal.SIGINT)
    for number in stopping:
        signal.signal(number, lambda *_: sys.exit(0))
    with ExitStack() as stack:
        start_peer(stack, PEERS[options.name], options.port, options.data_dir.resolve())
        print("ready", flush=True)
        sys.stdin.buffer.read()
    return 0


if __name__ == "__main__":
    sys.exit(main())
