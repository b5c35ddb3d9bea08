"""Builds the packages: every target and architecture, or those that are named.

The same checkout gives the same bytes: dates come from SOURCE_DATE_EPOCH, or the last commit;
libraries from `lock.txt`; nothing of the machine goes in.
"""

import argparse
import json
import os
import pathlib
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

import libraries  # noqa: E402
import payload  # noqa: E402
from targets import ARCHITECTURES, TARGETS, Form, Target  # noqa: E402

CACHE = ROOT / "build" / "package"
PACK_S = 1800
"""nfpm computes for seconds; a machine that emulates a VM at its side has let it wait minutes."""


def main() -> None:
    """Build what the command line names."""
    options = _options()
    nfpm = libraries.tool(CACHE)
    chosen = [t for t in TARGETS if not options.target or t.name in options.target]
    for architecture in options.arch or ARCHITECTURES:
        for target in chosen:
            print(build(nfpm, target, architecture, options.out), flush=True)


def build(
    nfpm: pathlib.Path,
    target: Target,
    architecture: str,
    out: pathlib.Path,
    source: payload.Source | None = None,
) -> pathlib.Path:
    """Build one package into `out` and return its path."""
    source = source or find_source()
    interpreter = target.python, ARCHITECTURES[architecture]
    fetched = libraries.kept(CACHE / "wheels", *interpreter, libraries.LOCK)
    more = libraries.kept(CACHE / "gateway-wheels", *interpreter, libraries.GATEWAY_LOCK)
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="flower-agent-package-") as name:
        work = pathlib.Path(name)
        libraries.unpack(fetched, work / "libraries")
        libraries.unpack(more, work / "gateway-lib")
        described = payload.describe(target, architecture, work / "libraries", work, source)
        description = work / "nfpm.json"
        description.write_text(json.dumps(described, indent=1), "utf-8")
        form = Form(target.form).value
        file = out / _file_name(target, architecture)
        command = [nfpm, "package", f"--config={description}", f"--packager={form}"]
        environment = {**os.environ, "SOURCE_DATE_EPOCH": str(source.epoch), "TZ": "UTC"}
        done = subprocess.run(
            [*command, f"--target={file}"],
            check=False,
            env=environment,
            timeout=PACK_S,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        if done.returncode != 0:
            raise SystemExit(f"nfpm makes no {file.name}: {done.stdout.strip()}")
    return file


def find_source() -> payload.Source:
    """Return what is packaged, from git and the environment."""
    commit = payload.git("rev-parse", "HEAD") or "unknown"
    if payload.git("status", "--porcelain", "--", "flower_agent", "contrib", "systemd", "docs"):
        commit += "-changed"
    epoch = os.environ.get("SOURCE_DATE_EPOCH") or payload.git("log", "-1", "--format=%ct")
    author = payload.git("log", "-1", "--format=%an <%ae>") or "flower-agent <root@localhost>"
    maintainer = os.environ.get("FLOWER_AGENT_MAINTAINER") or author
    return payload.Source(commit, int(epoch or 1767225600), maintainer)


def _file_name(target: Target, architecture: str) -> str:
    version = f"{payload.__version__}-{target.release}"
    if target.form is Form.DEB:
        return f"{payload.NAME}_{version}_{architecture}.deb"
    return f"{payload.NAME}-{version}.{ARCHITECTURES[architecture]}.rpm"


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="contrib/package/build", description=__doc__)
    names = [target.name for target in TARGETS]
    parser.add_argument("target", nargs="*", metavar="TARGET", help=", ".join(names))
    parser.add_argument("--arch", action="append", choices=ARCHITECTURES, help="all")
    parser.add_argument("--out", type=pathlib.Path, default=ROOT / "dist", help="dist")
    options = parser.parse_args()
    if unknown := set(options.target) - set(names):
        parser.error(f"no such target: {', '.join(sorted(unknown))}; there are {', '.join(names)}")
    return options


if __name__ == "__main__":
    main()
