"""The command lines of Flower's three programs, and where their APIs then listen.

Every API is bound by a flag to the exact address it should have, since the containers use the
host's network. What differs between versions stands in ``flower_versions.BANDS``, not here.
"""

import dataclasses
import enum
import re
import tomllib

from flower_agent.config import flower_versions
from flower_agent.config.flower_versions import Transport, Version
from flower_agent.model.address import Address, is_any

_KEY = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_-]*(\.[A-Za-z0-9_-]+)*", re.ASCII)
_INTEGERS = range(-(2**63), 2**63)

_SHOWN, _SHOWN_WHOLE = 40, 200
"""Characters of a value, and of a whole node config, in the status."""

_SUPERLINKS = flower_versions.CA_FILE, flower_versions.CERTIFICATE_FILE, flower_versions.KEY_FILE
_SUPERNODES = (
    flower_versions.APPIO_CA_FILE,
    flower_versions.APPIO_CERTIFICATE_FILE,
    flower_versions.APPIO_KEY_FILE,
)
"""CA, certificate and key of what each serves."""


class Trust(enum.StrEnum):
    """Whom a client trusts: a CA file, the image's own store, or anybody (no TLS)."""

    CA = "ca"
    SYSTEM = "system"
    INSECURE = "insecure"


@dataclasses.dataclass(frozen=True, slots=True)
class Endpoint:
    """The address of one API."""

    listen: Address
    transport: Transport
    tls: bool

    @property
    def dial(self) -> Address:
        """The address for a client on the same machine."""
        if not is_any(self.listen.host):
            return self.listen
        return Address("::1" if ":" in self.listen.host else "127.0.0.1", self.listen.port)


@dataclasses.dataclass(frozen=True, slots=True)
class Endpoints:
    """A SuperLink's APIs; from 1.37 on some are one and the same place.

    From 1.40 on `fleet` is HAProxy's, and so is `appio` where it is offered elsewhere.
    """

    fleet: Endpoint
    control: Endpoint
    appio: Endpoint


def superlink_endpoints(
    version: Version,
    *,
    fleet: Address,
    control: Address,
    serverappio: Address,
    tls: bool,
    appio_tls: bool = False,
) -> Endpoints:
    """Return the addresses of a SuperLink's APIs from the wanted ones.

    An API that has no port of its own in that version is at the port of the one it shares.
    `appio_tls` says that AppIo is offered elsewhere; it counts where AppIo has TLS of its own
    (1.30 to 1.36) and where HAProxy passes it (from 1.40 on).
    """
    row = flower_versions.band(version)
    if row.proxied:
        behind = Endpoint(control, row.control, tls)
        appio = Endpoint(serverappio, row.appio, tls) if appio_tls else behind
        return Endpoints(Endpoint(fleet, row.fleet, tls), behind, appio)
    at = {row.appio_flag: serverappio} | {row.control_flag: control} | {row.fleet_flag: fleet}
    secure = tls if row.appio_shares_tls else tls and appio_tls and bool(row.appio_tls_flags)
    return Endpoints(
        Endpoint(at[row.fleet_flag], row.fleet, tls),
        Endpoint(at[row.control_flag], row.control, tls),
        Endpoint(at[row.appio_flag], row.appio, secure),
    )


def supernode_appio(version: Version, clientappio: Address, *, tls: bool = False) -> Endpoint:
    """Return where a SuperNode serves its AppIo; `tls` counts from 1.30 on."""
    row = flower_versions.band(version)
    return Endpoint(clientappio, row.appio, tls=tls and row.appio_can_have_tls)


def superlink_command(
    version: Version,
    *,
    fleet: Address,
    control: Address,
    serverappio: Address,
    health: Address,
    tls: bool,
    isolation: str,
    node_auth: bool,
    appio_tls: bool = False,
) -> tuple[str, ...]:
    """Return the arguments of ``flower-superlink``.

    Without a database a restart would lose every node. Raises ValueError for `node_auth` without
    `tls`, which Flower refuses.
    """
    if node_auth and not tls:
        raise ValueError("SuperNode authentication requires TLS")
    row = flower_versions.band(version)
    places = superlink_endpoints(
        version, fleet=fleet, control=control, serverappio=serverappio, tls=tls, appio_tls=appio_tls
    )
    binds = {
        row.fleet_flag: places.fleet.listen,
        row.control_flag: places.control.listen,
        row.appio_flag: places.appio.listen,
    }
    if row.proxied:  # the others are HAProxy's
        binds = {row.control_flag: places.control.listen}
    own_tls = places.appio.tls and not row.appio_shares_tls
    return (
        *(_certificate("--ssl-", _SUPERLINKS) if tls else ("--insecure",)),
        *(_certificate(row.appio_tls_flags, _SUPERLINKS) if own_tls else ()),
        *("--isolation", isolation),
        *("--database", f"{flower_versions.STATE}/state.db"),
        *(("--storage-dir", f"{flower_versions.STATE}/ffs") if row.storage else ()),
        *(word for flag, address in binds.items() for word in _bind(flag, address)),
        *("--health-server-address", str(health)),
        *(("--enable-supernode-auth",) if node_auth else ()),
    )


