"""The appliance script on a VM, called as one-apps calls it.

``ONE_APPS`` may name the folder ``appliances`` of a checkout of OpenNebula/one-apps: then its own
``service.sh``, ``lib`` and ``net-90-service-appliance`` run in place of the stand-ins.
"""

import os
import pathlib
import time
from types import SimpleNamespace

import one_apps
import pytest
import tree
import vm

from flower_agent import __version__

HERE = pathlib.Path(__file__).resolve().parent
STAND_INS = {
    "service": "service",
    "lib/functions.sh": "functions.sh",
    "lib/common.sh": "functions.sh",
    "net-90-service-appliance": "net-90-service-appliance",
}
ORIGINALS = {
    "service": "service.sh",
    "lib/functions.sh": "lib/functions.sh",
    "lib/common.sh": "lib/common.sh",
    "net-90-service-appliance": "scripts/net-90-service-appliance",
}
STATUS, MOTD, LOGS = "/etc/one-appliance/status", "/etc/motd", "/var/log/one-appliance"
SERVICE = "/etc/one-appliance/service"
PROMISE = "All set and ready to serve"
UNIT = "flower-agent.service"
LAST_STAGE = "one-context.service"
URL = "http://127.0.0.1:23399/flower-agent.deb"
HOOKS = ("net-90-service-appliance", "net-99-report-ready")


@pytest.fixture(scope="module")
def story(packages, missing, tmp_path_factory):
    """A VM that one-apps' stages made, and what each said; it has no images, so it is not ready."""
    if os.getuid() != 0:
        missing("booting needs root")
    made, target = packages
    work, network = tmp_path_factory.mktemp("appliance"), f"flower-appliance-{os.getpid()}"
    tree.call("ip", "netns", "add", network)
    tree.call("ip", "-n", network, "link", "set", "lo", "up")
    machine = vm.Vm("appliance", tree.base(target.python), work, network)
    try:
        machine.make()
        hand_over(machine)
        machine.boot()
        lay(machine, work)
        yield install_and_boot(machine, made["new"])
    finally:
        machine.remove()
        tree.call("ip", "netns", "delete", network)


def install_and_boot(machine, package):
    """Go through a life of an appliance; return what was seen on the way."""
    seen = SimpleNamespace(machine=machine)
    seen.without_package = install(machine)
    machine.run("rm", STATUS)
    seen.without_sum = install(machine, f"FLOWER_AGENT_PACKAGE={URL}")
    machine.run("rm", STATUS)
    put(machine, package, f"/opt/one-appliance/{package.name}")
    seen.installed = install(machine)
    seen.state = machine.show("ActiveState"), machine.show("UnitFileState")
    before = machine.run("stat", "-c", "%y", "/var/lib/dpkg/status")
    seen.again = install(machine)
    seen.untouched = machine.run("stat", "-c", "%y", "/var/lib/dpkg/status") == before
    machine.run("systemctl", "mask", "--runtime", UNIT)
    seen.masked = *stages(machine)[:2], *said(machine)
    machine.run("systemctl", "unmask", "--runtime", UNIT)
    machine.run("sh", "-c", f"echo install_success >{STATUS}")
    machine.reboot()
    vm.wait_for(lambda: machine.show("ActiveState", LAST_STAGE) == "active", "one-context's end")
    seen.words = machine.journal("-t", "one-contextd")
    return seen


def hand_over(machine, **variables):
    """Write the context where one-contextd finds it."""
    whole = {"FLOWER_ROLE": "server", "ONEGATE_ENDPOINT": "http://127.0.0.1:9", "VMID": "7"}
    text = "".join(f"{name}='{value}'\n" for name, value in (whole | variables).items())
    machine.write("/context/context.sh", text, 0o400)
    machine.write("/context/token.txt", "t0ken", 0o400)


def lay(machine, folder):
    """Put one-apps' files and the appliance script where Packer puts them."""
    originals = os.environ.get("ONE_APPS")
    base, names = (pathlib.Path(originals), ORIGINALS) if originals else (
        HERE / "one-apps", STAND_INS)  # fmt: skip
    for place, name in names.items():
        hook = place.startswith("net-")
        put(machine, base / name, f"/etc/{'one-context.d' if hook else 'one-appliance'}/{place}")
    report = "net-99-report-ready"
    put(machine, HERE / "one-apps" / report, f"/etc/one-context.d/{report}")
    script = folder / "appliance.sh"
    one_apps.main(["--output", str(script)])
    put(machine, script, "/etc/one-appliance/service.d/appliance.sh")


