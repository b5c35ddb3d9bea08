"""``flower-agent support``: what is in the archive and what is not, with secrets everywhere."""

import base64
import contextlib
import gc
import json
import pathlib
import stat
import tarfile
import urllib.parse

import pytest
from endpoints import authority, issue
from onegate import OneGate as Gate
from real_engine import client, load_image, shell_files, unique

from flower_agent import cli
from flower_agent.commands import recording
from flower_agent.docker.containers import LABEL_NAME
from flower_agent.enrolment.node_key import NodeKeys
from flower_agent.model.record import Entry, Event
from flower_agent.paths import Paths

# docker-py leaves a socket to the garbage collector where nothing listens.
pytestmark = [
    pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning"),
    pytest.mark.usefixtures("collected"),
]

LEAF = issue("superlink", authority(), hosts=("127.0.0.1",))
PLANTED = {
    "registry password": "open-sesame-42",
    "its base64": "b3Blbi1zZXNhbWUtNDI=",
    "config password": "from-config-4711",
    "start script": "hunter2-in-a-script",
    "unknown name": "pw0rd-of-nobody",
    "git password": "git-pass-9",
    "old password": "was-valid-before",
    "environment": "env-value-77",
    "argument": "argument-88",
}
KNOWN = [
    v for what, v in PLANTED.items() if what not in ("start script", "environment", "argument")
]
"""What stands under a name of its own; nothing tells which words of a script are secret."""


@pytest.fixture
def collected():
    """Let what the test left be collected while its warnings are not heard."""
    yield
    gc.collect()


class Vm:
    """A VM with a secret in each file that the agent reads."""

    def __init__(self, root, gate):
        self.paths, self.gate = Paths(root), gate
        self.token = gate.add_vm(42, "loner", token="dG9rZW4tb2YtNDItdmVyeQ==")
        self.key = base64.b64encode(LEAF.key_pem.encode()).decode()
        self.node = NodeKeys(self.paths.keys).own("42")
        self.ca = self.paths.tls / "ca/ca.pem"
        self.ca.parent.mkdir(parents=True)
        self.ca.write_text(authority().pem + authority().key_pem)
        self.paths.context.mkdir(parents=True)
        self.paths.config.parent.mkdir(parents=True)
        self.paths.runtime.mkdir(parents=True)
        self.context(
            FLOWER_ROLE="server",
            FLOWER_ADDRESS="127.0.0.1",
            TLS_CERT=base64.b64encode(LEAF.pem.encode()).decode(),
            TLS_CA_CERT=base64.b64encode(authority().pem.encode()).decode(),
            ONEAPP_TLS_KEY=self.key,
            FLOWER_REGISTRY_USER="puller",
            FLOWER_REGISTRY_PASSWORD=PLANTED["registry password"],
            MY_PASSWORD=PLANTED["unknown name"],
            START_SCRIPT=f"curl -u me:{PLANTED['start script']} http://x",
            CUSTOM_APP_REPO=f"https://me:{PLANTED['git password']}@git.example.org/app.git",
        )
        old = f"FLOWER_REGISTRY_PASSWORD='{PLANTED['old password']}'\nbroken"
        (self.paths.context / "context.sh.local").write_text(old)
        config = f"flower_registry_password: {PLANTED['config password']}\n"
        self.paths.config.write_text(config)
        head = f'export TOKENTXT="{self.token}"\nexport VMID="42"\n'
        head += f'export ONEGATE_ENDPOINT="{gate.url}"\n'
        (self.paths.context / "one_env").write_text(head)
        remembered = {"endpoint": gate.url, "vmid": "42", "token": self.token, "attributes": {}}
        (self.paths.runtime / "onegate.json").write_text(json.dumps(remembered))

    def context(self, **variables):
        text = "".join(f"{name}='{value}'\n" for name, value in variables.items())
        (self.paths.context / "context.sh.network").write_text(text)

    def secrets(self):
        """Yield everything that no file may hold, in every form."""
        for secret in (*PLANTED.values(), self.token, self.key):
            yield secret
            yield urllib.parse.quote(secret, safe="")
            yield base64.b64encode(secret.encode()).decode()
        private = (self.paths.keys / "node-42.key").read_text()
        for pem in (LEAF.key_pem, private, authority().key_pem):
            yield from (line for line in pem.splitlines() if len(line) > 20 and "----" not in line)


def archive(vm, name, capsys):
    """Return the archive's files without the folder that they are in."""
    target = vm.paths.root / "report.tar.gz"
    words = ["--root", str(vm.paths.root), "--name", name, "support", "-o", str(target)]
    assert cli.main(words) == 0
    assert str(target) in capsys.readouterr().out
    assert stat.S_IMODE(target.stat().st_mode) == 0o600
    with tarfile.open(target) as opened:
        members = {m.name.partition("/")[2]: opened.extractfile(m).read() for m in opened}
    return {name: data.decode() for name, data in members.items()}


