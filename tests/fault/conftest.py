"""Prints what the fault tests counted at the end of the run, also when they ran in another process."""

from typing import Any

import pytest


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """A line for each fault, in the order in which they were caused."""
    reports: list[pytest.TestReport] = [
        report
        for outcome in ("passed", "failed")
        for report in terminalreporter.getreports(outcome)
        if isinstance(report, pytest.TestReport) and report.when == "call"
    ]
    lines = [
        value
        for report in sorted(reports, key=lambda one: one.start)
        for name, value in report.user_properties
        if name == "fault"
    ]
    if lines:
        terminalreporter.section("faults in the middle of traffic")
        for line in lines:
            terminalreporter.write_line(str(line))
