"""`hubbub top` fits the smallest terminal, with everything that an operator looks for."""

import io
from typing import Any

from rich.console import Console

from hubbub.overview import Overview, Process
from hubbub.top import tables

COMMON: dict[str, Any] = {
    "up_seconds": 90_000.0,
    "cpu": 0.87,
    "rss_bytes": 250 * 2**20,
    "fds": 20_000,
    "loop_lag_ms": 123.4,
}


def shown(*processes: Process, width: int = 80) -> list[str]:
    out = io.StringIO()
    console = Console(file=out, width=width)
    console.print(tables(Overview(time=0.0, interval=1.0, processes=[*processes], top_talkers=[])))
    return out.getvalue().splitlines()


def test_busy_processes_fit_eighty_columns() -> None:
    busy: dict[str, Any] = {
        "connections": 50_000,
        "commands": 12_000.0,
        "acknowledgements": 12_000.0,
        "deliveries": 250_000.0,
    }
    shards = [Process(name=f"shard-{i}", **COMMON, **busy, pending=20_000, unsent_bytes=2**30) for i in (0, 15)]
    store = Process(name="store", **COMMON, messages=24_000.0, queue=50_000, commit_p50_ms=1.25, commit_p99_ms=1250.0)
    lines = shown(Process(name="broker", **COMMON), *shards, store)
    text = "\n".join(lines)
    assert "…" not in text, "nothing is cut off"
    assert [text.count(name) for name in ("broker", "shard-0", "shard-15", "store")] == [1, 2, 2, 3]
    sums = next(line for line in lines if line.strip().startswith("all") and "100000" in line)
    assert sums.split() == ["all", "100000", "24000", "24000", "500000", "40000", "2048", "M", "0"]
    assert "1250.0 ms" in text


def test_a_store_that_has_committed_nothing_has_no_times() -> None:
    lines = shown(Process(name="store", **COMMON))
    assert [line.split()[-2:] for line in lines if line.strip().startswith("store ")][-1] == ["-", "-"]
