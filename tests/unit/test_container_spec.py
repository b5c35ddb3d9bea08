"""From settings to containers: what each may touch, and which a changed variable reaches."""

import base64
import dataclasses
import pathlib

import pytest
from vm_samples import (
    APPIO,
    CA,
    EXEC,
    GIB,
    GIVEN,
    HOST,
    KEY,
    LINK,
    LOOPBACK,
    NODE,
    OTHER_CA,
    OTHER_KEY,
    PATHS,
    SUBPROCESS,
    TLS,
    digests,
    pem,
    site,
)

from flower_agent.config import flower_versions, parsing, settings
from flower_agent.docker import containers
from flower_agent.docker.containers import Component, Container, Mount
from flower_agent.enrolment import superlink_trust
from flower_agent.flower import container_spec
from flower_agent.flower.command_line import Trust
from flower_agent.host.gpu import GpuAccess
from flower_agent.model.address import Address
from flower_agent.roles import superexec

CA_KEY = TLS / "ca/ca.pem"

VERSIONS = ("1.25.0", "1.30.0", "1.35.0", "1.38.0", "1.42.0")
"""One of each band."""


NODE_KEY = pem(
    "OPENSSH PRIVATE KEY",
    base64.b64encode(b"openssh-key-v1\0\0\0\0\4none ecdsa-sha2-nistp384\0").decode(),
)
PUBLIC_KEY = (
    "ecdsa-sha2-nistp256 AAAAE2VjZHNhLXNoYTItbmlzdHAyNTYAAAAIbmlzdHAyNTYAAA"
    "BBBI5TO2+gv3tGJbswZnwB+2B++fi4qA/vWzAGKHAxh7Kjc+sdveAzGDZtBp+DpvWQAFPHNjPLBBshxV4ahsH0ALQ="
)


def parse(context):
    """Return the settings of a context that must be good."""
    parsed = parsing.parse(context, {})
    assert parsed.settings is not None, parsed.findings
    return parsed.settings


def vm(*contexts, **differences):
    """Return the containers of a VM by their part."""
    found = parse({name: value for context in contexts for name, value in context.items()})
    made = container_spec.containers(found, site(found, **differences))
    by_part = {container.part.value: container for container in made}
    assert len(by_part) == len(made)
    return by_part


def at(version):
    """Return the context of a version; from 1.40 on the operator must consent."""
    consent = {"FLOWER_CONTROL_ADDRESS": f"{HOST}:8000"} if version >= "1.40" else {}
    return {"FLOWER_VERSION": version, **consent}


EVERY_VM = [
    pytest.param(base, {**at(version), **more}, id=f"{base['FLOWER_ROLE']} {version} {name}")
    for base in (LINK, NODE, EXEC)
    for name, more, versions in (
        ("plain", {}, VERSIONS),
        ("insecure", {"TLS_ENABLED": "NO"}, ("1.25.0", "1.38.0")),
        ("subprocess", SUBPROCESS, ("1.25.0", "1.38.0")),
        ("gpu", {"GPU_ENABLED": "YES", "ML_FRAMEWORK": "pytorch"}, ("1.25.0",)),
    )
    for version in versions
]


# Which containers


@pytest.mark.parametrize(
    ("context", "parts"),
    [
        (LINK, ["superlink", "superexec"]),
        (NODE, ["supernode", "superexec"]),
        (EXEC, ["superexec"]),
        ({**LINK, **SUBPROCESS}, ["superlink"]),
        ({**NODE, **SUBPROCESS}, ["supernode"]),
        ({**LINK, "FLOWER_APPIO_LISTEN": f"{HOST}:9091"}, ["superlink"]),
        ({**NODE, "FLOWER_APPIO_LISTEN": f"{HOST}:9094"}, ["supernode"]),
    ],
)
def test_a_role_has_its_containers_the_one_to_attach_to_first(context, parts):
    assert list(vm(context)) == parts


@pytest.mark.parametrize(
    ("prefix", "name"), [("", "flower-superlink"), ("b2", "b2-flower-superlink")]
)
def test_a_prefix_keeps_agents_apart(prefix, name):
    assert vm(LINK, prefix=prefix)["superlink"].name == name
    assert container_spec.name(prefix, Component.SUPERLINK) == name


@pytest.mark.parametrize(("base", "more"), EVERY_VM)
def test_the_images_are_known_before_the_containers(base, more):
    found = parse({**base, **more})
    made = container_spec.containers(found, site(found))
    assert container_spec.images(found) == tuple(container.image for container in made)


