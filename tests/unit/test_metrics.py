import os
import subprocess
import sys
import time

import pytest
from prometheus_client import Counter, Gauge, Histogram
from prometheus_client.parser import text_string_to_metric_families

from hubbub.runtime.metrics import FRESH_SECONDS, Metrics, merged, metrics_dir


@pytest.fixture
def run_dir(tmp_path):
    metrics_dir(tmp_path).mkdir()
    return tmp_path


def samples(text):
    return {
        (sample.name, sample.labels.get("process"), sample.labels.get("code", sample.labels.get("le"))): sample.value
        for family in text_string_to_metric_families(text.decode())
        for sample in family.samples
    }


def write_for(run_dir, process, *, pid=None, kind=Counter, value=1.0):
    metrics = Metrics(process, run_dir)
    metric = kind("hubbub_messages", "Messages", registry=metrics.registry)
    metric.inc(value)
    metrics.write()
    path = metrics_dir(run_dir) / f"{process}.prom"
    if pid is not None:
        path.write_text(path.read_text().replace(f"# pid {os.getpid()}\n", f"# pid {pid}\n"))
    return path


@pytest.fixture
def dead_pid():
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def test_every_sample_names_its_process(run_dir):
    write_for(run_dir, "shard-0", value=2)
    write_for(run_dir, "shard-1", value=3)
    found = samples(merged(run_dir))
    assert found["hubbub_messages_total", "shard-0", None] == 2
    assert found["hubbub_messages_total", "shard-1", None] == 3
    assert all(process in ("shard-0", "shard-1") for _, process, _ in found)


def test_a_family_stands_there_once(run_dir):
    for process in ("broker", "shard-0", "store"):
        write_for(run_dir, process)
    lines = merged(run_dir).decode().splitlines()
    heads = [line.split()[:3] for line in lines if line.startswith("#")]
    assert len(heads) == len({tuple(head) for head in heads})
    assert lines.count("# TYPE hubbub_messages_total counter") == 1
    # The samples of one family follow one another: the format asks for it.
    names = [line.partition("{")[0] for line in lines if line.startswith("hubbub_messages_total")]
    first = lines.index(next(line for line in lines if line.startswith("hubbub_messages_total")))
    assert [line.partition("{")[0] for line in lines[first : first + 3]] == names


def test_a_stale_snapshot_is_left_out(run_dir):
    path = write_for(run_dir, "shard-0")
    assert b"shard-0" in merged(run_dir)
    now = path.stat().st_mtime
    assert b"shard-0" in merged(run_dir, now=now + FRESH_SECONDS - 0.1)
    assert merged(run_dir, now=now + FRESH_SECONDS) == b""


def test_a_dead_process_is_left_out(run_dir, dead_pid):
    write_for(run_dir, "shard-0", pid=dead_pid)
    write_for(run_dir, "shard-1")
    assert b"shard-0" not in merged(run_dir)
    assert b"shard-1" in merged(run_dir)


@pytest.mark.parametrize(
    "garbage", [b"", b"no pid\n", b"\xff\xfe", b"%PID%hubbub_x{ 1\n", b"%PID%hubbub_x notanumber\n"]
)
def test_a_broken_snapshot_spoils_no_other(run_dir, garbage):
    write_for(run_dir, "shard-1")
    pid = f"# pid {os.getpid()}\n".encode()
    (metrics_dir(run_dir) / "shard-0.prom").write_bytes(garbage.replace(b"%PID%", pid))
    text = merged(run_dir)
    assert b"shard-0" not in text
    assert samples(text)["hubbub_messages_total", "shard-1", None] == 1


def test_a_part_that_was_being_written_is_not_read(run_dir):
    path = write_for(run_dir, "shard-0")
    path.rename(path.with_name(f".{path.name}.123"))
    path.with_name(".shard-9.prom").write_bytes(path.with_name(f".{path.name}.123").read_bytes())
    assert merged(run_dir) == b""


def test_one_name_with_two_types_keeps_the_first(run_dir):
    write_for(run_dir, "a", kind=Gauge)
    write_for(run_dir, "b", kind=Counter)
    write_for(run_dir, "c", kind=lambda name, text, registry: Gauge(name + "_total", text, registry=registry))
    text = merged(run_dir)
    list(text_string_to_metric_families(text.decode()))
    types = [line for line in text.decode().splitlines() if line.startswith("# TYPE hubbub_messages_total ")]
    assert len(types) == 1


def test_histograms_and_other_labels_survive(run_dir):
    metrics = Metrics("store", run_dir)
    histogram = Histogram("hubbub_commit_seconds", 'A "quoted"\nhelp', registry=metrics.registry, buckets=(0.1, 1))
    histogram.observe(0.5)
    Counter("hubbub_refusals", "By code", ["code"], registry=metrics.registry).labels('a"b\\c').inc()
    metrics.write()
    found = samples(merged(run_dir))
    assert found["hubbub_commit_seconds_bucket", "store", "0.1"] == 0
    assert found["hubbub_commit_seconds_bucket", "store", "1.0"] == 1
    assert found["hubbub_commit_seconds_count", "store", None] == 1
    assert found["hubbub_refusals_total", "store", 'a"b\\c'] == 1
    assert not [name for name, _, _ in found if name.endswith("_created")]


def test_a_process_tells_of_itself(run_dir):
    metrics = Metrics("broker", run_dir)
    metrics.saw_lag(0.25)
    metrics.saw_lag(0.002)
    metrics.write()
    found = samples(merged(run_dir))
    assert found["hubbub_loop_lag_seconds_count", "broker", None] == 2
    assert found["hubbub_loop_lag_max_seconds", "broker", None] == 0.25
    if sys.platform.startswith("linux"):
        for name in ("process_resident_memory_bytes", "process_cpu_seconds_total", "process_open_fds"):
            assert found[name, "broker", None] > 0
    metrics.write()
    assert samples(merged(run_dir))["hubbub_loop_lag_max_seconds", "broker", None] == 0


def test_two_registries_do_not_share(run_dir):
    write_for(run_dir, "a")
    write_for(run_dir, "b")  # would raise "Duplicated timeseries" in the library's global registry


def test_nobody_else_may_read_it(run_dir):
    assert write_for(run_dir, "a").stat().st_mode & 0o077 == 0


def test_nothing_there_is_nothing(tmp_path):
    assert merged(tmp_path, now=time.time()) == b""
