"""Other servers under the same load: what each is, how it is installed and started.

Every peer runs below one process (``python -m bench.peers NAME``) with all that it needs, so that its cost is
measured as ours is: PostgreSQL, Redis and every worker included. What is particular about each, and why it is fair,
stands in README.md beside this file.
"""

import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from bench import compiler
from bench.compiler import cache_dir
from bench.server import Server, ServerFailed, allow_open_files, free_port, stop

HERE = Path(__file__).parent


class PeerMissing(RuntimeError):
    """Something that a peer needs is not on this machine; the text says what to install."""


@dataclass(frozen=True)
class Peer:
    """A server to compare with.

    `kind` says how it is installed and started (`command`), `processes` with how many workers, `stored` whether each
    message is in PostgreSQL before its acknowledgement.
    """

    name: str
    kind: str
    protocol: str
    processes: int = 1
    stored: bool = False


PEERS = {
    peer.name: peer
    for peer in (
        Peer("yardstick", "yardstick", "plain"),
        Peer("tornado", "tornado", "plain"),
        Peer("tornado-stored", "tornado", "plain", stored=True),
        Peer("socketio-1", "socketio", "socketio"),
        Peer("socketio-2", "socketio", "socketio", processes=2),
        Peer("socketio-1-stored", "socketio", "socketio", stored=True),
        Peer("socketio-2-stored", "socketio", "socketio", processes=2, stored=True),
        Peer("python-socketio", "python_socketio", "socketio", processes=2),
        Peer("python-socketio-stored", "python_socketio", "socketio", processes=2, stored=True),
    )
}


def installed(kind: str) -> Path:
    """Install what *kind* needs, unless it is there, into a directory of its own; that directory.

    Raises `PeerMissing`, `CompilerError` or `subprocess.CalledProcessError`.
    """
    if kind == "yardstick":
        return compiler.program("yardstick", [HERE / "yardstick.c"])
    if kind == "socketio":
        return _installed_once(HERE / "socketio" / "package.json", _npm)
    if kind == "python_socketio":
        _needed("redis-server", "redis-server")
        return _installed_once(HERE / "python_socketio" / "requirements.txt", _pip)
    return HERE


def version(peer: Peer) -> str:
    """What a report names *peer* by: its software with its version."""
    place = installed(peer.kind)
    match peer.kind:
        case "socketio":
            package = json.loads((place / "node_modules/socket.io/package.json").read_text())
            node = subprocess.run(["node", "--version"], capture_output=True, text=True, check=True).stdout.strip()
            return f"Socket.IO {package['version']} on Node {node}"
        case "python_socketio":
            [found] = metadata.distributions(name="python-socketio", path=[str(place)])
            return f"python-socketio {found.version}"
        case "tornado":
            return f"Tornado {metadata.version('tornado')}"
    return ""


def _needed(program: str, package: str) -> str:
    found = shutil.which(program)
    if found is None:
        raise PeerMissing(f"{program} is not installed (on Debian and Ubuntu: apt-get install {package})")
    return found


def _installed_once(manifest: Path, install: Callable[[Path, Path], None]) -> Path:
    digest = hashlib.sha256(manifest.read_bytes()).hexdigest()[:16]
    place = cache_dir() / f"{manifest.parent.name}-{digest}"
    if not place.exists():
        print(f"[bench] installing {manifest.parent.name} into {place}", file=sys.stderr, flush=True)
        new = place.with_name(f"{place.name}.{os.getpid()}")
        new.mkdir(parents=True)
        install(manifest, new)
        new.rename(place)
    return place


def _npm(manifest: Path, place: Path) -> None:
    npm = _needed("npm", "npm")
    shutil.copy(manifest, place)
    subprocess.run([npm, "install", "--no-package-lock", "--no-audit", "--no-fund", "--silent"], cwd=place, check=True)


def _pip(manifest: Path, place: Path) -> None:
    # Not moved later like an environment would have to be: packages alone, for PYTHONPATH.
    words = ["install", "--quiet", "--disable-pip-version-check", "--target", str(place), "-r", str(manifest)]
    subprocess.run([sys.executable, "-m", "pip", *words], check=True)


@contextmanager
def running(peer: Peer) -> Iterator[Server]:
    """Start *peer* on a free port of the loopback and yield it once all of its processes listen.

    Raises `ServerFailed`, and what `installed` raises.
    """
    installed(peer.kind)
    port = free_port()
    home = Path(tempfile.mkdtemp(prefix="hubbub-peer-"))
    allow_open_files()
    log = home / "peer.log"
    try:
        with log.open("wb") as sink:
            process = subprocess.Popen(
                [sys.executable, "-m", "bench.peers", peer.name, "--port", str(port), "--data-dir", str(home)],
                cwd=HERE.parent.parent,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=sink,
                start_new_session=True,
            )
        try:
            assert process.stdout is not None
            if process.stdout.readline() != b"ready\n":
                raise ServerFailed(f"{peer.name} did not start: {log.read_text(errors='replace')[-4000:]}")
            yield Server("127.0.0.1", port, peer.processes, home, process.pid, peer.protocol)
        finally:
            stop(process)
            process.communicate()
    finally:
        shutil.rmtree(home, ignore_errors=True)
