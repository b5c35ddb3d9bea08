"""The pages say nothing that the code does not have: links, names, codes, commands, numbers."""

import argparse
import dataclasses
import functools
import pathlib
import re

import pytest
from onegate_attributes import attributes

from flower_agent import cli
from flower_agent.commands import status as commands_status
from flower_agent.config import settings
from flower_agent.model import lifecycle
from flower_agent.model import status as model_status
from flower_agent.model.error_codes import CATALOGUE
from flower_agent.model.record import Event
from flower_agent.model.status import Mark, Status
from flower_agent.onegate import status_attributes
from flower_agent.reconcile import restart_policy

ROOT = pathlib.Path(__file__).parents[2]
SOURCE = ROOT / "flower_agent"
GENERATED = {"docs/errors.md", "docs/variables.md"}
PAGES = sorted(
    str(path.relative_to(ROOT))
    for pattern in ("*.md", "docs/**/*.md", "contrib/**/*.md")
    for path in ROOT.glob(pattern)
)
OURS = [page for page in PAGES if page not in GENERATED and not page.startswith("contrib/")]

OF_THE_ENVIRONMENT = {
    *("FLOWER_AGENT_ROOT", "FLOWER_AGENT_NAME", "FLOWER_AGENT_MAINTAINER"),
    *("FLOWER_AGENT_PACKAGE", "FLOWER_AGENT_PACKAGE_SHA256"),
}
NO_CODES = {"area.what", "context.node_config", "docker.io"}
"""The pattern of a code, a name of Flower's, and a package of Debian's."""

FILES = (
    r"(py|md|nft|log|sh|json|jsonl|fab|yaml|toml|lock|crt|pem|key|txt|tmpl|conf|png|network|online"
    r"|local|npz|pt|pkl|csv)"
)
LINK = re.compile(r"(?<!!)\[[^\]]*\]\(([^)\s]+)\)")
NAME = re.compile(r"\b(?:ONEAPP_)?((?:FLOWER|FL|TLS|GPU|ML|CUSTOM)_[A-Z0-9_]+)(<KEY>)?")
SPAN = re.compile(r"`([^`\n]+)`")
CODE = re.compile(r"[a-z][a-z0-9_]*\.[a-z][a-z0-9_]*")
COMMAND = re.compile(r"(?:`|\(|/|[$#:] )flower-agent ([a-z]+)")
PLACE = re.compile(r"(?:contrib|docs|flower_agent|tests)/[\w./-]*")


def read(page):
    return (ROOT / page).read_text(encoding="utf-8")


def headings(page):
    """Return the anchors of a page as GitHub makes them."""
    found = re.findall(r"^#+ (.+)$", without_blocks(read(page)), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", text.lower()).replace(" ", "-") for text in found}


def without_blocks(text):
    return re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)


def section(page, title):
    """Return the text under a heading, up to the next of the same or a higher level."""
    level, rest = re.search(
        rf"^(#+) {re.escape(title)}$(.*)", read(page), re.MULTILINE | re.DOTALL
    ).groups()
    return re.split(rf"^#{{1,{len(level)}}} ", rest, flags=re.MULTILINE)[0]


def first_cells(text):
    """Return what stands in backticks in the first column of the tables."""
    rows = re.findall(r"^\| ([^|]+) \|", text, re.MULTILINE)
    return [name for row in rows for name in SPAN.findall(row)]


@functools.cache
def sources():
    return "".join(path.read_text(encoding="utf-8") for path in SOURCE.rglob("*.py"))


def subcommands():
    actions = cli.parser()._subparsers._group_actions
    found = [action for action in actions if isinstance(action, argparse._SubParsersAction)]
    return set(found[0].choices)


@pytest.mark.parametrize("page", PAGES)
def test_every_link_leads_somewhere(page):
    for target in LINK.findall(without_blocks(read(page))):
        if re.match(r"https?:", target):
            continue
        path, _, anchor = target.partition("#")
        there = ((ROOT / page).parent / path).resolve() if path else ROOT / page
        assert there.exists(), target
        if anchor:
            assert anchor in headings(there.relative_to(ROOT)), target


@pytest.mark.parametrize("page", PAGES)
def test_every_place_in_the_repository_exists(page):
    places = [match[0] for span in SPAN.findall(read(page)) if (match := PLACE.match(span))]
    assert [place for place in places if not (ROOT / place).exists()] == []


@pytest.mark.parametrize("page", PAGES)
def test_every_variable_that_is_named_exists(page):
    known = {row.name for row in settings.SETTINGS} | attributes() | OF_THE_ENVIRONMENT
    named = {name + key for name, key in NAME.findall(read(page))}
    stems = tuple(row.stem for row in settings.SETTINGS if row.stem)
    families = {name for name in named if name.startswith(stems)}
    assert named - families <= known | {"FL_"}


@pytest.mark.parametrize("page", PAGES)
def test_every_code_that_is_named_is_in_the_catalogue(page):
    spans = {span for span in SPAN.findall(read(page)) if CODE.fullmatch(span)}
    codes = {span for span in spans if not re.search(rf"\.{FILES}$", span)}
    assert codes - NO_CODES - set(CATALOGUE) - set(Event) == set()


def test_the_page_of_the_record_has_every_event():
    page = section("docs/record.md", "What")
    assert sorted(first_cells(page)) == sorted(Event)