def test_apps_run_in_the_image_of_their_framework():
    found = vm(NODE, {"ML_FRAMEWORK": "pytorch", "FLOWER_VERSION": "1.25.0-py3.12-ubuntu24.04"})
    assert found["superexec"].image == "flower-agent/superexec:1.25.0-pytorch"
    assert found["supernode"].image == "flwr/supernode:1.25.0-py3.12-ubuntu24.04"


def test_without_a_framework_apps_run_in_flowers_image():
    found = vm(LINK, {"FLOWER_IMAGE_PREFIX": "registry.example.org/mirror"})
    assert found["superexec"].image == "registry.example.org/mirror/superexec:1.25.0"


# What each may touch


@pytest.mark.parametrize(("base", "more"), EVERY_VM)
def test_files_are_mounted_singly_and_the_cas_key_is_not(base, more):
    for container in vm(base, more).values():
        for mount in container.mounts:
            source = pathlib.PurePath(mount.source)
            assert not CA_KEY.is_relative_to(source)
            places = (PATHS.superlink, PATHS.data, PATHS.launcher, PATHS.live_runs, PATHS.caches)
            assert source.parent in (TLS, LOOPBACK) or source in places
        assert len({mount.target for mount in container.mounts}) == len(container.mounts)


@pytest.mark.parametrize(("base", "more"), EVERY_VM)
def test_the_superlink_writes_its_database_and_apps_their_runs_and_caches(base, more):
    found = vm(base, more)
    writable = {
        (part, mount.source, mount.target)
        for part, container in found.items()
        for mount in container.mounts
        if not mount.read_only
    }
    apps = "superexec" if "superexec" in found else next(iter(found))
    allowed = {
        (apps, str(PATHS.live_runs), flower_versions.RUNS),
        (apps, str(PATHS.caches), flower_versions.CACHES),
    }
    database = (
        {("superlink", str(PATHS.superlink), flower_versions.STATE)} if base is LINK else set()
    )
    assert writable == allowed | database


@pytest.mark.parametrize(("base", "more"), EVERY_VM)
def test_what_starts_apps_is_started_by_the_launcher_and_nothing_else_is(base, more):
    found = vm(base, more)
    apps = "superexec" if "superexec" in found else next(iter(found))
    for part, container in found.items():
        told = dict(container.environment).get("FLOWER_AGENT_LAUNCH")
        if part != apps:
            assert (container.entrypoint, told) == ((), None)
            continue
        program = f"{flower_versions.LAUNCHER}/program.py"
        assert container.entrypoint == ("python", program, f"flower-{part}")
        new = more.get("FLOWER_VERSION", "1.25.0") >= "1.30"
        assert told == ("launch_task" if new else "launch_app")


@pytest.mark.parametrize(("base", "more"), EVERY_VM)
def test_a_certificate_is_mounted_where_the_command_names_it_and_nowhere_else(base, more):
    for container in vm(base, more).values():
        files = {mount.target for mount in container.mounts if mount.digest}
        named = {
            word for word in container.command if word.startswith(flower_versions.CERTIFICATES)
        }
        assert files == named


@pytest.mark.parametrize(("base", "more"), EVERY_VM)
def test_the_servers_key_is_in_the_superlinks_container_only(base, more):
    holders = {
        part
        for part, container in vm(base, more).items()
        if str(TLS / "server.key") in {mount.source for mount in container.mounts}
    }
    assert holders <= {"superlink"}


@pytest.mark.parametrize(("base", "more"), EVERY_VM)
def test_data_memory_limit_and_gpu_go_where_apps_run(base, more):
    found = vm(base, more)
    apps = "superexec" if "superexec" in found else next(iter(found))
    for part, container in found.items():
        data = [mount for mount in container.mounts if mount.target == flower_versions.DATA]
        assert len(data) == (part == apps)
        assert (container.memory_bytes is not None) == (part == apps)
        gpu = part == apps and base is not LINK and "GPU_ENABLED" in more
        assert container.gpu is (GpuAccess.TOOLKIT if gpu else GpuAccess.NONE)
        assert (("NVIDIA_DRIVER_CAPABILITIES", "compute,utility") in container.environment) is gpu


@pytest.mark.parametrize("isolation", [{}, SUBPROCESS])
def test_a_superlink_leaves_the_gpu_of_its_vm_alone(isolation):
    assert not any(container.gpu for container in vm(LINK, isolation, gpu=GpuAccess.CDI).values())