def put(machine, path, place):
    machine.run("mkdir", "-p", place.rpartition("/")[0])
    machine.copy(path, place)
    if path.suffix in {".sh", ""}:
        machine.run("chmod", "0755", place)


def install(machine, *environment):
    """Run one-apps' first stage; return exit status, words and the status file."""
    return *machine.try_("env", *environment, SERVICE, "install"), machine.run("cat", STATUS)


def said(machine):
    """Return what status and motd say."""
    return machine.run("cat", STATUS), machine.run("cat", MOTD)


def stages(machine):
    """Run what one-context runs; return exit status, words and seconds."""
    began = time.monotonic()
    code, words = machine.try_("/etc/one-context.d/net-90-service-appliance")
    return code, words, time.monotonic() - began


def test_install_brings_the_package_and_starts_nothing(story):
    code, words, status = story.installed
    assert (code, status) == (0, "install_success\n"), words
    assert story.state == ("inactive", "enabled")
    machine = story.machine
    metadata = machine.run("cat", "/etc/one-appliance/metadata")
    assert f'version: "{__version__}"' in metadata
    assert "is installed" in machine.run("cat", f"{LOGS}/install.log")
    # one-apps' umask is 0077; anybody must be able to run what was installed.
    kept = "find /usr/lib/flower-agent -not -perm -004"
    assert machine.run("sh", "-c", kept) == ""


def test_a_second_install_does_nothing(story):
    code, words, _ = story.again
    assert (code, story.untouched) == (0, True), words


def test_an_image_without_the_package_says_so_and_fails(story):
    code, words, status = story.without_package
    assert (code != 0, status) == (True, "install_failure\n")
    assert f"Want one package of version {__version__}" in words


def test_a_package_from_a_url_must_have_the_sum_that_was_given(story):
    code, words, status = story.without_sum
    assert (code != 0, status) == (True, "install_failure\n")
    assert "FLOWER_AGENT_PACKAGE_SHA256 is not set" in words


def test_the_help_names_every_variable(story):
    words = story.machine.run(SERVICE, "help")
    assert [name for name, *_ in one_apps.parameters() if name not in words] == []


def test_stages_promise_nothing_while_the_agent_does_not_run(story):
    code, words, status, motd = story.masked
    assert (code, status) == (0, "bootstrap_started\n"), words
    assert PROMISE not in motd
    assert "nothing was started" in words


def test_a_boot_hands_over_to_the_agent_which_keeps_the_files(story):
    machine = story.machine
    vm.wait_for(lambda: "discover" in machine.run("cat", MOTD), "the agent's words")
    assert machine.run("cat", STATUS) == "bootstrap_started\n"
    assert PROMISE not in machine.run("cat", MOTD)
    assert machine.run("systemctl", "--failed", "--plain", "--no-legend") == ""
    assert "Handed over to flower-agent.service" in story.words
    assert "Handed over to flower-agent.service" in machine.run("cat", f"{LOGS}/bootstrap.log")


def test_nobody_is_told_ready_before_it_is_true(story):
    """net-99-report-ready runs right after the stages, and believes the status file."""
    assert story.machine.try_("test", "-e", "/run/reported")[0] == 1


def test_stages_change_nothing_while_the_agent_runs_and_return_at_once(story):
    """A frozen agent corrects nothing, so what stands there is what the stages left."""
    machine = story.machine
    machine.run("systemctl", "kill", "--kill-who=main", "--signal=STOP", UNIT)
    try:
        for place in (STATUS, MOTD):
            machine.run("sh", "-c", f"echo bootstrap_started >{place}")
        code, words, seconds = stages(machine)
        assert (code, said(machine)) == (0, ("bootstrap_started\n", "bootstrap_started\n")), words
        assert seconds < 20
    finally:
        machine.run("systemctl", "kill", "--kill-who=main", "--signal=CONT", UNIT)
    vm.wait_for(lambda: "More: flower-agent status" in machine.run("cat", MOTD), "the agent")


def test_a_refused_context_stays_refused(story):
    machine = story.machine
    hand_over(machine, FLOWER_FLEET_PORT="none")
    machine.run("systemctl", "start", "one-context-reconfigure.service")
    vm.wait_for(lambda: machine.run("cat", STATUS) == "configure_failure\n", "the refusal")
    code, words, _ = stages(machine)
    assert (code, machine.run("cat", STATUS)) == (1, "configure_failure\n")
    assert "FLOWER_FLEET_PORT is 'none'" in words
    assert PROMISE not in machine.run("cat", MOTD)
    hand_over(machine)
    machine.run("systemctl", "start", "one-context-reconfigure.service")
    vm.wait_for(lambda: machine.run("cat", STATUS) == "bootstrap_started\n", "a new start")
