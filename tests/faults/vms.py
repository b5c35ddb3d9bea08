"""What is asked of a pretended VM again and again."""

import base64
import contextlib
import urllib.parse
import urllib.request

from watched import docker, started, wait_for

PARTS = {"superlink": ("superlink", "superexec"), "supernode": ("supernode", "superexec")}
SUBPROCESS = {"FLOWER_ISOLATION": "subprocess", "ML_FRAMEWORK": "", "FLOWER_NODE_AUTH": "NO"}
"""One container a VM: what is no matter of apps comes up sooner. Enrolment has tests of its own."""


def main(machine):
    """Return the name of the container that others attach to."""
    return f"{machine.prefix}-flower-{machine.role}"


def ids(machine):
    """Return which starts of which containers run, by part; a restart changes it."""
    parts = PARTS[machine.role]
    return {part: started(f"{machine.prefix}-flower-{part}").strip() for part in parts}


def state(federation, machine):
    return federation.status(machine).get("state")


def error(federation, machine):
    return (federation.status(machine).get("error") or {}).get("code")


def warnings(federation, machine):
    return {found["code"] for found in federation.status(machine).get("warnings", ())}


def ready(federation, machine, *, timeout_s=90.0):
    """Wait until a VM is ready by its own word, whatever OneGate knows."""
    what = f"{machine.name} ready"
    wait_for(lambda: state(federation, machine) == "ready", what, timeout_s)


def says(federation, machine, code, *, timeout_s=60.0):
    """Wait until a VM names `code` as its error."""
    wait_for(lambda: error(federation, machine) == code, f"{machine.name}: {code}", timeout_s)


def warns(federation, machine, code, *, timeout_s=60.0):
    """Wait until a VM shows the warning `code`."""
    wait_for(lambda: code in warnings(federation, machine), f"{machine.name}: {code}", timeout_s)


def calm(federation, machine, *, timeout_s=60.0):
    """Wait until a VM shows no warning."""
    what = f"{machine.name} without a warning"
    wait_for(lambda: not warnings(federation, machine), what, timeout_s)


def restart(federation, machine):
    """Let the agent look at everything anew; what the last one said is gone."""
    federation.stop_agent(machine)
    start(federation, machine)


def start(federation, machine):
    """Start an agent that was stopped; what the last one said is gone."""
    (machine.root / "run/flower-agent/status.json").unlink(missing_ok=True)
    federation.start_agent(machine)


def pair(federation):
    """Bring up the SuperLink and one SuperNode; return both."""
    link, node = federation.superlink, federation.supernodes[0]
    for machine in (link, node):
        federation.deploy(machine)
        federation.wait_ready(machine)
    return link, node


def state_file(machine, name):
    return machine.root / "var/lib/flower-agent" / name


def held_ca(machine):
    return state_file(machine, "tls/ca.crt").read_text()


def published(federation, machine, name):
    """Return an attribute as OneGate has it; what was sent as ``""`` is empty."""
    return federation.attributes(machine).get(name, "").strip('"')


def put(federation, token, caller, whose, **attributes):
    """Write a VM's attributes as another VM of its service may."""
    text = "\n".join(f"{name}={value}" for name, value in attributes.items())
    request = urllib.request.Request(  # noqa: S310
        f"{federation.onegate_url}/vms/{whose}",
        data=f"data={urllib.parse.quote(text)}&type=1".encode(),
        method="PUT",
        headers={"X-ONEGATE-VMID": str(caller), "X-ONEGATE-TOKEN": token},
    )
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with contextlib.closing(opener.open(request, timeout=10)) as reply:
        assert reply.status == 200


def encoded(pem):
    return base64.b64encode(pem.encode()).decode()


def said(federation, machine, event):
    """Return how often the agent logged `event`."""
    return federation.log(machine).count(f'"event": "{event}"')


def running(name):
    """Return whether a container runs."""
    return docker("inspect", "-f", "{{.State.Running}}", name).strip() == "true"
