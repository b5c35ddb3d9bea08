"""Which Flower version runs while another is wanted than the one that worked."""

import pytest

from flower_agent.config import flower_versions, parsing
from flower_agent.model.state import State
from flower_agent.upgrade import policy


def version(text):
    return flower_versions.parse_version(text)


def told(course):
    """Return a course in one line: what runs, what others are told, and why."""
    code = course.finding.code if course.finding else ""
    return f"{course.version}, told {course.told} {code}".strip()


SUPERLINK = [
    ("1.34.0", None, None, "1.34.0, told 1.34.0"),
    ("1.34.0", "1.34.0", None, "1.34.0, told 1.34.0"),
    ("1.34.0-py3.12-ubuntu24.04", "1.34.0", None, "1.34.0-py3.12-ubuntu24.04, told "),
    ("1.34.0", "1.25.0", None, "1.34.0, told 1.25.0"),
    ("1.32.0", "1.32.1", None, "1.32.0, told 1.32.1"),
    ("1.25.0", "1.34.0", None, "1.34.0, told 1.34.0 version.downgrade"),
    ("1.34.0", "1.25.0", ("1.34.0", "it ended"), "1.25.0, told 1.25.0 version.failed"),
    ("1.36.0", "1.25.0", ("1.34.0", "it ended"), "1.36.0, told 1.25.0"),
    ("1.34.0", "junk", None, "1.34.0, told 1.34.0"),
]


@pytest.mark.parametrize(("wanted", "held", "refused", "said"), SUPERLINK)
def test_a_superlink_goes_forward_unless_that_was_tried_and_failed(wanted, held, refused, said):
    course = policy.for_superlink(version(wanted), State(flower=held, refused=refused))
    assert told(course).startswith(said)


def test_what_failed_is_told_with_its_reason():
    record = State(flower="1.25.0", refused=("1.34.0", "flower-superlink ended with status 1"))
    finding = policy.for_superlink(version("1.34.0"), record).finding
    assert finding.message == (
        "the upgrade to Flower 1.34.0 failed, 1.25.0 runs on: flower-superlink ended with status 1"
    )


SUPERNODE = [
    (None, "1.34.0", "1.34.0, told 1.34.0"),
    (None, None, "1.34.0, told 1.34.0"),
    ("1.34.0", "1.25.0", "1.34.0, told 1.34.0"),
    ("1.25.0", None, "1.25.0, told 1.25.0"),
    ("1.25.0", "", "1.34.0, told 1.34.0"),
    ("1.25.0", "1.25.0", "1.25.0, told 1.25.0 version.follows"),
    ("1.25.0", "1.25.1-py3.13-ubuntu24.04", "1.25.0, told 1.25.0 version.follows"),
    ("1.25.0", "1.34.0", "1.34.0, told 1.25.0"),
    ("1.25.0", "1.36.0", "1.34.0, told 1.25.0"),
    ("1.36.0", "1.36.0", "1.36.0, told 1.36.0 version.follows"),
]


@pytest.mark.parametrize(("held", "superlink", "said"), SUPERNODE)
def test_a_supernode_changes_when_its_superlink_has(held, superlink, said):
    course = policy.for_supernode(version("1.34.0"), State(flower=held), superlink)
    assert told(course) == said


CONTROL = [
    ("1.42.0", "127.0.0.1:8000", "1.34.0", "127.0.0.1:9093"),
    ("1.42.0", "127.0.0.1:8000", "1.40.0", "127.0.0.1:8000"),
    ("1.36.0", "127.0.0.1:19093", "1.34.0", "127.0.0.1:19093"),
    ("1.36.0", "127.0.0.1:19093", "1.42.0", "127.0.0.1:19093"),
]


@pytest.mark.parametrize(("wanted", "control", "runs", "listens"), CONTROL)
def test_a_version_that_runs_on_does_not_listen_twice_at_one_address(
    wanted, control, runs, listens
):
    context = {"FLOWER_ROLE": "server", "FLOWER_VERSION": wanted, "FLOWER_CONTROL_ADDRESS": control}
    seen = policy.settings_for(version(runs), parsing.parse(context, {}).settings)
    assert (str(seen.version), str(seen.control_address)) == (runs, listens)
