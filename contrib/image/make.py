#!/usr/bin/env python3
"""Build a QCOW2 for OpenNebula: Debian or Ubuntu with Docker, flower-agent and Flower's images.

Needs root and network for the distribution's packages; contrib/image/build installs the tools.
"""

import argparse
import pathlib
import subprocess
import sys
import tempfile

import archive_keys
import disk
import engine
import file_tree
import suites

REPOSITORY = pathlib.Path(__file__).resolve().parents[2]
GIB = 1 << 30
PACKAGE_S = 3600


def main() -> int:
    """Build it, tell its sizes, return the exit code."""
    options = parser().parse_args()
    suite = suites.SUITES[options.suite]
    output = (options.output or REPOSITORY / f"dist/flower-{suite.name}.qcow2").resolve()
    try:
        with tempfile.TemporaryDirectory(dir=options.work, prefix="image-") as work:
            root = pathlib.Path(work) / "tree"
            mirror = options.mirror or suite.mirror
            debs = options.deb or package(suite, pathlib.Path(work) / "package")
            given = tuple(path.resolve() for path in (*debs, options.one_context) if path)
            file_tree.build(
                root,
                suite,
                mirror=mirror,
                keyring=archive_keys.find(suite, mirror, pathlib.Path(work)),
                packages=given,
                stand_in=options.one_context is None,
            )
            engine.bake(root, options.image, bake_arguments(options))
            file_tree.clean(root)
            size = int(options.size * GIB)
            disk.write(
                root, output, size_bytes=size, label=file_tree.LABEL, work=pathlib.Path(work)
            )
            files = subprocess.run(["du", "-sxB1", str(root)], check=True, capture_output=True)
            used = int(files.stdout.split()[0])
    except (OSError, RuntimeError, ValueError, subprocess.SubprocessError) as error:
        print(f"FAILED: {error}", file=sys.stderr)
        return 1
    print(f"{output}")
    print(f"  virtual {size / GIB:.1f} GiB, files {used / GIB:.2f} GiB,", end=" ")
    print(f"compressed {output.stat().st_size / GIB:.2f} GiB")
    if options.one_context is None:
        print("  no one-context: a stand-in of ours reads the CONTEXT; for tests only")
    return 0


def package(suite: suites.Suite, output: pathlib.Path) -> list[pathlib.Path]:
    """Build the agent's package for `suite` and return it. Raises CalledProcessError."""
    command = [REPOSITORY / "contrib/package/build", suite.target, "--arch", "amd64"]
    subprocess.run([*map(str, command), "--out", str(output)], check=True, timeout=PACKAGE_S)
    return sorted(output.glob("*.deb"))


def bake_arguments(options: argparse.Namespace) -> list[str]:
    """Return what of the command line is for `flower-agent bake`."""
    rows = {"--flower": options.flower, "--wheels": options.wheels}
    given = [word for name, text in rows.items() if text for word in (name, str(text))]
    return [*given, *(["--framework", *options.framework] if options.framework else [])]


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    made = argparse.ArgumentParser(description=__doc__)
    made.add_argument("--suite", choices=sorted(suites.SUITES), default="bookworm")
    made.add_argument(
        "--deb",
        type=pathlib.Path,
        action="append",
        default=[],
        help="the agent's package (default: built from this checkout)",
    )
    made.add_argument("--one-context", type=pathlib.Path, help="OpenNebula's package, a deb")
    made.add_argument("--flower", help="version or tag of Flower, as flower-agent bake takes it")
    made.add_argument("--framework", nargs="*", default=[], help="SuperExec images to make, too")
    made.add_argument("--wheels", type=pathlib.Path, help="folder of wheels to look into first")
    made.add_argument(
        "--image",
        action="append",
        default=[],
        help="take it from this machine's Docker and not from the registry",
    )
    made.add_argument("--size", type=float, default=10.0, help="GiB (default %(default)s)")
    made.add_argument("--mirror", help="of the distribution, when not its own")
    made.add_argument("--output", type=pathlib.Path)
    made.add_argument("--work", type=pathlib.Path, help="folder with room for twice the files")
    return made


if __name__ == "__main__":
    sys.exit(main())
