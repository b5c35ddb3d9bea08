"""What a package holds: every file with its place and mode, and the description for nfpm.

nfpm reads YAML, of which JSON is a part; its fields: https://nfpm.goreleaser.com/configuration/.
"""

import dataclasses
import datetime
import email.parser
import gzip
import json
import pathlib
import shutil
import subprocess
from collections.abc import Iterator
from typing import Any

import manual
from targets import CONFLICTS, Form, Target

from flower_agent import __version__
from flower_agent.config import flower_versions

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parents[1]
NAME = "flower-agent"
LIBRARY = "/usr/lib/flower-agent"
GATEWAY = "gateway-lib"
"""Libraries that only the gateway's launcher has on its path."""

DOCS = "/usr/share/doc/flower-agent"
UNITS = "/usr/lib/systemd/system"
SUMMARY = "Flower federated learning role of an OpenNebula VM"
DESCRIPTION = f"""\
{SUMMARY}
Reads OpenNebula's context at boot, decides what this VM is, starts the pinned
Flower containers with TLS, watches that they work, and reports over OneGate.
"""
GLIBC = {Form.DEB: "libc6 (>= 2.34)", Form.RPM: "glibc >= 2.34"}
"""What the oldest wheels of `libraries.GLIBC` that are taken ask for."""


@dataclasses.dataclass(frozen=True, slots=True)
class Source:
    """What is packaged, and when it was made."""

    commit: str
    """Its hash; ``-changed`` behind it where the checkout differs."""

    epoch: int
    """SOURCE_DATE_EPOCH: seconds since 1970 of every file but the units."""

    maintainer: str


class Payload:
    """Collects files in `work` and their entries for nfpm."""

    def __init__(self, work: pathlib.Path, source: Source) -> None:
        self.entries: list[dict[str, Any]] = []
        self._work = work
        self._source = source

    def text(self, place: str, content: str, mode: int = 0o644, kind: str = "") -> None:
        """Add a file with `content`, gzipped where `place` says so."""
        data = content.encode()
        if place.endswith(".gz"):
            data = gzip.compress(data, 9, mtime=0)
        made = self._work / "files" / place.lstrip("/")
        made.parent.mkdir(parents=True, exist_ok=True)
        made.write_bytes(data)
        self.file(place, made, mode, kind)

    def file(
        self, place: str, path: pathlib.Path, mode: int = 0o644, kind: str = "", epoch: int = 0
    ) -> None:
        """Add the file at `path`; `epoch` is its date when that is not the package's."""
        info = {"mode": mode, "mtime": _date(epoch or self._source.epoch), **_OWNER}
        entry = {"src": str(path), "dst": place, "file_info": info}
        self.entries.append(entry | ({"type": kind} if kind else {}))

    def directory(self, place: str, mode: int = 0o755) -> None:
        """Add a directory that the package owns."""
        info = {"mode": mode, "mtime": _date(self._source.epoch), **_OWNER}
        self.entries.append({"dst": place, "type": "dir", "file_info": info})

    def tree(self, place: str, path: pathlib.Path) -> None:
        """Add all files below `path`, and own their directories."""
        self.directory(place)
        for found in sorted(path.rglob("*")):
            inner = f"{place}/{found.relative_to(path)}"
            if found.is_dir():
                self.directory(inner)
            else:
                self.file(inner, found)


_OWNER = {"owner": "root", "group": "root"}


def describe(
    target: Target, architecture: str, libraries: pathlib.Path, work: pathlib.Path, source: Source
) -> dict[str, Any]:
    """Return nfpm's description of one package; its files are made in `work`.

    The gateway's libraries are in ``gateway-lib`` beside `libraries`.
    """
    payload = Payload(work, source)
    _program(payload, target, architecture, libraries, source)
    _units(payload)
    _firewall(payload, target)
    _manuals(payload, target, source)
    _documents(payload, target, libraries, source)
    scripts = _scripts(target, work)
    log = work / "changelog.json"
    log.write_text(json.dumps(_rpm_changelog(target, source)), "utf-8")
    return {
        "name": NAME,
        "arch": architecture,
        "platform": "linux",
        "version": __version__,
        "version_schema": "none",
        "release": target.release,
        "section": "admin",
        "priority": "optional",
        "maintainer": source.maintainer,
        "vendor": source.maintainer,
        "description": DESCRIPTION if target.form is Form.DEB else DESCRIPTION.partition("\n")[2],
        "license": "Apache-2.0",
        "mtime": _date(source.epoch),
        "depends": [*target.depends, GLIBC[target.form], "systemd", "e2fsprogs"],
        "recommends": list(target.recommends),
        "suggests": list(target.suggests),
        "conflicts": list(CONFLICTS),
        "contents": payload.entries,
        "scripts": {k: v for k, v in scripts.items() if k != "posttrans"},
        "changelog": str(log) if target.form is Form.RPM else "",
        "deb": {"compression": "xz"},
        "rpm": {
            "summary": SUMMARY,
            "group": "System/Daemons",
            "compression": "zstd",
            "buildhost": "localhost",
            "scripts": {k: v for k, v in scripts.items() if k == "posttrans"},
        },
    }


