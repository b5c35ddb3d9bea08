"""One thing is not said in the plural."""

import pytest

from flower_agent.config import data_source
from flower_agent.docker import data_mounts
from flower_agent.model.errors import counted
from flower_agent.runs import rounds


@pytest.mark.parametrize(("count", "said"), [(0, "0 files"), (1, "1 file"), (2, "2 files")])
def test_a_number_of_things_is_said_as_one_says_it(count, said):
    assert counted(count, "file") == said


@pytest.mark.parametrize(("seen", "said"), [(0, "empty"), (1, "1 entry"), (2, "2 entries")])
def test_the_entries_of_data_are_counted(seen, said):
    assert data_mounts.judge(data_source.parse_data_source("/srv/data"), f"data {seen} 0\n") == (
        said,
        None,
    )


def test_the_replies_of_a_round_are_counted():
    assert rounds.tally(1, 1) == "1 result, 1 failure"
    assert rounds.tally(0, 2) == "0 results, 2 failures"
