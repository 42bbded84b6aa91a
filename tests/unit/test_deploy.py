"""The files in deploy/ fit the programs that they start."""

from configparser import RawConfigParser
from pathlib import Path

from hubbub.up import STOP_SECONDS

TOP = Path(__file__).resolve().parents[2]


def read(path: str) -> RawConfigParser:
    parser = RawConfigParser(strict=False, inline_comment_prefixes=(";",))
    parser.optionxform = str  # type: ignore[assignment, method-assign]  # systemd's keys have capitals
    parser.read(TOP / path, "utf-8")
    return parser


def test_whoever_stops_hubbub_gives_its_programs_their_time() -> None:
    programs = read("supervisord.conf")
    needed = sum(programs.getint(name, "stopwaitsecs") for name in programs.sections() if name.startswith("program:"))
    assert needed == 90
    assert needed < STOP_SECONDS
    assert read("deploy/hubbub.service").getfloat("Service", "TimeoutStopSec") > STOP_SECONDS
    assert read("deploy/hubbub.supervisor.conf").getfloat("program:hubbub", "stopwaitsecs") > STOP_SECONDS


def test_both_start_the_same_as_the_same() -> None:
    unit, program = read("deploy/hubbub.service")["Service"], read("deploy/hubbub.supervisor.conf")["program:hubbub"]
    assert unit["ExecStart"] == program["command"]
    assert unit["User"] == program["user"]
    assert unit["Environment"] == "HUBBUB_CONFIG=/etc/hubbub.toml"
    assert 'HUBBUB_CONFIG="/etc/hubbub.toml"' in program["environment"]
    # Hubbub wants its data directory for itself alone (hubbub doctor).
    assert f"/var/lib/{unit['StateDirectory']}" == program["directory"]
    assert unit["StateDirectoryMode"] == "0700"
