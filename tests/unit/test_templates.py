"""The templates that the repository builds: what OpenNebula would make of them, trap by trap.

Facts: OpenNebula 7.4. The schema is that of service_template.rb, as JSON schema.
"""

import json
import re
import stat
import sys

import jsonschema
import oneflow
import onegate_template
import pytest
import service_template
import user_inputs
import vm_templates
import write
from hypothesis import given, strategies
from onegate_attributes import attributes as published
from template_schema import DATA, SCHEMA, checked

from flower_agent import cli
from flower_agent.config import flower_versions, names, parsing, settings

CLOUD = vm_templates.Cloud()
KINDS = {kind.name: kind for kind in vm_templates.KINDS}
IDS = {"superlink": 12, "supernode": 13}
SERVICE = service_template.service(IDS)
VALUES = service_template.values(SERVICE)["user_inputs_values"]
NODES = ("supernode", "supernode-gpu")


def booted(kind, values=None, role=None):
    """Return the VM of a kind: in a service when `role` says as which, else by itself."""
    base = vm_templates.attributes(kind, CLOUD)
    if role is None:
        text = oneflow.raw(base, dict(values or {}))
    else:
        more = oneflow.contents(SERVICE, {**VALUES, **(values or {})}, {"Federation": "7"})
        text = oneflow.raw(base, more[role])
    return oneflow.boot(text, name="vm_0", user={"SSH_PUBLIC_KEY": "ssh-ed25519 AAAA"})


def every_text(held):
    if isinstance(held, dict):
        for key, value in held.items():
            yield key
            yield from every_text(value)
    elif isinstance(held, list):
        for value in held:
            yield from every_text(value)
    elif isinstance(held, str):
        yield held


def everything():
    yield from every_text(SERVICE)
    for kind in KINDS.values():
        yield from every_text(vm_templates.attributes(kind, CLOUD))


# --- the service -----------------------------------------------------------------------------


def test_the_service_template_has_the_form_of_opennebula_7():
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    jsonschema.validate(SERVICE, SCHEMA)
    assert not {"vm_template", "vm_template_contents", "custom_attrs"} & set(every_text(SERVICE))


def test_the_schema_would_miss_a_number_or_a_hyphen():
    validator = jsonschema.Draft202012Validator(SCHEMA)
    assert not validator.is_valid(service_template.service())
    bad = json.loads(json.dumps(SERVICE).replace('"supernode"', '"super-node"'))
    assert not validator.is_valid(bad)


def test_oneflow_takes_the_service_with_the_values_that_come_with_it():
    oneflow.check(SERVICE, VALUES)


@pytest.mark.parametrize("name", SERVICE["user_inputs"])
def test_oneflow_wants_a_value_for_each_input(name):
    with pytest.raises(oneflow.Refused, match="every User Input"):
        oneflow.check(SERVICE, {key: value for key, value in VALUES.items() if key != name})


def test_supernodes_are_made_when_the_superlink_is_ready():
    roles = {role["name"]: role for role in SERVICE["roles"]}
    assert SERVICE["deployment"] == "straight"
    assert SERVICE["ready_status_gate"] is True
    assert roles["supernode"]["parents"] == ["superlink"]
    assert "parents" not in roles["superlink"]
    assert (roles["superlink"]["cardinality"], roles["superlink"]["max_vms"]) == (1, 1)


def test_the_number_of_supernodes_changes_only_where_that_was_asked_for():
    assert "elasticity_policies" not in SERVICE["roles"][1]


