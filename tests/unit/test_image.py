"""The recipe of the VM image, as far as it can be told without building one (tests/image does)."""

import ast
import base64
import dataclasses
import hashlib
import re
import stat
import subprocess

import archive_keys
import disk
import file_tree
import hcl2
import make
import pytest
import suites

from flower_agent.config import context

FILES = file_tree.FILES
EVERY = list(suites.SUITES.values())


def test_a_bios_finds_the_core_and_the_core_its_rest():
    boot, core = bytes(range(256)) * 2, bytes(2048)
    code, rest = disk.core_in_place(boot, core)
    first = disk.CORE_AT // disk.SECTOR
    assert len(code) == disk.BOOT_CODE, "the partition table begins behind it"
    assert int.from_bytes(code[0x5C:0x64], "little") == first
    assert int.from_bytes(rest[0x1F4:0x1FC], "little") == first + 1
    assert code[:0x5C] == boot[:0x5C]
    assert len(rest) == len(core)


def test_the_partitions_follow_each_other_and_the_root_is_last_so_that_it_can_grow():
    rows = [line for line in disk.table().splitlines() if line.startswith("start=")]
    spans = [(int(n) for n in re.findall(r"(?:start|size)=(\d+)", row)) for row in rows]
    (core, core_size), (esp, esp_size), (root,) = map(tuple, spans)
    assert core + core_size == esp
    assert esp + esp_size == root
    assert core * disk.SECTOR >= disk.MIB
    assert disk.table().startswith("label: gpt\n")


@pytest.mark.parametrize("suite", EVERY, ids=lambda suite: suite.name)
def test_the_menu_names_what_stays_over_a_kernels_upgrade(suite):
    text = file_tree.menu(suite)
    assert f"root=LABEL={file_tree.LABEL}" in text
    assert not re.search(r"vmlinuz-\d|initrd.img-\d", text)
    assert "net.ifnames=0" in text
    assert text.count("{") == text.count("}") == 1


@pytest.mark.parametrize("suite", EVERY, ids=lambda suite: suite.name)
def test_no_kernel_is_one_that_misses_the_context_cd(suite):
    assert "cloud" not in suite.kernel
    assert "kvm" not in suite.kernel


@pytest.mark.parametrize("suite", EVERY, ids=lambda suite: suite.name)
def test_a_package_of_the_agent_is_built_for_every_suite(suite):
    targets = (FILES.parents[1] / "package/targets.py").read_text()
    assert f'name="{suite.target}"' in targets


def test_docker_comes_with_apparmor_which_it_only_recommends():
    assert {"docker.io", "apparmor"} <= set(suites.PACKAGES)


def test_haproxy_is_there_and_only_the_agents_unit_starts_it(tmp_path):
    assert "haproxy" in suites.PACKAGES
    wanted = tmp_path / "etc/systemd/system/multi-user.target.wants/haproxy.service"
    wanted.parent.mkdir(parents=True)
    wanted.symlink_to("/usr/lib/systemd/system/haproxy.service")
    file_tree.configure(tmp_path, EVERY[0])
    assert not wanted.is_symlink()


def test_two_vms_of_an_image_share_no_identity(tmp_path):
    kept = (
        "etc/ssh/sshd_config", "var/log/apt", "usr/bin/flower-agent",
        "usr/share/flower-agent/images.lock",
    )  # fmt: skip
    gone = (
        "etc/ssh/ssh_host_ed25519_key", "etc/ssh/ssh_host_rsa_key.pub",
        "var/lib/systemd/random-seed", "var/lib/flower-agent/tls/ca/ca.pem",
        "var/lib/flower-agent/bake/lock",
        "var/log/journal/abc/system.journal", "var/log/apt/term.log", "var/log/dpkg.log",
    )  # fmt: skip
    for name in (*kept[:1], *kept[2:], *gone):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("x")
    (tmp_path / "etc/machine-id").write_text("0" * 32)
    file_tree.clean(tmp_path)
    assert [name for name in gone if (tmp_path / name).exists()] == []
    assert [name for name in kept if not (tmp_path / name).exists()] == []
    assert (tmp_path / "etc/machine-id").read_text() == "", "empty: systemd makes one at boot"


def test_an_image_makes_its_own_ssh_keys_before_ssh_needs_them():
    unit = (FILES / "common/etc/systemd/system/flower-image-keys.service").read_text()
    assert "Before=ssh.service" in unit
    assert "ssh-keygen -A" in unit


def test_a_unit_is_enabled_as_systemctl_would(tmp_path):
    for _ in range(2):
        file_tree.enable(tmp_path, "a.service", "multi-user.target")
    link = tmp_path / "etc/systemd/system/multi-user.target.wants/a.service"
    assert str(link.readlink()) == "/etc/systemd/system/a.service"


def test_no_upgrade_stops_a_federation_and_no_lock_meets_the_first_boot():
    apt = (FILES / "common/etc/apt/apt.conf.d/60flower-image").read_text()
    for package in ("docker.io", "containerd", "runc", "nvidia-"):
        assert f'"{package}";' in apt
    for timer in ("apt-daily", "apt-daily-upgrade"):
        drop_in = FILES / f"common/etc/systemd/system/{timer}.timer.d/flower-image.conf"
        assert "Persistent=false" in drop_in.read_text()
    restart = (FILES / "common/etc/needrestart/conf.d/60-flower-image.conf").read_text()
    assert "$nrconf{restart} = 'l';" in restart


