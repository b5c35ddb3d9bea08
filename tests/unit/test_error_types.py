"""Whoever decides by what failed asks for its kind: codes are for people and other programs."""

import ast
import functools
import inspect
import pathlib

import pytest

from flower_agent.agent.app_data import UnusableError
from flower_agent.docker import image_references
from flower_agent.docker.containers import Mount
from flower_agent.enrolment.lookups import Rate
from flower_agent.enrolment.registrar import InterruptedLookError, Known
from flower_agent.model import errors
from flower_agent.model.error_codes import CATALOGUE
from flower_agent.model.errors import (
    AgentError,
    EndpointRefusedError,
    EndpointTimeoutError,
    Finding,
    ImageDeniedError,
    ImagePullError,
    KeyUnknownError,
    NoServiceError,
    OneGateDownError,
    OneGateError,
    SettingMissingError,
    TurnedAwayError,
)
from flower_agent.roles import server_certificate

ROOT = pathlib.Path(__file__).parents[2]
PROGRAM = ROOT / "flower_agent"

ALLOWED = {
    "host/gpu.py: answer.code in USABLE": "how nvidia-smi ended, a number",
    "host/gpu.py: answer.code not in USABLE": "how nvidia-smi ended, a number",
    "model/errors.py: code.startswith(f'{name}.')": "here an area becomes the codes of a kind",
}
"""Comparisons of something called a code, and why they may stay."""

UNKIND = {
    "config/sources.py: AgentError(code)": "of a file that cannot be read, which no kind has",
    "roles/supernode.py: AgentError(lost_messages.CODE)": "a constant, which no kind has",
    "runs/app_directories.py: AgentError(CODE)": "a constant, which no kind has",
}
"""Errors of a code that stands elsewhere, and why they need no `errors.kind`."""


def below(parent):
    for each in parent.__subclasses__():
        yield each
        yield from below(each)


KINDS = sorted(
    (each for each in below(AgentError) if each.__module__ == errors.__name__),
    key=lambda each: each.__name__,
)
NAMES = {each.__name__ for each in KINDS}


@functools.cache
def trees(folder):
    """Return the parsed files of a folder, by their place in it."""
    files = sorted(folder.rglob("*.py"))
    return {str(f.relative_to(folder)): ast.parse(f.read_text("utf-8")) for f in files}


def nodes(folder, wanted):
    for place, tree in trees(folder).items():
        for node in ast.walk(tree):
            if isinstance(node, wanted):
                yield place, node


def texts(node):
    """Return the strings that stand in an expression, but not in what it calls or formats."""
    return {each.value for each in ast.walk(node) if isinstance(each, ast.Constant)}


def is_code(node):
    named = node.attr if isinstance(node, ast.Attribute) else getattr(node, "id", "")
    return named == "code"


def compares_codes(node):
    if isinstance(node, ast.Call):
        prefix = isinstance(node.func, ast.Attribute) and node.func.attr == "startswith"
        return prefix and is_code(node.func.value)
    if isinstance(node, ast.MatchValue):
        return bool(texts(node) & CATALOGUE.keys())
    sides = (node.left, *node.comparators)
    if any(texts(side) & CATALOGUE.keys() for side in sides):
        return True
    within = any(isinstance(operator, ast.In | ast.NotIn) for operator in node.ops)
    literal = any(isinstance(side, ast.Constant) and side.value != "" for side in sides)
    attribute = any(isinstance(side, ast.Attribute) and side.attr == "code" for side in sides)
    return attribute and (within or literal)


def constructed(folder):
    """Yield each error that is made by name: its place, its kind and its code's expression."""
    for place, call in nodes(folder, ast.Call):
        name = getattr(call.func, "id", getattr(call.func, "attr", ""))
        if name in NAMES | {"AgentError"} and call.args:
            yield place, name, call.args[0]


def test_nothing_is_decided_by_the_text_of_a_code():
    found = {
        f"{place}: {ast.unparse(node)}"
        for place, node in nodes(PROGRAM, ast.Compare | ast.Call | ast.MatchValue)
        if compares_codes(node)
    }
    assert found == ALLOWED.keys()


@pytest.mark.parametrize(
    "source",
    [
        'error.finding.code == "enrol.waiting"',
        'code in ("peer.mute", "peer.mtu")',
        'found.code.startswith("gpu.")',
        'code.startswith(("container.refused", "gpu."))',
        "error.finding.code not in WAITING",
        'found.code != "no.such_code"',
    ],
)
def test_a_comparison_of_codes_is_seen(source):
    assert compares_codes(ast.parse(source, mode="eval").body)


@pytest.mark.parametrize("source", ["one.code == other.code", 'word in ("docker", "data")'])
def test_other_comparisons_are_not(source):
    assert not compares_codes(ast.parse(source, mode="eval").body)


