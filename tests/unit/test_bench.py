"""The storm of tests/bench in small: what is counted there holds, whatever the machine does."""

import functools

import storm

NODES = 40


run = functools.cache(storm.run)


def test_a_start_is_two_bodies_and_two_look_ups_and_none_is_lost():
    found = run(storm.Storm(NODES))
    assert found.lost == found.failed == 0
    assert found.looks == 2
    assert 2 <= found.puts < 3
    assert found.burst <= 4 * NODES


def test_without_keys_it_is_two_bodies_and_two_look_ups_exactly():
    found = run(storm.Storm(NODES, keys=False))
    assert (found.puts, found.looks, found.lost, found.failed) == (2, 2, 0, 0)


def test_a_superlink_asks_no_more_of_onegate_when_it_has_more_nodes():
    few, many = (run(storm.Storm(nodes)).link_a_minute for nodes in (5, NODES))
    assert few == many
    assert many < 2


def test_agents_spread_after_a_boot_and_after_an_outage():
    found, still = (run(storm.Storm(NODES, still=still)) for still in (False, True))
    assert max(found.calm, found.back) < NODES / 6
    assert still.calm > NODES / 2


def test_all_come_up_when_onegate_is_slow_or_away():
    for tried in (storm.Storm(NODES, a_second=5), storm.Storm(NODES, dark_s=120)):
        found = run(tried)
        assert found.lost == 0
        assert found.failed > 0
        assert found.ready_s < 600
