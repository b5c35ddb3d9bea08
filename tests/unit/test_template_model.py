"""What the VMs of a service are given: the traps of OneFlow, one by one."""

import json

import pytest

from flower_agent.commands import template_model
from flower_agent.model.errors import Severity


def guests(roles, base=None, **service):
    """Return the VMs of a service by role; `base` is the text of VM template 7."""
    whole = [{"name": name, "cardinality": 1, **role} for name, role in roles.items()]
    template = template_model.parse(json.dumps({"name": "a", "roles": whole, **service}))
    bases = {"7": template_model.parse(base)} if base is not None else {}
    return {guest.name: guest for guest in template_model.guests(template, bases)}


def said(guest):
    return [f"{found.severity} {found.code}: {found.message}" for found in guest.findings]


BASE = 'CONTEXT = [ TOKEN=YES, NETWORK=YES, FLOWER_ROLE="client", FLOWER_NODE_CONFIG="$SPLIT" ]'


def test_what_a_role_adds_stands_for_a_name_in_its_vm_template():
    role = {"template_id": 7, "template_contents": {"SPLIT": "a=1"}}
    guest = guests({"node": role}, BASE)["node"]
    assert guest.variables["FLOWER_NODE_CONFIG"] == "a=1"
    assert said(guest) == []


def test_what_a_role_takes_of_its_parent_is_known_later():
    role = {
        "template_id": 7, "parents": ["link"], "template_contents": {"SPLIT": "${link.name}"}
    }  # fmt: skip
    guest = guests({"link": {}, "node": role}, BASE)["node"]
    assert guest.later == {"FLOWER_NODE_CONFIG"}
    assert said(guest) == []


def test_the_names_that_oneflow_gives_are_known():
    base = BASE.replace("$SPLIT", "s=$SERVICE_ID").replace("TOKEN=YES", 'TOKEN=YES, R="$ROLE_NAME"')
    guest = guests({"node": {"template_id": 7}}, base)["node"]
    assert guest.variables["R"] == "node"
    assert guest.later == {"FLOWER_NODE_CONFIG"}
    assert said(guest) == []
    alone = template_model.guests(template_model.parse(base))[0]
    assert alone.later == {"FLOWER_NODE_CONFIG", "R"}
    assert said(alone) == []


@pytest.mark.parametrize("key", ["user_inputs_values", "custom_attrs_values"])
def test_an_input_may_take_what_a_parent_has(key):
    declared = {"user_inputs_values": "user_inputs", "custom_attrs_values": "custom_attrs"}[key]
    roles = {"link": {}, "node": {"template_id": 7, "parents": ["link"]}}
    more = {declared: {"SPLIT": "O|text|a"}, key: {"SPLIT": "x=${link.template.nic.ip}"}}
    found = guests(roles, BASE, **more)
    assert said(found["node"]) == []
    assert "FLOWER_NODE_CONFIG" in found["node"].later
    assert found["link"].variables["SPLIT"] == "x="
    assert [line for line in said(found["link"]) if "error" in line] == []


def test_braces_that_name_no_role_vanish_and_that_is_said():
    guest = guests({"node": {"template_id": 7}}, BASE, user_inputs_values={"SPLIT": "a=${FOO}"})
    assert guest["node"].variables["FLOWER_NODE_CONFIG"] == "a="
    (line,) = said(guest["node"])
    assert line.startswith("warning template.value: SPLIT has a ${…} that names no role")


def test_a_dollar_in_an_answer_reaches_the_vm():
    guest = guests({"node": {"template_id": 7}}, BASE, user_inputs_values={"SPLIT": "p=$5 $x"})
    assert guest["node"].variables["FLOWER_NODE_CONFIG"] == "p=$5 $x"
    assert said(guest["node"]) == []


def test_an_emoji_in_an_answer_is_refused():
    guest = guests({"node": {"template_id": 7}}, BASE, user_inputs_values={"SPLIT": "\U0001f33c"})
    assert any("emoji" in line for line in said(guest["node"]))


def test_custom_attrs_of_opennebula_6_are_inputs():
    more = {"custom_attrs": {"SPLIT": "O|text|a||b=2"}}
    guest = guests({"node": {"vm_template": 7}}, BASE, **more)["node"]
    assert guest.variables["FLOWER_NODE_CONFIG"] == "b=2"
    lacking = {**more, "custom_attrs_values": {}, "roles": []}
    (finding,) = template_model.faults(template_model.parse(json.dumps(lacking)))
    assert "the input SPLIT has no value" in finding.message


def test_a_stray_quote_is_passed_over_and_its_role_named():
    role = {"vm_template": 7, "vm_template_contents": 'A="1""\nSPLIT="c=3"\n'}
    guest = guests({"node": role}, BASE)["node"]
    assert guest.variables["FLOWER_NODE_CONFIG"] == "c=3"
    (finding,) = guest.findings
    assert (finding.code, finding.severity) == ("template.malformed", Severity.WARNING)
    assert "at line 1" in finding.message


def test_a_role_that_cannot_be_read_leaves_the_others_judged():
    found = guests(
        {
            "bad": {"vm_template": 7, "vm_template_contents": "A="},
            "worse": {"vm_template": 7, "vm_template_contents": "A=1\nB"},
            "node": {"vm_template": 7, "vm_template_contents": 'SPLIT="c=3"'},
        },
        BASE,
    )
    assert said(found["worse"]) == [
        "error template.malformed: the template lacks '=' after a name at line 2"
    ]
    assert found["node"].variables["FLOWER_NODE_CONFIG"] == "c=3"


def test_a_vm_template_that_is_elsewhere_is_asked_for():
    contents = {"CONTEXT": {"FLOWER_NODE_CONFIG": "$SPLIT"}}
    guest = guests({"node": {"template_id": 12, "template_contents": contents}})["node"]
    assert sorted(said(guest)) == [
        "warning template.context: its VM template 12 is not in this file and was not checked",
        "warning template.value: FLOWER_NODE_CONFIG has a $NAME that is not in this file",
    ]
    assert all("--vm-template" in found.hint for found in guest.findings)


def test_comments_may_stand_inside_a_vector():
    base = "CONTEXT = [ # its own\n TOKEN=YES, # for OneGate\n NETWORK=YES # the last\n ]"
    (guest,) = template_model.guests(template_model.parse(base))
    assert guest.variables == {"TOKEN": "YES", "NETWORK": "YES"}