def supernode_command(
    version: Version,
    *,
    superlink: Address,
    clientappio: Address,
    health: Address,
    trust: Trust,
    isolation: str,
    node_config: tuple[tuple[str, str], ...],
    private_key: bool,
    appio_tls: bool = False,
) -> tuple[str, ...]:
    """Return the arguments of ``flower-supernode``; it retries for ever, as is Flower's default.

    Raises ValueError for a key without TLS, which Flower refuses, and as `node_config_text`.
    """
    if private_key and trust is Trust.INSECURE:
        raise ValueError("SuperNode authentication requires TLS")
    row = flower_versions.band(version)
    secure = supernode_appio(version, clientappio, tls=appio_tls).tls
    return (
        *("--superlink", str(superlink)),
        *_trust(trust),
        *(_certificate(row.node_appio_tls_flags, _SUPERNODES) if secure else ()),
        *(("--auth-supernode-private-key", flower_versions.NODE_KEY_FILE) if private_key else ()),
        *("--isolation", isolation),
        *_bind(row.node_appio_flag, clientappio),
        *(("--node-config", node_config_text(node_config)) if node_config else ()),
        *("--health-server-address", str(health)),
    )


def superexec_command(
    version: Version, *, plugin: str, attach: Address, health: Address, trust: Trust
) -> tuple[str, ...]:
    """Return the arguments of ``flower-superexec``.

    Raises ValueError for TLS towards an AppIo of a version that cannot have it (1.23 to 1.29).
    """
    row = flower_versions.band(version)
    if trust is not Trust.INSECURE and not row.appio_can_have_tls:
        raise ValueError(f"the AppIo of Flower {version} has no TLS")
    return (
        *(row.attach_flag, str(attach)),
        *(("--plugin-type", plugin) if row.plugin else ()),
        *_trust(trust),
        *("--health-server-address", str(health)),
    )


def scalar(text: str) -> bool | int | float | str:
    """Return the value that `text` has in a Flower configuration: a TOML scalar, else a string.

    ``0.1``, ``true`` and ``"quoted"`` are what they are in ``flwr run --run-config``; anything that
    Flower could not parse (``adam``, ``007``, a date) is the string itself.
    """
    try:
        document = tomllib.loads(f"value = {text}")
    except tomllib.TOMLDecodeError:
        return text
    value = document["value"]
    if len(document) > 1 or (isinstance(value, int) and value not in _INTEGERS):
        return text
    if isinstance(value, str) or (isinstance(value, bool | int | float) and "#" not in text):
        return value
    return text


def node_config_text(pairs: tuple[tuple[str, str], ...]) -> str:
    r"""Return the value of ``--node-config``.

    Flower (``flwr/common/config.py``, `parse_config_args`, alike from 1.23 to 1.42) cuts the text
    at ``(\S+?)=('[^']*'|"[^"]*"|\S+)`` and reads each piece as a TOML line, so a string is
    quoted and a quote in it is written as an escape. What it cannot cut it silently drops.
    Raises ValueError for a key that is no bare TOML key.
    """
    for key, _ in pairs:
        if not _KEY.fullmatch(key):
            raise ValueError(f"want a key of letters, digits, '_', '-' and not {key!r}")
    return " ".join(f"{key}={_literal(scalar(value))}" for key, value in pairs)


def node_config_words(pairs: tuple[tuple[str, str], ...]) -> str:
    """Return a node config for the status: on one line, long values and a long whole cut."""
    cut = (f"{key}={value[:_SHOWN]}{'…' if len(value) > _SHOWN else ''}" for key, value in pairs)
    words = " ".join(cut)
    return words if len(words) <= _SHOWN_WHOLE else words[:_SHOWN_WHOLE] + "…"


def _literal(value: bool | float | str) -> str:  # noqa: FBT001 - a value, not a switch
    """Return `value` in TOML; an escape stands for all that Flower's own cut would trip over."""
    if isinstance(value, bool):
        return str(value).lower()
    if not isinstance(value, str):
        return repr(value)
    escaped = (
        f"\\U{ord(letter):08x}" if letter in '"\\' or not letter.isprintable() else letter
        for letter in value
    )
    return f'"{"".join(escaped)}"'


def _bind(flag: str, address: Address) -> tuple[str, ...]:
    if flag == flower_versions.HOST_PORT:
        return "--host", address.host, "--port", str(address.port)
    return flag, str(address)


def _certificate(prefix: str, files: tuple[str, str, str]) -> tuple[str, ...]:
    """Return the three flags of a server's certificate; Flower wants the CA's too."""
    ca, certificate, key = files
    return f"{prefix}ca-certfile", ca, f"{prefix}certfile", certificate, f"{prefix}keyfile", key


def _trust(trust: Trust) -> tuple[str, ...]:
    match trust:
        case Trust.CA:
            return "--root-certificates", flower_versions.CA_FILE
        case Trust.SYSTEM:
            return ()
        case Trust.INSECURE:
            return ("--insecure",)