def test_the_supernodes_grow_and_shrink_with_what_they_publish():
    elastic = service_template.service(IDS, elastic=True)
    jsonschema.validate(elastic, SCHEMA)
    oneflow.check(elastic, VALUES)
    role = elastic["roles"][1]
    rising, falling = role["elasticity_policies"]
    assert (rising["adjust"], falling["adjust"]) == (1, -1)
    for policy in (rising, falling):
        assert policy["period"] == 90, "OneFlow looks every 90 s"
        name = re.match(r"\w+", policy["expression"])[0]
        assert name in published()
    assert rising["period_number"] * 90 == 360
    assert falling["period_number"] * 90 == 1800
    assert falling["period_number"] > rising["period_number"]
    clients = next(row for row in settings.SETTINGS if row.name == "FL_MIN_CLIENTS")
    assert role["min_vms"] == int(clients.default) == role["cardinality"]
    assert role["max_vms"] > role["min_vms"]


def test_nothing_that_only_oneadmin_may_set_stands_in_a_role():
    for role in SERVICE["roles"]:
        assert set(role["template_contents"]) == {"NIC"}
        assert set(role["template_contents"]["NIC"][0]) == {"NAME", "NETWORK_ID"}


def test_a_network_may_be_given_beforehand():
    string = service_template.service(IDS, 5)["networks"][service_template.NETWORK]
    kind, value = string.split("|")[4].split(":")
    assert (kind, value) == ("id", "5")
    assert len(SERVICE["networks"][service_template.NETWORK].split("|")) == 5


# --- inputs ----------------------------------------------------------------------------------


def test_every_variable_is_asked_for_or_is_left_out_for_a_reason():
    asked = {row.name for row in user_inputs.offered_in_a_service()}
    kept = user_inputs.BY_THE_TEMPLATE | user_inputs.FOR_ONE_MACHINE | user_inputs.OUTSIDE_A_SERVICE
    lone = {row.name for row in settings.SETTINGS if row.roles == (settings.Role.SUPEREXEC,)}
    families = {row.name for row in settings.SETTINGS if row.stem}
    assert kept <= {row.name for row in settings.SETTINGS}
    assert asked | kept | lone | families == {row.name for row in settings.SETTINGS}
    assert not asked & (kept | lone)


def test_a_vm_by_itself_is_asked_for_what_its_role_reads():
    asked = {row.name for row in vm_templates.rows(KINDS["superexec"])}
    assert {"FLOWER_APPIO_ADDRESS", "FLOWER_SUPEREXEC_PLUGIN"} <= asked
    assert {"TLS_CERT", "TLS_KEY"} <= {row.name for row in vm_templates.rows(KINDS["superlink"])}
    assert "GPU_ENABLED" not in {row.name for row in vm_templates.rows(KINDS["supernode-gpu"])}


@pytest.mark.parametrize("asked", [SERVICE["user_inputs"], *(
    vm_templates.attributes(kind, CLOUD)["USER_INPUTS"] for kind in vm_templates.KINDS
)])  # fmt: skip
def test_an_empty_answer_reaches_the_vm_as_empty(asked):
    for name, text in asked.items():
        need, kind, words, options, default = text.split("|")
        assert need in ("M", "O")
        assert kind in ("text", "password"), "the CLI drops or refuses an empty answer of others"
        assert words
        assert (options, default) == ("", "")
        assert name.startswith(names.PREFIX)


def test_a_secret_is_not_shown_while_it_is_typed():
    for kind in KINDS.values():
        asked = vm_templates.attributes(kind, CLOUD)["USER_INPUTS"]
        for name in settings.secret_names() & set(asked):
            assert asked[name].split("|")[1] == "password"


def test_no_service_hands_a_private_key_to_every_vm():
    secrets = settings.secret_names() & set(SERVICE["user_inputs"])
    assert secrets == {
        "ONEAPP_FLOWER_REGISTRY_PASSWORD",
        "ONEAPP_FLOWER_HTTP_PROXY",
        "ONEAPP_FLOWER_HTTPS_PROXY",
    }


def test_every_group_that_sunstone_makes_has_a_title():
    groups = {name.split("_")[1] for name in SERVICE["user_inputs"]}
    assert {entry["NAME"] for entry in SERVICE["user_inputs_metadata"]} == groups


