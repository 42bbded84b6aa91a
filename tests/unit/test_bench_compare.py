"""The comparison with peers: what it makes of its runs, and two peers that need nothing else to be installed."""

import argparse
import shutil
from pathlib import Path

import msgspec
import pytest

from bench import compare, comparison, peers
from bench.comparison import Measured, acceptable, markdown, rows
from bench.measure import Latency, Options, Result
from bench.scenarios import SCENARIOS, run

LATENCY = Latency(samples=1, p50=1, p90=1, p99=2, p999=2, max=2)


def result(rate: float, problems: dict[str, int] | None = None, foreign: float = 0.0) -> Result:
    return Result(
        scenario="direct, 4 in flight",
        options=Options(url="ws://x"),
        clean=not problems,
        problems=problems or {},
        seconds=1.0,
        acks=int(rate),
        deliveries=int(rate),
        acks_per_second=rate,
        deliveries_per_second=rate,
        latency_ms={"ack": LATENCY},
        cpu_us_per_message={"total": 10.0},
        foreign_cpu_share=foreign,
    )


def measured(scenario: str = "direct, 4 in flight", **runs: list[Result]) -> Measured:
    machine: dict[str, object] = {
        "measured_at": "now",
        "commit": "c",
        "cores": 2,
        "cpu": "x",
        "system": "L",
        "python": "3",
    }
    named = {name.replace("_", "-"): found for name, found in runs.items()}
    return Measured(scenario=scenario, kind="direct", size="full", machine=machine, versions={}, runs=named)


def test_the_best_comes_first_with_medians_spread_and_our_ratio_to_it() -> None:
    head, lines = rows(
        measured(
            hubbub=[result(rate) for rate in (100, 300, 200)],
            tornado=[result(400)],
            tornado_stored=[result(50)],
        )
    )
    assert head[:3] == ["server", "stored", "deliveries/s"]
    assert [(line[0], line[1], line[-2]) for line in lines] == [
        ("tornado", "no", "0.50"),
        ("hubbub", "yes", "1.00"),
        ("tornado-stored", "yes", "4.00"),
    ]
    assert lines[1][2] == "200 (100 to 300)"


def test_a_changed_order_is_told_and_a_loss_voids_a_run() -> None:
    changed, lost = result(1, {"changed order": 3}), result(1, {"missing": 3})
    assert acceptable("tornado", changed) and not acceptable("tornado", lost)
    assert not acceptable("hubbub", changed)
    text = markdown(
        [measured(hubbub=[result(9)], tornado=[changed, changed], tornado_stored=[lost, result(1, None, 0.6)])]
    )
    assert "changed the order of 6 messages" in text
    assert "**not clean** in 1 of 2 runs: missing" in text
    assert "others took up to 0.60 cores in 1 runs" in text


def test_a_report_keeps_the_scenarios_that_are_not_measured_again(tmp_path: Path) -> None:
    comparison.write(tmp_path, [measured("direct, 4 in flight", hubbub=[result(1)]), measured(hubbub=[result(5)])])
    comparison.write(tmp_path, [measured("direct, 1 in flight", hubbub=[result(7)], tornado=[result(8)])])
    kept = msgspec.json.decode((tmp_path / "peers.json").read_bytes(), type=list[Measured])
    assert [one.scenario for one in kept] == ["direct, 1 in flight", "direct, 4 in flight"]
    assert kept[1].runs["hubbub"][0].deliveries_per_second == 5
    page = (tmp_path / "peers.html").read_text("utf-8")
    assert page.count("<table>") == 2 and "<svg" in page
    assert "src=" not in page and "<link" not in page and "<script" not in page
    assert "## direct, 1 in flight" in (tmp_path / "peers.md").read_text("utf-8")
    assert (tmp_path / "peers.png").stat().st_size > 5000


def test_names_may_be_beginnings() -> None:
    assert compare._one_of(["a-1", "a-2", "b"], "a;b") == ["a-1", "a-2", "b"]
    with pytest.raises(argparse.ArgumentTypeError, match="a-1"):
        compare._one_of(["a-1"], "c")


def test_every_peer_can_be_named_and_its_files_are_there() -> None:
    assert {peer.kind for peer in peers.PEERS.values()} == {"yardstick", "tornado", "socketio", "python_socketio"}
    readme = (peers.HERE / "README.md").read_text("utf-8")
    for name in peers.PEERS:
        assert f"`{name}`" in readme
    manifest = msgspec.json.decode((peers.HERE / "socketio/package.json").read_bytes())
    for version in manifest["dependencies"].values():
        assert all(part.isdigit() for part in version.split(".")), f"{version} is not exact"


@pytest.mark.skipif(shutil.which("cc") is None, reason="needs a C compiler")
@pytest.mark.parametrize("name", ["yardstick", "tornado", "tornado-stored"])
def test_a_peer_under_load(name: str) -> None:
    with peers.running(peers.PEERS[name]) as system:
        for scenario in SCENARIOS:
            if scenario.name in compare.SMOKE_SCENARIOS:
                found = run(scenario, system, "smoke")
                assert (found.problems, found.acks > 0, found.deliveries > 0) == ({}, True, True)
