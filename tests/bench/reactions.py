"""How soon the agent acts: on a changed context, and on a SuperLink that comes while nodes wait.

Beside a changed context stands `docker restart` of the same container; beside the late SuperLink
the start of a SuperNode whose SuperLink is there. Docker's own times of a start count.
"""

import shutil
import subprocess
import time

import starts

LEVELS = ("DEBUG", "INFO")


def measure(directory, base_port, times):
    """Return the seconds by name: ``changed``, ``restart``, ``late`` and ``there``."""
    bed = starts.make(directory, base_port)
    link, node = bed.superlink, bed.supernodes[0]
    found = {"changed": [], "restart": [], "late": [], "there": []}
    try:
        bed.deploy(link)
        bed.wait_ready(link)
        for number in range(times):
            found["changed"].append(changed(bed, link, LEVELS[number % 2]))
            found["restart"].append(restarted(f"{link.prefix}-flower-superlink"))
            bed.wait_ready(link)
        for _ in range(times):
            found["there"].append(starts.by_agent(bed, node)[1])
        for _ in range(times):
            found["late"].append(late(bed, link, node))
    finally:
        bed.down()
        shutil.rmtree(directory, ignore_errors=True)
    return found


def changed(bed, machine, level):
    """Return the seconds from a new context to the start of the container made by it."""
    name = f"{machine.prefix}-flower-{machine.role}"
    before = starts.started_at(name)
    begin = time.time()
    bed.write_context(machine, {**machine.variables, "FLOWER_LOG_LEVEL": level})
    starts.wait_for(lambda: starts.started_at(name) not in (0.0, before))
    took = starts.started_at(name) - begin
    bed.wait_ready(machine)
    return took


def restarted(name):
    """Return the seconds that `docker restart` takes until the container runs again."""
    begin = time.time()
    subprocess.run(["docker", "restart", name], check=True, stdout=subprocess.DEVNULL)
    return starts.started_at(name) - begin


def late(bed, link, node):
    """Return the seconds from the SuperLink's READY to that of a node that waited for it."""
    bed.stop_agent(link)
    bed.agent(link, "down")
    bed.vanish(link)
    bed.appear(node)
    bed.start_agent(node)
    starts.wait_for(lambda: (bed.status(node).get("error") or {}).get("code") == "discover.waiting")
    bed.deploy(link)
    begin = time.time()
    begin += bed.ready(link, begin)
    took = bed.ready(node, begin)
    bed.stop_agent(node)
    bed.agent(node, "down")
    bed.vanish(node)
    return took
