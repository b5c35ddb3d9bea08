"""A SuperNode's key: made once for its VM, kept, and nobody else's to read."""

import os
import pathlib
import stat
import subprocess

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from node_key_pairs import CURVES, openssh, private, public

from flower_agent.docker.containers import FLOWER_UID
from flower_agent.enrolment import node_key
from flower_agent.enrolment.node_key import NodeKeys
from flower_agent.model import pem
from flower_agent.model.errors import AgentError
from flower_agent.model.secret import Secret


@pytest.fixture
def keys(tmp_path, monkeypatch):
    if os.geteuid():  # no member of Flower's group
        monkeypatch.setattr(node_key, "FLOWER_UID", os.getgid())
    return NodeKeys(tmp_path / "keys")


def mode(path):
    return stat.S_IMODE(pathlib.Path(path).stat().st_mode)


def test_a_key_is_made_once_and_kept(keys):
    made = keys.own("42")
    assert keys.own("42") == made
    assert NodeKeys(keys._directory).own("42") == made
    assert pem.node_keys(made.public) == (made.public,)
    assert made.public.startswith("ecdsa-sha2-nistp384 ")


def test_the_private_half_is_for_flowers_group_and_nobody_else(keys):
    made = keys.own("42")
    assert (mode(made.path), mode(keys._directory)) == (0o440, 0o700)
    assert pathlib.Path(made.path).stat().st_gid == node_key.FLOWER_UID
    assert node_key.FLOWER_UID in (FLOWER_UID, os.getgid())


def test_it_is_the_form_that_flower_wants(keys):
    data = pathlib.Path(keys.own("42").path).read_bytes()
    loaded = serialization.load_ssh_private_key(data, None)
    assert isinstance(loaded.curve, ec.SECP384R1)


def test_a_cloned_disk_gets_a_key_of_its_own_and_the_other_vms_goes(keys):
    first = keys.own("42")
    second = keys.own("43")
    assert second.public != first.public
    assert not pathlib.Path(first.path).exists()


def test_a_vm_that_gets_its_id_late_keeps_its_key(keys):
    before = keys.own(None)
    after = keys.own("42")
    assert after.public == before.public
    assert after.path.endswith("node-42.key")
    assert not pathlib.Path(before.path).exists()


@pytest.mark.parametrize("damage", [b"", b"junk", b"-----BEGIN OPENSSH PRIVATE KEY-----\n"])
def test_a_damaged_key_is_made_anew(keys, damage):
    made = keys.own("42")
    pathlib.Path(made.path).chmod(0o600)
    pathlib.Path(made.path).write_bytes(damage)
    assert keys.held("42") is None
    assert not keys.damaged("42").exists()
    assert keys.own("42").public != made.public
    assert keys.damaged("42").read_bytes() == damage


def test_a_damaged_key_is_forgotten_with_the_next_new_one(keys):
    keys.own("42")
    pathlib.Path(keys.path("42")).chmod(0o600)
    keys.path("42").write_bytes(b"junk")
    keys.own("42")
    assert mode(keys.damaged("42")) == 0o440
    keys.renew("42")
    assert not keys.damaged("42").exists()


def test_a_key_of_its_own_is_replaced_when_that_is_asked(keys):
    before = keys.own("42")
    after = keys.renew("42")
    assert after.path == before.path
    assert (after.public, after.digest) != (before.public, before.digest)


def test_an_id_cannot_lead_out_of_the_directory(keys):
    assert keys.path("../../etc/x").parent == keys._directory


@pytest.mark.parametrize("curve", CURVES, ids=lambda curve: curve.name)
def test_a_given_key_is_used_as_it_is(keys, curve):
    found = keys.give(Secret(openssh(private(9, curve)).decode()))
    assert found.public == public(9, curve)
    assert mode(found.path) == 0o440
    assert found.path.endswith("given.key")


def test_a_dry_look_writes_nothing(keys):
    assert keys.held("42") is None
    keys.give(Secret(openssh(private(9)).decode()), dry=True)
    assert not keys._directory.exists()


@pytest.mark.parametrize("junk", [b"junk", openssh(ed25519.Ed25519PrivateKey.generate())])
def test_a_given_key_that_flower_would_refuse_is_refused_without_being_shown(keys, junk):
    with pytest.raises(AgentError) as caught:
        keys.give(Secret(junk.decode()))
    assert caught.value.finding.code == "enrol.key_invalid"
    assert junk.decode()[40:80] not in str(caught.value) or len(junk) < 40


def test_ssh_keygen_agrees_on_the_fingerprint(keys, tmp_path, missing):
    made = keys.own("42")
    file = tmp_path / "key.pub"
    file.write_text(made.public)
    try:
        done = subprocess.run(
            ["ssh-keygen", "-l", "-f", file], check=True, capture_output=True, text=True
        )
    except FileNotFoundError:
        missing("ssh-keygen")
    assert done.stdout.split()[1] == pem.node_key_fingerprint(made.public)