def test_the_stand_in_steps_back_for_one_context():
    unit = (FILES / "stand-in/etc/systemd/system/flower-image-context.service").read_text()
    assert "ConditionPathExists=!/usr/sbin/one-contextd" in unit
    script = FILES / "stand-in/usr/local/sbin/flower-image-context"
    assert script.stat().st_mode & stat.S_IXUSR
    assert "eval" not in script.read_text()
    assert not re.search(r"^\s*rm ", script.read_text(), re.MULTILINE), (
        "an agent that looks in between finds no context, and says failed"
    )
    assert not re.search(r"^\s*(\.|source) ", script.read_text(), re.MULTILINE), (
        "data, not a script"
    )


def test_the_stand_in_hands_a_changed_cd_over(tmp_path):
    place, cd, tools = (tmp_path / name for name in ("one-context", "cd", "tools"))
    for folder in (cd, tools):
        folder.mkdir()
    for name, text in (("mount", f'cp {cd}/* "$5"'), ("umount", 'rm "$1"/*')):
        (tools / name).write_text(f"#!/bin/sh\n{text}\n")
        (tools / name).chmod(0o755)
    script = (FILES / "stand-in/usr/local/sbin/flower-image-context").read_text()
    script = script.replace("/run/one-context", str(place))
    for vmid in ("7", "8"):
        (cd / "context.sh").write_text(f"VMID='{vmid}'\nONEGATE_ENDPOINT='http://h:5030'\n")
        (cd / "token.txt").write_text("secret")
        path = {"PATH": f"{tools}:/usr/bin:/bin"}
        subprocess.run(["sh", "-c", script], check=True, env=path, timeout=30)
        for stage in ("local", "online", "network"):
            held = context.parse((place / f"context.sh.{stage}").read_bytes())
            assert held["VMID"] == vmid
        assert f'export VMID="{vmid}"' in (place / "one_env").read_text()
    assert len([*place.iterdir()]) == 4
    assert (place / "one_env").stat().st_mode & 0o777 == 0o400


def test_the_recipe_needs_the_standard_library_only():
    import sys

    ours = {"archive_keys", "disk", "engine", "file_tree", "suites"}
    for path in FILES.parent.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            for name in names:
                assert name.partition(".")[0] in {*sys.stdlib_module_names, *ours}


@pytest.fixture
def far(tmp_path):
    """A distribution whose keys this machine has not got, and the folder that is its mirror."""
    mirror, content = tmp_path / "mirror", tmp_path / "content"
    keys = content / "usr/share/keyrings/far.gpg"
    for folder in (mirror, keys.parent, content / "DEBIAN"):
        folder.mkdir(parents=True)
    keys.write_bytes(b"keys")
    control = "Package: far\nVersion: 1\nArchitecture: all\nMaintainer: x\nDescription: x\n"
    (content / "DEBIAN/control").write_text(control)
    command = ["dpkg-deb", "--build", str(content), str(mirror / "far.deb")]
    subprocess.run(command, check=True, capture_output=True, timeout=60)
    sha256 = hashlib.sha256((mirror / "far.deb").read_bytes()).hexdigest()
    keyring_of_it = "/usr/share/keyrings/far.gpg"
    return dataclasses.replace(
        suites.SUITES["noble"], keyring=keyring_of_it, keyring_package=("far.deb", sha256)
    ), mirror


def test_the_keys_of_another_distribution_come_from_its_own_package(far, tmp_path):
    suite, mirror = far
    found = archive_keys.find(suite, f"{mirror.as_uri()}/", tmp_path)
    assert found.read_bytes() == b"keys"


def test_a_mirror_with_another_keyring_than_is_known_is_not_believed(far, tmp_path):
    suite, mirror = far
    (mirror / "far.deb").write_bytes((mirror / "far.deb").read_bytes() + b"!")
    with pytest.raises(RuntimeError, match=r"another far\.deb"):
        archive_keys.find(suite, mirror.as_uri(), tmp_path)


def test_a_distribution_whose_keys_cannot_be_had_is_told(far, tmp_path):
    suite, mirror = far
    without = dataclasses.replace(suite, keyring_package=("", ""))
    with pytest.raises(RuntimeError, match=r"no /usr/share/keyrings/far\.gpg"):
        archive_keys.find(without, mirror.as_uri(), tmp_path)


def test_what_the_build_is_told_of_flower_goes_to_bake():
    words = ["--flower", "1.34.0", "--framework", "sklearn", "pytorch", "--wheels", "/srv"]
    assert sorted(make.bake_arguments(make.parser().parse_args(words))) == sorted(words)
    assert make.bake_arguments(make.parser().parse_args([])) == []


PACKER = FILES.parent / "packer"


def test_packer_can_read_the_variant_for_one_apps():
    found = [hcl2.loads(path.read_text()) for path in sorted(PACKER.glob("*.hcl"))]
    declared = {
        name.strip('"') for part in found for row in part.get("variable", ()) for name in row
    }
    text = (PACKER / "flower.pkr.hcl").read_text()
    assert set(re.findall(r"var\.(\w+)", text)) <= declared
    named = re.findall(r"\$\{var\.input_dir\}/([\w.]+)(?=[\" ])", text)
    assert {"gen_context", "install.sh"} <= set(named)
    assert all((PACKER / name).exists() for name in named if name not in MADE)


MADE = {"context", "flower-agent.deb"}
"""What the build makes, or whoever builds puts there."""


def test_packers_vm_gets_a_context_that_is_one():
    command = [str(PACKER / "gen_context")]
    text = subprocess.run(command, check=True, capture_output=True, timeout=10).stdout
    found = context.parse(text)
    assert found["NETCFG_TYPE"] == "interfaces"
    assert "PasswordAuthentication yes" in base64.b64decode(found["START_SCRIPT_BASE64"]).decode()