def test_no_server_address_is_given_so_that_nodes_follow_a_changed_one():
    assert "ONEAPP_FLOWER_SERVER_ADDRESS" not in SERVICE["user_inputs"]
    context = booted(KINDS["supernode"], role="supernode").context
    assert context["ONEAPP_FLOWER_SERVER_ADDRESS"] == ""
    assert "FLOWER_SERVER_ADDRESS" not in context


# --- what OpenNebula changes in texts --------------------------------------------------------


def test_no_text_has_what_opennebula_changes():
    for text in everything():
        assert not re.search(r"[\n\r\t\\\"]|\]\]>|[^\x20-\ud7ff\ue000-\ufffd]", text), text
        known = re.sub(r"\$(ONEAPP_\w+|USER\[SSH_PUBLIC_KEY\]|Federation)", "", text)
        assert "$" not in known, text


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
def test_oned_reads_back_what_was_written(kind):
    template = vm_templates.attributes(kind, CLOUD)
    found = onegate_template.merge({}, onegate_template.parse(vm_templates.render(template)))
    whole = {
        name: held[0] if isinstance(held, list) and len(held) == 1 else held
        for name, held in template.items()
    }
    assert found == whole


def test_a_text_that_opennebula_would_change_is_not_written():
    for text in ("a\nb", "a\\b"):
        with pytest.raises(ValueError, match="would change"):
            vm_templates.render({"A": text})


@given(strategies.text(strategies.characters(exclude_categories=("C", "Zl", "Zp"))))
def test_what_somebody_types_reaches_the_vm(text):
    spoilt = (
        "${" in text or "\\" in text or "]]>" in text or max(map(ord, text), default=0) > 0xFFFF
    )
    if not spoilt:
        name = "ONEAPP_FLOWER_NODE_CONFIG"
        found = booted(KINDS["supernode"], {name: text}, role="supernode").context[name]
        assert found == text.strip()


def test_lines_of_an_input_arrive_and_lines_in_a_context_do_not(tmp_path, capsys):
    pem = "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----"
    name = "ONEAPP_FLOWER_TLS_SANS"
    assert booted(KINDS["superlink"], {name: pem}, role="superlink").context[name] == pem
    base = vm_templates.attributes(KINDS["superlink"], CLOUD)
    text = oneflow.raw(base, {"CONTEXT": {"TLS_CA_CERT": pem}})
    _, words = checked(oneflow.boot(text, name="vm").context, tmp_path, capsys)
    assert "setting.invalid: TLS_CA_CERT has" in words


# --- the VMs ---------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
def test_every_vm_gets_what_the_agent_needs_of_opennebula(kind):
    context = booted(kind).context
    assert (context["TOKEN"], context["NETWORK"]) == ("YES", "YES")
    assert context["NETCFG_TYPE"] == "interfaces"
    assert context["SSH_PUBLIC_KEY"] == "ssh-ed25519 AAAA"
    assert "REPORT_READY" not in context, "one-context would report before Flower works"
    assert not [name for name in context if name.startswith("START_SCRIPT")]


@pytest.mark.parametrize(
    ("kind", "role"), [("superlink", "superlink"), *((kind, "supernode") for kind in NODES)]
)
def test_a_vm_of_the_service_would_start(kind, role, tmp_path, capsys):
    code, words = checked(booted(KINDS[kind], role=role).context, tmp_path, capsys)
    assert words.startswith(
        f"the agent would start as {role} with Flower {flower_versions.DEFAULT}\n"
    )
    assert code == 0


ALONE = {
    "superlink": {},
    "supernode": {},
    "supernode-gpu": {},
    "supernode-remote": {
        "ONEAPP_FLOWER_SERVER_ADDRESS": "fl.example.org:9092",
        "ONEAPP_TLS_CA_CERT": "system",
    },
    "superexec": {"ONEAPP_FLOWER_APPIO_ADDRESS": "10.0.0.5:9091"},
}


