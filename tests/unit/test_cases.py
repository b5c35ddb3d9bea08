"""One folder, one story: what `check` says of a context, and which containers it would run.

``REGENERATE=1 tests/run tests/unit/test_cases.py`` writes the files anew; read the difference.
"""

import os
import pathlib

import pytest

from flower_agent.commands import check
from flower_agent.config import sources
from flower_agent.config.types import Role
from flower_agent.enrolment.superlink_trust import trust_of
from flower_agent.flower import container_spec
from flower_agent.model.address import Address
from flower_agent.paths import Paths
from flower_agent.roles.superexec import trust_of as superexec_trust_of

CASES = pathlib.Path(__file__).parents[1] / "cases"
STORIES = sorted(path.parent for path in CASES.glob("*/*/context.sh"))


def same(path, text):
    if os.environ.get("REGENERATE"):
        path.write_text(text)
    assert path.read_text() == text


@pytest.mark.parametrize("story", STORIES, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_check_says_what_stands_in_the_case(story, tmp_path, capsys):
    code = check.run(Paths(tmp_path), story / "context.sh", None, as_json=False)
    same(story / "check.txt", capsys.readouterr().out)
    assert code == (0 if story.parent.name == "good" else 1)


GOOD = [story for story in STORIES if story.parent.name == "good"]


@pytest.mark.parametrize("story", GOOD, ids=lambda path: path.name)
def test_a_good_context_runs_the_containers_of_the_case(story, tmp_path):
    read = sources.read(Paths(tmp_path), context_file=story / "context.sh")
    found, _ = sources.judge(read)
    node = found.role is Role.SUPERNODE
    site = container_spec.Site(
        ca_file="/var/lib/flower-agent/tls/ca.crt",
        chain_file="/var/lib/flower-agent/tls/server.pem",
        key_file="/var/lib/flower-agent/tls/server.key",
        own_ca_file="/var/lib/flower-agent/tls/loopback/ca.crt",
        own_chain_file="/var/lib/flower-agent/tls/loopback/server.pem",
        own_key_file="/var/lib/flower-agent/tls/loopback/server.key",
        superlink_dir="/var/lib/flower-agent/superlink",
        data_dir="/var/lib/flower-agent/data",
        launcher_dir="/var/lib/flower-agent/launcher",
        runs_dir="/var/lib/flower-agent/runs/live",
        caches_dir="/var/lib/flower-agent/caches",
        digests={},
        role=container_spec.RoleSpec(
            fleet_host=found.address or "172.20.0.43",
            superlink=Address("172.20.0.43", 9092) if node else None,
            trust=trust_of(found) if node else superexec_trust_of(found),
            node_config=(("partition-id", "0"), ("num-partitions", "2")) if node else (),
            node_auth=bool(found.node_auth),
            node_key_file="/var/lib/flower-agent/keys/node-29.key" if node else "",
        ),
        memory_bytes=4 * 1024**3,
    )
    same(
        story / "containers.txt",
        "\n".join(map(shown, container_spec.containers(found, site))) + "\n",
    )


def shown(container):
    lines = [container.name, f"  image {container.image}"]
    lines += [f"  entry {' '.join(container.entrypoint)}"] if container.entrypoint else []
    lines += [f"  {word}" for word in container.command]
    lines += [f"  env {name}={value}" for name, value in container.environment]
    for mount in container.mounts:
        mode = f"ro {mount.propagation}" if mount.read_only else "rw"
        lines.append(f"  mount {mount.source} at {mount.target} {mode}")
    lines += [f"  tmpfs {path} {options}" for path, options in container.tmpfs]
    if container.memory_bytes:
        lines.append(f"  memory {container.memory_bytes >> 20} MiB")
    if container.shm_bytes:
        lines.append(f"  shm {container.shm_bytes >> 20} MiB")
    lines += ["  gpu"] * bool(container.gpu) + [
        "  yields its CPU share at first"
    ] * container.yields_cpu
    return "\n".join(lines)
