"""What differs between the distributions that an image is made of: one table. Pure.

openSUSE is not here: mmdebstrap makes Debian's and Ubuntu's trees only (docs/image.md).
"""

import dataclasses


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Suite:
    """One release of a distribution."""

    name: str
    title: tuple[str, str]
    """Name and release, as the Marketplace shows them."""

    target: str
    """Which of the agent's packages fits."""

    mirror: str
    keyring: str
    """Of the keys that sign the mirror's archive; both distributions have it at the same place."""

    keyring_package: tuple[str, str] = ("", "")
    """Where the mirror has the deb with it, and its SHA-256, for machines without."""

    components: str
    kernel: str
    """With AHCI and IDE: OpenNebula's CONTEXT CD hangs on one of them, and the cloud kernel of
    Debian has neither."""

    kernel_files: str
    """Where the links to the newest kernel and initrd are."""

    network: tuple[str, ...]
    netcfg: str
    """NETCFG_TYPE for it."""


SUITES = {
    suite.name: suite
    for suite in (
        Suite(
            name="bookworm",
            title=("Debian", "12"),
            target="debian12",
            mirror="http://deb.debian.org/debian",
            keyring="/usr/share/keyrings/debian-archive-keyring.gpg",
            components="main",
            kernel="linux-image-amd64",
            kernel_files="/",
            network=("ifupdown", "isc-dhcp-client"),
            netcfg="interfaces",
        ),
        Suite(
            name="noble",
            title=("Ubuntu", "24.04"),
            target="ubuntu24.04",
            mirror="http://archive.ubuntu.com/ubuntu",
            keyring="/usr/share/keyrings/ubuntu-archive-keyring.gpg",
            keyring_package=(
                "pool/main/u/ubuntu-keyring/ubuntu-keyring_2023.11.28.1_all.deb",
                "36de43b15853ccae0028e9a767613770c704833f82586f28eb262f0311adb8a8",
            ),
            components="main,universe",
            kernel="linux-image-generic",
            kernel_files="/boot/",
            network=("netplan.io",),
            netcfg="netplan",
        ),
    )
}

PACKAGES = (
    "apparmor", "ca-certificates", "cloud-guest-utils", "curl", "dbus", "docker.io", "e2fsprogs",
    "haproxy", "initramfs-tools", "iproute2", "kmod", "less", "needrestart", "openssh-server",
    "parted", "qemu-guest-agent", "sudo", "systemd-sysv", "udev", "unattended-upgrades",
)  # fmt: skip
"""For every suite. Docker only recommends apparmor, and without it `docker run` fails on a kernel
that has AppArmor on. haproxy: a SuperLink of Flower 1.40 and later needs it."""
