"""Steps become spans: what belongs together, which messages are chosen, and that nothing piles up."""

from collections.abc import Callable
from itertools import count

import pytest

from hubbub.runtime import tracing
from hubbub.runtime.tracing import Recorder, Span, Stretch, identify

STRETCHES = (
    Stretch("commit", "committing", frozenset({"committed"}), "store"),
    Stretch("store", "sequencing", frozenset({"committed"}), "message"),
    Stretch("message", "forwarded", frozenset({"acknowledged", "refused"})),
)
Begun = Callable[..., tuple[Recorder, list[Span]]]


@pytest.fixture
def begun() -> Begun:
    def make(share: float = 1.0) -> tuple[Recorder, list[Span]]:
        spans: list[Span] = []
        clock, numbers = count(1000), count(1)
        return Recorder(
            STRETCHES, share=share, clock=lambda: next(clock), new_id=lambda: next(numbers), emit=spans.append
        ), spans

    return make


def test_two_processes_agree_on_the_trace_without_a_word(begun: Begun) -> None:
    shard, of_shard = begun()
    store, of_store = begun()
    shard("forwarded", "s.1#7")
    for step in ("sequencing", "committing", "committed"):
        store(step, "s.1#7")
    shard("acknowledged", "s.1#7")
    (root,) = of_shard
    commit, stored = of_store
    assert (root.name, root.parent, root.outcome) == ("message", None, "acknowledged")
    assert (stored.name, stored.parent, commit.name, commit.parent) == ("store", root.id, "commit", stored.id)
    assert {one.trace for one in (root, stored, commit)} == {identify("s.1#7")[0]}
    assert stored.begun < commit.begun < commit.ended


def test_a_step_may_lie_in_the_past(begun: Begun) -> None:
    shard, spans = begun()
    shard("forwarded", "s.1#1", 2e-6)
    shard("refused", "s.1#1")
    assert spans[0].ended - spans[0].begun == 2000 + 1


def test_what_is_sent_again_begins_once_and_ends_once(begun: Begun) -> None:
    shard, spans = begun()
    for step in ("forwarded", "forwarded", "acknowledged", "acknowledged"):
        shard(step, "s.1#1")
    assert [(one.begun, one.ended) for one in spans] == [(1000, 1002)]


def test_an_end_without_its_beginning_is_no_span(begun: Begun) -> None:
    store, spans = begun()
    store("committed", "s.1#1")
    assert spans == []


@pytest.mark.parametrize(("share", "least", "most"), [(0.0, 0, 0), (0.25, 400, 600), (1.0, 2000, 2000)])
def test_every_process_chooses_the_same_share(begun: Begun, share: float, least: int, most: int) -> None:
    (shard, of_shard), (store, of_store) = begun(share), begun(share)
    for number in range(2000):
        for step in ("forwarded", "acknowledged"):
            shard(step, f"shard-0.ab12#{number}")
        for step in ("sequencing", "committed"):
            store(step, f"shard-0.ab12#{number}")
    assert least <= len(of_shard) <= most
    assert [one.trace for one in of_shard] == [one.trace for one in of_store]


def test_what_never_ends_is_forgotten(begun: Begun, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tracing, "OPEN_MAX", 10)
    shard, spans = begun()
    for number in range(11):
        shard("forwarded", f"s.1#{number}")
    for number in range(11):
        shard("acknowledged", f"s.1#{number}")
    assert len(spans) == 10
    assert "s.1#0" not in {one.message for one in spans}
