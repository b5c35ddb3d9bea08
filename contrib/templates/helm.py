#!/usr/bin/env python3
"""Write the values of Flower's Helm charts that say what a VM's context says.

    contrib/templates/helm.py context.sh > values.yaml

The charts, flower-server and flower-client, are Flower Enterprise's: their parameters are those of
Flower's documentation (framework/docs/source/helm, March 2026), the charts themselves were never
seen here. What a chart has no value for is told on standard error. Secrets become names of
Kubernetes Secrets and never values. Needs PyYAML.
"""

import argparse
import pathlib
import sys
from collections.abc import Iterable, Mapping
from typing import Any

REPOSITORY = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(REPOSITORY))

from flower_agent.config import context, flower_versions, names  # noqa: E402
from flower_agent.config.parsing import parse  # noqa: E402
from flower_agent.config.settings import Settings  # noqa: E402
from flower_agent.config.types import (  # noqa: E402
    GpuMode,
    Isolation,
    LogLevel,
    Role,
)
from flower_agent.flower import command_line  # noqa: E402
from flower_agent.model import address  # noqa: E402
from flower_agent.model.pem import SYSTEM  # noqa: E402

Values = dict[str, Any]

TLS_SECRET, CA_SECRET, PULL_SECRET = "flower-tls", "flower-ca", "flower-registry"

LOST: Mapping[str, str] = {
    "CUSTOM_APP_REPO": "submit with flwr run",
    "FL_NUM_ROUNDS": "say it with flwr run --run-config",
    "FL_STRATEGY": "say it with flwr run --run-config",
    "FL_MIN_CLIENTS": "say it with flwr run --run-config",
    "FL_CONFIG_<KEY>": "say it with flwr run --run-config",
    "FLOWER_STATE_DISK": "a volume claim, where the chart has one",
    "FLOWER_PARTITIONS": "a release for each partition, with supernode.node.config",
    "FLOWER_ADDRESS": "a pod has one address; the chart's Service stands before it",
    "FLOWER_CONTROL_ADDRESS": "the chart's Service offers the Control API to the whole cluster",
    "FLOWER_GATEWAY": "Flower Enterprise has accounts of its own",
    "FLOWER_GATEWAY_ADDRESS": "Flower Enterprise has accounts of its own",
    "FLOWER_GATEWAY_URL": "Flower Enterprise has accounts of its own",
    "FLOWER_GATEWAY_CERT": "Flower Enterprise has accounts of its own",
    "FLOWER_GATEWAY_KEY": "Flower Enterprise has accounts of its own",
    "FLOWER_OIDC_ISSUER": "Flower Enterprise has accounts of its own",
    "FLOWER_OIDC_CLIENT_ID": "Flower Enterprise has accounts of its own",
    "FLOWER_OIDC_CLIENT_SECRET": "Flower Enterprise has accounts of its own",
    "FLOWER_OIDC_ALLOW": "Flower Enterprise has accounts of its own",
    "FLOWER_CA_FINGERPRINT": "whoever makes the CA's Secret is believed",
    "FLOWER_APPIO_LISTEN": "install the chart twice, with superexec.supernode.address",
    "FLOWER_HTTP_PROXY": "give the pods that run apps the variables of a proxy",
    "FLOWER_HTTPS_PROXY": "give the pods that run apps the variables of a proxy",
    "FLOWER_NO_PROXY": "give the pods that run apps the variables of a proxy",
    "FLOWER_ENV_<KEY>": "give the pods that run apps an environment from a Secret",
    "FLOWER_DATA": "mount a volume at /app/data of the SuperExec",
    "FLOWER_OUTPUTS_LIMIT": "limit the volume that an app writes to",
    "FLOWER_CACHE_LIMIT": "limit the volume that an app writes to",
    "FLOWER_SHM_SIZE": "mount an emptyDir with medium Memory at /dev/shm of the SuperExec",
    "FLOWER_READY_TIMEOUT": "Kubernetes probes Flower's health service, which always answers",
    "FLOWER_METRICS": "use the cluster's own",
}
"""Variables without a counterpart, and what is left to do."""


def values(settings: Settings) -> Values:
    """Return the chart's values. Raises ValueError for what no chart has."""
    if settings.role is Role.SUPERLINK:
        return _server(settings)
    if settings.role is Role.SUPERNODE:
        return _client(settings)
    raise ValueError("a lone SuperExec is part of the charts: superexec.enabled")


def lost(given: Iterable[str]) -> list[str]:
    """Return a sentence for each variable that is set and has no counterpart."""
    found = [name.removeprefix(names.PREFIX) for name in given]
    stems = {row: row.removesuffix("<KEY>") for row in LOST}
    return [
        f"{row}: {left}"
        for row, left in LOST.items()
        if any(name == row or (stems[row] != row and name.startswith(stems[row])) for name in found)
    ]