@pytest.mark.parametrize("name", KINDS)
def test_a_vm_by_itself_would_start_with_what_it_must_be_told(name, tmp_path, capsys):
    kind = KINDS[name]
    asked = vm_templates.attributes(kind, CLOUD)["USER_INPUTS"]
    must = {key for key, text in asked.items() if text.startswith("M|")}
    assert must == set(ALONE[name])
    code, words = checked(booted(kind, ALONE[name]).context, tmp_path, capsys)
    plain = "warning: appio.plaintext: " if name == "superexec" else ""  # Flower 1.25 has no other
    assert words.startswith(plain)
    assert words.count("warning: ") == bool(plain)
    assert f"the agent would start as {kind.role} with Flower {flower_versions.DEFAULT}\n" in words
    assert code == 0


def test_an_input_that_was_left_empty_leaves_the_image_its_default():
    context = booted(KINDS["supernode"], role="supernode").context
    found = parsing.parse(context, {"flower_version": "1.26.0", "gpu_enabled": "auto"}).settings
    assert (str(found.version), found.gpu) == ("1.26.0", settings.GpuMode.AUTO)


def test_an_input_that_was_left_empty_may_be_set_later_by_its_own_name(tmp_path, capsys):
    context = booted(KINDS["superlink"], role="superlink").context
    later = {
        **context,
        "FLOWER_LOG_LEVEL": "DEBUG",
        "TLS_ENABLED": "NO",
        "FLOWER_VERSION": "1.26.0",
    }
    code, words = checked(later, tmp_path, capsys)
    assert (code, "setting.conflict" in words) == (0, False)


def test_a_wrong_answer_is_found_by_check_under_the_name_that_was_asked_for(tmp_path, capsys):
    context = booted(KINDS["supernode"], {"ONEAPP_GPU_ENABLED": "maybe"}, role="supernode").context
    code, words = checked(context, tmp_path, capsys)
    assert code == 1
    assert "ONEAPP_GPU_ENABLED" in words


def test_a_gpu_node_has_a_device_and_cpus_of_its_own_on_one_numa_node():
    template = vm_templates.attributes(KINDS["supernode-gpu"], CLOUD)
    topology = {key: value for key, value in template["TOPOLOGY"].items() if key != "PIN_POLICY"}
    sockets, cores, threads = (int(topology[key]) for key in ("SOCKETS", "CORES", "THREADS"))
    assert sockets * cores * threads == int(template["VCPU"]) == int(template["CPU"])
    assert sockets == 1, "OpenNebula makes one NUMA node of each socket"
    assert template["TOPOLOGY"]["PIN_POLICY"] in ("CORE", "THREAD", "SHARED")
    assert {"VCPU_MAX", "NODE_AFFINITY"}.isdisjoint({*template, *template["TOPOLOGY"]})
    assert (template["OS"]["MACHINE"], template["OS"]["FIRMWARE"]) == ("q35", "UEFI")
    assert all(re.fullmatch("[0-9a-f]{4}", value) for value in template["PCI"][0].values())
    assert template["CONTEXT"]["GPU_ENABLED"] == "YES"


def test_only_a_gpu_node_needs_oneadmin():
    for name, kind in KINDS.items():
        restricted = {"PCI", "TOPOLOGY"} & set(vm_templates.attributes(kind, CLOUD))
        assert bool(restricted) is (name == "supernode-gpu")


STATE_CLOUD = vm_templates.Cloud(state_image=8)


def test_a_superlink_may_have_a_persistent_disk_for_its_state(tmp_path, capsys):
    template = vm_templates.attributes(KINDS["superlink"], STATE_CLOUD)
    first, second = template["DISK"]
    assert first["IMAGE"] == "Flower"
    assert second == {"IMAGE_ID": "8", "DEV_PREFIX": "vd", "TARGET": "vdb"}
    assert template["CONTEXT"]["FLOWER_STATE_DISK"] == "/dev/vdb"
    assert "ONEAPP_FLOWER_STATE_DISK" not in template["USER_INPUTS"]
    more = oneflow.contents(SERVICE, VALUES, {"Federation": "7"})
    found = oneflow.boot(oneflow.raw(template, more["superlink"]), name="vm_0", user={})
    code, _ = checked(found.context, tmp_path, capsys)
    assert code == 0
    assert str(parsing.parse(found.context, {}).settings.state_disk.name) == "/dev/vdb"


