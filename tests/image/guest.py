"""A QEMU virtual machine without KVM that tests can look into.

Commands run in the guest through qemu-guest-agent (its `guest-exec`, QEMU's qga/qapi-schema.json);
the CD is changed through QMP. The image's disk is an overlay, so that it stays as it was built.
"""

import base64
import json
import pathlib
import shutil
import socket
import subprocess
import time

PATIENCE_S = 900
"""For the first answer of a guest too, on a busy machine."""


class Guest:
    """A VM from power on; `close` ends it."""

    def __init__(self, image, directory, *, firmware="bios", memory_mib=2048):
        self.directory = directory
        self.console = directory / "console.log"
        self._agent, self._monitor = directory / "agent.sock", directory / "monitor.sock"
        disk = directory / "disk.qcow2"
        base = ["-F", "qcow2", "-b", str(pathlib.Path(image).resolve())]
        subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", *base, str(disk)], check=True)
        channel = f"socket,path={self._agent},server=on,wait=off,id=agent"
        command = ["qemu-system-x86_64", "-accel", "tcg", "-cpu", "max", "-m", str(memory_mib)]
        command += ["-smp", "2", "-display", "none", "-serial", f"file:{self.console}"]
        command += ["-drive", f"file={disk},if=virtio", "-device", "virtio-rng-pci"]
        command += ["-netdev", "user,id=net,restrict=on", "-device", "virtio-net-pci,netdev=net"]
        command += ["-chardev", channel, "-device", "virtio-serial"]
        command += ["-device", "virtserialport,chardev=agent,name=org.qemu.guest_agent.0"]
        command += ["-qmp", f"unix:{self._monitor},server=on,wait=off"]
        command += ["-cdrom", str(directory / "context.iso")]
        if firmware == "uefi":
            # As OpenNebula's GPU template has it; the code is read-only, the variables are kept.
            shutil.copy("/usr/share/OVMF/OVMF_VARS_4M.fd", directory / "vars.fd")
            flash = "if=pflash,format=raw"
            command += ["-machine", "q35", "-drive", f"{flash},file={directory / 'vars.fd'},unit=1"]
            code = "/usr/share/OVMF/OVMF_CODE_4M.fd"
            command += ["-drive", f"{flash},readonly=on,file={code},unit=0"]
        self._process = subprocess.Popen(command)
        self.began = time.monotonic()

    def close(self):
        self._process.kill()
        self._process.wait()

    def wait_off(self, timeout_s=PATIENCE_S):
        """Wait until the VM has powered itself off; return QEMU's exit code."""
        return self._process.wait(timeout_s)

    def run(self, *command):
        """Run a command in the guest and return its exit code and what it printed."""
        given = {"path": command[0], "arg": [*command[1:]], "capture-output": True}
        pid = self.ask("guest-exec", given)["pid"]
        end = time.monotonic() + PATIENCE_S
        while True:
            found = self.ask("guest-exec-status", {"pid": pid})
            if found["exited"]:
                break
            assert time.monotonic() < end, f"no end: {command}"
            time.sleep(1)
        texts = (found.get(name, "") for name in ("out-data", "err-data"))
        text = "".join(base64.b64decode(data).decode("utf-8", "replace") for data in texts)
        return found.get("exitcode", -1), text

    def ask(self, command, arguments=None):
        """Ask the guest's agent; a command that the guest is not up for yet is asked again."""
        end = time.monotonic() + PATIENCE_S
        while True:
            assert self._process.poll() is None, "the VM has ended"
            assert time.monotonic() < end, f"no answer to {command}"
            try:
                return self._exchange(self._agent, command, arguments)
            except (OSError, ValueError):
                time.sleep(1)

    def change_cd(self, iso):
        """Put another CONTEXT CD in, as `onevm updateconf` does."""
        wanted = {"device": "ide1-cd0", "filename": str(iso), "force": True}
        for _ in range(20):
            if "error" not in self._monitored("blockdev-change-medium", wanted):
                return
            time.sleep(1)
        raise AssertionError("the tray stays locked")

    def _exchange(self, path, command, arguments):
        request = {"execute": command, **({"arguments": arguments} if arguments else {})}
        with socket.socket(socket.AF_UNIX) as channel:
            channel.settimeout(10)
            channel.connect(str(path))
            channel.sendall(json.dumps(request).encode() + b"\n")
            answer = json.loads(channel.makefile().readline())
        if "return" not in answer:
            raise ValueError(answer)
        return answer["return"]

    def _monitored(self, command, arguments):
        with socket.socket(socket.AF_UNIX) as channel:
            channel.settimeout(10)
            channel.connect(str(self._monitor))
            lines = channel.makefile()
            lines.readline()
            for name, given in (("qmp_capabilities", None), (command, arguments)):
                request = {"execute": name, **({"arguments": given} if given else {})}
                channel.sendall(json.dumps(request).encode() + b"\n")
                answer = json.loads(lines.readline())
                while "event" in answer:
                    answer = json.loads(lines.readline())
        return answer


def write_context(directory, variables):
    """Write `directory`/context.iso with a context.sh of these variables; return its path."""
    content = directory / "context"
    content.mkdir(exist_ok=True)
    text = "".join(f"{name}='{value}'\n" for name, value in sorted(variables.items()))
    (content / "context.sh").write_text(f"# Context variables generated by OpenNebula\n{text}")
    iso = directory / "context.iso"
    new = directory / "context.new"
    command = ["genisoimage", "-quiet", "-V", "CONTEXT", "-J", "-R", "-o", str(new), str(content)]
    subprocess.run(command, check=True)
    new.replace(iso)
    return iso
