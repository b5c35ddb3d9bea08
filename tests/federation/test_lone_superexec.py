"""SuperExecs on another machine than the SuperLink and the SuperNode whose apps they run."""

import pathlib
import re
import subprocess
import sys

import pytest
from far_machine import HERE, THERE, FarMachine, Proxy
from federation import PORTS_A_VM, REPOSITORY, SERVICE, Machine
from watched import WatchedFederation, docker, wait_for

from flower_agent.config import flower_versions

pytestmark = [pytest.mark.engine, pytest.mark.federation]

BASE = 22000
VERSIONS = (
    "1.25.0",
    pytest.param("1.34.0", marks=pytest.mark.long),
    pytest.param("1.42.0", marks=pytest.mark.long),
)
"""Without TLS on AppIo, with it, and with HAProxy in front of a SuperLink."""


class FarApps(WatchedFederation):
    """One SuperLink and two SuperNodes here; the apps of all but the last run over there."""

    def __init__(self, directory: pathlib.Path, far: FarMachine, **variables: str) -> None:
        super().__init__(
            directory, name="far", base_port=BASE, variables=variables, say=lambda _: None
        )
        self._far = far
        self.apps = tuple(self._lone(*each) for each in ((0, "serverapp"), (1, "clientapp")))

    @property
    def machines(self) -> tuple[Machine, ...]:
        return (*super().machines, *self.apps)

    @property
    def onegate_url(self) -> str:
        return f"http://{HERE}:{self.base_port + 19}"

    def start_onegate(self) -> None:
        super().start_onegate()
        self.cloud.add_service(
            SERVICE, "flower", [("superlink", 1), ("supernode", 2), ("superexec", 2)]
        )
        self._proxy = Proxy((HERE, self.base_port + 19), self.base_port)

    def command(self, machine: Machine, *arguments: str) -> list[str]:
        command = super().command(machine, *arguments)
        if machine not in self.apps:
            return command
        return [*self._far.enter, "env", f"DOCKER_HOST={self._far.engine.url}", *command]

    def down(self) -> None:
        super().down()
        self._proxy.close()

    def _lone(self, number: int, plugin: str) -> Machine:
        owner = self.superlink if plugin == "serverapp" else self.supernodes[0]
        port = BASE + 1 if owner is self.superlink else BASE + PORTS_A_VM + 4
        owner.variables["FLOWER_APPIO_LISTEN"] = f"{HERE}:{port}"
        name = f"superexec-{number}"
        variables = {
            **self._common,
            "FLOWER_ROLE": "superexec",
            "FLOWER_APPIO_ADDRESS": f"{HERE}:{port}",
            "FLOWER_SUPEREXEC_PLUGIN": plugin,
            "FLOWER_HEALTH_PORT": str(BASE + 200 + 10 * number),
        }
        return Machine(
            vmid=61 + number,
            name=f"superexec_{number}_(service_{SERVICE})",
            role="superexec",
            root=self.directory / name,
            prefix=f"far-{name}",
            variables=variables,
            attributes={},
        )


@pytest.fixture(scope="module")
def far(images):
    machine = FarMachine()
    yield machine
    machine.close()


@pytest.fixture(params=VERSIONS, scope="module")
def version(request, far):
    build = [sys.executable, REPOSITORY / "contrib/images/build.py", "--flower", request.param]
    subprocess.run([*build, "--framework", "sklearn"], check=True)
    far.engine.load([f"flower-agent/superexec:{request.param}-sklearn"])
    return request.param


@pytest.fixture(scope="module")
def apps(far, version, tmp_path_factory):
    """The whole federation, up, with its SuperExecs elsewhere."""
    federation = FarApps(tmp_path_factory.mktemp("far"), far, FLOWER_VERSION=version)
    try:
        federation.up()
        for machine in federation.apps:
            federation.deploy(machine)
        for machine in federation.apps:
            federation.wait_ready(machine)
        yield federation
    finally:
        federation.down()


@pytest.fixture(scope="module")
def said(apps):
    """What `flwr run` printed of a run that came to its end."""
    return list(apps.submit())