def _server(settings: Settings) -> Values:
    band = flower_versions.band(settings.version)
    fleet = settings.fleet_port or band.fleet_port
    control, appio = settings.control_address.port, settings.serverappio_port
    public = _host(settings.public_address)
    hosts = [*([public] if public else []), *settings.tls_sans]
    certificate: Values = {"enabled": True, **({"additionalHosts": hosts} if hosts else {})}
    tls: Values = {"certificate": certificate}
    if settings.tls_cert:
        tls = {"certificate": {"enabled": False}, "existingSecret": TLS_SECRET}
    ports = {"control": control, "serverAppIo": appio, "fleet": fleet}
    keys = list(settings.node_public_keys)
    auth = {"enabled": bool(keys) if settings.node_auth is None else settings.node_auth}
    return {
        "global": _global(settings)
        | ({"domain": public} if public else {})
        | {"license": {"enabled": False}}
        | {"nodeAuth": auth | ({"authListPublicKeys": keys} if keys else {})},
        "tls": {"enabled": settings.tls, **tls},
        "superlink": {
            "isolationMode": str(settings.isolation),
            "image": _image(settings, "superlink"),
            **_pull(settings),
            "containerPorts": ports | {"health": settings.health_port},
            "service": {
                "type": "ClusterIP",
                "servicePortControl": control,
                "servicePortServerAppIo": appio,
                "servicePortFleet": fleet,
            },
        },
        "superexec": _superexec(settings),
    }


def _client(settings: Settings) -> Values:
    if not settings.server_address:
        raise ValueError("set FLOWER_SERVER_ADDRESS: nothing finds the SuperLink here")
    port = settings.fleet_port or flower_versions.band(settings.version).fleet_port
    where = address.parse_address(settings.server_address, port)
    key = settings.node_private_key is not None
    auth = {"enabled": key if settings.node_auth is None else settings.node_auth}
    own_ca = settings.tls and settings.tls_ca_cert != SYSTEM
    node: Values = {
        "isolationMode": str(settings.isolation),
        "image": _image(settings, "supernode"),
        **_pull(settings),
        "superlink": {
            "address": where.host,
            "port": where.port,
            **({"certificate": {"existingSecret": CA_SECRET}} if own_ca else {}),
        },
        "containerPorts": {
            "clientAppIo": settings.clientappio_port,
            "health": settings.health_port,
        },
    }
    if settings.node_config:
        typed = {name: command_line.scalar(text) for name, text in settings.node_config}
        node["node"] = {"config": typed}
    return {
        "global": _global(settings) | {"nodeAuth": auth},
        "tls": {"enabled": settings.tls},
        "supernode": node,
        "superexec": _superexec(settings),
    }


def _global(settings: Settings) -> Values:
    told = flower_versions.environment(settings.version, debug=settings.log_level is LogLevel.DEBUG)
    return {"env": [{"name": name, "value": value} for name, value in told]}


def _superexec(settings: Settings) -> Values:
    limits: Values = {}
    if settings.memory_limit:
        limits["memory"] = str(settings.memory_limit)
    if settings.gpu is not GpuMode.NO:
        limits["nvidia.com/gpu"] = 1
    return {
        "enabled": settings.isolation is Isolation.PROCESS,
        "image": _image(settings, "superexec"),
        **_pull(settings),
        **({"resources": {"limits": limits}} if limits else {}),
    }


def _image(settings: Settings, part: str) -> Values:
    whole = flower_versions.image(settings.image_prefix, part, settings.version)
    path, _, tag = whole.rpartition(":")
    first, _, rest = path.partition("/")
    hub = "." not in first and ":" not in first
    registry, repository = ("docker.io", path) if hub else (first, rest)
    if settings.framework and part == "superexec":
        tag += f"-{settings.framework}"  # the agent's own, which somebody must push for this
    return {"registry": registry, "repository": repository, "tag": tag}


def _pull(settings: Settings) -> Values:
    return {"imagePullSecrets": [{"name": PULL_SECRET}]} if settings.registry_user else {}


def _host(public: str | None) -> str | None:
    return address.parse_address(public, 1).host if public else None


def main(argv: list[str] | None = None) -> int:
    """Print the values; return the exit code."""
    import yaml  # noqa: PLC0415 - the functions above need no library

    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("context", type=pathlib.Path, help="a context.sh, as flower-agent check")
    variables = context.parse(parser.parse_args(argv).context.read_bytes())
    found = parse(variables, {})
    if found.settings is None:
        print("\n".join(map(str, found.findings)), file=sys.stderr)
        return 1
    for sentence in lost(name for name, text in variables.items() if text.strip()):
        print(f"lost: {sentence}", file=sys.stderr)
    try:
        print(yaml.safe_dump(values(found.settings), sort_keys=False), end="")
    except ValueError as error:
        print(f"FAILED: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