@pytest.mark.parametrize("name", [name for name in KINDS if name != "superlink"])
def test_only_a_superlink_has_a_state_disk(name):
    kind = KINDS[name]
    assert vm_templates.attributes(kind, STATE_CLOUD) == vm_templates.attributes(kind, CLOUD)


def test_a_service_asks_for_no_state_disk_that_its_vms_may_not_have():
    assert "ONEAPP_FLOWER_STATE_DISK" not in SERVICE["user_inputs"]


# --- the command -----------------------------------------------------------------------------

CLI = '''#!{python}
"""OpenNebula's CLI as far as `create` goes: numbers what it is given, refuses what it is not."""
import json, pathlib, sys
sys.path.insert(0, {sandbox!r})
import oneflow, onegate_template
here, program = pathlib.Path({here!r}), pathlib.Path(sys.argv[0]).name
verb, path = sys.argv[1:]
assert verb == "create", "unhandled call"
text, made = pathlib.Path(path).read_text(), sorted(here.glob("vm-*"))
if program == "onetemplate":
    onegate_template.parse(text)
    (here / f"vm-{{len(made)}}").write_text(text)
    print(f"ID: {{len(made)}}")
else:
    service = json.loads(text)
    oneflow.check(service, service["user_inputs"])
    for role in service["roles"]:
        assert (here / f"vm-{{role['template_id']}}").exists()
    (here / "service").write_text(text)
    print("ID: 20")
'''


