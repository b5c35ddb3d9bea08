"""The file tree of an image: a distribution, Docker, the agent, and nothing that must differ.

mmdebstrap makes it (its man page: `--customize-hook` runs with the tree as $1). Files of ours are
copied from contrib/image/files; `clean` removes last what clones must not share.
"""

import pathlib
import shlex
import shutil
import subprocess

from suites import PACKAGES, Suite

FILES = pathlib.Path(__file__).resolve().parent / "files"
MINUTES = 60
LABEL = "flower-root"

COMMAND_LINE = "ro console=tty0 console=ttyS0 net.ifnames=0 biosdevname=0"
"""Names of NICs as one-context's `interfaces` and OpenNebula's own images have them."""

GONE = (
    "etc/ssh/ssh_host_*", "var/lib/dbus/machine-id", "var/lib/systemd/random-seed",
    "var/log/**/*.log", "var/log/apt/*", "var/log/journal/*", "var/cache/apt/*.bin",
    "var/cache/apt/archives/*.deb", "var/lib/apt/lists/*", "var/lib/flower-agent/*", "tmp/*",
    "root/.bash_history",
)  # fmt: skip
"""What two VMs of one image must not share, and what is of no use to any."""


def build(
    tree: pathlib.Path,
    suite: Suite,
    *,
    mirror: str,
    keyring: pathlib.Path,
    packages: tuple[pathlib.Path, ...],
    stand_in: bool,
) -> None:
    """Fill `tree`. `packages` are debs that are installed over the distribution's.

    With `stand_in` a unit of ours does what one-context would (files/stand-in). Raises
    CalledProcessError.
    """
    include = ",".join((*PACKAGES, *suite.network, suite.kernel))
    command = ["mmdebstrap", "--variant=apt", f"--components={suite.components}"]
    command += [f"--keyring={keyring}"]
    command += [f"--include={include}", "--aptopt=Acquire::Retries 3"]
    for package in packages:
        command += [f"--customize-hook=copy-in {shlex.quote(str(package))} /root"]
    if packages:
        names = " ".join(shlex.quote(f"/root/{package.name}") for package in packages)
        install = "DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends"
        command += [f'--customize-hook=chroot "$1" sh -c "{install} {names} && rm {names}"']
    subprocess.run(
        [*command, suite.name, str(tree), mirror],
        check=True,
        timeout=MINUTES * 60,
    )
    shutil.copytree(FILES / "common", tree, dirs_exist_ok=True)
    enable(tree, "flower-image-keys.service", "multi-user.target")
    if stand_in:
        shutil.copytree(FILES / "stand-in", tree, dirs_exist_ok=True)
        enable(tree, "flower-image-context.service", "multi-user.target")
    configure(tree, suite)


def configure(tree: pathlib.Path, suite: Suite) -> None:
    """Write what names the disk, the host and the kernel."""
    (tree / "etc/fstab").write_text(f"LABEL={LABEL} / ext4 errors=remount-ro 0 1\n")
    (tree / "etc/hostname").write_text("flower\n")
    (tree / "etc/hosts").write_text("127.0.0.1 localhost\n127.0.1.1 flower\n::1 localhost\n")
    # flower-proxy.service starts HAProxy where it is needed; the distribution's unit has no use.
    (tree / "etc/systemd/system/multi-user.target.wants/haproxy.service").unlink(missing_ok=True)
    grub = tree / "boot/grub"
    grub.mkdir(parents=True, exist_ok=True)
    (grub / "grub.cfg").write_text(menu(suite))


def menu(suite: Suite) -> str:
    """Return GRUB's menu. It names links that the kernel's packages keep, so it never changes."""
    kernel, initrd = f"{suite.kernel_files}vmlinuz", f"{suite.kernel_files}initrd.img"
    return (
        "set timeout=1\nserial --unit=0 --speed=115200\n"
        "terminal_input console serial\nterminal_output console serial\n"
        f"menuentry '{suite.title[0]} {suite.title[1]}' {{\n"
        f"  linux {kernel} root=LABEL={LABEL} {COMMAND_LINE}\n  initrd {initrd}\n}}\n"
    )


def clean(tree: pathlib.Path) -> None:
    """Remove what no two VMs may share; systemd makes the machine-id at the first boot."""
    for pattern in GONE:
        for path in tree.glob(pattern):
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink()
    (tree / "etc/machine-id").write_text("")


def enable(tree: pathlib.Path, unit: str, target: str) -> None:
    """Do what `systemctl enable` does, without a systemd."""
    wants = tree / f"etc/systemd/system/{target}.wants"
    wants.mkdir(parents=True, exist_ok=True)
    (wants / unit).unlink(missing_ok=True)
    (wants / unit).symlink_to(f"/etc/systemd/system/{unit}")
