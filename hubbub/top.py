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
from rich.console import Console
from rich.live import Live
from rich.table import Table

from hubbub.overview import Overview, Process, Sample, overview, parse
from hubbub.settings import Settings

EVERY = 1.0
_RIGHT = ("up", "cpu", "memory", "fds", "lag", "connections", "cmd/s", "ack/s", "dlv/s", "pending", "recov.", "msg/s")


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
            Console(width=None if sys.stdout.isatty() else 160).print(table(found))
        return
    with _keys() as pressed, Live(console=Console(), screen=True, auto_refresh=False) as live:
        while not pressed(EVERY, "q"):
            try:
                after = read(settings)
            except click.ClickException as exc:
                live.update(exc.message, refresh=True)
                continue
            live.update(table(overview(before, after)), refresh=True)
            before = after


def table(found: Overview) -> Table:
    """One line for each process, and the totals."""
    shown = Table(title="Hubbub", caption="q ends it", expand=False)
    shown.add_column("process", no_wrap=True)
    for name in (*_RIGHT, "queue", "rows", "commit p50/p99"):
        shown.add_column(name, justify="right", no_wrap=True)
    for one in found.processes:
        shown.add_row(*_row(one))
    shards = [one for one in found.processes if one.name.startswith("shard")]
    shown.add_section()
    shown.add_row(
        "all", "", f"{sum(one.cpu for one in found.processes):.0%}",
        f"{sum(one.rss_bytes for one in found.processes) / 2**20:.0f} M", "", "",
        str(sum(one.connections for one in shards)), f"{sum(one.commands for one in shards):.0f}",
        f"{sum(one.acknowledgements for one in shards):.0f}", f"{sum(one.deliveries for one in shards):.0f}",
    )  # fmt: skip
    return shown


def _row(one: Process) -> list[str]:
    is_shard, is_store = one.name.startswith("shard"), one.name.startswith("store")
    commit = "" if one.commit_p50_ms is None else f"{one.commit_p50_ms:.1f}/{one.commit_p99_ms or 0:.1f} ms"
    return [
        one.name, _duration(one.up_seconds), f"{one.cpu:.0%}", f"{one.rss_bytes / 2**20:.0f} M", str(one.fds),
        f"{one.loop_lag_ms:.1f} ms", *(
            [str(one.connections), f"{one.commands:.0f}", f"{one.acknowledgements:.0f}", f"{one.deliveries:.0f}",
             str(one.pending), str(one.recoveries)] if is_shard else [""] * 6
        ), *([f"{one.messages:.0f}", str(one.queue), f"{one.batch_rows:.1f}", commit] if is_store else [""] * 4),
    ]  # fmt: skip


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
