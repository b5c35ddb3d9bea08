"""apt itself finds what each deb depends on, in an archive of its distribution alone."""

import re
import subprocess

import pytest

pytestmark = pytest.mark.long

DEBIAN, UBUNTU = "http://deb.debian.org/debian", "http://archive.ubuntu.com/ubuntu"
ARCHIVES = {
    "debian12": f"{DEBIAN} bookworm main",
    "debian13": f"{DEBIAN} trixie main",
    "ubuntu24.04": f"{UBUNTU} noble main universe",
}
PAIRS = [(name, "amd64") for name in ARCHIVES] + [("debian12", "arm64"), ("debian13", "arm64")]
"""Ubuntu has its arm64 packages in another archive."""


@pytest.fixture
def apt(tmp_path):
    """Runs apt-get on a machine that has nothing installed, with one archive."""

    def run(archive, architecture, *arguments):
        for name in ("lists/partial", "archives/partial"):
            (tmp_path / name).mkdir(parents=True, exist_ok=True)
        (tmp_path / "status").touch()
        # Its signature is not what is tested, and this machine may lack the distribution's keys.
        (tmp_path / "sources.list").write_text(f"deb [trusted=yes] {archive}\n")
        options = {
            "APT::Architecture": architecture,
            "APT::Architectures": architecture,
            "Dir::Etc::sourcelist": tmp_path / "sources.list",
            "Dir::Etc::sourceparts": "-",
            "Dir::State": tmp_path,
            "Dir::State::status": tmp_path / "status",
            "Dir::Cache": tmp_path,
        }
        command = ["apt-get", "-q", *(f"-o{name}={value}" for name, value in options.items())]
        done = subprocess.run(
            [*command, *arguments], check=False, capture_output=True, text=True, timeout=300
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    return run


@pytest.mark.parametrize(("name", "architecture"), PAIRS)
def test_a_distribution_has_all_that_its_deb_depends_on(name, architecture, make, apt):
    deb = make(name, architecture=architecture)
    apt(ARCHIVES[name], architecture, "update")
    told = apt(ARCHIVES[name], architecture, "--simulate", "install", str(deb))
    chosen = set(re.findall(r"^Inst (\S+)", told, re.MULTILINE))
    assert {"flower-agent", "docker.io", "apparmor", "git", "systemd"} <= chosen
    assert "podman-docker" not in chosen
