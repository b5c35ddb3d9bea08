#!/usr/bin/env python3
"""Write the appliance in the form of OpenNebula's community Marketplace.

The folder that it writes belongs to `appliances/flower` of marketplace-community: one YAML file an
app, named by a UUID, and what its test harness reads, copied from contrib/marketplace. Needs PyYAML
beside what write.py needs. Facts: README.md of marketplace-community; what OpenNebula makes of the
files is src/market_mad/remotes/one/monitor: values of a VM template must be texts without a double
quote, and an IMAGE app without opennebula_template adds no VM template of its own.
"""

import argparse
import hashlib
import pathlib
import shutil
import sys
import time
import uuid
from collections.abc import Mapping
from typing import Any

REPOSITORY = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(REPOSITORY))

import service_template  # noqa: E402 - found beside this file
import vm_templates  # noqa: E402

from flower_agent import __version__  # noqa: E402
from flower_agent.config import flower_versions  # noqa: E402

HARNESS = REPOSITORY / "contrib" / "marketplace"
BRAND = "Flower Agent"
"""What each app's name begins with: OpenNebula finds the apps that belong together by name alone,
in all Marketplaces of a cloud at once."""

IMAGE, SERVICE = f"{BRAND} Image", f"{BRAND} Service"
FAMILY = uuid.UUID("6b2f0f0e-8a70-5a2e-9f7d-0d4c1f6f8a11")
"""Namespace of the files' names, so that an app keeps its own from version to version."""

CLOUDS = "7.0, 7.2, 7.4"
BYTES_AT_ONCE = 1 << 20
QCOW2, SIZE_AT = b"QFI\xfb", slice(24, 32)
"""Magic and place of the virtual size (big-endian) in a QCOW2's header."""


def apps(image: Mapping[str, Any], *, created_at: int, system: tuple[str, str]) -> dict[str, Any]:
    """Return each app's document by its file name.

    `image` is one entry of ``images`` (`image_of`), `created_at` seconds since 1970, `system` name
    and release of the image's distribution.
    """
    day = time.strftime("%Y%m%d", time.gmtime(created_at))
    common = {
        "version": f"{__version__}-1-{day}",
        "publisher": "flower-agent",
        "tags": ["flower", "federated-learning", "machine-learning", system[0].lower()],
        "format": "qcow2",
        "creation_time": created_at,
        "os-id": system[0],
        "os-release": system[1],
        "os-arch": "x86_64",
        "hypervisor": "KVM",
        "opennebula_version": CLOUDS,
        "logo": "flower.png",
    }
    found = [_image(image), *(_vm_template(kind) for kind in vm_templates.KINDS), _service()]
    return {f"{uuid.uuid5(FAMILY, app['name'])}.yaml": _ordered(common | app) for app in found}


def image_of(path: pathlib.Path, url: str) -> dict[str, Any]:
    """Return the entry of ``images`` for a QCOW2. Raises OSError, or ValueError for another."""
    md5, sha256 = hashlib.md5(usedforsecurity=False), hashlib.sha256()
    with path.open("rb") as file:
        head = file.read(SIZE_AT.stop)
        if head[:4] != QCOW2:
            raise ValueError(f"{path} is no QCOW2")
        file.seek(0)
        while chunk := file.read(BYTES_AT_ONCE):
            md5.update(chunk)
            sha256.update(chunk)
    return {
        "name": path.stem,
        "url": url,
        "type": "OS",
        "dev_prefix": "vd",
        "driver": "qcow2",
        "size": int.from_bytes(head[SIZE_AT], "big"),
        "checksum": {"md5": md5.hexdigest(), "sha256": sha256.hexdigest()},
    }


def _image(image: Mapping[str, Any]) -> dict[str, Any]:
    words = "Image that becomes a Flower SuperLink, SuperNode or SuperExec by its context."
    return {
        "name": IMAGE,
        "short_description": words,
        "description": f"{words} With Docker, flower-agent and Flower {flower_versions.DEFAULT}. "
        "A VM of it needs FLOWER_ROLE in its CONTEXT; the VM templates and the service say it.",
        "images": [dict(image)],
    }


def _vm_template(kind: vm_templates.Kind) -> dict[str, Any]:
    held = vm_templates.attributes(kind, vm_templates.Cloud(image=None))
    # OpenNebula adds these by itself when the app is exported.
    template = {key.lower(): held[key] for key in held if key not in ("NAME", "HYPERVISOR")}
    return {
        "name": _app(kind.title),
        "type": "VMTEMPLATE",
        "short_description": kind.description,
        "description": kind.description,
        "disks": [IMAGE],
        "opennebula_template": template,
        "images": [],
    }


def _service() -> dict[str, Any]:
    titles = {kind.name: _app(kind.title) for kind in vm_templates.KINDS}
    template = service_template.service()
    return {
        "name": SERVICE,
        "type": "SERVICE_TEMPLATE",
        "short_description": template["description"],
        "description": f"{template['description']} Needs OneFlow and OneGate.",
        "roles": {role: titles[kind] for role, kind in service_template.ROLES.items()},
        "opennebula_template": template,
        "images": [],
    }


def _app(title: str) -> str:
    return title.replace("Flower", BRAND, 1)


def _ordered(app: Mapping[str, Any]) -> dict[str, Any]:
    first = ("name", "version", "publisher", "description", "short_description", "tags", "type")
    last = ("disks", "roles", "opennebula_template", "logo", "images")
    middle = (key for key in app if key not in (*first, *last))
    return {key: app[key] for key in (*first, *middle, *last) if key in app}


def main(arguments: list[str] | None = None) -> int:
    """Write the folder; return the exit code."""
    import yaml  # noqa: PLC0415 - write.py needs no library, and this is all that does

    options = _parser().parse_args(arguments)
    try:
        image = image_of(options.image_file, options.url)
    except (OSError, ValueError) as error:
        print(f"FAILED: {error}", file=sys.stderr)
        return 1
    output = options.output.resolve()
    shutil.rmtree(output, ignore_errors=True)
    shutil.copytree(HARNESS, output)
    found = apps(image, created_at=options.created_at, system=tuple(options.os.split(":")))
    for name, app in found.items():
        text = yaml.safe_dump(app, sort_keys=False, allow_unicode=True, width=1000)
        (output / name).write_text(f"---\n{text}", encoding="utf-8")
        print(f"{output / name}    {app['name']}")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--image-file", type=pathlib.Path, required=True, help="the QCOW2")
    parser.add_argument("--url", required=True, help="from where OpenNebula downloads it")
    parser.add_argument("--os", default="Debian:12", help="NAME:RELEASE (default %(default)s)")
    parser.add_argument("--created-at", type=int, default=int(time.time()), help="epoch seconds")
    where = REPOSITORY / "build" / "marketplace" / "flower"
    parser.add_argument("--output", type=pathlib.Path, default=where)
    return parser


if __name__ == "__main__":
    sys.exit(main())