@pytest.mark.parametrize("page", PAGES)
def test_every_command_that_is_named_exists_or_is_said_not_to(page):
    known = subcommands()
    for paragraph in re.split(r"\n(?=\n|[-*|] |#)", read(page)):
        if not re.search(r"\byet\b", paragraph):
            assert set(COMMAND.findall(paragraph)) <= known, paragraph


def test_commands_are_found_in_every_form_of_the_pages():
    text = """`flower-agent one`, or run: flower-agent two (flower-agent three)
    $ flower-agent four
    # build/venv/bin/flower-agent five
    flower-agent is not one."""
    assert COMMAND.findall(text) == ["one", "two", "three", "four", "five"]


@pytest.mark.parametrize("page", OURS)
def test_lines_are_short_and_words_are_plain(page):
    text = read(page)
    long = [line for line in text.splitlines() if len(line) > 100 and not line.startswith("|")]
    assert long == []
    assert re.findall(r"\b(simply|just|easy|easily|obviously)\b", text, re.IGNORECASE) == []
    assert re.findall(r"\b(colour|behaviour|licence|initialis|recognis)\w*", text) == []


def test_the_status_page_has_every_state_phase_mark_and_exit_code():
    states = [*(state.value for state in lifecycle.LifeState), model_status.STOPPED]
    assert first_cells(section("docs/status.md", "States")) == states
    assert first_cells(section("docs/status.md", "Phases")) == [
        phase.value for phase in lifecycle.Phase
    ]
    marks = first_cells(section("docs/status.md", "Text"))[: len(Mark)]
    assert marks == [mark.value for mark in Mark]
    told = dict(
        re.findall(r"^\| (\d+) \| (.+) \|$", section("docs/status.md", "Exit codes"), re.MULTILINE)
    )
    for state, code in model_status.EXIT_CODES.items():
        assert told.pop(str(code)) == f"`{state}`"
    others = (model_status.NOT_RUNNING, model_status.UNKNOWN, model_status.TIMED_OUT, cli.USAGE)
    assert set(told) == {str(code) for code in others}


def test_the_status_page_has_every_field_in_order():
    fields = [field.name for field in dataclasses.fields(Status)]
    assert first_cells(section("docs/status.md", "JSON"))[:1] == ["schema"]
    listed = first_cells(section("docs/status.md", "JSON"))
    assert sorted(listed) == sorted(["schema", *fields, "running"])


def test_the_status_page_has_every_fact():
    notes = set(re.findall(r'(?:set_condition|Condition)\(\s*"(\w+)"', sources()))
    listed = first_cells(section("docs/status.md", "Text"))[len(Mark) :]
    assert sorted(listed) == sorted(notes)


def test_the_onegate_page_has_every_attribute():
    listed = first_cells(section("docs/onegate.md", "Attributes"))
    assert set(listed) == attributes()


@pytest.mark.parametrize(
    ("page", "sentence"),
    [
        ("docs/onegate.md", f"until {status_attributes.MIN_INTERVAL_S:.0f} s after the last body"),
        ("docs/onegate.md", f"Every {status_attributes.HEARTBEAT_S:.0f} s"),
        ("docs/onegate.md", f"to {status_attributes.RETRY_LONGEST_S:.0f} s."),
        ("docs/onegate.md", f"At most {status_attributes.MAX_WORDS} characters"),
        ("docs/status.md", f"older than {model_status.STALE_AFTER_S} s"),
        ("docs/status.md", f"waits {commands_status.GRACE_S:.0f} s"),
        (
            "docs/how-it-works.md",
            f"then after {restart_policy.FIRST_DELAY_S:.0f} s, doubling to 5 minutes",
        ),
    ],
)
def test_a_number_is_the_constant_of_the_code(page, sentence):
    assert sentence in " ".join(read(page).split())
    assert restart_policy.LONGEST_DELAY_S == 5 * 60


def test_the_license_is_the_one_that_the_package_names():
    text = (ROOT / "LICENSE").read_text(encoding="utf-8")
    assert "Apache License" in text
    assert "Version 2.0, January 2004" in text
    assert "END OF TERMS AND CONDITIONS" in text
    assert 'license = "Apache-2.0"' in (ROOT / "pyproject.toml").read_text(encoding="utf-8")


def test_what_can_fail_is_told_as_it_was_tried():
    page, faults = read("docs/failures.md"), sorted((ROOT / "tests/faults").glob("*.py"))
    tried = {path.name: path.read_text("utf-8") for path in faults}
    tests = [name for name in tried if name.startswith("test_")]
    assert [name for name in tests if f"tests/faults/{name}" not in page] == []
    codes = {span for span in SPAN.findall(page) if CODE.fullmatch(span) and span in CATALOGUE}
    met = {code for text in tried.values() for code in CODE.findall(text)} & set(CATALOGUE)
    assert met - codes - {"setting.near_miss", "agent.bug"} == set()
    others = (
        "tests/contract/test_bake.py",
        "tests/contract/test_app_data_checks.py",
        "tests/contract/test_gateway_host.py",
        "tests/contract/test_peer_check.py",
        "tests/contract/test_superlink_search.py",
        "tests/contract/test_node_auth.py",
        "tests/contract/test_registry.py",
        "tests/federation/test_enrolment.py",
        "tests/unit/test_firewall.py",
        "tests/unit/test_image_references.py",
    )
    also = {code for name in others for code in CODE.findall((ROOT / name).read_text("utf-8"))}
    assert codes - met - also == set()
