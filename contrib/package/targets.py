"""The table of targets: what differs between the distributions that get a package.

Package names are those of the distributions' own archives. EL 9 has no Docker Engine; there
`docker-ce` comes from Docker's repository, and podman's shim of the same command is refused.
"""

import dataclasses
import enum


class Form(enum.StrEnum):
    """A package format, as nfpm names it."""

    DEB = "deb"
    RPM = "rpm"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """One distribution release."""

    name: str
    """Of the command line."""

    form: Form
    python: str
    """The minor version of the interpreter, ``/usr/bin/python3.X``."""

    release: str
    """The end of the package's version, so that each is newer than the last distribution's."""

    depends: tuple[str, ...]
    recommends: tuple[str, ...] = ("haproxy", "nftables")
    """haproxy: in front of a SuperLink of Flower 1.40 and later, and for nothing else. nftables:
    for the samples of rules, and so that doctor can list what is in force."""

    suggests: tuple[str, ...] = ("nvidia-container-toolkit",)


_DEBIAN = ("docker.io | docker-ce | moby-engine", "apparmor", "ca-certificates", "git")
_SUSE = ("docker", "ca-certificates-mozilla", "git-core")

TARGETS = (
    Target(
        name="debian12",
        form=Form.DEB,
        python="3.11",
        release="1~debian12",
        depends=("python3.11", *_DEBIAN),
    ),
    Target(
        name="debian13",
        form=Form.DEB,
        python="3.13",
        release="1~debian13",
        depends=("python3.13", *_DEBIAN),
    ),
    Target(
        name="ubuntu24.04",
        form=Form.DEB,
        python="3.12",
        release="1~ubuntu24.04",
        depends=("python3.12", *_DEBIAN),
    ),
    Target(
        name="opensuse15.6",
        form=Form.RPM,
        python="3.11",
        release="1.leap15.6",
        depends=("python311", *_SUSE),
        recommends=("apparmor-parser", "haproxy", "nftables"),
    ),
    Target(
        name="opensuse16",
        form=Form.RPM,
        python="3.13",
        release="1.leap16",
        depends=("python313", *_SUSE),
    ),
    Target(
        name="el9",
        form=Form.RPM,
        python="3.12",
        release="1.el9",
        depends=("python3.12", "docker-ce", "ca-certificates", "git-core"),
    ),
)

ARCHITECTURES = {"amd64": "x86_64", "arm64": "aarch64"}
"""nfpm's (and Debian's) name of each architecture, and that of wheels and rpms."""

CONFLICTS = ("podman-docker",)
"""Answers as `docker` and is not the Docker Engine."""