def package_name(target: Target, architecture: str) -> str:
    """Return what ``--version`` calls the package."""
    return f"{NAME} {__version__}-{target.release} {architecture} ({target.form})"


def _program(
    payload: Payload, target: Target, architecture: str, libraries: pathlib.Path, source: Source
) -> None:
    place = f"{LIBRARY}/python"
    payload.directory(LIBRARY)
    payload.tree(place, libraries)
    payload.tree(f"{LIBRARY}/{GATEWAY}", libraries.with_name(GATEWAY))
    source_tree = ROOT / "flower_agent"
    modules = sorted(source_tree.rglob("*.py"))
    for folder in sorted({module.parent for module in modules}):
        payload.directory(f"{place}/{folder.relative_to(ROOT)}")
    for module in modules:
        payload.file(f"{place}/{module.relative_to(ROOT)}", module)
    payload.directory(f"{place}/flower_agent/locks")
    for lock in sorted((ROOT / "flower_agent/locks").glob("*.txt")):
        payload.file(f"{place}/flower_agent/locks/{lock.name}", lock)
    build = {"package": package_name(target, architecture), "commit": source.commit}
    payload.text(f"{place}/flower_agent/build.json", json.dumps(build, indent=1) + "\n")
    for name, at in (
        ("launcher", f"/usr/bin/{NAME}"),
        ("live-restore", f"{LIBRARY}/live-restore"),
        ("configure", f"{LIBRARY}/configure"),
        ("proxy-reload", f"{LIBRARY}/proxy-reload"),
        ("gateway-reload", f"{LIBRARY}/gateway-reload"),
        ("gateway-launcher", f"{LIBRARY}/flower-agent-gateway"),
        ("retire", f"{LIBRARY}/retire"),
        ("state-disk", f"{LIBRARY}/state-disk"),
    ):
        payload.text(at, _filled(HERE / "installed" / name, target), 0o755)
    payload.file(f"{LIBRARY}/certbot-hook", ROOT / "contrib/certbot/flower-agent", 0o755)
    payload.directory("/etc/flower-agent")
    # It may hold the password of a registry.
    config = HERE / "installed" / "config.yaml"
    payload.file("/etc/flower-agent/config.yaml", config, 0o600, "config|noreplace")
    hook = ROOT / "contrib/one-context/net-90-flower-agent"
    kind = "config" if target.form is Form.DEB else ""  # Debian: all of /etc is configuration
    payload.file(f"/etc/one-context.d/{hook.name}", hook, 0o755, kind)


def _units(payload: Payload) -> None:
    """Add the units, dated by their last change: systemd takes a newer date for a new unit."""
    for unit in sorted((ROOT / "systemd").iterdir()):
        if unit.suffix in {".path", ".service", ".target"}:
            payload.file(f"{UNITS}/{unit.name}", unit, epoch=last_change(unit))
        elif unit.suffix == ".preset":
            payload.file(f"/usr/lib/systemd/system-preset/{unit.name}", unit)
        elif unit.suffix == ".sysusers":
            payload.file(f"/usr/lib/sysusers.d/{NAME}.conf", unit)


def _firewall(payload: Payload, target: Target) -> None:
    folder = ROOT / "contrib/firewall"
    payload.file("/usr/lib/firewalld/services/flower-fleet.xml", folder / "flower-fleet.xml")
    payload.directory(f"{DOCS}/examples")
    for rules in sorted(folder.glob("*.nft")):
        payload.file(f"{DOCS}/examples/{rules.name}", rules, kind=_DOC[target.form])


def _manuals(payload: Payload, target: Target, source: Source) -> None:
    oldest, newest = (
        ".".join(map(str, v)) for v in (flower_versions.OLDEST, flower_versions.NEWEST)
    )
    date = datetime.datetime.fromtimestamp(source.epoch, datetime.UTC).date()
    page = manual.page(
        __version__, date, f"{oldest} to {newest}, {flower_versions.DEFAULT} by default"
    )
    payload.text(f"/usr/share/man/man8/{NAME}.8.gz", page, kind=_DOC[target.form])
    payload.text(f"/usr/share/bash-completion/completions/{NAME}", manual.bash())
    zsh = {Form.DEB: "vendor-completions", Form.RPM: "site-functions"}[target.form]
    payload.text(f"/usr/share/zsh/{zsh}/_{NAME}", manual.zsh())
    payload.text(f"/usr/share/fish/vendor_completions.d/{NAME}.fish", manual.fish())


