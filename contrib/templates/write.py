#!/usr/bin/env python3
"""Write the VM templates and the OneFlow service template, or put them into this cloud.

Needs Python 3.11 and this checkout, no libraries. With ``--import`` it also calls OpenNebula's
`onetemplate` and `oneflow-template`, as whoever runs it; run it as oneadmin, since only oneadmin
may give a VM a PCI device and pinned CPUs.
"""

import argparse
import json
import pathlib
import re
import subprocess
import sys
from typing import Any

REPOSITORY = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(REPOSITORY))

import service_template  # noqa: E402 - found beside this file
import vm_templates  # noqa: E402

ANSWER_S = 60


class BuildError(Exception):
    """What went wrong, for a person."""


def main(arguments: list[str] | None = None) -> int:
    """Write the files; return the exit code."""
    parser = _parser()
    options = parser.parse_args(arguments)
    numbered = {kind for kind, _ in options.template}
    if options.network_id is None and (
        options.put or numbered >= set(service_template.ROLES.values())
    ):
        parser.error(
            "--network-id NUMBER: a service without a network makes VMs without one; "
            "onevnet list shows the numbers"
        )
    cloud = vm_templates.Cloud(
        image=options.image,
        network=options.network,
        network_owner=options.network_owner,
        netcfg=options.netcfg,
        gpu=_gpu(options.gpu),
        state_image=options.state_image,
    )
    output = options.output.resolve()
    output.mkdir(parents=True, exist_ok=True)
    for kind in vm_templates.KINDS:
        text = vm_templates.render(vm_templates.attributes(kind, cloud))
        _write(output / f"{kind.name}.tmpl", text)
    ids = dict(options.template)
    try:
        if options.put:
            ids |= {kind.name: create(output / f"{kind.name}.tmpl") for kind in vm_templates.KINDS}
        return _service(output, ids, options)
    except BuildError as error:
        print(f"FAILED: {error}", file=sys.stderr)
        return 1


def create(path: pathlib.Path, program: str = "onetemplate") -> int:
    """Give a template to OpenNebula and return the number that it got. Raises BuildError."""
    command = [program, "create", str(path)]
    try:
        done = subprocess.run(
            command, check=False, capture_output=True, text=True, timeout=ANSWER_S
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise BuildError(f"{program}: {error}; run this where OpenNebula's CLI works") from error
    found = re.search(r"^ID: (\d+)$", done.stdout, re.MULTILINE)
    if done.returncode or not found:
        raise BuildError(f"{' '.join(command)}: {(done.stderr or done.stdout).strip()}")
    print(f"{path.stem}: {program} {found[1]}")
    return int(found[1])


def _service(output: pathlib.Path, ids: dict[str, int], options: argparse.Namespace) -> int:
    missing = [kind for kind in service_template.ROLES.values() if kind not in ids]
    if missing:
        print("service.json needs the numbers of the VM templates, so it is not written:")
        for kind in missing:
            print(f"  onetemplate create {output / kind}.tmpl    then: --template {kind}=NUMBER")
        if options.network_id is None:
            print("  onevnet list    then: --network-id NUMBER")
        return 0
    kinds = service_template.ROLES | dict(options.role)
    chosen = {role: ids[kind] for role, kind in kinds.items()}
    made = service_template.service(chosen, options.network_id, elastic=options.elastic)
    _write(output / "service.json", _json(made))
    _write(output / "values.json", _json(service_template.values(made, options.network_id)))
    if options.put:
        create(output / "service.json", "oneflow-template")
    return 0


def _json(document: dict[str, Any]) -> str:
    return json.dumps(document, indent=2, ensure_ascii=False) + "\n"


def _write(path: pathlib.Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")
    print(path)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=pathlib.Path, default=REPOSITORY / "build" / "templates")
    parser.add_argument("--image", default="Flower", help="name of the image (default %(default)s)")
    parser.add_argument("--network", help="name of the virtual network of VMs outside a service")
    parser.add_argument(
        "--network-owner", default="oneadmin", help="whose network it is (default %(default)s)"
    )
    parser.add_argument(
        "--network-id", type=int, help="number of the service's network; service.json needs it"
    )
    parser.add_argument(
        "--netcfg",
        default="interfaces",
        choices=("interfaces", "netplan", "networkd", "nm"),
        help="NETCFG_TYPE that fits the image (default %(default)s)",
    )
    parser.add_argument(
        "--state-image",
        type=int,
        metavar="NUMBER",
        help="persistent, empty image that keeps the SuperLink's state; makes one federation",
    )
    parser.add_argument(
        "--gpu",
        default="10de::0302",
        metavar="VENDOR:DEVICE:CLASS",
        help="PCI device, any part may be empty, or a short address 0a:00.0 (default %(default)s)",
    )
    parser.add_argument(
        "--template",
        action="append",
        type=_numbered,
        default=[],
        metavar="KIND=NUMBER",
        help="OpenNebula's number of a VM template, for service.json",
    )
    parser.add_argument(
        "--gpu-nodes",
        dest="role",
        action="store_const",
        const=[("supernode", "supernode-gpu")],
        default=[],
        help="let the service's SuperNodes have GPUs",
    )
    parser.add_argument(
        "--elastic", action="store_true", help="let OneFlow add and remove SuperNodes by itself"
    )
    parser.add_argument("--import", dest="put", action="store_true", help="put all into this cloud")
    return parser


def _numbered(text: str) -> tuple[str, int]:
    kind, _, number = text.partition("=")
    if kind not in {kind.name for kind in vm_templates.KINDS} or not number.isdecimal():
        raise argparse.ArgumentTypeError(f"want KIND=NUMBER, not {text!r}")
    return kind, int(number)


def _gpu(text: str) -> tuple[tuple[str, str], ...]:
    if re.fullmatch(r"[0-9a-f]{2}:[0-9a-f]{2}\.[0-7]", text):
        return (("SHORT_ADDRESS", text),)
    parts = zip(("VENDOR", "DEVICE", "CLASS"), text.split(":"), strict=False)
    found = tuple((name, part) for name, part in parts if re.fullmatch("[0-9a-f]{4}", part))
    if not found or text.count(":") != 2:  # noqa: PLR2004
        sys.exit("--gpu: want VENDOR:DEVICE:CLASS in hexadecimal, such as 10de::0302")
    return found


if __name__ == "__main__":
    sys.exit(main())
