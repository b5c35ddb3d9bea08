"""Container images inside a tree, so that a VM needs no network for its first start.

A Docker Engine of its own, with its data below the tree, holds them; `flower-agent bake` of this
checkout fills it and pins what it holds in the tree's images.lock. Docker keeps layers as
directories with extended attributes and devices, which `mke2fs -d` takes over.
"""

import contextlib
import os
import pathlib
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence

START_S, IMAGE_S, BAKE_S = 300, 1800, 4 * 3600
DATA = "var/lib/docker"
AGENT = pathlib.Path(sys.executable).with_name("flower-agent")


def bake(tree: pathlib.Path, images: Sequence[str], arguments: Sequence[str]) -> None:
    """Put Flower's images into the tree and pin them there.

    `images` come from this machine's Docker Engine, what else it takes from the registry;
    `arguments` are those of ``flower-agent bake``. Raises RuntimeError.
    """
    with running(tree / DATA) as socket:
        for image in images:
            _copy(image, socket)
        ours = {"FLOWER_AGENT_ROOT", "FLOWER_AGENT_NAME"}
        inherited = {name: text for name, text in os.environ.items() if name not in ours}
        command = [str(AGENT), "--root", str(tree), "bake", *arguments]
        done = subprocess.run(
            command, check=False, env={**inherited, "DOCKER_HOST": socket}, timeout=BAKE_S
        )
    if done.returncode:
        raise RuntimeError("flower-agent bake could not bring all images into the tree")
    (tree / DATA / "engine-id").unlink(missing_ok=True)  # two VMs must not share it


def _copy(image: str, socket: str) -> None:
    with subprocess.Popen(["docker", "save", image], stdout=subprocess.PIPE) as saving:
        command = ["docker", "--host", socket, "load", "--quiet"]
        done = subprocess.run(
            command, check=False, stdin=saving.stdout, capture_output=True, timeout=IMAGE_S
        )
    if saving.returncode or done.returncode:
        raise RuntimeError(f"{image}: {done.stderr.decode().strip() or 'docker save'}")


@contextlib.contextmanager
def running(data: pathlib.Path) -> Iterator[str]:
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
