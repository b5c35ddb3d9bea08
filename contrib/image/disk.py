"""From a file tree to a QCOW2 that boots with BIOS and with UEFI, without mounting anything.

GPT with three partitions: GRUB's core for BIOS, an EFI system partition, and the root last, so that
it can grow. `mke2fs -d` and mtools fill the file systems; GRUB's `boot.img` and `core.img` are put
where grub-bios-setup would (grub-core/boot/i386/pc/boot.S and diskboot.S: the sector of the core at
0x5c of the first, the sector of its own rest at 0x1f4 of the second).
"""

import pathlib
import subprocess

SECTOR, MIB = 512, 1 << 20
CORE_AT, ESP_AT, ROOT_AT = 1 * MIB, 2 * MIB, 34 * MIB
END = MIB
"""Room for the second table."""

BOOT_CODE = 440
KERNEL_SECTOR_AT, REST_SECTOR_AT = 0x5C, 0x1F4
MODULES = "part_gpt ext2 search search_label normal linux configfile echo serial terminal test"
BIOS, EFI = ("i386-pc", "biosdisk"), ("x86_64-efi", "fat efi_gop")
MINUTES = 30


def write(
    tree: pathlib.Path, output: pathlib.Path, *, size_bytes: int, label: str, work: pathlib.Path
) -> None:
    """Write `output`. `work` is a folder with room for the tree. Raises CalledProcessError."""
    raw = work / "disk.raw"
    with raw.open("wb") as file:
        file.truncate(size_bytes)
    _run(["sfdisk", "--quiet", str(raw)], text=table())
    _root(tree, raw, size_bytes=size_bytes, label=label)
    _esp(raw, label, work)
    _bios(raw, label, work)
    output.parent.mkdir(parents=True, exist_ok=True)
    _run(["qemu-img", "convert", "-c", "-O", "qcow2", str(raw), str(output)])
    raw.unlink()


def table() -> str:
    """Return the partition table as sfdisk takes it."""
    return (
        "label: gpt\n"
        f"start={CORE_AT // SECTOR}, size={(ESP_AT - CORE_AT) // SECTOR}, "
        "type=21686148-6449-6E6F-744E-656564454649\n"
        f"start={ESP_AT // SECTOR}, size={(ROOT_AT - ESP_AT) // SECTOR}, type=U\n"
        f"start={ROOT_AT // SECTOR}, type=L\n"
    )


def core_in_place(boot: bytes, core: bytes) -> tuple[bytes, bytes]:
    """Return boot code and core with the sectors at which they find each other."""
    first = CORE_AT // SECTOR
    code, rest = bytearray(boot[:BOOT_CODE]), bytearray(core)
    code[KERNEL_SECTOR_AT : KERNEL_SECTOR_AT + 8] = first.to_bytes(8, "little")
    rest[REST_SECTOR_AT : REST_SECTOR_AT + 8] = (first + 1).to_bytes(8, "little")
    return bytes(code), bytes(rest)


def _root(tree: pathlib.Path, raw: pathlib.Path, *, size_bytes: int, label: str) -> None:
    blocks = (size_bytes - ROOT_AT - END) // 1024
    command = ["mke2fs", "-q", "-F", "-t", "ext4", "-L", label, "-d", str(tree)]
    _run([*command, "-E", f"offset={ROOT_AT}", str(raw), f"{blocks}k"])


def _esp(raw: pathlib.Path, label: str, work: pathlib.Path) -> None:
    loader, part = work / "BOOTX64.EFI", work / "esp"
    _core(EFI, label, loader, work)
    part.unlink(missing_ok=True)
    _run(["mkfs.vfat", "-n", "EFI", "-C", str(part), str((ROOT_AT - ESP_AT) // 1024)])
    _run(["mmd", "-i", str(part), "::/EFI", "::/EFI/BOOT"])
    _run(["mcopy", "-i", str(part), str(loader), "::/EFI/BOOT/BOOTX64.EFI"])
    _put(raw, ESP_AT, part.read_bytes())


def _bios(raw: pathlib.Path, label: str, work: pathlib.Path) -> None:
    core = work / "core.img"
    _core(BIOS, label, core, work)
    boot = pathlib.Path("/usr/lib/grub/i386-pc/boot.img").read_bytes()
    code, rest = core_in_place(boot, core.read_bytes())
    if len(rest) > ESP_AT - CORE_AT:
        raise ValueError(f"GRUB's core has {len(rest)} bytes, more than its partition")
    _put(raw, 0, code)
    _put(raw, CORE_AT, rest)


def _core(kind: tuple[str, str], label: str, output: pathlib.Path, work: pathlib.Path) -> None:
    """Make a GRUB that finds the file system with `label` and reads its menu there."""
    early = work / "early.cfg"
    early.write_text(f"search --set=root --label {label}\nconfigfile /boot/grub/grub.cfg\n")
    platform, more = kind
    command = ["grub-mkimage", "-O", platform, "-p", "/boot/grub", "-c", str(early)]
    _run([*command, "-o", str(output), *MODULES.split(), *more.split()])


def _put(raw: pathlib.Path, at: int, data: bytes) -> None:
    with raw.open("r+b") as file:
        file.seek(at)
        file.write(data)


def _run(command: list[str], *, text: str | None = None) -> None:
    done = subprocess.run(
        command, check=False, capture_output=True, text=True, input=text, timeout=MINUTES * 60
    )
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}: {(done.stderr or done.stdout).strip()}")
