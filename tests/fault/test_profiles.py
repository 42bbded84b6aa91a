"""Each profile of `bench.profiles` in its tiny form, all on one system: the promise is kept."""

from pathlib import Path

import msgspec
import pytest

from bench.profiles import PROFILES
from bench.profiles.__main__ import main
from bench.profiles.outcome import Outcome


class Report(msgspec.Struct):
    """What is read of the JSON."""

    outcomes: list[Outcome]


@pytest.mark.timeout(300)  # forty seconds on an idle machine; six profiles that wait for conditions, on a busy one
def test_every_profile_keeps_the_promise(tmp_path: Path) -> None:
    report = tmp_path / "profiles.json"
    assert main(["--tiny", "--json", str(report)]) == 0
    outcomes = msgspec.json.decode(report.read_bytes(), type=Report).outcomes
    assert [one.profile for one in outcomes] == list(PROFILES)
    for one in outcomes:
        assert one.problems == {}
        assert one.figures["acknowledged"] > 0
        assert one.figures["applied"] > one.figures["acknowledged"]
    by_name = {one.profile: one.figures for one in outcomes}
    # What is to be shown must have happened.
    assert by_name["jitter"]["reconnects"] > 0
    assert by_name["deploy"]["closed 4000"] > 0
    assert by_name["slow"]["stalled"] > 0
    assert by_name["storm"]["broker: clients"] == outcomes[0].clients
    assert by_name["storm"]["shard-0: clients"] > 0
    for name in ("database-hung", "database-down"):
        assert by_name[name]["acknowledged meanwhile"] == 0
        assert by_name[name]["waiting at the return"] > 0
