"""The torture, short: every fault once within a minute and the promise is kept; and what is broken on purpose is found.

`python -m tests.fault.torture` does it for as long as one likes, and with every planted fault.
"""

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.fault.torture import planted
from tests.fault.torture.command import torture
from tests.fault.torture.nemesis import MENU
from tests.fault.torture.report import counts, verdict_text
from tests.fault.torture.run import Plan

SEED = 1
CLIENTS = 100
Property = Callable[[str, object], None]


@pytest.mark.timeout(420)
def test_the_promise_is_kept(tmp_path: Path, record_property: Property) -> None:
    outcome = torture(Plan(SEED, 60.0, clients=CLIENTS, storm=20.0, every=1.2), None, tmp_path)
    print(verdict_text(outcome))
    found = counts(outcome)
    record_property("fault", f"torture: {found}")
    assert outcome.violations == []
    assert found["acknowledged"] > 5 * CLIENTS
    assert found["stored"] >= found["acknowledged"]
    # Everything on the menu is dealt once; a few find nobody there, or may not be done here.
    assert len(outcome.strokes) > len(MENU) * 3 / 4


@pytest.mark.timeout(180)
@pytest.mark.parametrize("name", ["acknowledged before the commit", "unread off by one"])
def test_a_planted_fault_is_found(name: str, tmp_path: Path) -> None:
    outcome = torture(planted.plan_of(name, SEED), None, tmp_path)
    assert planted.found(name, outcome), verdict_text(outcome)
