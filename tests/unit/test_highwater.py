from store.highwater import HighWater


def test_it_only_grows_within_an_epoch_and_begins_anew_with_the_next(tmp_path):
    for path in (None, tmp_path / "committed"):
        water = HighWater(path)
        assert water.seen(1, 5) == 0
        for n in (3, 2, 3):
            water.note(1, 5, n)
        assert [water.seen(1, slot) for slot in (4, 5, 6)] == [0, 3, 0]
        assert water.seen(2, 5) == 0
        water.note(2, 5, 1)
        assert (water.seen(1, 5), water.seen(2, 5)) == (0, 1)
        water.note(2, 63, 2**47 - 1)
        assert water.seen(2, 63) == 2**47 - 1


def test_several_share_it_and_it_outlives_them(tmp_path):
    one, two = HighWater(tmp_path / "committed"), HighWater(tmp_path / "committed")
    one.note(7, 0, 10)
    assert two.seen(7, 0) == 10
    two.note(7, 0, 11)
    assert one.seen(7, 0) == 11
    del one, two
    assert HighWater(tmp_path / "committed").seen(7, 0) == 11
    assert (tmp_path / "committed").stat().st_mode & 0o777 == 0o600
