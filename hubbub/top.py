"""`hubbub top`: what every process does, live in the terminal."""

import contextlib
import select
import sys
import termios
import time
import tty
import urllib.error
import urllib.request
from collections.abc import Iterator

import click
import msgspec
from rich.box import SIMPLE_HEAD
from rich.console import Console, Group
from rich.live import Live
from rich.table import Table

from hubbub.overview import Overview, Process, Sample, overview, parse
from hubbub.settings import Settings

EVERY = 1.0


def read(settings: Settings) -> Sample:
    """The server's metrics now. Raises `click.ClickException`."""
    host = "127.0.0.1" if settings.host in ("0.0.0.0", "::") else settings.host  # noqa: S104 compared, not bound
    url = f"http://{f'[{host}]' if ':' in host else host}:{settings.port}/metrics"
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            return parse(answer.read().decode(), time.time())
    except urllib.error.HTTPError as exc:
        exc.close()
        text = f"{url} answers {exc.code}; is the setting metrics off? (hubbub doctor tells more)"
        raise click.ClickException(text) from exc
    except OSError as exc:
        text = f"no server answers at {url} ({exc}); start it (hubbub up), or name its --port"
        raise click.ClickException(text) from exc


def top(settings: Settings, *, once: bool, as_json: bool) -> None:
    """Show it once, or until q or Ctrl-C."""
    before = read(settings)
    if once or as_json or not sys.stdout.isatty():
        time.sleep(EVERY)  # rates are over an interval
        found = overview(before, read(settings))
        if as_json:
            click.echo(msgspec.json.encode(found).decode())
        else:
            Console().print(tables(found))
        return
    with _keys() as pressed, Live(console=Console(), screen=True, auto_refresh=False) as live:
        while not pressed(EVERY, "q"):
            try:
                after = read(settings)
            except click.ClickException as exc:
                live.update(exc.message, refresh=True)
                continue
            live.update(Group(tables(overview(before, after)), "[dim]q ends it[/]"), refresh=True)
            before = after


def tables(found: Overview) -> Group:
    """What all processes have in common, and below it what shards and stores do; fits 80 columns."""
    shards = [one for one in found.processes if one.name.startswith("shard")]
    stores = [one for one in found.processes if one.name.startswith("store")]
    processes = _table("process", "up", "cpu", "memory", "files", "loop late")
    for one in found.processes:
        late = f"{one.loop_lag_ms:.1f} ms"
        processes.add_row(
            one.name, _duration(one.up_seconds), f"{one.cpu:.0%}", _size(one.rss_bytes), str(one.fds), late
        )
    cpu = sum(one.cpu for one in found.processes)
    processes.add_section()
    processes.add_row("all", "", f"{cpu:.0%}", _size(sum(one.rss_bytes for one in found.processes)), "", "")

    at_shards = _table("shard", "clients", "cmd/s", "ack/s", "dlv/s", "pending", "unsent", "recoveries")
    for one in shards:
        at_shards.add_row(one.name, *_of_shards([one]))
    at_shards.add_section()
    at_shards.add_row("all", *_of_shards(shards))

    at_stores = _table("store", "msg/s", "queue", "rows a batch", "commit p50", "commit p99")
    for one in stores:
        commit = [f"{ms:.1f} ms" if ms is not None else "-" for ms in (one.commit_p50_ms, one.commit_p99_ms)]
        at_stores.add_row(one.name, f"{one.messages:.0f}", str(one.queue), f"{one.batch_rows:.1f}", *commit)
    return Group(processes, at_shards, at_stores)


def _table(first: str, *others: str) -> Table:
    shown = Table(box=SIMPLE_HEAD, pad_edge=False)
    shown.add_column(first, no_wrap=True, min_width=8)
    for name in others:
        shown.add_column(name, justify="right", no_wrap=True)
    return shown


def _of_shards(shards: list[Process]) -> list[str]:
    rates = [sum(getattr(one, name) for one in shards) for name in ("commands", "acknowledgements", "deliveries")]
    return [
        str(sum(one.connections for one in shards)),
        *(f"{rate:.0f}" for rate in rates),
        str(sum(one.pending for one in shards)),
        _size(sum(one.unsent_bytes for one in shards)),
        str(sum(one.recoveries for one in shards)),
    ]


def _size(size: int) -> str:
    return f"{size / 2**20:.0f} M" if size >= 2**20 else f"{size / 2**10:.0f} K"


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f}s"
    return f"{seconds / 60:.0f}m" if seconds < 7200 else f"{seconds / 3600:.1f}h"


@contextlib.contextmanager
def _keys() -> Iterator["_Pressed"]:
    """Single keys from the terminal, without their echo."""
    if not sys.stdin.isatty():
        yield _Pressed(None)
        return
    before = termios.tcgetattr(sys.stdin)
    try:
        tty.setcbreak(sys.stdin)
        yield _Pressed(sys.stdin.fileno())
    finally:
        termios.tcsetattr(sys.stdin, termios.TCSADRAIN, before)


class _Pressed:
    def __init__(self, fd: int | None) -> None:
        self._fd = fd

    def __call__(self, seconds: float, key: str) -> bool:
        """Wait *seconds*; whether *key* was pressed meanwhile."""
        deadline = time.monotonic() + seconds
        while (left := deadline - time.monotonic()) > 0:
            if self._fd is None:
                time.sleep(left)
            elif select.select([self._fd], [], [], left)[0] and sys.stdin.read(1) == key:
                return True
        return False
