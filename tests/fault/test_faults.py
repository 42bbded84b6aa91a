"""Each process is killed, or stopped for a while, in the middle of traffic: nothing acknowledged is lost, repeated or
out of order. One system and one crowd for all of it, as in life; `tests.fault.campaign` does it twenty times each.
"""

from collections.abc import AsyncIterator, Callable

import pytest
import pytest_asyncio

from tests.fault.campaign import HOWS, Campaign, Fault
from tests.integration.system import running

pytestmark = pytest.mark.asyncio(loop_scope="module")

DEVICES = 20
# Longer than every patience in the system (the broker's is 3 s, PostgreSQL's with an idle writer 5 s), but not long.
STOP_SECONDS = 6.0
FAULTS = [Fault(kind, how, STOP_SECONDS) for how, kinds in HOWS.items() for kind in kinds]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def campaign(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Campaign]:
    """A crowd in conversation, on a system of its own."""
    with running(tmp_path_factory.mktemp("faults")) as system:
        campaign = Campaign(system, devices=DEVICES, seed=1)
        try:
            yield campaign
        finally:
            await campaign.crowd.close()


@pytest.mark.parametrize("fault", FAULTS, ids=str)
async def test_nothing_is_lost(
    campaign: Campaign, fault: Fault, record_property: Callable[[str, object], None]
) -> None:
    counts = await campaign.round(fault)
    record_property("fault", f"{fault!s:<18} {counts}")
    assert counts.kept, campaign.crowd.complaints
    assert counts.acknowledged > DEVICES