@pytest.fixture
def opennebula(tmp_path, monkeypatch):
    """A directory in which a pretended OpenNebula keeps what it was given."""
    programs, kept = tmp_path / "bin", tmp_path / "cloud"
    programs.mkdir()
    kept.mkdir()
    sandbox = str(DATA.parents[1] / "contrib" / "sandbox")
    for name in ("onetemplate", "oneflow-template"):
        path = programs / name
        path.write_text(CLI.format(python=sys.executable, sandbox=sandbox, here=str(kept)))
        path.chmod(path.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", str(programs), prepend=":")
    return kept


def test_the_command_puts_one_service_with_its_vm_templates_into_the_cloud(opennebula, tmp_path):
    assert write.main(["--output", str(tmp_path / "out"), "--network-id", "5", "--import"]) == 0
    roles = json.loads((opennebula / "service").read_text())["roles"]
    titles = [(opennebula / f"vm-{r['template_id']}").read_text().split('"')[1] for r in roles]
    assert titles == ["Flower SuperLink", "Flower SuperNode"]


def test_the_command_gives_the_superlink_its_state_image(opennebula, tmp_path):
    options = ["--network-id", "5", "--state-image", "8", "--import"]
    assert write.main(["--output", str(tmp_path / "out"), *options]) == 0
    roles = json.loads((opennebula / "service").read_text())["roles"]
    superlink, supernode = [
        (opennebula / f"vm-{role['template_id']}").read_text() for role in roles
    ]
    golden = (DATA.parent / "cases/templates/good/state-disk/template.txt").read_text()
    assert superlink.endswith(golden[golden.index("DISK = [") :])
    assert '  FLOWER_STATE_DISK = "/dev/vdb",' in superlink.splitlines()
    assert 'IMAGE_ID = "8"' not in supernode


def test_the_service_may_have_nodes_with_gpus(opennebula, tmp_path):
    arguments = ["--output", str(tmp_path / "out"), "--import", "--network-id", "5", "--gpu-nodes"]
    assert write.main([*arguments, "--gpu", "10de:2331:0302"]) == 0
    role = json.loads((opennebula / "service").read_text())["roles"][1]
    text = (opennebula / f"vm-{role['template_id']}").read_text()
    assert 'DEVICE = "2331"' in text


def test_a_cloud_that_refuses_is_told(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert write.main(["--output", str(tmp_path / "out"), "--network-id", "5", "--import"]) == 1
    assert "run this where OpenNebula's CLI works" in capsys.readouterr().err


def test_without_numbers_no_service_is_written_and_the_next_command_is_told(tmp_path, capsys):
    assert write.main(["--output", str(tmp_path)]) == 0
    assert not (tmp_path / "service.json").exists()
    assert f"onetemplate create {tmp_path}/superlink.tmpl" in capsys.readouterr().out
    numbers = ["--template", "superlink=12", "--template", "supernode=13", "--network-id", "5"]
    assert write.main(["--output", str(tmp_path), *numbers]) == 0
    expected = service_template.service(IDS, 5)
    assert json.loads((tmp_path / "service.json").read_text()) == expected
    values = json.loads((tmp_path / "values.json").read_text())
    assert values["user_inputs_values"] == VALUES
    assert values["networks_values"] == [{"Federation": {"id": "5"}}]
    assert write.main(["--output", str(tmp_path), *numbers, "--elastic"]) == 0
    assert "elasticity_policies" in (tmp_path / "service.json").read_text()


@pytest.mark.parametrize(
    "options", [["--import"], ["--template", "superlink=12", "--template", "supernode=13"]]
)
def test_no_service_is_written_without_its_network(options, tmp_path, capsys):
    with pytest.raises(SystemExit):
        write.main(["--output", str(tmp_path / "out"), *options])
    assert "onevnet list" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_network_of_a_name_is_that_of_its_owner(tmp_path):
    arguments = ["--output", str(tmp_path), "--network", "lab", "--network-owner", "ops"]
    assert write.main(arguments) == 0
    assert 'NETWORK = "lab",\n  NETWORK_UNAME = "ops"' in (tmp_path / "superlink.tmpl").read_text()


@pytest.mark.parametrize("text", ["", "10de", "10de:2331", "nvidia::", "::", "0:0:0"])
def test_a_gpu_that_is_none_is_refused(text, tmp_path):
    with pytest.raises(SystemExit):
        write.main(["--output", str(tmp_path), "--gpu", text])


def test_a_gpu_may_be_one_device(tmp_path):
    write.main(["--output", str(tmp_path), "--gpu", "0a:00.0"])
    assert 'SHORT_ADDRESS = "0a:00.0"' in (tmp_path / "supernode-gpu.tmpl").read_text()


def test_check_says_of_the_written_templates_that_they_would_start(tmp_path, capsys):
    assert write.main(["--output", str(tmp_path), "--template", "superlink=12",
                       "--template", "supernode=13", "--network-id", "5"]) == 0  # fmt: skip
    for name, kind in KINDS.items():
        capsys.readouterr()
        assert cli.main(["check", "--template", str(tmp_path / f"{name}.tmpl")]) == 0
        words = capsys.readouterr().out
        unknown = "FLOWER_APPIO_ADDRESS is not known before deployment"
        expected = unknown if name == "superexec" else f"the agent would start as {kind.role}"
        assert expected in words
    bases = [f"12={tmp_path}/superlink.tmpl", f"13={tmp_path}/supernode.tmpl"]
    more = [word for base in bases for word in ("--vm-template", base)]
    assert cli.main(["check", "--template", str(tmp_path / "service.json"), *more]) == 0
    said = capsys.readouterr().out
    assert [line.strip() for line in said.splitlines() if "would start" in line] == [
        f"the agent would start as superlink with Flower {flower_versions.DEFAULT}",
        f"the agent would start as supernode with Flower {flower_versions.DEFAULT}",
    ]
    assert "warning" not in said
