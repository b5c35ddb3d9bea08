"""What an operator's commands do when the Docker Engine or the terminal goes away."""

import pytest
from fake_engine import FakeEngine

from flower_agent import operate
from flower_agent.containers import Container, Part
from flower_agent.errors import AgentError


@pytest.fixture
def engine(monkeypatch):
    """An Engine in memory with a running SuperLink and SuperExec, whom the commands ask."""
    found = FakeEngine()
    for part in (Part.SUPERLINK, Part.SUPEREXEC):
        found.hold(part.value)
        found.create(
            Container(name=f"flower-{part}", part=part, image=part.value, command=()), part.value
        )
        found.start(f"flower-{part}")
    monkeypatch.setattr(operate, "_engine", lambda _: found)
    return found


@pytest.mark.parametrize(
    "error", [AgentError("docker.down", "gone", retryable=True), BrokenPipeError()]
)
def test_logs_that_are_followed_end_with_the_error_of_any_container(engine, error):
    follow = engine.follow

    def breaks(name, *, tail):
        if name == "flower-superexec":
            raise error
        yield from follow(name, tail=tail)  # would go on for ever

    engine.follow = breaks
    with pytest.raises(type(error)):
        operate.logs("", None, 10, follow=True)


def test_logs_that_are_followed_end_with_the_containers(engine, capsys):
    engine.say("flower-superlink", "hello")
    for part in ("superlink", "superexec"):
        engine.end(f"flower-{part}")
    assert operate.logs("", None, 10, follow=True) == 0
    assert "flower-superlink | hello" in capsys.readouterr().out
