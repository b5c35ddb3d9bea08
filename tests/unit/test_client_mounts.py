"""How mounts reach Docker: as mounts, and under SELinux as binds that it relabels."""

import pytest

from flower_agent.config import flower_versions
from flower_agent.docker import client
from flower_agent.docker.client import Engine
from flower_agent.docker.containers import Mount
from flower_agent.model.errors import AgentError


class Api:
    """An Engine that tells how it confines containers."""

    def __init__(self, *options):
        self.options, self.asked = list(options), 0

    def info(self):
        self.asked += 1
        return {"SecurityOptions": self.options}


@pytest.fixture
def mounts(tmp_path):
    key, runs = tmp_path / "server.key", tmp_path / "runs"
    key.write_text("")
    runs.mkdir()
    return (
        Mount(str(key), "/app/server.key"),
        Mount(str(runs), "/app/runs", read_only=False),
        Mount("/srv/data", flower_versions.DATA, propagation="rslave"),
        Mount("flower-data", "/app/volume", volume=(("type", "nfs"),)),
    )


def targets(found):
    return [mount["Target"] for mount in found["mounts"]]


def test_under_selinux_the_agents_own_places_are_relabelled_and_the_operators_data_are_not(mounts):
    found = client.bindings(mounts, "default", relabels=True)
    key, runs, *_ = mounts
    assert found["binds"] == [
        f"{key.source}:/app/server.key:ro,rprivate,z",
        f"{runs.source}:/app/runs:rw,rprivate,z",
    ]
    assert targets(found) == [flower_versions.DATA, "/app/volume"]


def test_without_selinux_all_are_mounts_which_docker_never_makes(mounts):
    found = client.bindings(mounts, "default", relabels=False)
    assert found["binds"] is None
    assert targets(found) == [mount.target for mount in mounts]


def test_docker_is_not_left_to_make_a_file_that_is_gone_as_a_directory(tmp_path):
    gone = Mount(str(tmp_path / "ca.crt"), "/app/ca.crt")
    with pytest.raises(AgentError, match=r"ca\.crt does not exist") as caught:
        client.bindings((gone,), "default", relabels=True)
    assert caught.value.retryable


@pytest.mark.parametrize(
    ("options", "kernel", "expected"),
    [
        (("name=seccomp,profile=builtin", "name=selinux"), True, True),
        (("name=seccomp,profile=builtin",), True, False),
        ((), True, False),
        (("name=selinux",), False, False),
    ],
)
def test_docker_is_asked_once_and_only_where_the_kernel_has_selinux(
    tmp_path, mounts, options, kernel, expected
):
    enforce, api = tmp_path / "enforce", Api(*options)
    if kernel:
        enforce.write_text("1")
    found = Engine("default", enforce=enforce)
    for _ in range(2):
        assert (found.bindings(api, mounts)["binds"] is not None) is expected
    assert api.asked == int(kernel)
