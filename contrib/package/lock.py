#!/usr/bin/env python3
"""Writes lock.txt and gateway-lock.txt: the newest libraries that pyproject.toml allows, by hash.

`contrib/package/lock.py` asks pip for each interpreter and architecture of `targets.py`. All of
them must get the same versions, so that one list serves every package. The gateway's list has what
its extra needs beyond the first one, and asks for the same versions of what both need. With
`--gateway` the first list stays as it is.
"""

import argparse
import hashlib
import pathlib
import re
import tempfile
import tomllib

import libraries
import targets

HEAD = """\
# Written by contrib/package/lock.py: what the packages carry in /usr/lib/flower-agent.
"""

PIN = re.compile(r"^([a-z0-9-]+)==(\S+)", re.MULTILINE)

Locked = dict[str, tuple[str, frozenset[str]]]
"""Version and hashes by name."""


def main() -> None:
    """Resolve, and write both files anew."""
    parser = argparse.ArgumentParser(prog="contrib/package/lock.py", description=__doc__)
    parser.add_argument("--gateway", action="store_true", help="write gateway-lock.txt alone")
    alone = parser.parse_args().gateway
    text = (libraries.HERE.parents[1] / "pyproject.toml").read_text("utf-8")
    project = tomllib.loads(text)["project"]
    if not alone:
        write(libraries.LOCK, resolve(tuple(project["dependencies"])))
    pinned = dict(PIN.findall(libraries.LOCK.read_text("utf-8")))
    exact = tuple(f"{name}=={version}" for name, version in pinned.items())
    both = resolve((*project["optional-dependencies"]["gateway"], *exact))
    write(libraries.GATEWAY_LOCK, {name: both[name] for name in both.keys() - pinned.keys()})


def resolve(wanted: tuple[str, ...]) -> Locked:
    """Return what pip chooses for `wanted`, the same for every target."""
    versions: dict[str, set[str]] = {}
    hashes: dict[str, set[str]] = {}
    with tempfile.TemporaryDirectory() as cache:
        for python in sorted({target.python for target in targets.TARGETS}):
            for machine in targets.ARCHITECTURES.values():
                found = libraries.fetch(pathlib.Path(cache), python, machine, wanted)
                for wheel in found.glob("*.whl"):
                    name, version = wheel.name.split("-")[:2]
                    name = re.sub(r"[-_.]+", "-", name).lower()
                    versions.setdefault(name, set()).add(version)
                    digest = hashlib.sha256(wheel.read_bytes()).hexdigest()
                    hashes.setdefault(name, set()).add(digest)
    several = {name: found for name, found in versions.items() if len(found) > 1}
    if several:
        raise SystemExit(f"no single version for every target: {several}")
    return {name: (versions[name].pop(), frozenset(hashes[name])) for name in versions}


def write(file: pathlib.Path, locked: Locked) -> None:
    """Write one list."""
    rows = (
        f"{name}=={version}" + "".join(f" \\\n    --hash=sha256:{each}" for each in sorted(hashes))
        for name, (version, hashes) in sorted(locked.items())
    )
    file.write_text(HEAD + "\n".join(rows) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
