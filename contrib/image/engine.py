"""Container images inside a tree, so that a VM needs no network for its first start.

A Docker Engine of its own writes them: with its data below the tree and no network. Docker keeps
layers as directories with extended attributes and devices, which `mke2fs -d` takes over.
"""

import contextlib
import pathlib
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence

START_S, IMAGE_S = 60, 600
DATA = "var/lib/docker"


def load(tree: pathlib.Path, images: Sequence[str]) -> None:
    """Put images of this machine's Docker Engine into the tree. Raises RuntimeError."""
    if not images:
        return
    with _running(tree / DATA) as socket:
        for image in images:
            save = ["docker", "save", image]
            with subprocess.Popen(save, stdout=subprocess.PIPE) as saving:
                command = ["docker", "--host", socket, "load", "--quiet"]
                done = subprocess.run(
                    command, check=False, stdin=saving.stdout, capture_output=True, timeout=IMAGE_S
                )
            if saving.returncode or done.returncode:
                raise RuntimeError(f"{image}: {done.stderr.decode().strip() or 'docker save'}")
    (tree / DATA / "engine-id").unlink(missing_ok=True)  # two VMs must not share it


@contextlib.contextmanager
def _running(data: pathlib.Path) -> Iterator[str]:
    """Yield the address of a Docker Engine that keeps everything in `data`."""
    with tempfile.TemporaryDirectory(prefix="image-engine-") as run:
        socket = f"unix://{run}/docker.sock"
        command = ["dockerd", "--data-root", str(data), "--exec-root", f"{run}/exec"]
        command += ["--pidfile", f"{run}/pid", "--host", socket, "--config-file", f"{run}/none"]
        command += ["--bridge", "none", "--iptables=false", "--ip6tables=false"]
        command += ["--storage-driver", "overlay2"]
        pathlib.Path(run, "none").write_text("{}")
        with pathlib.Path(run, "log").open("wb") as log:
            process = subprocess.Popen(command, stdout=log, stderr=log)
        try:
            _wait(socket, process, pathlib.Path(run, "log"))
            yield socket
        finally:
            process.terminate()
            process.wait(START_S)


def _wait(socket: str, process: "subprocess.Popen[bytes]", log: pathlib.Path) -> None:
    end = time.monotonic() + START_S
    ask = ["docker", "--host", socket, "version"]
    while subprocess.run(ask, check=False, capture_output=True, timeout=START_S).returncode:
        if process.poll() is not None or time.monotonic() > end:
            raise RuntimeError(f"dockerd did not start: {log.read_text()[-500:]}")
        time.sleep(0.2)
