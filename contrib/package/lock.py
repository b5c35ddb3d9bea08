#!/usr/bin/env python3
"""Writes lock.txt: the newest libraries that pyproject.toml allows, with the hash of every wheel.

`contrib/package/lock.py` asks pip for each interpreter and architecture of `targets.py`. All of
them must get the same versions, so that one list serves every package.
"""

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


def main() -> None:
    """Resolve, and write the file anew."""
    project = tomllib.loads((libraries.HERE.parents[1] / "pyproject.toml").read_text("utf-8"))
    versions: dict[str, set[str]] = {}
    hashes: dict[str, set[str]] = {}
    with tempfile.TemporaryDirectory() as cache:
        for python in sorted({target.python for target in targets.TARGETS}):
            for machine in targets.ARCHITECTURES.values():
                wanted = tuple(project["project"]["dependencies"])
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
    rows = (
        f"{name}=={versions[name].copy().pop()}"
        + "".join(f" \\\n    --hash=sha256:{digest}" for digest in sorted(hashes[name]))
        for name in sorted(versions)
    )
    libraries.LOCK.write_text(HEAD + "\n".join(rows) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
