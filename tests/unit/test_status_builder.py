"""From what the loop knows to the status that is shown."""

import dataclasses
import datetime

import pytest

from flower_agent.config import parsing
from flower_agent.config.sources import Inputs, OneGateAccess
from flower_agent.cycle import Report
from flower_agent.docker.containers import Existing
from flower_agent.model import lifecycle
from flower_agent.model.address import Address
from flower_agent.model.errors import Finding, warning
from flower_agent.model.lifecycle import Phase, Unmet
from flower_agent.model.published import Published
from flower_agent.model.secret import Secret
from flower_agent.model.state import Partition
from flower_agent.model.status import Condition, Link, Mark, Node
from flower_agent.reporting import status_builder

NOW = datetime.datetime(2026, 3, 1, 12, tzinfo=datetime.UTC)
TOKEN = "yVBFyedILu4FNbAaBxyyZg=="
DOWN = warning("onegate.down", "OneGate does not answer")


@dataclasses.dataclass
class Seen:
    """What the loop's parts know, as far as a status shows it."""

    good: object = None
    inputs: object = None
    errors: tuple = ()
    warnings: tuple = ()
    have: tuple = ()
    client: object = None
    trouble: object = None
    told_at: str = ""
    token_lost: bool = False
    overwritten: tuple = ()
    skew_s: float = 0.0
    access: object = None

    def restarts(self, name):
        return {"flower-superexec": 3}.get(name, 0)


def draw(intake=None, report=None, reconciler=None, reporter=None, **others):
    wanted = {
        "life": lifecycle.born(NOW, 0.0),
        "intake": intake or Seen(),
        "report": report or Report(),
        "reconciler": reconciler or Seen(),
        "reporter": reporter or Seen(),
        "other_vm": False,
        "name": "",
        "now": NOW,
    }
    return status_builder.build(**wanted | others)


def read(context=None):
    """Return the intake of a context."""
    parsed = parsing.parse(context or {"FLOWER_ROLE": "server"}, {})
    inputs = Inputs({}, {}, (), None, "28")
    return Seen(good=parsed.settings, inputs=inputs, errors=parsed.findings)


def fact(status, name):
    return next(fact for fact in status.facts if fact.name == name)


def test_an_agent_that_knows_nothing_says_so():
    found = draw()
    assert (found.state, found.phase, found.role) == ("starting", "context", None)
    assert (found.version, found.vmid, found.tls, found.nodes) == (None, None, None, None)
    assert fact(found, "context") == Condition("context", Mark.WAITING, "not read yet")
    assert fact(found, "onegate").mark is Mark.OFF


def test_a_read_context_gives_role_version_and_vm():
    found = draw(read())
    assert (found.role, found.version, found.vmid) == ("superlink", "1.25.0", "28")
    assert found.tls is True
    assert fact(found, "context") == Condition("context", Mark.OK, "VM 28")


@pytest.mark.parametrize(("count", "words"), [(1, "1 finding"), (2, "2 findings")])
def test_a_refused_context_says_how_much_is_wrong(count, words):
    wrong = tuple(Finding("setting.missing", f"{n}") for n in range(count))
    found = draw(dataclasses.replace(read(), errors=wrong))
    assert fact(found, "context") == Condition("context", Mark.BAD, words)
    assert found.errors == wrong


def test_state_phase_and_cause_are_those_of_the_life():
    unmet = Unmet(Phase.TLS, Finding("tls.ca_changed", "another"), fatal=True)
    lived = lifecycle.step(lifecycle.born(NOW, 0), unmet, now=NOW, monotonic=1, ready_timeout_s=9)
    found = draw(life=lived)
    assert (found.state, found.phase, found.error) == ("failed", "tls", unmet.finding)


def test_what_a_turn_noted_stands_between_context_and_onegate():
    noted = {"docker": Condition("docker", Mark.OK, "answers")}
    found = draw(report=Report(conditions=noted))
    assert [fact.name for fact in found.facts] == ["context", "docker", "onegate"]


def test_what_onegate_is_told_is_shown_too():
    told = Published(
        endpoint=Address("10.0.0.5", 9092), nodes=0, node_id="77", partition=Partition(1, 3)
    )
    found = draw(report=Report(published=told, ca_fingerprint="ab"))
    assert (found.endpoint, found.nodes, found.node_id) == ("10.0.0.5:9092", 0, "77")
    assert (found.partition, found.ca_fingerprint) == ("1/3", "ab")


def test_nodes_and_superlink_are_those_of_the_turn():
    link = Link(endpoint="10.0.0.5:9092", vmid="28")
    node = Node(node_id="7", vmid=None, state="online", gpu=None, seen_at=None)
    found = draw(report=Report(superlink=link, supernodes=(node,)))
    assert (found.superlink, found.supernodes) == (link, (node,))
    assert (str(link), str(Link(endpoint="h:1"))) == ("10.0.0.5:9092 (VM 28)", "h:1")


def test_a_onegate_that_answers_is_shown_without_the_token():
    access = OneGateAccess("http://169.254.16.9:5030", "28", Secret(TOKEN))
    found = draw(reporter=Seen(client=Seen(access=access)))
    assert fact(found, "onegate") == Condition("onegate", Mark.OK, "http://169.254.16.9:5030")
    assert TOKEN not in repr(found)
    heard = Seen(client=Seen(access=access), told_at="2026-03-01T12:00:00Z")
    told = "http://169.254.16.9:5030, last report 2026-03-01T12:00:00Z"
    assert fact(draw(reporter=heard), "onegate").detail == told


def test_a_onegate_that_is_away_is_a_warning_and_no_more():
    found = draw(reporter=Seen(client=Seen(), trouble=DOWN))
    assert fact(found, "onegate") == Condition("onegate", Mark.BAD, "OneGate does not answer")
    assert (found.warnings, found.error) == ((DOWN,), None)


def test_every_warning_is_told_once():
    twice = Seen(warnings=(DOWN,))
    found = draw(
        twice, Report(warnings=[DOWN]), reporter=Seen(client=Seen(), trouble=DOWN, token_lost=True)
    )
    assert [w.code for w in found.warnings] == ["onegate.down", "context.token_lost"]
    assert [w.code for w in draw(other_vm=True).warnings] == ["state.other_vm"]


def test_containers_stand_in_the_order_of_their_parts():
    names = ("b2-flower-superexec", "b2-flower-superlink")
    have = tuple(Existing(name=n, container_id="0123456789abcdef", mine=True) for n in names)
    found = draw(reconciler=Seen(have=have)).containers
    assert [(row["name"], row["part"]) for row in found] == [
        ("b2-flower-superlink", "superlink"),
        ("b2-flower-superexec", "superexec"),
    ]


def test_a_container_is_shown_with_its_restarts():
    one = Existing(
        name="flower-superexec",
        container_id="0123456789abcdef",
        mine=True,
        image="flwr/superexec:1.25.0",
        status="exited",
    )
    assert draw(reconciler=Seen(have=(one,))).containers == (
        {
            "name": "flower-superexec",
            "part": "superexec",
            "image": "flwr/superexec:1.25.0",
            "id": "0123456789ab",
            "status": "exited",
            "restarts": 3,
        },
    )


def test_the_version_that_other_vms_may_count_on_is_the_one_that_is_told():
    context = {"FLOWER_ROLE": "server", "FLOWER_VERSION": "1.34.0"}
    assert draw(read(context), Report(version="1.25.0")).version == "1.25.0"
    assert draw(read(context), Report()).version == "1.34.0"
