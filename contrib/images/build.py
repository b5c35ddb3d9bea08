#!/usr/bin/env python3
"""Make sure that Flower's container images are on this machine, with or without a registry.

Where a registry answers, the images are pulled. Where none does, stand-ins are built from PyPI's
`flwr` in the official layout (flwrlabs/flower, framework/docker: user `app` with uid 49999, home
and workdir /app, venv /python/venv first on PATH, exec-form ENTRYPOINT), on a tree of this
machine's own distribution; so its Python may be another than the tag says. Stand-ins carry the
label `org.flower-agent.built-from=pypi`. Needs root, python3, apt and a Docker Engine here; with
--framework also flower-agent's libraries, since `flower-agent bake` makes that image.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import pathlib
import re
import select
import signal
import subprocess
import sys
from typing import NoReturn

import system
import wheels
from programs import STEP_S, BuildError, call, present, step

REPOSITORY = pathlib.Path(__file__).resolve().parents[2]
BUILD = REPOSITORY / "build"
LABEL = "org.flower-agent.built-from=pypi"
FRAMEWORKS = ("sklearn", "pytorch", "pytorch-cuda", "tensorflow", "tensorflow-cuda")
REGISTRY_ANSWER_S = 20

BASE_DOCKERFILE = r"""
FROM {parent}
ARG WHEELS
ENV PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 PYTHONIOENCODING=UTF-8 LANG=C.UTF-8 LC_ALL=C.UTF-8
RUN groupadd --gid 49999 app \
 && useradd --no-create-home --home-dir /app --uid 49999 --gid 49999 app \
 && install -d -o app -g app /app /python
WORKDIR /app
USER app
ENV HOME=/app PATH=/python/venv/bin:$PATH
RUN python3 -m venv --without-pip /python/venv \
 && python -c "import urllib.request as u; u.urlretrieve('$WHEELS/{pip}', '/tmp/pip.whl')" \
 && python /tmp/pip.whl/pip install --no-cache-dir --compile --ignore-installed --no-index \
      --no-deps --find-links $WHEELS/ -r $WHEELS/requirements.txt \
 && rm /tmp/pip.whl
