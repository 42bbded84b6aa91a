"""Rates and quantiles from two expositions; who says most."""

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from hubbub.overview import overview, parse, quantile
from shards.talkers import SIZE, Talkers

BEFORE = """
# TYPE hubbub_shard_commands counter
hubbub_shard_commands_total{process="shard-0"} 100
# TYPE process_cpu_seconds counter
process_cpu_seconds_total{process="shard-0"} 5.0
# TYPE hubbub_store_commit_seconds histogram
hubbub_store_commit_seconds_bucket{process="store",le="0.001"} 10
hubbub_store_commit_seconds_bucket{process="store",le="0.002"} 10
hubbub_store_commit_seconds_bucket{process="store",le="+Inf"} 10
"""
AFTER = BEFORE.replace("} 100", "} 300").replace("} 5.0", "} 6.0").replace('le="0.002"} 10', 'le="0.002"} 110')
AFTER = AFTER.replace('le="+Inf"} 10', 'le="+Inf"} 110') + 'hubbub_shard_commands_total{process="shard-1"} 7\n'


def test_rates_are_over_the_time_between() -> None:
    found = overview(parse(BEFORE, 10.0), parse(AFTER, 12.0), {"ann": 3, "ben": 5})
    shard, fresh, store = found.processes
    assert (shard.name, shard.commands, shard.cpu) == ("shard-0", 100.0, 0.5)
    assert (fresh.name, fresh.commands) == ("shard-1", 0.0), "a new process has no past"
    assert store.commit_p50_ms is not None
    assert 1.0 < store.commit_p50_ms < 2.0
    assert [one.username for one in found.top_talkers] == ["ben", "ann"]


def test_a_counter_that_began_anew_is_no_negative_rate() -> None:
    found = overview(parse(AFTER, 10.0), parse(BEFORE, 12.0))
    assert found.processes[0].commands == 0.0


def test_quantiles() -> None:
    assert quantile({}, 0.5) is None
    assert quantile({1.0: 0, float("inf"): 0}, 0.5) is None
    assert quantile({1.0: 10, 2.0: 20, float("inf"): 20}, 0.5) == 1.0
    assert quantile({1.0: 0, float("inf"): 5}, 0.99) == 1.0


@given(st.lists(st.integers(0, 400), max_size=3000))
def test_whoever_says_much_is_among_the_talkers(said: list[int]) -> None:
    talkers = Talkers()
    for who in said:
        talkers.count(f"user{who}")
    true = Counter(f"user{who}" for who in said)
    assert len(talkers.counts) <= SIZE
    for name, count in talkers.counts.items():
        assert 0 < count <= true[name]
    for name, count in true.items():
        if count > len(said) / SIZE:
            assert name in talkers.counts
