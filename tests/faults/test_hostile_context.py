"""A context that was written to harm: inert or refused, and what runs goes on."""

import pathlib
import re

import pytest
from vms import SUBPROCESS, calm, error, ids, pair, ready, restart, says, warnings
from watched import docker, wait_for

from flower_agent.config.context import COUNT_LIMIT

pytestmark = [pytest.mark.engine, pytest.mark.federation]

SCALE = 0.05


def peak_mib(federation, machine):
    """Return the most memory that a VM's agent has had, in MiB."""
    pid = federation._processes[machine.prefix].pid
    text = pathlib.Path(f"/proc/{pid}/status").read_text()
    return int(re.search(r"VmHWM:\s+(\d+) kB", text)[1]) / 1024


def test_hostile_values_are_inert_or_refused_and_stop_nothing(lone, tmp_path):
    federation = lone(27600, "fo-evil", SCALE, **SUBPROCESS)
    _, node = pair(federation)
    before, canary = ids(node), tmp_path / "owned"
    touch = f"touch {canary}"
    refused = {
        "FLOWER_NODE_CONFIG": ("--database=/etc/passwd", f"$({touch})", f"a=1\n`{touch}`"),
        "FLOWER_VERSION": (f"1.25.0;{touch}", "../1.25.0", "1.25.0\x1b[2J"),
        "FLOWER_IMAGE_PREFIX": ("--privileged", "../../x", f"x/$({touch})"),
        "FLOWER_FLEET_PORT": (f"`{touch}`", "--insecure", "9" * 5000),
        "FLOWER_SERVER_ADDRESS": (f"$({touch})", "--root-certificates", "a\nb"),
    }
    for name, values in refused.items():
        for value in values:
            federation.write_context(node, {**node.variables, name: value})
            says(federation, node, "setting.invalid")
            told = federation.status(node)["error"]["message"]
            assert name in told
            assert told.isprintable()
            assert len(told) < 500
            federation.write_context(node, node.variables)
            wait_for(lambda: error(federation, node) is None, "well again")
    assert ids(node) == before
    inert = f"data=$({touch})x`{touch.replace(' ', '${IFS}')}`;--flag".replace(" ", "${IFS}")
    federation.write_context(node, {**node.variables, "FLOWER_NODE_CONFIG": inert})
    wait_for(lambda: ids(node) != before and error(federation, node) is None, "taken")
    ready(federation, node)
    words = docker("inspect", "-f", "{{json .Args}}", f"{node.prefix}-flower-supernode")
    assert "IFS" in words
    assert not canary.exists()


@pytest.mark.parametrize("kind", ["variables", "bytes", "one line"])
def test_a_giant_context_is_refused_and_costs_little(lone, kind):
    federation = lone(27660, "fo-giant", SCALE, **SUBPROCESS)
    link = federation.superlink
    federation.deploy(link)
    federation.wait_ready(link)
    before, usual = ids(link), peak_mib(federation, link)
    whole = link.root / "run/one-context/context.sh.network"
    good = whole.read_text()
    count = 100_000
    assert count > COUNT_LIMIT
    giant = {
        "variables": "".join(f"V{number}='x'\n" for number in range(count)),
        "bytes": "A='x'\n" * (50 * 2**20 // 6),
        "one line": f"A='{'x' * 50 * 2**20}'\n",
    }[kind]
    replace(whole, good + giant)
    wait_for(lambda: error(federation, link) in ("context.malformed", "context.too_large"), kind)
    restart(federation, link)  # an agent that knows nothing else finds it too
    wait_for(lambda: error(federation, link) in ("context.malformed", "context.too_large"), kind)
    assert peak_mib(federation, link) - usual < 32
    assert ids(link) == before
    replace(whole, good)
    ready(federation, link)
    calm(federation, link)
    assert ids(link) == before
    assert not warnings(federation, link)


def replace(path, text):
    temporary = path.with_name("new")
    temporary.write_text(text)
    temporary.replace(path)
