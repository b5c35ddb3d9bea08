"""The stand-in for OneFlow and oned does what the real ones were seen to do."""

import oneflow
import pytest

USER = {"SSH_PUBLIC_KEY": "ssh-ed25519 AAAA"}
VM = {"TMPL": "c_tmpl", "MEMORY": "64", "CONTEXT": {"NETWORK": "YES", "BASE": "base"}}


def context(**values):
    return oneflow.boot(oneflow.raw(VM, {"CONTEXT": values}), name="vm", user=USER).context


# Left: the CONTEXT value of a template. Right: what a real oned 7.4 wrote into context.sh.
@pytest.mark.parametrize(
    ("given", "written"),
    [
        ("pa$word!", "pa!"),
        ("pa\\$5 x", "pa\\$5 x"),
        ("$tmpl mem=$MEMORY", "c_tmpl mem=64"),
        ("$USER[SSH_PUBLIC_KEY]", "ssh-ed25519 AAAA"),
        ("$UNSET", ""),
        ('say "hi"', 'say "hi"'),
        ('{"k": [1, 2], "s": "v"}', '{"k": [1, 2], "s": "v"}'),
        ("it's", "it's"),
        ("  a  ", "a"),
        ("a=b=c", "a=b=c"),
        ("<a>&b # c", "<a>&b # c"),
        ("café ✓", "café ✓"),
        ("a\tb", "a\tb"),
    ],
)
def test_a_value_becomes_what_a_real_oned_made_of_it(given, written):
    assert context(CASE=given)["CASE"] == written


@pytest.mark.parametrize("given", ["$(id)", "a $ b", "a $$ b", "x$", "a]]>b", "a \U0001f600"])
def test_a_value_that_a_real_oned_refused_makes_no_vm(given):
    with pytest.raises(oneflow.Refused, match="Parse error"):
        context(CASE=given)


def test_a_newline_gets_a_comma_as_a_real_oneflow_writes_it():
    assert context(CASE="#!/bin/bash\necho")["CASE"] == "#!/bin/bash,\necho"


def test_what_names_a_parent_becomes_its_attribute_or_nothing():
    def parent(path):
        return {"superlink.template.context.eth0_ip": "172.20.0.43"}.get(path)

    more = {"CONTEXT": {"A": "${superlink.template.context.eth0_ip}:9092", "B": "x${missing.y}y"}}
    found = oneflow.boot(oneflow.raw(VM, more, parent), name="vm").context
    assert (found["A"], found["B"]) == ("172.20.0.43:9092", "xy")


def test_the_roles_contents_go_over_the_vm_template_and_lists_replace_lists():
    base = {**VM, "NIC": [{"NETWORK": "a"}, {"NETWORK": "b"}]}
    found = oneflow.boot(oneflow.raw(base, {"NIC": [{"NETWORK_ID": "3"}]}), name="vm")
    assert found.nics == ({"NETWORK_ID": "3"},)
    assert found.context == {"NETWORK": "YES", "BASE": "base"}
    assert found.attributes == {"TMPL": "c_tmpl"}


def role(**more):
    return {"name": "a", "type": "vm", "template_id": 1, "cardinality": 1, **more}


@pytest.mark.parametrize(
    ("roles", "inputs", "why"),
    [
        ([role(name="flower-server")], {}, "must match regexp"),
        ([role(), role()], {}, "is repeated"),
        ([role(template_id=None)], {}, "template_id"),
        ([role(parents=["b"])], {}, "never be deployed"),
        ([role(min_vms=2)], {}, "greater than or equal to 'min_vms'"),
        ([role(max_vms=0)], {}, "lower than or equal to 'max_vms'"),
        ([role(elasticity_policies=[{"expression": "CPU > 1"}])], {}, "define both"),
        (
            [role(min_vms=1, max_vms=1, elasticity_policies=[{"expression": "CPU >"}])],
            {},
            "parse error",
        ),
        ([role()], {"ONEAPP_A": "O|text|a||"}, "every User Input"),
    ],
)
def test_oneflow_refuses_a_template_that_is_not_whole(roles, inputs, why):
    with pytest.raises(oneflow.Refused, match=why):
        oneflow.check({"roles": roles, "user_inputs": inputs}, {})


def test_what_only_oneadmin_may_set_is_refused_in_a_role():
    with pytest.raises(oneflow.Refused, match="PCI"):
        oneflow.raw(VM, {"PCI": [{"VENDOR": "10de"}]})
    assert "PCI" in oneflow.raw({**VM, "PCI": [{"VENDOR": "10de"}]}, {})


@pytest.mark.parametrize(
    ("name", "values"),
    [("flower \U0001f33c", {"ONEAPP_A": "x"}), ("flower", {"ONEAPP_A": "a \U0001f600"})],
)
def test_an_emoji_in_a_name_or_an_answer_is_refused_before_there_is_a_vm(name, values):
    service = {"name": name, "roles": [role()], "user_inputs": {"ONEAPP_A": "O|text|a||"}}
    with pytest.raises(oneflow.Refused, match="does not take"):
        oneflow.check(service, values)
    oneflow.check({**service, "name": "flower ✓"}, {"ONEAPP_A": "café ✓"})
