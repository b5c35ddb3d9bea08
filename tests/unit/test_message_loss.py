"""Which message a SuperNode lost. The logs were printed by Flower's own code in its images."""

import pathlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flower_agent.config import flower_versions
from flower_agent.config.flower_versions import Lost
from flower_agent.enrolment import node_reports
from flower_agent.flower import lost_messages
from flower_agent.flower.lost_messages import Loss, Messages
from flower_agent.model import foreign_text

LOGS = pathlib.Path(__file__).parents[1] / "data" / "flower" / "logs"
RUN = "14193650163529105423"
SENT = "INFO :      Sent successfully"


def lines(version):
    text = (LOGS / f"{version}-node-message-lost.log").read_text(encoding="utf-8")
    return tuple(foreign_text.lines(text))


def band(version):
    return flower_versions.band(flower_versions.parse_version(version))


def follow(version, *more, before=None):
    return lost_messages.follow(before or Messages(), more, band(version))


def cut(version, text):
    """Return the log up to the line with `text`, and that line."""
    found = lines(version)
    at = next(place for place, line in enumerate(found) if text in line)
    return found[: at + 1]


@pytest.mark.parametrize("version", ["1.25.0", "1.42.0"])
@pytest.mark.parametrize(
    ("text", "kind", "round_"),
    [
        ("Failed to receive message", Lost.MESSAGE, "2"),
        ("Failed to send message", Lost.ANSWER, "2"),
    ],
)
def test_a_lost_message_is_seen_with_its_run_and_round(version, text, kind, round_):
    assert follow(version, *cut(version, text)).loss == Loss(kind, RUN, round_)


def test_a_task_that_cannot_be_made_is_a_lost_message():
    assert follow("1.42.0", *lines("1.42.0")).loss == Loss(Lost.TASK, RUN)


def test_flower_1_23_logs_no_lost_message_and_no_version_says_what_it_does_not_know():
    assert follow("1.23.0", *lines("1.25.0")).loss is None
    assert Lost.TASK not in band("1.29.0").losses
    assert set(band("1.30.0").losses) == set(Lost)


def test_a_later_answer_ends_it():
    found = follow("1.42.0", *lines("1.42.0"))
    assert follow("1.42.0", SENT, before=found).loss is None


def test_a_message_of_another_run_that_only_arrived_does_not_end_it_or_take_its_place():
    found = follow("1.42.0", *cut("1.42.0", "Failed to receive message"))
    later = (
        "INFO :      [RUN 8, ROUND 1]",
        f"INFO :      Receiving: train message (ID: {'a' * 64})",
    )
    assert follow("1.42.0", *later, before=found).loss == found.loss


@pytest.mark.parametrize("version", ["1.25.0", "1.42.0"])
def test_lines_that_are_read_twice_belong_to_the_same_run(version):
    first = cut(version, "Failed to receive message")
    found = follow(version, *first, "INFO :      [RUN 8, ROUND 1]")
    again = follow(version, first[-1], "INFO :      [RUN 8, ROUND 1]", before=found)
    assert again.loss == found.loss == Loss(Lost.MESSAGE, RUN, "2")


def test_the_words_name_run_and_round_and_nothing_of_flowers_own():
    loss = follow("1.25.0", *cut("1.25.0", "Failed to receive message")).loss
    assert loss.short() == f"lost its message; run {RUN}"
    found = loss.finding()
    assert found.code == "run.message_lost"
    assert found.message == (
        f"the SuperNode lost a message of run {RUN}, round 2: no ClientApp got the message"
    )
    answer = follow("1.25.0", *cut("1.25.0", "Failed to send message")).loss
    assert answer.short() == f"lost its answer; run {RUN}"
    assert answer.finding().message.endswith("the SuperLink never got the answer")


@pytest.mark.parametrize("text", ["Failed to receive message", "Failed to send message"])
def test_a_superlink_reads_what_a_node_tells_of_a_lost_message(text):
    loss = follow("1.25.0", *cut("1.25.0", text)).loss
    report = node_reports.read("12", loss.short())
    assert report.run == RUN
    found = node_reports.finding(report)
    assert found.code == "run.message_lost"
    assert found.message.startswith(f"VM 12 reports: a ClientApp of run {RUN} lost its ")


def test_a_loss_whose_run_is_not_known_is_told_to_nobody_else():
    loss = follow("1.25.0", cut("1.25.0", "Failed to receive message")[-1]).loss
    assert loss == Loss(Lost.MESSAGE, "")
    assert loss.short() == ""
    assert "run ?:" in loss.finding().message


def test_what_is_remembered_is_bounded():
    many = [
        line
        for number in range(1000)
        for line in (
            f"INFO :      [RUN {number}, ROUND 1]",
            f"INFO :      Receiving: train message (ID: {number:064x})",
        )
    ]
    assert len(follow("1.42.0", *many).known) <= 16


@given(
    st.lists(st.sampled_from([*lines("1.25.0"), *lines("1.42.0"), SENT]), max_size=30),
    st.integers(0, 30),
)
def test_a_log_can_be_read_piece_by_piece(log, at):
    whole = follow("1.42.0", *log)
    assert follow("1.42.0", *log[at:], before=follow("1.42.0", *log[:at])) == whole
