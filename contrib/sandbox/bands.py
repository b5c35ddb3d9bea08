#!/usr/bin/env python3
"""The band matrix: one federation for each Flower version, one after another, and a table.

Each is the sandbox's main job with TLS: context files, READY in OneFlow's order, the reference
app's run to its end. ``contrib/sandbox/bands`` calls this.
"""

import argparse
import dataclasses
import pathlib
import re
import shutil
import subprocess
import sys
import time

from federation import REPOSITORY, Federation, SandboxError, only_one

VERSIONS = ("1.29.0", "1.34.0", "1.36.0", "1.39.0", "1.42.0")
"""The newest release of each band."""

BASE_PORT = 29200
NODES = 2
FRAMEWORK = "sklearn"
BUILD_S = 3600
HEAD = (
    "| Flower | connected | run finished | accuracy | ready in s | run in s |",
    "|---|---|---|---|---|---|",
)


@dataclasses.dataclass
class Result:
    """How one version fared."""

    version: str
    connected: int = 0
    finished: bool = False
    accuracy: str = "-"
    ready_s: float = 0.0
    run_s: float = 0.0
    why: str = ""

    @property
    def good(self) -> bool:
        """Return whether every node connected and the run finished."""
        return self.connected == NODES and self.finished

    def __str__(self) -> str:
        finished = "yes" if self.finished else "no"
        return (
            f"| {self.version} | {self.connected} of {NODES} | {finished} | "
            f"{self.accuracy} | {self.ready_s:.0f} | {self.run_s:.0f} |"
        )


def main() -> int:
    """Run every version; return 1 when any fell short."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("versions", nargs="*", default=VERSIONS, metavar="VERSION")
    parser.add_argument("--directory", type=pathlib.Path, default=REPOSITORY / "build" / "bands")
    parser.add_argument("--base-port", type=int, default=BASE_PORT)
    parser.add_argument("--keep-images", action="store_true", help="leave the images that it made")
    options = parser.parse_args()
    results = []
    with only_one(options.directory):
        for version in options.versions:
            before = images()
            results.append(run(version, options.directory.resolve() / version, options.base_port))
            if not options.keep_images:
                remove(version, images() - before)
    print("", *HEAD, *results, sep="\n")
    bad = [result for result in results if not result.good]
    for result in bad:
        print(f"FAILED: Flower {result.version}: {result.why}", file=sys.stderr)
    return 1 if bad else 0


def run(version: str, directory: pathlib.Path, base_port: int) -> Result:
    """Run one federation to the end of its run."""
    result = Result(version)
    print(f"\n== Flower {version}", flush=True)
    federation = Federation(
        directory,
        name=f"bands-{version.replace('.', '-')}",
        base_port=base_port,
        supernodes=NODES,
        variables={"FLOWER_VERSION": version, "ML_FRAMEWORK": FRAMEWORK},
    )
    federation.down()  # what a run that was cut off may have left
    shutil.rmtree(directory, ignore_errors=True)
    try:
        build = [sys.executable, str(REPOSITORY / "contrib/images/build.py")]
        build += ["--flower", version, "--framework", FRAMEWORK]
        subprocess.run(build, check=True, timeout=BUILD_S)
        _measure(federation, result)
    except (SandboxError, OSError, subprocess.SubprocessError) as error:
        result.why = str(error)
        print(f"FAILED: {error}", flush=True)
    finally:
        federation.down()
    return result


def _measure(federation: Federation, result: Result) -> None:
    begin = time.monotonic()
    federation.up()
    result.ready_s = time.monotonic() - begin
    result.connected = federation.connected()
    begin, said = time.monotonic(), []
    for line in federation.submit():
        said.append(line)
        if re.match(r"\s*(round \d|finished:)", line):
            print(f"  {line.strip()}", flush=True)
    result.run_s = time.monotonic() - begin
    ends = [re.search(r"finished: .*accuracy ([\d.]+)", line) for line in said]
    end = next((match for match in ends if match), None)
    if end is None:
        raise SandboxError("the run did not say that it finished:\n" + "\n".join(said[-20:]))
    result.finished, result.accuracy = True, end[1]


def images() -> frozenset[str]:
    """Return the tags that Docker has."""
    command = ["docker", "images", "--format", "{{.Repository}}:{{.Tag}}"]
    done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=60)
    return frozenset(done.stdout.split())


def remove(version: str, tags: frozenset[str]) -> None:
    """Remove that version's images; the tree below them stays for the next one."""
    ours = [t for t in tags if re.match(rf"(flwr|flower-agent)/\w+:{re.escape(version)}(-|$)", t)]
    if ours:
        subprocess.run(["docker", "rmi", *ours], check=False, capture_output=True, timeout=300)


if __name__ == "__main__":
    sys.exit(main())