@pytest.mark.parametrize("folder", [PROGRAM, ROOT / "tests"], ids=["program", "doubles"])
def test_an_error_is_made_of_the_kind_that_its_code_stands_for(folder):
    wrong = [
        (place, name, code.value)
        for place, name, code in constructed(folder)
        if isinstance(code, ast.Constant) and errors.kind(code.value).__name__ != name
    ]
    assert wrong == []


def test_a_code_that_is_known_only_when_it_runs_finds_its_kind():
    found = {
        f"{place}: {name}({ast.unparse(code)})"
        for place, name, code in constructed(PROGRAM)
        if not isinstance(code, ast.Constant)
    }
    assert found == UNKIND.keys()


def test_every_kind_is_asked_for_somewhere():
    made = {id(call.func) for _, call in nodes(PROGRAM, ast.Call)}
    asked = {
        name.id
        for place, name in nodes(PROGRAM, ast.Name)
        if name.id in NAMES and id(name) not in made and place != "model/errors.py"
    }
    assert asked == NAMES


@pytest.mark.parametrize("kind", KINDS)
def test_a_kind_says_what_it_is_and_has_codes_that_there_are(kind):
    assert inspect.getdoc(kind) != inspect.getdoc(AgentError)
    assert kind.codes <= CATALOGUE.keys()
    assert all(issubclass(errors.kind(code), kind) for code in kind.codes)


def test_a_code_has_the_narrowest_kind():
    assert errors.kind("endpoint.timeout") is EndpointTimeoutError
    assert errors.kind("endpoint.refused") is EndpointRefusedError
    assert errors.kind("onegate.no_service") is NoServiceError
    assert errors.kind("version.mixed") is AgentError


def test_kinds_are_told_apart_as_a_decision_wants():
    assert issubclass(KeyUnknownError, TurnedAwayError)
    assert issubclass(OneGateDownError, OneGateError)
    assert not issubclass(NoServiceError, OneGateDownError)


@pytest.mark.parametrize("code", CATALOGUE)
def test_a_finding_becomes_an_error_of_its_kind(code):
    found = Finding(code, "so it is", "do this")
    made = errors.of(found, retryable=True)
    assert (type(made), made.finding, made.retryable) == (errors.kind(code), found, True)
    assert found.is_a(type(made))


def test_a_finding_is_no_error_of_another_kind():
    assert Finding("enrol.waiting", "so").is_a(TurnedAwayError)
    assert not Finding("enrol.stranger", "so").is_a(TurnedAwayError)


@pytest.mark.parametrize("code", CATALOGUE)
def test_an_error_in_other_words_keeps_its_kind(code):
    error = errors.kind(code)(code, "so it is", "do this", retryable=True)
    other = error.reworded("so it is; next try at 09:10:11 UTC")
    assert type(other) is type(error)
    assert (other.finding.code, other.finding.hint) == (code, "do this")
    assert str(other) == f"{code}: so it is; next try at 09:10:11 UTC"
    assert other.args == (code, "so it is; next try at 09:10:11 UTC")
    assert other.retryable
    assert error.finding.message == "so it is"


def test_an_error_in_other_words_may_have_another_hint_and_may_not_pass():
    error = EndpointRefusedError("endpoint.refused", "so it is", "do this", retryable=True)
    other = error.reworded("so it is", "do that", retryable=False)
    assert (other.finding.hint, other.retryable) == ("do that", False)


def test_refused_material_is_an_error_of_its_first_finding():
    first, other = Finding("setting.missing", "no key"), Finding("tls.expired", "an old CA")
    error = server_certificate.refusal((first, other))
    assert type(error) is SettingMissingError
    assert str(error) == "setting.missing: no key (an old CA)"


@pytest.mark.parametrize(
    ("code", "refused", "kind"),
    [
        ("image.pull", "toomanyrequests: slow down", ImagePullError),
        ("image.denied", "pull access denied", ImageDeniedError),
        ("image.architecture", "cannot be used on this platform", AgentError),
    ],
)
def test_a_pull_fails_by_the_words_of_the_registry(code, refused, kind):
    error = image_references.pull_failure("flwr/superlink:1.25.0", refused)
    assert (error.finding.code, type(error)) == (code, kind)


def test_an_error_in_other_words_keeps_what_its_own_class_adds():
    mount = Mount("volume", "/data")
    unusable = UnusableError(Finding("data.unreadable", "closed"), mount).reworded("shut")
    assert (type(unusable), unusable.mount) == (UnusableError, mount)
    cut = InterruptedLookError(OneGateDownError("onegate.down", "away"), Known((), Rate()), ["1"])
    other = cut.reworded("gone")
    assert (type(other), other.asked, str(other)) == (cut.__class__, ("1",), "onegate.down: gone")
