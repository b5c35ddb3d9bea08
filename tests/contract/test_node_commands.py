"""``flower-agent nodes``, against a SuperLink's register behind the port that the context names."""

import contextlib
import json
import pathlib

import pytest
from endpoints import authority, issue
from fake_superlink import FakeSuperLink

from flower_agent import cli, state_file
from flower_agent.config.flower_versions import Transport
from flower_agent.enrolment.node_key import NodeKeys
from flower_agent.model import pem
from flower_agent.model.state import Pin, State
from flower_agent.paths import Paths


class Vm:
    """A SuperLink's VM: its context, its CA, and its Control API."""

    def __init__(self, root, link, port, capsys):
        self.paths, self.link, self._capsys = Paths(root), link, capsys
        self.context = {
            "FLOWER_ROLE": "server",
            "FLOWER_ADDRESS": "127.0.0.1",
            "FLOWER_CONTROL_ADDRESS": f"127.0.0.1:{port}",
        }
        self.paths.tls.mkdir(parents=True)
        (self.paths.tls / "ca.crt").write_text(authority().pem)
        self._numbers = iter(range(100))

    def run(self, *arguments):
        """Return exit code, output and errors of a ``nodes`` command."""
        return self.command("nodes", *arguments)

    def command(self, name, *arguments):
        """Return exit code, output and errors of one command."""
        self.paths.context.mkdir(parents=True, exist_ok=True)
        text = "".join(f"{name}='{value}'\n" for name, value in self.context.items())
        (self.paths.context / "context.sh.network").write_text(text)
        self._capsys.readouterr()
        try:
            code = cli.main(["--root", str(self.paths.root), name, *arguments])
        except SystemExit as end:
            code = end.code
        said = self._capsys.readouterr()
        return code, said.out, said.err

    def key(self):
        return NodeKeys(self.paths.root / f"node-{next(self._numbers)}").own("9").public


@pytest.fixture(params=["1.25.0", "1.39.0"])
def vm(request, tmp_path, capsys):
    link = FakeSuperLink()
    leaf = issue("superlink", authority(), hosts=("127.0.0.1",))
    transport = Transport.GRPC if request.param < "1.37" else Transport.HTTP
    with contextlib.ExitStack() as stack:
        address = stack.enter_context(link.serve(transport, leaf))
        made = Vm(tmp_path, link, address.port, capsys)
        made.context["FLOWER_VERSION"] = request.param
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
