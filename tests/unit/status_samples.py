"""Statuses of every state, for tests of what shows them."""

import datetime

from flower_agent.model.errors import Finding, warning
from flower_agent.model.status import Condition, Link, Mark, Node, Status

NOW = datetime.datetime(2026, 3, 1, 12, tzinfo=datetime.UTC)


def ago(**span):
    return NOW - datetime.timedelta(**span)


def made(**values):
    usual = {"phase": None, "phase_since": values["since"], "written_at": ago(seconds=5)}
    return Status(**{"agent_version": "0.1.0", "version": "1.25.0"} | usual | values)


def container(part, status="running", restarts=0):
    image = f"flwr/{part}:1.25.0"
    return {
        "name": f"flower-{part}", "part": part, "image": image, "id": "0123456789ab",
        "status": status, "restarts": restarts,
    }  # fmt: skip


MISSING = Finding("setting.missing", "FLOWER_ROLE is not set")


SCREENS = {
    "superlink-ready": made(
        state="ready",
        since=ago(hours=3),
        role="superlink",
        vmid="28",
        endpoint="10.0.0.5:9092",
        tls=True,
        ca_fingerprint="3f" * 32,
        nodes=2,
        facts=(
            Condition("context", Mark.OK, "VM 28"),
            Condition("docker", Mark.OK, "answers"),
            Condition(
                "image", Mark.OK, "flwr/superlink:1.25.0-py3.13-ubuntu24.04, flwr/superexec:1.25"
            ),
            Condition("health", Mark.OK, "gRPC health service answers SERVING"),
            Condition("endpoint", Mark.OK, "Fleet API answers at 10.0.0.5:9092 with TLS"),
            Condition("tls", Mark.OK, "certificate until 2027-03-01"),
            Condition("control", Mark.OK, "Control API answers at 127.0.0.1:9093"),
            Condition("nodes", Mark.WAITING, "2 of 3 SuperNodes connected"),
            Condition("enrolment", Mark.WAITING, "2 of 3 VMs of the service"),
            Condition("onegate", Mark.OK, "http://169.254.16.9:5030"),
        ),
        containers=(container("superlink"), container("superexec", restarts=2)),
        supernodes=(
            Node(
                node_id="7304751771220924946", vmid="44", state="offline", gpu=None,
                seen_at="2026-03-01T11:57:00Z", name="supernode_2_(service_7)",
            ),
            Node(
                node_id="3665007903818352308", vmid="42", state="online", seen_at=None,
                gpu="1 NVIDIA GPU: NVIDIA A10 23028 MiB; driver 550.54.14",
                name="hospital-b",
            ),
            Node(
                node_id="18446744073709551615", vmid="43", state="online",
                gpu="not used (GPU_ENABLED=NO)", seen_at=None,
            ),
            Node(node_id="12", vmid=None, state="registered", gpu=None, seen_at=None),
        ),
        commands=(
            (
                "reach the Control API from another machine",
                "ssh -N -L 9093:127.0.0.1:9093 root@10.0.0.5",
            ),
            ("put into config.toml", '[superlink.x]\naddress = "127.0.0.1:9093"'),
        ),
    ),
    "superlink-with-many-nodes": made(
        state="ready",
        since=ago(days=3),
        role="superlink",
        nodes=25,
        facts=(Condition("nodes", Mark.OK, "25 of 25 SuperNodes connected"),),
        supernodes=tuple(
            Node(node_id=str(n), vmid=str(n), state="online", gpu=None, seen_at=None)
            for n in range(25)
        ),
    ),
    "supernode-starting": made(
        state="starting",
        since=ago(seconds=40),
        phase="discover",
        role="supernode",
        error=Finding(
            "discover.waiting",
            "no VM of the service publishes FLOWER_ROLE and FLOWER_ENDPOINT yet",
        ),
        facts=(
            Condition("context", Mark.OK, "VM 42"),
            Condition("docker", Mark.OK, "answers"),
            Condition(
                "image",
                Mark.WAITING,
                "pulls flwr/supernode:1.25.0-py3.13-ubuntu24.04: 12 MB of 340 MB",
            ),
        ),
    ),
    "supernode-ready": made(
        state="ready",
        since=ago(minutes=5),
        role="supernode",
        vmid="42",
        endpoint="10.0.0.5:9092",
        tls=True,
        node_id="3665007903818352308",
        partition="0/2",
        superlink=Link(endpoint="10.0.0.5:9092", vmid="28", version="1.25.0"),
        facts=(
            Condition("context", Mark.OK, "VM 42"),
            Condition("gpu", Mark.OFF, "not used (GPU_ENABLED=NO); no NVIDIA GPU found"),
            Condition("superlink", Mark.OK, "10.0.0.5:9092 (VM 28, Flower 1.25.0)"),
            Condition("partition", Mark.OK, "0 of 2"),
            Condition("peer", Mark.OK, "connected to 10.0.0.5:9092 as node 3665007903818352308"),
        ),
        containers=(container("supernode"), container("superexec")),
    ),
    "context-refused": made(
        state="failed",
        since=ago(minutes=5),
        phase="context",
        version=None,
        error=MISSING,
        errors=(MISSING, Finding("setting.invalid", "FL_NUM_ROUNDS is 'x': want a whole number")),
        warnings=(warning("context.report_ready", "REPORT_READY is set"),),
        facts=(Condition("context", Mark.BAD, "2 findings"), Condition("onegate", Mark.OFF, "")),
    ),
    "superexec-degraded": made(
        state="degraded",
        since=ago(days=2, hours=1),
        phase="container",
        role="superexec",
        error=Finding("container.crash_loop", "flower-superexec ended, 4 times: out of memory"),
        containers=(container("superexec", "exited", 4),),
    ),
}  # fmt: skip
