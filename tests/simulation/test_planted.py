"""The simulator finds faults that are put into the product, and leaves alone what is none."""

import pytest

from tests.simulation.history import make_plan, run
from tests.simulation.planted import FAULTS, HARMLESS, Fault, find, planted
from tests.simulation.shrink import shrink


@pytest.mark.parametrize("name", FAULTS)
def test_a_planted_fault_is_found(name):
    fault = FAULTS[name]
    taken, problem = find(fault)
    assert taken, f"{fault.histories} histories, from seed {fault.first}, and nothing was found"
    assert problem


@pytest.mark.parametrize("name", HARMLESS)
def test_what_only_looks_like_a_fault(name):
    assert find(Fault(HARMLESS[name], 60)) == (0, "")


def test_a_broken_history_is_made_small():
    fault = FAULTS["positions taken too late"]
    with planted(fault.make()):
        for seed in range(fault.first, fault.first + fault.histories):
            plan = make_plan(seed)
            if run(plan).problem:
                break
        small = shrink(plan, runs=200)
        assert run(small).problem
        assert run(small) == run(small)
    assert len(small.decisions) < len(plan.decisions) / 2
    assert not run(small).problem  # without the fault
