"""OpenNebula's templates as text; whole ones are in tests/cases/templates."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flower_agent.commands import template_model
from flower_agent.commands.template_model import TemplateKind
from flower_agent.model.errors import AgentError

NAMES = st.from_regex(r"[A-Z][A-Z0-9_]{0,8}", fullmatch=True)
VALUES = st.text("ab \\n\t,]=#$é", max_size=20).filter(lambda value: not value.endswith("\\"))
"""A backslash in front of the closing quote would be its escape."""


def judge(text):
    """Do with a template all that `check` does, up to the settings."""
    try:
        template = template_model.parse(text)
        list(template_model.faults(template))
        template_model.guests(template)
    except AgentError as error:
        code = error.finding.code
    else:
        code = ""
    assert code in ("", "template.malformed")


def written(value):
    return '"' + value.replace('"', '\\"') + '"'


@given(st.dictionaries(NAMES, VALUES), st.dictionaries(NAMES, VALUES, min_size=1))
def test_what_is_written_in_quotes_is_read_as_it_was(plain, vector):
    lines = [f"{name} = {written(value)}" for name, value in plain.items()]
    pairs = ", ".join(f"{name}={written(value)}" for name, value in vector.items())
    found = template_model.attributes("\n".join([*lines, f"CONTEXT = [ {pairs} ]", ""]))
    assert found == ({**plain, "CONTEXT": vector}, "")


@given(st.text('AB1_=[]{},"\\#$ \n:é', max_size=60))
def test_any_text_is_a_template_or_malformed(text):
    judge(text)


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text("A$ \n{}.", max_size=6),
        lambda inner: st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                ["roles", "name", "parents", "cardinality", "template_contents", "CONTEXT",
                 "user_inputs", "user_inputs_values", "FLOWER_ROLE", "min_vms", "USER_INPUTS"]
            ),
            inner,
            max_size=4,
        ),
        max_leaves=20,
    )
)  # fmt: skip
def test_any_object_is_judged_or_malformed(found):
    body = {"roles": [], **found} if isinstance(found, dict) else [found]
    judge(json.dumps(body))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("A=\nB=c", {"A": "", "B": "c"}),
        ("# all\n  # of it\nA = 1\n", {"A": "1"}),
        ("a = [ ]", {"A": {}}),
        ('a = [ b = "x\ny" ,\n c=d ]', {"A": {"B": "x\ny", "C": "d"}}),
        ('A="say \\"hi\\""', {"A": 'say "hi"'}),
        ("A=1\nA=2", {"A": "2"}),
        ("A=[b=1,B=2]", {"A": {"B": "1"}}),
        ("A=[ # one\n b=1, # two\n # three\n c=2 # four\n ]", {"A": {"B": "1", "C": "2"}}),
        ("", {}),
    ],
)
def test_the_syntax_is_that_of_opennebula(text, expected):
    assert template_model.attributes(text) == (expected, "")


@pytest.mark.parametrize(
    ("text", "line"), [("A", 1), ("A = [ b", 1), ("\nA = [ b=c d=e ]", 2), ("A=1\n=", 2)]
)
def test_what_is_malformed_is_told_with_its_line(text, line):
    with pytest.raises(AgentError, match=f"at line {line}"):
        template_model.attributes(text)


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ('{"roles": []}', TemplateKind.SERVICE),
        ('{"DOCUMENT": {"TEMPLATE": {"BODY": "{\\"roles\\": []}"}}}', TemplateKind.SERVICE),
        ('{"VMTEMPLATE": {"TEMPLATE": {"CPU": "1"}}}', TemplateKind.VM),
        ("CPU=1", TemplateKind.VM),
    ],
)
def test_what_the_cli_prints_around_it_is_taken_off(text, kind):
    assert template_model.parse(text).kind is kind