def fact(federation, machine, name):
    facts = federation.status(machine)["facts"]
    return next((row for row in facts if row["name"] == name), {"detail": ""})


def logs(far, machine):
    """Return all that a lone SuperExec and its apps said."""
    name = f"{machine.prefix}-flower-superexec"
    command = ["docker", "--host", far.engine.url, "logs", name]
    done = subprocess.run(
        command, check=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=30
    )
    return done.stdout


def codes(federation, machine):
    return [found["code"] for found in federation.status(machine)["warnings"]]


def test_a_run_is_computed_by_superexecs_on_another_machine(apps, far, said):
    assert far.engine.running() == [
        "far-superexec-0-flower-superexec",
        "far-superexec-1-flower-superexec",
    ]
    assert any(re.search(r"finished|completed", line) for line in said), said[-20:]
    assert "trained on" in logs(far, apps.apps[1]), "ClientApps of the first SuperNode"
    assert "round 3" in "\n".join([logs(far, apps.apps[0]), *said]).lower(), "the ServerApp"


@pytest.mark.usefixtures("said")
def test_its_outputs_stay_there_and_the_superlink_says_where(apps):
    runs = apps.apps[0].root / "var/lib/flower-agent/runs"
    wait_for(lambda: list(runs.glob("*/outputs.json")), "the outputs over there", 120)
    (place,) = (path.parent for path in runs.glob("*/outputs.json"))
    assert (place / "outputs/final_model.npz").exists()
    here = apps.superlink.root / "var/lib/flower-agent/runs" / place.name
    wait_for((here / "run.json").exists, "the SuperLink's word of it")
    shown = apps.agent(apps.superlink, "runs", "show", place.name).stdout
    assert "outputs    on the VM of the SuperExec that ran the ServerApp" in shown
    fetched = apps.agent(apps.apps[0], "runs", "show", place.name).stdout
    assert "final_model.npz" in fetched


def test_where_an_appio_is_offered_no_superexec_is_started(apps):
    names = docker("ps", "--format", "{{.Names}}").split()
    parts = sorted(name.removeprefix("far-") for name in names if name.startswith("far-"))
    assert parts == [
        "superlink-flower-superlink",
        "supernode-0-flower-supernode",
        "supernode-1-flower-superexec",
        "supernode-1-flower-supernode",
    ]


def test_both_ends_say_that_they_are_attached(apps):
    for machine, owner in zip(apps.apps, apps.machines, strict=False):
        where = machine.variables["FLOWER_APPIO_ADDRESS"]
        assert fact(apps, machine, "peer")["detail"].startswith(f"connected to {where} as ")
        wait_for(lambda o=owner: THERE in fact(apps, o, "superexec")["detail"], "connected from")


def test_tls_is_used_where_the_version_has_it_and_its_lack_is_a_warning(apps, version):
    secure = flower_versions.band(flower_versions.parse_version(version)).appio_can_have_tls
    for machine, owner in zip(apps.apps, apps.machines, strict=False):
        assert ("appio.plaintext" in codes(apps, machine)) is not secure
        assert ("appio.open" in codes(apps, owner)) is not secure
        assert fact(apps, owner, "appio")["detail"].endswith(
            "with TLS" if secure else "without TLS"
        )
        pin = apps.status(machine)["ca_fingerprint"]
        assert (pin is not None) is secure
        if secure and owner is not apps.superlink:
            assert pin != apps.status(apps.superlink)["ca_fingerprint"], "a CA of its own"


def test_an_appio_that_goes_away_is_seen_and_its_return_too(apps):
    lone, node = apps.apps[1], apps.supernodes[0]
    apps.stop_agent(node)
    docker("stop", f"{node.prefix}-flower-supernode")
    wait_for(lambda: (apps.status(lone)["error"] or {}).get("code") == "superexec.detached", "lost")
    assert apps.status(lone)["state"] == "degraded"
    apps.start_agent(node)
    wait_for(lambda: apps.status(lone)["state"] == "ready", "ready again")
