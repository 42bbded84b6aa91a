"""What the benchmarks make of their measurements: costs of processes, comparisons, reports."""

import json
import os
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from bench import procs, report
from bench.measure import Latency, Options, Result
from bench.routing import Configuration, compare
from bench.scenarios import SCENARIOS, Goal, figures


def test_stat_with_an_unpleasant_name() -> None:
    stat = procs.parse_stat("7 (a) b (c)) S 5 7 7 0 -1 4194560 1 2 3 4 30 12 100 50 20 0 1 0 9 1 1")
    tick = 1_000_000 // os.sysconf("SC_CLK_TCK")
    assert (stat.parent, stat.own_us, stat.reaped_us) == (5, 42 * tick, 150 * tick)


@pytest.mark.parametrize(
    ("argv", "role"),
    [
        (["/x/python", "-m", "shards"], "shard-1"),
        (["/x/python", "-m", "broker"], "broker"),
        (["/x/python", "-u", "-m", "store"], "store"),
        (["/x/python", "-m", "hubbub.runtime.postgres"], "postgres"),
        (["/pg/bin/postgres", "-D", "data"], "postgres"),
        (["postgres: checkpointer "], "postgres"),
        (["logger"], "supervisor"),
        ([], "supervisor"),
    ],
)
def test_roles(argv: list[str], role: str) -> None:
    assert procs.role_of(argv, {"HUBBUB_SHARD_INDEX": "1"}, "supervisor") == role


def test_children_are_counted() -> None:
    burn = "import sys,time\nwhile time.process_time() < 0.3: pass\nprint(1, flush=True)\nsys.stdin.read()"
    before = procs.cpu(os.getpid())
    child = subprocess.Popen([sys.executable, "-c", burn], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        assert child.stdout is not None
        child.stdout.readline()
        assert child.pid in procs.processes(os.getpid())
        after = procs.cpu(os.getpid())
        assert sum(after.by_role.values()) - sum(before.by_role.values()) >= 250_000
        assert procs.memory(os.getpid())["supervisor"].rss > 5_000_000
        with pytest.raises(RuntimeError, match="ended or started"):
            procs.cpu_between(before, after)
    finally:
        child.communicate()


def result(scenario: str, rate: float, cpu: float) -> Result:
    return Result(
        scenario=scenario,
        options=Options(url="ws://x"),
        clean=True,
        problems={},
        seconds=1.0,
        acks=int(rate),
        deliveries=int(rate),
        acks_per_second=rate,
        deliveries_per_second=rate,
        latency_ms={"ack": Latency(samples=1, p50=1, p90=1, p99=1, p999=1, max=1)},
        cpu_us={"shard-0": 1, "shard-1": 1},
        cpu_us_per_message={"shard-0": cpu / 2, "shard-1": cpu / 2, "total": cpu},
    )


def test_comparison_takes_medians_and_adds_up_shards() -> None:
    a = [result("x", rate, 10) for rate in (100, 900, 200)]
    b = [result("x", rate, 5) for rate in (400, 400, 1)]
    rows = {row.figure: row for row in compare(2, a, b)}
    assert (rows["messages/s"].a, rows["messages/s"].b, rows["messages/s"].ratio) == (200, 400, 2)
    assert (rows["CPU-us/message shard"].a, rows["CPU-us/message shard"].ratio) == (10, 0.5)


def test_configurations_are_read_like_a_command_line() -> None:
    found = Configuration.parse("A=1 B='x y' python -m some.runner C=3")
    assert found == Configuration({"A": "1", "B": "x y"}, ("python", "-m", "some.runner", "C=3"))
    assert Configuration.parse("A=1").command[-2:] == ("-m", "hubbub.cli")


def test_every_goal_names_a_figure_that_its_scenario_has() -> None:
    samples = {
        # A delivery more than acknowledgements: the window cut between the two.
        "direct": msgspec.structs.replace(result("", 1, 1), deliveries=2, cpu_us_per_delivery={"total": 1.0}),
        "broadcast": msgspec.structs.replace(result("", 1, 1), deliveries=100, cpu_us_per_delivery={"total": 1.0}),
        "latency": msgspec.structs.replace(result("", 1, 1), deliveries=0),
        "idle": msgspec.structs.replace(
            result("", 0, 0), acks=0, memory_kib_per_connection={"rss": {"total": 1.0}}, cpu_us_per_message={}
        ),
        "connect": result("", 1, 1),
    }
    for scenario in SCENARIOS:
        for goal in scenario.goals:
            assert goal.figure in figures(samples[scenario.kind]), (scenario.name, goal.figure)


def test_goals_in_both_directions() -> None:
    assert Goal("x", 10).met(10) and not Goal("x", 10).met(11)
    assert Goal("x", 10, at_least=True).met(10) and not Goal("x", 10, at_least=True).met(9)


def test_reports_are_written(tmp_path: Path) -> None:
    results = [result("direct, 4 in flight", 12_001, 81), result("other", 5, 1)]
    results[1].clean, results[1].problems = False, {"missing": 3}
    text = report.table(results)
    assert ">= 12000 met" in text and "<= 80 MISSED" in text and "NOT CLEAN: missing: 3" in text
    report.write_json(tmp_path / "bench.json", results, {"shards": 2})
    written = json.loads((tmp_path / "bench.json").read_bytes())
    assert written["results"][0]["acks_per_second"] == 12_001
    assert written["machine"]["cores"] == os.cpu_count()
