"""What the agent remembers, on disk and while the disk cannot be written."""

import pytest

from flower_agent.model.errors import AgentError
from flower_agent.model.state import State
from flower_agent.state_file import StateFile

LEARNT = State(vmid="29", refused=("1.34.0", "it ended"))


def test_what_a_disk_does_not_take_is_remembered_and_written_when_it_does(tmp_path):
    path = tmp_path / "state" / "state.json"
    path.parent.write_text("in the way")
    memory = StateFile(path)
    assert memory.recall("29") == State(vmid="29")
    for _ in range(2):
        with pytest.raises(AgentError, match="cannot be"):
            memory.keep(LEARNT)
        assert memory.recall("29") == LEARNT
    path.parent.unlink()
    memory.keep(LEARNT)
    assert StateFile(path).recall("29") == LEARNT


def test_what_is_written_already_is_not_written_again(tmp_path):
    path = tmp_path / "state.json"
    memory = StateFile(path)
    memory.recall("29")
    memory.keep(LEARNT)
    path.unlink()
    memory.keep(LEARNT)
    assert not path.exists()