def test_the_data_follows_later_mounts_where_docker_allows_it():
    mount, *_ = vm(EXEC)["superexec"].mounts
    assert (mount.source, mount.propagation) == (str(PATHS.data), "rslave")
    mount, *_ = vm(EXEC, data_propagation="rprivate")["superexec"].mounts
    assert mount.propagation == "rprivate"


@pytest.mark.parametrize(("base", "more"), EVERY_VM)
def test_every_container_has_a_home_and_a_place_for_temporary_files(base, more):
    for container in vm(base, more).values():
        assert [path for path, _ in container.tmpfs] == [flower_versions.HOME, "/tmp"]


def test_nothing_secret_is_in_what_docker_inspect_shows():
    secrets = {
        "TLS_KEY": KEY,
        "FLOWER_REGISTRY_PASSWORD": "hunter2",
        "FLOWER_ENV_HF_TOKEN": "hf_sesame",
        "FLOWER_HTTPS_PROXY": "http://me:hunter3@proxy.example.org:3128",
    }
    context = {**LINK, **secrets, "TLS_CERT": CA, "FLOWER_REGISTRY_USER": "puller"}
    for container in vm(context).values():
        assert not any(value in repr(container) for value in secrets.values())


def test_the_environment_of_apps_is_a_file_where_apps_run_and_nowhere_else():
    found = vm(NODE, {"FLOWER_ENV_HF_TOKEN": "x"})
    (mount,) = (m for m in found["superexec"].mounts if m.target == "/app/environment.json")
    assert (mount.source, mount.read_only) == (str(PATHS.app_environment), True)
    assert not [m for m in found["supernode"].mounts if m.target == mount.target]
    assert not [m for m in vm(NODE)["superexec"].mounts if m.target == mount.target]


# Memory


@pytest.mark.parametrize(
    ("context", "memory_bytes", "limit"),
    [
        ({}, 8 * GIB, 8 * GIB - 512 * 1024**2),
        ({}, GIB, 512 * 1024**2),
        ({}, 768 * 1024**2, 256 * 1024**2),
        ({}, 768 * 1024**2 - 1, None),
        ({}, 0, None),
        ({"FLOWER_MEMORY_LIMIT": "2G"}, 8 * GIB, 2 * GIB),
        ({"FLOWER_MEMORY_LIMIT": "2G"}, GIB, 2 * GIB),
    ],
)
def test_apps_leave_half_a_gibibyte_to_the_system(context, memory_bytes, limit):
    found = vm(NODE, context, memory_bytes=memory_bytes)
    assert found["superexec"].memory_bytes == limit


