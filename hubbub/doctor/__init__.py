"""`hubbub doctor`: is this deployment well, and if not, what has to be typed?

A check looks at one thing, changes nothing, and gives a `Finding`. It must not fail itself: what it cannot look at
is a finding, too.
"""

import click
import msgspec

from hubbub.doctor.checks import CHECKS
from hubbub.doctor.finding import Finding, Level
from hubbub.settings import Settings

_MARKS = {Level.OK: ("ok", "green"), Level.WARNING: ("warning", "yellow"), Level.PROBLEM: ("problem", "red")}


def examine(settings: Settings, *, as_json: bool = False) -> int:
    """Run every check and say what it found; 0, or 1 with warnings, or 2 with problems."""
    worst = Level.OK
    for name, check in CHECKS.items():
        try:
            finding = check(settings)
        except Exception as exc:  # a check that breaks must not hide what the others find
            finding = Finding(Level.WARNING, f"could not be checked: {exc!r}", "report this as a fault of Hubbub")
        worst = max(worst, finding.level)
        if as_json:
            click.echo(msgspec.json.encode({"check": name, **msgspec.structs.asdict(finding)}).decode())
            continue
        word, colour = _MARKS[finding.level]
        click.echo(f"{click.style(f'{word:<8}', fg=colour)} {name}: {finding.text}")
        if finding.level is not Level.OK and finding.remedy:
            click.echo(f"         -> {finding.remedy}")
    return int(worst)
