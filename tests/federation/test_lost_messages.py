"""A message that Flower loses between SuperLink and ClientApp is told on both VMs."""

import json
import re

import pytest
import small_apps
from watched import docker, wait_for

pytestmark = [pytest.mark.engine, pytest.mark.federation]

PREFIX = "loses-one"
SUPERLINK, SUPEREXEC = "superlink:1.25.0-py3.13-ubuntu24.04", "superexec:1.25.0"
LOSES = '''\
import os, pathlib
import flwr.server.superlink.fleet.message_handler.message_handler as handler
place = pathlib.Path(handler.__file__)
before = "    # Fetch from store\\n"
once = """\
    import os
    if not os.path.exists("/tmp/lost"):
        open("/tmp/lost", "w").close()
        raise ValueError("Both bytes_sent and bytes_recv cannot be zero for run 0")
"""
text = place.read_text()
assert text.count(before) == 1
place.write_text(text.replace(before, once + before))
'''


@pytest.fixture
def prefix(images, tmp_path):
    """Images whose SuperLink fails as 1.25's does under load, once."""
    place = tmp_path / "image"
    place.mkdir()
    (place / "loses.py").write_text(LOSES)
    (place / "Dockerfile").write_text(
        f"FROM flwr/{SUPERLINK}\nUSER root\nCOPY loses.py /\nRUN python /loses.py\nUSER app\n"
    )
    docker("build", "-q", "--network", "none", "-t", f"{PREFIX}/{SUPERLINK}", str(place))
    docker("tag", f"flwr/{SUPEREXEC}", f"{PREFIX}/{SUPEREXEC}")
    yield PREFIX
    docker("rmi", "-f", f"{PREFIX}/{SUPERLINK}", f"{PREFIX}/{SUPEREXEC}")


def warnings(federation, machine):
    found = federation.status(machine).get("warnings", ())
    return {each["code"]: each["message"] for each in found}


def submit(federation, app):
    done = federation.agent(federation.superlink, "submit", str(app), "--detach")
    return re.search(r"^run (\d+):", done.stdout, re.MULTILINE)[1]


def test_a_lost_message_is_told_on_both_vms_and_the_node_works_again(lone, prefix, tmp_path):
    federation = lone(25900, "losesone", scale=0.2, ML_FRAMEWORK="")
    link = federation.superlink
    link.variables["FLOWER_IMAGE_PREFIX"] = prefix
    for machine in federation.machines:
        federation.deploy(machine)
    for machine in federation.machines:
        federation.wait_ready(machine)
    app = small_apps.write(tmp_path, "once")
    run = submit(federation, app)

    def losers():
        return [m for m in federation.supernodes if "run.message_lost" in warnings(federation, m)]

    wait_for(losers, "the node's word")
    (node,) = losers()
    message = f"the SuperNode lost a message of run {run}: no ClientApp got the message"
    assert warnings(federation, node)["run.message_lost"] == message
    heard = f"VM {node.vmid} reports: a ClientApp of run {run} lost its message"
    wait_for(
        lambda: warnings(federation, link).get("run.message_lost") == heard, "the SuperLink's word"
    )

    stop = '"cause": "its Flower gave up"'
    wait_for(lambda: stop in federation.log(node), "the restart", 240)
    federation.agent(link, "stop", run)
    wait_for(lambda: federation.status(node)["state"] == "ready", "ready again", 120)
    again = submit(federation, app)
    end = federation.superlink.root / f"var/lib/flower-agent/runs/{again}/run.json"
    wait_for(end.exists, "the end of the next run", 120)
    assert json.loads(end.read_text())["end"] == "finished"
    wait_for(lambda: not losers(), "all is well")