@pytest.mark.parametrize(
    ("context", "memory_bytes", "size"),
    [
        ({}, 8 * GIB, (8 * GIB - 512 * 1024**2) // 2),
        ({"FLOWER_MEMORY_LIMIT": "2G"}, 8 * GIB, GIB),
        ({"FLOWER_MEMORY_LIMIT": "2G", "FLOWER_SHM_SIZE": "64M"}, 8 * GIB, 64 * 1024**2),
        ({}, 768 * 1024**2 - 1, 256 * 1024**2),
        ({}, 700 * 1024**2 + 4096, 256 * 1024**2),
        ({}, 0, None),
    ],
)
def test_shared_memory_is_half_of_what_apps_may_take(context, memory_bytes, size):
    found = vm(NODE, context, memory_bytes=memory_bytes)
    assert found["superexec"].shm_bytes == size
    assert found["supernode"].shm_bytes is None


def test_a_container_that_runs_no_apps_is_not_replaced_for_its_shared_memory():
    before, after = vm(NODE), vm(NODE, {"FLOWER_SHM_SIZE": "3G"})
    assert changes(before, after) == {"superexec"}
    assert "shm_bytes" not in containers._spec(before["supernode"])
    assert "shm_bytes" in containers._spec(before["superexec"])


# CPU


def test_a_local_superexec_yields_while_the_first_container_starts():
    assert {part: c.yields_cpu for part, c in vm(NODE).items()} == {
        "supernode": False,
        "superexec": True,
    }


def test_a_lone_superexec_yields_to_nobody():
    assert not vm(EXEC)["superexec"].yields_cpu


# Whom they believe, and where they meet


def option(container, flag):
    """Return the value behind a flag, None without the flag."""
    words = container.command
    return words[words.index(flag) + 1] if flag in words else None


@pytest.mark.parametrize("version", VERSIONS)
def test_a_local_superexec_attaches_where_its_superlink_serves(version):
    found = parse({**LINK, **at(version)})
    attach = str(container_spec.attach_address(found, HOST))
    assert attach in vm(LINK, at(version))["superexec"].command
    appio = container_spec.endpoints(found, HOST).appio
    assert attach == str(appio.dial)
    insecure = "--insecure" in vm(LINK, at(version))["superexec"].command
    assert insecure is not appio.tls


@pytest.mark.parametrize("version", VERSIONS)
def test_a_local_superexec_attaches_to_its_supernode_on_loopback(version):
    found = vm(NODE, at(version))
    assert "127.0.0.1:9094" in found["superexec"].command
    assert "--insecure" in found["superexec"].command
    assert (
        str(container_spec.attach_address(parse({**NODE, **at(version)}), "")) == "127.0.0.1:9094"
    )


def test_a_name_in_the_certificate_leads_the_local_superexec_to_the_vms_own_address():
    """A public CA names no private address, and from 1.37 on the AppIo shows its certificate."""
    apps = vm(LINK, at("1.39.0"), appio_name="fl.example.org")["superexec"]
    assert option(apps, "--runtime-api-address") == "fl.example.org:9093"
    assert apps.hosts == (("fl.example.org", "127.0.0.1"),)
    assert vm(LINK, at("1.39.0"))["superexec"].hosts == ()


def test_behind_the_proxy_a_superlink_shows_a_certificate_of_the_agents_own_whatever_is_given():
    for more in ({}, GIVEN):
        found = vm(LINK, at("1.42.0"), more)
        mounted = {mount.target: mount.source for mount in found["superlink"].mounts}
        assert mounted[flower_versions.KEY_FILE] == str(LOOPBACK / "server.key")
        assert mounted[flower_versions.CA_FILE] == str(LOOPBACK / "ca.crt")
        apps = {mount.target: mount.source for mount in found["superexec"].mounts}
        assert apps[flower_versions.CA_FILE] == str(LOOPBACK / "ca.crt")
        assert option(found["superexec"], "--runtime-api-address") == "127.0.0.1:9093"


def test_the_proxys_ports_are_not_looked_at_before_a_superlink_starts():
    offers = {"FLOWER_APPIO_LISTEN": "10.0.0.5:9191"}
    listens = [str(place) for place in vm(LINK, at("1.42.0"), offers)["superlink"].listens]
    assert listens == ["127.0.0.1:9093", "127.0.0.1:9097"]


OFFERS = {"FLOWER_APPIO_LISTEN": "10.0.0.5:9191"}
NEEDS_TLS = ["1.30.0", "1.36.0", "1.37.0", "1.42.0"]


@pytest.mark.parametrize("version", NEEDS_TLS)
def test_an_appio_offered_elsewhere_has_tls_where_flower_can(version):
    node = vm(NODE, at(version), OFFERS)["supernode"]
    prefix = flower_versions.band(flower_versions.parse_version(version)).node_appio_tls_flags
    assert option(node, f"{prefix}certfile") == flower_versions.APPIO_CERTIFICATE_FILE
    mounted = {mount.target: mount.source for mount in node.mounts}
    assert mounted[flower_versions.APPIO_KEY_FILE] == str(APPIO / "server.key")
    assert mounted[flower_versions.APPIO_CA_FILE] == str(APPIO / "ca.crt")
    assert mounted[flower_versions.CA_FILE] == str(TLS / "ca.crt"), "its SuperLink's stays apart"


@pytest.mark.parametrize(
    "more", [{**at("1.25.0"), **OFFERS}, {**at("1.34.0")}, {**at("1.34.0"), "TLS_ENABLED": "NO"}]
)
def test_an_appio_has_no_tls_before_1_30_nor_on_loopback_nor_without_tls(more):
    node = vm(NODE, more)["supernode"]
    assert not any("certfile" in word for word in node.command)
    assert flower_versions.APPIO_KEY_FILE not in {mount.target for mount in node.mounts}


@pytest.mark.parametrize(("version", "secure"), [("1.25.0", False), ("1.30.0", True)])
def test_a_superlinks_appio_offered_elsewhere_shows_its_own_certificate(version, secure):
    link = vm(LINK, at(version), OFFERS)["superlink"]
    assert option(link, "--serverappio-api-address") == "10.0.0.5:9191"
    shown = option(link, "--appio-ssl-certfile")
    assert shown == (flower_versions.CERTIFICATE_FILE if secure else None)


@pytest.mark.parametrize("plugin", ["serverapp", "clientapp"])
@pytest.mark.parametrize(
    ("version", "more", "trust"),
    [
        ("1.25.0", {}, Trust.INSECURE),
        ("1.29.0", {"TLS_CA_CERT": "system"}, Trust.INSECURE),
        ("1.30.0", {}, Trust.CA),
        ("1.42.0", {}, Trust.CA),
        ("1.36.0", {"TLS_CA_CERT": "system"}, Trust.SYSTEM),
        ("1.36.0", {"TLS_ENABLED": "NO"}, Trust.INSECURE),
    ],
)
def test_a_lone_superexec_wants_tls_where_the_appio_elsewhere_has_it(version, more, trust, plugin):
    context = {"FLOWER_VERSION": version, "FLOWER_SUPEREXEC_PLUGIN": plugin, **more}
    assert superexec.trust_of(parse({**EXEC, **context})) is trust
    made = vm(EXEC, context)["superexec"]
    assert ("--insecure" in made.command) is (trust is Trust.INSECURE)
    assert (option(made, "--root-certificates") == flower_versions.CA_FILE) is (trust is Trust.CA)
    assert (flower_versions.CA_FILE in {m.target for m in made.mounts}) is (trust is Trust.CA)


def test_who_listens_on_every_address_is_dialled_on_loopback():
    found = parse({**LINK, "FLOWER_VERSION": "1.39.0", "FLOWER_CONTROL_ADDRESS": "[::]:9093"})
    assert str(container_spec.attach_address(found, "::")) == "[::1]:9093"


@pytest.mark.parametrize(
    ("context", "trust", "words"),
    [
        ({}, Trust.CA, ("--root-certificates", flower_versions.CA_FILE)),
        ({"TLS_CA_CERT": "system"}, Trust.SYSTEM, ()),
        ({"TLS_ENABLED": "NO"}, Trust.INSECURE, ("--insecure",)),
    ],
)
def test_a_supernode_believes_whom_it_was_told_to(context, trust, words):
    assert superlink_trust.trust_of(parse({**NODE, **context})) is trust
    command = vm(NODE, context)["supernode"].command
    assert command[2 : 2 + len(words)] == words
    assert command[2 + len(words)] == "--isolation"


def test_a_supernode_is_told_its_partition():
    command = vm(NODE)["supernode"]
    assert option(command, "--node-config") == "partition-id=0 num-partitions=2"


def test_health_takes_three_loopback_ports_in_a_row():
    found = parse({**LINK, "FLOWER_HEALTH_PORT": "20000"})
    assert [str(container_spec.health(found, part)) for part in Component] == [
        *("127.0.0.1:20000", "127.0.0.1:20001", "127.0.0.1:20002"),
    ]


@pytest.mark.parametrize(("version", "port"), [("1.25.0", 9092), ("1.40.0", 8000)])
def test_the_fleet_port_is_the_versions_unless_given(version, port):
    assert container_spec.fleet_port(parse({**NODE, "FLOWER_VERSION": version})) == port
    given = {**NODE, "FLOWER_VERSION": version, "FLOWER_FLEET_PORT": "7"}
    assert container_spec.fleet_port(parse(given)) == 7


def test_a_supernode_wants_a_superlink():
    with pytest.raises(ValueError, match="needs a SuperLink"):
        vm(NODE, superlink=None)


def test_a_superexec_wants_an_address():
    found = dataclasses.replace(parse(EXEC), appio_address=None)
    with pytest.raises(ValueError, match="needs the address"):
        container_spec.containers(found, site(found))


# Fingerprints


def test_the_same_settings_give_the_same_fingerprints():
    once, again = vm(LINK), vm(LINK)
    assert {p: c.fingerprint for p, c in once.items()} == {
        p: c.fingerprint for p, c in again.items()
    }


def other(value):
    """Return a value of the same kind that differs."""
    match value:
        case bool():
            return not value
        case Component():
            return Component.SUPEREXEC
        case str():
            return value + "x"
        case None:
            return 1
    return (*value, Mount("/x", "/x") if value and isinstance(value[0], Mount) else ("x", "y"))


@pytest.mark.parametrize("field", [f.name for f in dataclasses.fields(Container) if f.compare])
def test_every_field_of_a_container_that_reaches_docker_reaches_its_fingerprint(field):
    found = vm(LINK)["superlink"]
    changed = dataclasses.replace(found, **{field: other(getattr(found, field))})
    assert changed.fingerprint != found.fingerprint


@pytest.mark.parametrize("field", [field.name for field in dataclasses.fields(Mount)])
def test_every_field_of_a_mount_reaches_the_fingerprint(field):
    found = vm(NODE)["supernode"]
    (mount,) = found.mounts
    changed = dataclasses.replace(mount, **{field: other(getattr(mount, field))})
    assert dataclasses.replace(found, mounts=(changed,)).fingerprint != found.fingerprint


@pytest.mark.parametrize(
    ("name", "reached"),
    [
        ("ca.crt", {"superlink", "superexec"}),
        ("server.pem", {"superlink"}),
        ("server.key", {"superlink"}),
    ],
)
def test_a_changed_certificate_replaces_exactly_who_mounts_it(name, reached):
    context = {**LINK, "FLOWER_VERSION": "1.39.0"}  # whose AppIo has the Control API's TLS
    renewed = {**digests(parse(context)), str(TLS / name): "0" * 64}
    assert changes(vm(context), vm(context, digests=renewed)) == reached


def changes(before, after):
    """Return the parts whose container differs; those that went have a minus in front."""
    went = {f"-{part}" for part in before.keys() - after.keys()}
    came = {f"+{part}" for part in after.keys() - before.keys()}
    both = before.keys() & after.keys()
    return {p for p in both if before[p].fingerprint != after[p].fingerprint} | went | came


PROXY = "http://proxy.example.org:3128"

# Variable, VM, its new value there, the containers that it reaches.
OIDC = {
    "FLOWER_OIDC_ISSUER": "https://login.example.org",
    "FLOWER_OIDC_CLIENT_ID": "federation",
    "FLOWER_OIDC_ALLOW": "domain:example.org=viewer",
}
REACHES = [
    ("FLOWER_ROLE", LINK, "client", "-superlink +supernode superexec"),
    ("FLOWER_VERSION", LINK, "1.26.0", "superlink superexec"),
    ("FLOWER_VERSION", NODE, "1.26.0", "supernode superexec"),
    ("FLOWER_VERSION", EXEC, "1.26.0", "superexec"),
    ("FLOWER_SERVER_ADDRESS", NODE, "10.9.9.9", "supernode"),
    ("FL_NUM_ROUNDS", LINK, "9", ""),
    ("FL_STRATEGY", LINK, "FedProx", ""),
    ("FL_MIN_CLIENTS", LINK, "9", ""),
    ("FL_CONFIG_<KEY>", LINK, "9", ""),
    ("TLS_ENABLED", LINK, "NO", "superlink"),
    ("TLS_ENABLED", {**LINK, "FLOWER_VERSION": "1.39.0"}, "NO", "superlink superexec"),
    ("TLS_ENABLED", NODE, "NO", "supernode"),
    ("TLS_CA_CERT", NODE, OTHER_CA, "supernode"),
    ("TLS_CA_CERT", NODE, "system", "supernode"),
    ("TLS_CA_CERT", {**LINK, **GIVEN}, OTHER_CA, "superlink"),
    ("TLS_CERT", {**LINK, **GIVEN}, OTHER_CA, "superlink"),
    ("TLS_KEY", {**LINK, **GIVEN}, OTHER_KEY, "superlink"),
    ("GPU_ENABLED", NODE, "YES", "superexec"),
    ("GPU_ENABLED", {**NODE, **SUBPROCESS}, "AUTO", "supernode"),
    ("GPU_ENABLED", EXEC, "YES", "superexec"),
    ("GPU_ENABLED", LINK, "YES", ""),
    ("ML_FRAMEWORK", LINK, "sklearn", "superexec"),
    ("ML_FRAMEWORK", NODE, "sklearn", "superexec"),
    ("ML_FRAMEWORK", EXEC, "sklearn", "superexec"),
    ("CUSTOM_APP_REPO", LINK, "https://git.example.org/a.git", ""),
    ("FLOWER_ISOLATION", LINK, "subprocess", "superlink -superexec"),
    ("FLOWER_ISOLATION", NODE, "subprocess", "supernode -superexec"),
    ("FLOWER_NODE_CONFIG", NODE, "partition-id=1", "supernode"),
    ("FLOWER_NODE_AUTH", LINK, "YES", "superlink"),
    ("FLOWER_NODE_AUTH", NODE, "YES", "supernode"),
    ("FLOWER_NODE_PUBLIC_KEYS", LINK, PUBLIC_KEY, "superlink"),
    ("FLOWER_NODE_PUBLIC_KEYS", {**LINK, "FLOWER_NODE_AUTH": "YES"}, PUBLIC_KEY, ""),
    ("FLOWER_NODE_PRIVATE_KEY", NODE, NODE_KEY, "supernode"),
    ("FLOWER_PARTITIONS", LINK, "8", ""),
    ("FLOWER_NODE_PRIVATE_KEY", {**NODE, "FLOWER_NODE_AUTH": "YES"}, NODE_KEY, "supernode"),
    ("FLOWER_CA_FINGERPRINT", NODE, "ab" * 32, ""),
    ("FLOWER_CA_FINGERPRINT", {**EXEC, "FLOWER_VERSION": "1.34.0"}, "ab" * 32, ""),
    ("TLS_CA_CERT", {**EXEC, "FLOWER_VERSION": "1.34.0"}, OTHER_CA, "superexec"),
    ("TLS_CA_CERT", {**EXEC, "FLOWER_VERSION": "1.34.0"}, "system", "superexec"),
    ("TLS_CA_CERT", EXEC, OTHER_CA, ""),
    ("FLOWER_ADDRESS", LINK, "10.0.0.9", "superlink"),
    ("FLOWER_PUBLIC_ADDRESS", LINK, "fl.example.org", "superlink"),
    ("FLOWER_TLS_SANS", LINK, "fl.example.org", "superlink"),
    ("FLOWER_TLS_SANS", NODE, "fl.example.org", ""),
    (
        "FLOWER_TLS_SANS",
        {**NODE, "FLOWER_VERSION": "1.34.0", "FLOWER_APPIO_LISTEN": "10.0.0.7:9094"},
        "node.example.org",
        "supernode",
    ),
    ("FLOWER_CONTROL_ADDRESS", LINK, "127.0.0.1:19093", "superlink"),
    (
        "FLOWER_CONTROL_ADDRESS",
        {**LINK, "FLOWER_VERSION": "1.39.0"},
        "127.0.0.1:19093",
        "superlink superexec",
    ),
    ("FLOWER_FLEET_PORT", LINK, "19092", "superlink"),
    ("FLOWER_FLEET_PORT", {**NODE, "FLOWER_SERVER_ADDRESS": "10.9.9.9"}, "19092", "supernode"),
    ("FLOWER_FLEET_PORT", {**NODE, "FLOWER_SERVER_ADDRESS": "10.9.9.9:1"}, "19092", ""),
    ("FLOWER_SERVERAPPIO_PORT", LINK, "19091", "superlink superexec"),
    ("FLOWER_CLIENTAPPIO_PORT", NODE, "19094", "supernode superexec"),
    ("FLOWER_HEALTH_PORT", LINK, "19097", "superlink superexec"),
    ("FLOWER_HEALTH_PORT", NODE, "19097", "supernode superexec"),
    ("FLOWER_HEALTH_PORT", EXEC, "19097", "superexec"),
    ("FLOWER_APPIO_LISTEN", LINK, "10.0.0.5:9091", "superlink -superexec"),
    ("FLOWER_APPIO_LISTEN", NODE, "10.0.0.5:9094", "supernode -superexec"),
    ("FLOWER_APPIO_ADDRESS", EXEC, "10.0.0.8:9094", "superexec"),
    ("FLOWER_SUPEREXEC_PLUGIN", EXEC, "serverapp", "superexec"),
    ("FLOWER_GATEWAY", LINK, "YES", ""),
    ("FLOWER_GATEWAY_ADDRESS", {**LINK, "FLOWER_GATEWAY": "YES"}, "10.0.0.5:19443", ""),
    ("FLOWER_GATEWAY_URL", {**LINK, "FLOWER_GATEWAY": "YES"}, "https://fl.example.org", ""),
    ("FLOWER_GATEWAY_CERT", {**LINK, "FLOWER_GATEWAY_KEY": OTHER_KEY}, OTHER_CA, ""),
    ("FLOWER_GATEWAY_KEY", {**LINK, "FLOWER_GATEWAY_CERT": OTHER_CA}, OTHER_KEY, ""),
    ("FLOWER_OIDC_ISSUER", {**LINK, **OIDC}, "https://login.example.net", ""),
    ("FLOWER_OIDC_CLIENT_ID", {**LINK, **OIDC}, "another", ""),
    ("FLOWER_OIDC_CLIENT_SECRET", {**LINK, **OIDC}, "hush", ""),
    ("FLOWER_OIDC_ALLOW", {**LINK, **OIDC}, "group:ml-team=admin", ""),
    ("FLOWER_IMAGE_PREFIX", LINK, "mirror/flwr", "superlink superexec"),
    ("FLOWER_IMAGE_PREFIX", {**LINK, "ML_FRAMEWORK": "sklearn"}, "mirror/flwr", "superlink"),
    ("FLOWER_REGISTRY_USER", {**LINK, "FLOWER_REGISTRY_PASSWORD": "x"}, "puller", ""),
    ("FLOWER_REGISTRY_PASSWORD", {**LINK, "FLOWER_REGISTRY_USER": "x"}, "other", ""),
    ("FLOWER_MEMORY_LIMIT", LINK, "1G", "superexec"),
    ("FLOWER_MEMORY_LIMIT", NODE, "1G", "superexec"),
    ("FLOWER_MEMORY_LIMIT", {**NODE, **SUBPROCESS}, "1G", "supernode"),
    ("FLOWER_HTTP_PROXY", LINK, PROXY, "superexec"),
    ("FLOWER_HTTPS_PROXY", NODE, PROXY, "superexec"),
    ("FLOWER_HTTPS_PROXY", {**NODE, **SUBPROCESS}, PROXY, "supernode"),
    ("FLOWER_NO_PROXY", NODE, ".example.org", ""),
    ("FLOWER_NO_PROXY", {**NODE, "FLOWER_HTTP_PROXY": PROXY}, ".example.org", "superexec"),
    ("FLOWER_ENV_<KEY>", LINK, "9", "superexec"),
    ("FLOWER_ENV_<KEY>", EXEC, "9", "superexec"),
    ("FLOWER_ENV_<KEY>", {**LINK, "FLOWER_APPIO_LISTEN": "10.0.0.5:9091"}, "9", ""),
    ("FLOWER_DATA", NODE, "/srv/data", "superexec"),
    ("FLOWER_DATA", EXEC, "LABEL=flower-data", "superexec"),
    ("FLOWER_DATA", {**NODE, **SUBPROCESS}, "nfs://nas/export", "supernode"),
    ("FLOWER_DATA", LINK, "/srv/data", ""),
    ("FLOWER_OUTPUTS_LIMIT", LINK, "1G", ""),
    ("FLOWER_CACHE_LIMIT", NODE, "1G", ""),
    ("FLOWER_SHM_SIZE", LINK, "1G", "superexec"),
    ("FLOWER_SHM_SIZE", EXEC, "1G", "superexec"),
    ("FLOWER_SHM_SIZE", {**NODE, **SUBPROCESS}, "1G", "supernode"),
    ("FLOWER_LOG_LEVEL", LINK, "DEBUG", "superlink superexec"),
    ("FLOWER_LOG_LEVEL", LINK, "ERROR", ""),
    ("FLOWER_METRICS", LINK, "YES", ""),
    ("FLOWER_STATE_DISK", LINK, "/dev/vdb", ""),
    ("FLOWER_READY_TIMEOUT", LINK, "60", ""),
]
BEFORE = {
    **OIDC,
    "FLOWER_REGISTRY_USER": "first",
    "FLOWER_REGISTRY_PASSWORD": "first",
    "FLOWER_GATEWAY_CERT": GIVEN["TLS_CERT"],
    "FLOWER_GATEWAY_KEY": GIVEN["TLS_KEY"],
}
"""What a variable was before, where being unset would be refused."""


def test_every_variable_has_its_story():
    assert {name for name, *_ in REACHES} == {row.name for row in settings.SETTINGS}


@pytest.mark.parametrize(("name", "context", "value", "reached"), REACHES)
def test_a_changed_variable_reaches_exactly_its_containers(name, context, value, reached):
    variable = name.replace("<KEY>", "LOCAL_EPOCHS")
    after = {**context, variable: value}
    before = {**context, variable: BEFORE[variable]} if variable in BEFORE else context
    assert changes(vm(before), vm(after)) == set(reached.split())


def test_a_new_address_of_the_superlink_moves_the_node_and_not_its_apps():
    moved = Address("10.0.0.6", 9092)
    assert changes(vm(NODE), vm(NODE, superlink=moved)) == {"supernode"}