"""
COMPONENT_DOCKERFILE = r"""
FROM {parent}
ENTRYPOINT ["flower-{component}"]
"""


def main() -> None:
    """Read the command line, take the lock, and say in one sentence what went wrong."""
    parser = argparse.ArgumentParser(description="Make Flower's images present on this machine.")
    parser.add_argument("--flower", required=True, metavar="X.Y.Z", help="Flower version")
    parser.add_argument("--framework", choices=FRAMEWORKS, help="add its superexec image")
    parser.add_argument("--force", action="store_true", help="pull or build what is present, too")
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, stop)
    try:
        flower = parse_version(arguments.flower)
        BUILD.mkdir(exist_ok=True)
        with (BUILD / "images.lock").open("w") as lock:
            wait_for(lock.fileno())
            ensure(flower, arguments.framework, force=arguments.force)
    except BuildError as error:
        sys.exit(f"build.py: {error}")
    except OSError as error:
        sys.exit(f"build.py: {error}: run this as root, on a disk with some GB to spare")
    except KeyboardInterrupt:
        sys.exit("build.py: interrupted; nothing unfinished was tagged, so call it again")


def stop(number: int, _frame: object) -> NoReturn:
    """End on a signal as on Ctrl-C, so that temporary trees and child processes go."""
    raise KeyboardInterrupt(number)


def ensure(flower: str, framework: str | None, *, force: bool) -> None:
    """Pull or build every image that is asked for and not present."""
    if call(["docker", "version"], check=False, timeout_s=20).returncode:
        raise BuildError("no Docker Engine answers: run contrib/sandbox/engine.sh first")
    images = official(flower)
    absent = {name: image for name, image in images.items() if force or not present(image)}
    missing = pull(absent)
    if missing:
        build_components(flower, missing, force=force)
    if framework:
        bake(flower, framework)
        images[framework] = f"flower-agent/superexec:{flower}-{framework}"
    if missing:
        prune()
    for image in images.values():
        print(f"present: {image}")


def parse_version(text: str) -> str:
    """Return the version, or raise BuildError where upstream has no superexec image for it."""
    if not re.fullmatch(r"\d+\.\d+\.\d+", text):
        raise BuildError(f"--flower is {text!r}: want a version like 1.25.0")
    if release(text) < (1, 21):
        raise BuildError(f"--flower is {text!r}: superexec images exist from 1.21.0 on")
    return text


def release(flower: str) -> tuple[int, ...]:
    """Return major and minor as numbers."""
    return tuple(int(part) for part in flower.split(".")[:2])


def official(flower: str) -> dict[str, str]:
    """Return component → upstream's tag on Ubuntu 24.04 with that release's default Python."""
    python = "3.13" if release(flower) >= (1, 24) else "3.12"
    suffix = f"{flower}-py{python}-ubuntu24.04"
    return {
        "superlink": f"flwr/superlink:{suffix}",
        "supernode": f"flwr/supernode:{suffix}",
        "superexec": f"flwr/superexec:{flower}",
    }


def wait_for(lock: int) -> None:
    """Take the lock, so that two calls at once do the work once."""
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        with step("waiting for another build.py"):
            fcntl.flock(lock, fcntl.LOCK_EX)


def pull(images: dict[str, str]) -> dict[str, str]:
    """Pull the images in turn up to the first that fails; return those left to build."""
    left = dict(images)
    for component, image in images.items():
        with step(f"pulling {image}"):
            failure = pull_one(image)
        if failure:
            print(f"  not pulled ({failure}): building from PyPI instead")
            break
        del left[component]
    return left


def pull_one(image: str) -> str:
    """Pull one image and return why that failed, or an empty string.

    `docker pull` is silent until the registry has answered with the manifest, so a first line
    within REGISTRY_ANSWER_S tells a slow download from a registry that will never answer.
    """
    command = ["docker", "pull", image]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        try:
            if not select.select([process.stdout], [], [], REGISTRY_ANSWER_S)[0]:
                return f"no answer in {REGISTRY_ANSWER_S} s"
            output, _ = process.communicate(timeout=STEP_S)
        except subprocess.TimeoutExpired:
            return f"not finished in {STEP_S} s"
        finally:
            process.kill()
    return output.strip().splitlines()[-1] if process.returncode else ""


def build_components(flower: str, missing: dict[str, str], *, force: bool) -> None:
    """Build the base image and, on it, the missing component images."""
    base = f"flower-agent/base:{flower}"
    if force or not present(base):
        parent = system.ensure(BUILD, LABEL, force=force)
        fetched = wheels.download((f"flwr=={flower}", "pip"), python_of(parent), BUILD)
        pip = next(fetched.glob("pip-*.whl")).name
        docker_build(base, BASE_DOCKERFILE.format(parent=parent, pip=pip), fetched)
    for component, image in missing.items():
        docker_build(image, COMPONENT_DOCKERFILE.format(parent=base, component=component))


def bake(flower: str, framework: str) -> None:
    """Let flower-agent make the framework's image, as on an image builder's machine."""
    command = [sys.executable, "-m", "flower_agent", "--root", str(BUILD / "bake"), "bake"]
    with step(f"flower-agent bake --framework {framework}"):
        call([*command, "--flower", flower, "--framework", framework], cwd=REPOSITORY)


def prune() -> None:
    """Remove the stand-ins that a later build took the tag from, unless a container uses them."""
    call(["docker", "image", "prune", "--force", "--filter", f"label={LABEL}"])


def docker_build(image: str, dockerfile: str, fetched: pathlib.Path | None = None) -> None:
    """Build and tag one image; the wheels reach the build over loopback and leave no layer.

    The classic builder is asked for because it needs no plugin; the build's own pip gets no
    index, so nothing of the host's pip settings enters the image.
    """
    command = ["docker", "build", "--network", "host", "--force-rm", "--label", LABEL]
    with step(f"building {image}"), contextlib.ExitStack() as stack:
        if fetched:
            url = stack.enter_context(wheels.served(fetched))
            command += ["--build-arg", f"WHEELS={url}"]
            command += ["--build-arg", "no_proxy=127.0.0.1", "--build-arg", "NO_PROXY=127.0.0.1"]
        call(
            [*command, "--tag", image, "-"], stdin=dockerfile, environment={"DOCKER_BUILDKIT": "0"}
        )


def python_of(image: str) -> str:
    """Return the minor version of the image's Python, like 3.11."""
    show = "import sys; print('%d.%d' % sys.version_info[:2])"
    command = ["docker", "run", "--rm", "--network", "none", "--entrypoint", "python3", image]
    return call([*command, "-c", show], timeout_s=60).stdout.strip()


if __name__ == "__main__":
    main()
