"""``flower-agent nodes``, against a SuperLink's register behind the port that the context names."""

import json
import pathlib

import pytest
import superlink_vm

from flower_agent import cli, state_file
from flower_agent.model import pem
from flower_agent.model.state import Pin, State


@pytest.fixture(params=superlink_vm.VERSIONS)
def vm(request, tmp_path, capsys):
    with superlink_vm.running(request.param, tmp_path, capsys) as made:
        yield made


def test_a_superlink_without_nodes_says_so(vm):
    assert vm.run() == (0, "the SuperLink has no SuperNodes\n", "")
    assert json.loads(vm.run("list", "--json")[1]) == {"schema": 1, "nodes": []}


def test_a_key_is_registered_listed_and_unregistered(vm):
    key = vm.key()
    shown = pem.node_key_fingerprint(key)
    code, out, _ = vm.run("register", key)
    node_id = out.split()[-1]
    assert (code, out) == (0, f"registered {shown} as node {node_id}\n")
    _, out, _ = vm.run("list")
    assert [row.split() for row in out.splitlines()] == [
        ["SUPERNODE", "STATE", "VM", "KEY"],
        [node_id, "registered", "-", shown],
    ]
    code, out, _ = vm.run("unregister", node_id)
    assert (code, "never takes its key again" in out) == (0, True)
    assert "unregistered" in vm.run()[1]


def test_the_names_of_vms_are_those_of_the_agents_status(vm):
    key = vm.key()
    vm.run("register", key)
    state_file.StateFile(vm.paths.record).keep(State(pins=(Pin("42", key, own=True),)))
    row = {"node_id": "1", "vmid": "42", "state": "online", "gpu": None, "seen_at": None}
    vm.paths.status.parent.mkdir(parents=True)
    status = {"schema": 1, "supernodes": [{**row, "name": "hospital-b"}]}
    vm.paths.status.write_text(json.dumps(status))
    head, line = vm.run("list")[1].splitlines()
    assert (head.split()[-1], line.split()[-1]) == ("NAME", "hospital-b")
    assert json.loads(vm.run("list", "--json")[1])["nodes"][0]["name"] == "hospital-b"
    vm.paths.status.write_text("damaged")
    assert "NAME" not in vm.run("list")[1]


def test_a_key_that_is_known_is_no_mistake_and_one_that_was_unregistered_is(vm):
    key = vm.key()
    node_id = vm.run("register", key)[1].split()[-1]
    assert vm.run("register", key)[:2] == (
        0,
        f"{pem.node_key_fingerprint(key)} is known already, as node {node_id}\n",
    )
    vm.run("unregister", node_id)
    code, _, err = vm.run("register", key)
    assert (code, err.startswith("enrol.key_spent: ")) == (1, True)
    assert "fix: Give that SuperNode a new key" in err


def test_keys_are_taken_from_a_file_with_comments(vm):
    path = vm.paths.root / "keys.pub"
    path.write_text(f"{vm.key()} node one\n{vm.key()} node two\n")
    code, out, _ = vm.run("register", str(path))
    assert (code, out.count("registered ")) == (0, 2)


def test_the_vm_of_a_pinned_key_is_named(vm):
    key = vm.key()
    vm.run("register", key)
    state_file.StateFile(vm.paths.record).keep(State(pins=(Pin("42", key, own=True),)))
    (row,) = json.loads(vm.run("list", "--json")[1])["nodes"]
    assert (row["vmid"], row["status"], row["key"]) == (
        "42",
        "registered",
        pem.node_key_fingerprint(key),
    )
    assert " 42  SHA256:" in vm.run()[1]


def test_a_node_whose_key_is_none_is_listed_all_the_same(vm):
    vm.link.nodes[b"junk"] = (7, "online")
    assert vm.run()[1].splitlines()[1].split() == ["7", "online", "-", "-"]


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["register", "ssh-rsa AAAA"], 1, "enrol.key_refused"),
        (["unregister", "7"], 1, "Node ID not found"),
        (["unregister", "seven"], cli.USAGE, "want the id of a node"),
        (["unregister", str(2**64)], cli.USAGE, "want the id of a node"),
        (["forget"], cli.USAGE, "forget"),
    ],
)
def test_a_mistake_is_said_on_stderr(vm, arguments, code, words):
    found, out, err = vm.run(*arguments)
    assert (found, out, words in err) == (code, "", True)


def test_another_vm_is_told_where_to_ask(vm):
    vm.context["FLOWER_ROLE"] = "client"
    code, _, err = vm.run()
    assert (code, "this VM is a supernode" in err, "SuperLink's VM" in err) == (1, True, True)


def test_a_bad_context_is_said(vm):
    vm.context["FLOWER_FLEET_PORT"] = "no"
    code, _, err = vm.run()
    assert (code, "setting.invalid" in err) == (1, True)


def test_without_a_context_it_says_so(tmp_path, capsys):
    assert cli.main(["--root", str(tmp_path), "nodes"]) == 1
    assert "context.missing" in capsys.readouterr().err


def test_a_superlink_that_does_not_answer_is_said(vm):
    vm.context["FLOWER_CONTROL_ADDRESS"] = "127.0.0.1:1"
    code, _, err = vm.run()
    assert (code, "control.unavailable" in err) == (1, True)


def test_a_path_that_is_no_file_is_read_as_a_key(vm):
    code, _, err = vm.run("register", str(pathlib.Path("/nowhere") / ("x" * 5000)))
    assert (code, "neither a key nor a file" in err) == (1, True)