@pytest.fixture
def vm(tmp_path, monkeypatch):
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/docker.sock")
    with Gate() as gate:
        yield Vm(tmp_path, gate)


@pytest.fixture
def container(docker_url, monkeypatch):
    """A container of the agent's own name that has and says secrets."""
    monkeypatch.setenv("DOCKER_HOST", docker_url)
    name, image = unique("support"), f"{unique('support')}:1"
    said = [
        *KNOWN,
        authority().key_pem.splitlines()[1],
        "and this is harmless",
        "postgres://u:p4ssw@db/x",
    ]
    with client(docker_url) as api:
        load_image(api, image, shell_files())
        made = api.create_container(
            image,
            ["/bin/sh", "-c", "".join(f"echo '{line}';" for line in said)],
            name=f"{name}-flower-superlink",
            environment={"SOMETHING": PLANTED["environment"], "FLWR_LOG_LEVEL": "INFO",
                         "OPTS": f"--password={PLANTED['argument']}"},
            labels={LABEL_NAME: name},
            host_config=api.create_host_config(network_mode="host"),
        )["Id"]  # fmt: skip
        try:
            api.start(made)
            api.wait(made)
            yield name
        finally:
            api.remove_container(made, force=True)
            api.remove_image(image, force=True)


def leaks(files, secrets):
    return [(name, s) for name, text in files.items() for s in secrets if s in text]


def test_nothing_secret_of_context_config_and_state_is_in_the_archive(vm, capsys):
    files = archive(vm, "nobody", capsys)
    assert leaks(files, vm.secrets()) == []
    assert "FLOWER_REGISTRY_USER=puller" in files["context.txt"]
    assert "flower_registry_password=***" in files["config.yaml.txt"]


def test_what_a_maintainer_needs_is_in_the_archive(vm, capsys):
    recording.note(vm.paths, Entry(what=Event.AGENT_DOWN))
    files = archive(vm, "nobody", capsys)
    assert set(files) >= {
        "README.txt", "context.txt", "config.yaml.txt", "status.txt", "status.json", "check.txt",
        "doctor.txt", "plan.txt", "certificates.txt", "nodes.txt", "state.json", "files.txt",
        "record.jsonl", "system/versions.txt", "docker/error.txt",
    }  # fmt: skip
    assert "docker.down" in files["docker/error.txt"]
    assert json.loads(files["record.jsonl"])["what"] == "agent.down"
    assert "flower-agent: " in files["system/versions.txt"]
    assert "node-42.key" in files["files.txt"]
    assert "agent.stopped" in files["doctor.txt"]
    assert files["check.txt"].endswith("-- ended with 0\n"), files["check.txt"]


def test_nothing_secret_that_a_container_has_or_said_is_in_the_archive(vm, container, capsys):
    files = archive(vm, container, capsys)
    log = files.pop(f"docker/{container}-flower-superlink.log")
    shown = files[f"docker/{container}-flower-superlink.json"]
    assert leaks({"log": log}, vm.secrets()) == []
    assert "and this is harmless" in log
    assert "postgres://***@db/x" in log
    config = json.loads(shown)["Config"]
    assert sorted(config["Env"])[:2] == ["FLWR_LOG_LEVEL=INFO", "OPTS=***"]
    assert "SOMETHING=***" in config["Env"]
    assert leaks(files, vm.secrets()) == []


def test_a_vm_that_is_broken_in_every_way_gives_an_archive_all_the_same(tmp_path, monkeypatch,
                                                                        capsys):  # fmt: skip
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/docker.sock")
    paths = Paths(tmp_path)
    paths.context.mkdir(parents=True)
    paths.state.mkdir(parents=True)
    (paths.context / "context.sh.network").write_bytes(b"MY_SECRET='planted-1'\n\xff\0")
    paths.record.write_text("{")
    paths.runtime.mkdir(parents=True)
    paths.status.write_text("[")
    (paths.runtime / "onegate.json").write_text("[]")

    class Broken:
        """What stands for a Vm here."""

    broken = Broken()
    broken.paths = paths
    files = archive(broken, "nobody", capsys)
    assert "context.malformed" in files["check.txt"]
    assert leaks(files, ["planted-1"]) == []


def test_the_archive_is_made_where_the_user_is(vm, monkeypatch, capsys):
    monkeypatch.chdir(vm.paths.root)
    assert cli.main(["--root", str(vm.paths.root), "support"]) == 0
    (made,) = vm.paths.root.glob("flower-agent-support-42-*.tar.gz")
    assert str(made) in capsys.readouterr().out


def test_a_place_that_cannot_be_written_is_told(vm, capsys):
    with contextlib.suppress(SystemExit):
        words = ["--root", str(vm.paths.root), "support", "-o", "/proc/nowhere/x.tar.gz"]
        assert cli.main(words) == 1
    assert "state.unwritable" in capsys.readouterr().err
    assert not pathlib.Path("/proc/nowhere").exists()
