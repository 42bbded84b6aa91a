"""What the processes do, from two expositions of their metrics: for `hubbub top` and the administrators' page. Pure."""

from collections.abc import Mapping

import msgspec
from prometheus_client.parser import text_string_to_metric_families

Buckets = dict[float, float]  # upper bound -> how many were at most that


class Sample(msgspec.Struct, frozen=True):
    """All metrics at one time (unix seconds): by process and name, labels summed; histograms by their buckets."""

    time: float
    values: dict[str, dict[str, float]]
    buckets: dict[str, dict[str, Buckets]]


class Process(msgspec.Struct, kw_only=True):
    """One process. Rates are for a second, over the time between the samples; times in milliseconds."""

    name: str
    up_seconds: float
    cpu: float  # cores
    rss_bytes: int
    fds: int
    loop_lag_ms: float
    connections: int = 0
    commands: float = 0.0
    acknowledgements: float = 0.0
    deliveries: float = 0.0
    pending: int = 0
    unsent_bytes: int = 0
    recoveries: int = 0
    messages: float = 0.0
    queue: int = 0
    batch_rows: float = 0.0
    commit_p50_ms: float | None = None
    commit_p99_ms: float | None = None


class Talker(msgspec.Struct):
    """How much somebody said in the last minutes."""

    username: str
    messages: int


class Overview(msgspec.Struct, kw_only=True):
    """Everything at a glance. `interval`: the seconds that rates are over."""

    time: float
    interval: float
    processes: list[Process]
    top_talkers: list[Talker]


def parse(text: str, now: float) -> Sample:
    """One exposition as `/metrics` gives it."""
    values: dict[str, dict[str, float]] = {}
    buckets: dict[str, dict[str, Buckets]] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            process = sample.labels.get("process", "")
            row = values.setdefault(process, {})
            if sample.name.endswith("_bucket"):
                bound = float(sample.labels["le"])
                found = buckets.setdefault(process, {}).setdefault(family.name, {})
                found[bound] = found.get(bound, 0.0) + sample.value
            else:
                row[sample.name] = row.get(sample.name, 0.0) + sample.value
    return Sample(now, values, buckets)


def overview(before: Sample, after: Sample, talkers: Mapping[str, int] | None = None) -> Overview:
    """What happened between two samples; a process that is new in the second has no rates yet."""
    seconds = max(after.time - before.time, 1e-6)
    processes = [_process(name, before, after, seconds) for name in sorted(after.values) if name]
    ranked = sorted((talkers or {}).items(), key=lambda one: (-one[1], one[0]))
    top = [Talker(name, count) for name, count in ranked[:10]]
    return Overview(time=after.time, interval=seconds, processes=processes, top_talkers=top)


def quantile(buckets: Buckets, q: float) -> float | None:
    """The *q*-quantile as Prometheus estimates it: linear within its bucket. None when nothing was counted."""
    bounds = sorted(buckets)
    total = buckets[bounds[-1]] if bounds else 0.0
    if not total:
        return None
    rank, low, below = q * total, 0.0, 0.0
    for bound in bounds:
        if buckets[bound] >= rank:
            if bound == float("inf"):
                return low
            inside = buckets[bound] - below
            return low + (bound - low) * ((rank - below) / inside if inside else 1.0)
        low, below = bound, buckets[bound]
    return low


def _process(name: str, before: Sample, after: Sample, seconds: float) -> Process:
    now, then = after.values[name], before.values.get(name)

    def value(metric: str) -> float:
        return now.get(metric, 0.0)

    def rate(metric: str) -> float:
        # A counter that went back began anew with its process.
        return max(0.0, now.get(metric, 0.0) - then.get(metric, 0.0)) / seconds if then is not None else 0.0

    commits = _since(before, after, name, "hubbub_store_commit_seconds")
    batches = rate("hubbub_store_batch_rows_count")
    p50, p99 = quantile(commits, 0.5), quantile(commits, 0.99)
    return Process(
        name=name,
        up_seconds=max(0.0, after.time - value("process_start_time_seconds")),
        cpu=rate("process_cpu_seconds_total"),
        rss_bytes=int(value("process_resident_memory_bytes")),
        fds=int(value("process_open_fds")),
        loop_lag_ms=value("hubbub_loop_lag_max_seconds") * 1000,
        connections=int(value("hubbub_shard_connections")),
        commands=rate("hubbub_shard_commands_total"),
        acknowledgements=rate("hubbub_shard_acknowledgements_total"),
        deliveries=rate("hubbub_shard_deliveries_total"),
        pending=int(value("hubbub_shard_pending_requests")),
        unsent_bytes=int(value("hubbub_shard_unsent_bytes")),
        recoveries=int(value("hubbub_shard_recoveries_total")),
        messages=rate("hubbub_store_messages_total"),
        queue=int(value("hubbub_store_queue")),
        batch_rows=rate("hubbub_store_batch_rows_sum") / batches if batches else 0.0,
        commit_p50_ms=None if p50 is None else p50 * 1000,
        commit_p99_ms=None if p99 is None else p99 * 1000,
    )


def _since(before: Sample, after: Sample, name: str, metric: str) -> Buckets:
    now = after.buckets.get(name, {}).get(metric, {})
    then = before.buckets.get(name, {}).get(metric, {})
    return {bound: max(0.0, count - then.get(bound, 0.0)) for bound, count in now.items()}
