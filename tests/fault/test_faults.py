"""One fault after the other in the middle of traffic, with the times: nothing acknowledged is lost, repeated or out of
order. `tests.fault.campaign` does all of them, twenty times each; test_torture.py does all of them at once.
"""

from collections.abc import AsyncIterator, Callable

import pytest
import pytest_asyncio

from tests.fault.campaign import Campaign, Fault
from tests.integration.system import running

pytestmark = pytest.mark.asyncio(loop_scope="module")

DEVICES = 20
# Longer than every patience in the system (the broker's is 3 s, PostgreSQL's with an idle writer 5 s), but not long.
STOP_SECONDS = 6.0
FAULTS = [Fault("store", "kill"), Fault("broker", "stop", STOP_SECONDS), Fault("shard", "term")]


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