def _documents(payload: Payload, target: Target, libraries: pathlib.Path, source: Source) -> None:
    kind = _DOC[target.form]
    payload.directory(DOCS)
    for page in (ROOT / "README.md", ROOT / "SECURITY.md", *sorted((ROOT / "docs").glob("*.md"))):
        payload.text(f"{DOCS}/{page.name}.gz", page.read_text("utf-8"), kind=kind)
    for schema in sorted((ROOT / "docs").glob("*.schema.json")):
        payload.file(f"{DOCS}/{schema.name}", schema, kind=kind)
    payload.text(f"{DOCS}/changelog.gz", (ROOT / "CHANGELOG.md").read_text("utf-8"), kind=kind)
    if target.form is Form.DEB:
        payload.text(f"{DOCS}/changelog.Debian.gz", _changelog(target, source))
        payload.text(f"{DOCS}/copyright", copyright_of(libraries))
        overrides = HERE / "installed" / "lintian-overrides"
        payload.file(f"/usr/share/lintian/overrides/{NAME}", overrides)
    else:
        payload.directory(f"/usr/share/licenses/{NAME}")
        payload.file(f"/usr/share/licenses/{NAME}/LICENSE", ROOT / "LICENSE", kind="license")


_DOC = {Form.DEB: "", Form.RPM: "doc"}
"""Marks documentation for ``rpm --excludedocs``."""


def _changelog(target: Target, source: Source) -> str:
    when = datetime.datetime.fromtimestamp(source.epoch, datetime.UTC)
    return (
        f"{NAME} ({__version__}-{target.release}) unstable; urgency=medium\n\n"
        f"  * Release {__version__}: see changelog.gz.\n\n"
        f" -- {source.maintainer}  {when:%a, %d %b %Y %H:%M:%S} +0000\n"
    )


def _rpm_changelog(target: Target, source: Source) -> list[dict[str, Any]]:
    """Return what nfpm writes into an rpm; a deb has a file."""
    note = {"note": f"Release {__version__}: see {DOCS}/changelog.gz."}
    return [
        {
            "semver": f"{__version__}-{target.release}",
            "date": _date(source.epoch),
            "packager": source.maintainer,
            "changes": [note],
        }
    ]


def copyright_of(libraries: pathlib.Path) -> str:
    """Return Debian's machine-readable copyright file: ours, then each library's license."""
    ours = (
        "Format: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/\n"
        f"Upstream-Name: {NAME}\n"
        "\nFiles: *\nCopyright: 2026 the authors of flower-agent\nLicense: Apache-2.0\n"
    )
    found = [("python", *row) for row in licenses(libraries)]
    found += [(GATEWAY, *row) for row in licenses(libraries.with_name(GATEWAY))]
    rows = "".join(
        f"\nFiles: {LIBRARY[1:]}/{place}/{name}*\n"
        f"Copyright: the authors of {name}\nLicense: {license_}\n"
        for place, name, license_ in found
    )
    full = (
        "\nLicense: Apache-2.0\n On Debian systems, the full text is in "
        "/usr/share/common-licenses/Apache-2.0.\n"
    )
    names = sorted({license_ for _, _, license_ in found} - {"Apache-2.0"})
    others = "".join(
        f"\nLicense: {name}\n The full text is in the library's .dist-info directory below\n"
        f" {LIBRARY}.\n"
        for name in names
    )
    return ours + rows + full + others


def licenses(libraries: pathlib.Path) -> Iterator[tuple[str, str]]:
    """Yield name and license of each library, as its metadata says."""
    for metadata in sorted(libraries.glob("*.dist-info/METADATA")):
        found = email.parser.HeaderParser().parsestr(metadata.read_text("utf-8"))
        named = found["License-Expression"] or found["License"] or "unknown"
        yield found["Name"], named.splitlines()[0].strip().replace(" License", "").replace(" ", "-")


def _scripts(target: Target, work: pathlib.Path) -> dict[str, str]:
    """Write the maintainer scripts and return their paths by nfpm's names."""
    folder = HERE / "scripts" / target.form
    made = {}
    for name, file in _SCRIPTS[target.form].items():
        place = work / "scripts" / file
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(_filled(folder / file, target), "utf-8")
        made[name] = str(place)
    return made


_SCRIPTS = {
    Form.DEB: {
        "preinstall": "preinst",
        "postinstall": "postinst",
        "preremove": "prerm",
        "postremove": "postrm",
    },
    Form.RPM: {
        "preinstall": "pre",
        "postinstall": "post",
        "preremove": "preun",
        "postremove": "postun",
        "posttrans": "posttrans",
    },
}


def _filled(path: pathlib.Path, target: Target) -> str:
    stash = (HERE / "scripts" / "stash").read_text("utf-8").rstrip("\n")
    return path.read_text("utf-8").replace("@STASH@", stash).replace("@PYTHON@", target.python)


def _date(epoch: int) -> str:
    return datetime.datetime.fromtimestamp(epoch, datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def git(*arguments: str) -> str:
    """Return what git says about this checkout; empty where it is none."""
    program = shutil.which("git")
    if program is None:
        return ""
    command = [program, "-C", str(ROOT), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()


def last_change(path: pathlib.Path) -> int:
    """Return when a file was last committed; 1 January 2026 where git does not know."""
    return int(git("log", "-1", "--format=%ct", "--", str(path)) or 1767225600)
