"""Flower's differences between versions, in one table; `command_line` makes command lines of it.

Facts: the argument parsers of every flwr wheel from 1.23.0 to 1.42.0; image tags from
``framework/dev/build-docker-image-matrix.py``. Flower's command line breaks at 1.35, 1.37 and
1.40, at places without an error: an outdated flag is ignored and an API listens elsewhere.
"""

import dataclasses
import enum
import re

from flower_agent.model.address import Address

OLDEST = (1, 23)
NEWEST = (1, 42)
DEFAULT = "1.25.0"

CONFIG_TOML_SINCE = (1, 26, 0)
"""From here on the ``flwr`` CLI keeps its connections in config.toml, not in the app."""

SUPEREXEC_MATCHES_SINCE = (1, 30)
"""From here on Flower refuses a SuperExec of another major or minor version (exit code 606)."""

HOST_PORT = "--host --port"
"""Stands for a flag where an address goes into two."""

CERTIFICATES = "/app/certificates"
CA_FILE = f"{CERTIFICATES}/ca.crt"
CERTIFICATE_FILE = f"{CERTIFICATES}/server.pem"
KEY_FILE = f"{CERTIFICATES}/server.key"
APPIO_CA_FILE = f"{CERTIFICATES}/appio-ca.crt"
APPIO_CERTIFICATE_FILE = f"{CERTIFICATES}/appio.pem"
APPIO_KEY_FILE = f"{CERTIFICATES}/appio.key"
"""A SuperNode's own, for its AppIo; `CA_FILE` is its SuperLink's."""

NODE_KEY_FILE = "/app/keys/node.key"
STATE = "/app/state"
DATA = "/app/data"
ENVIRONMENT = "/app/environment.json"
"""What the environment of app processes holds beside, for the launcher of app processes."""

HOME = "/app/.flwr"
LAUNCHER = "/app/launcher"
"""The agent's own programs that start apps (`flower_agent.launcher`), and their limits."""

RUNS = "/app/runs"
"""What apps write, one directory a run."""

CACHES = "/app/caches"
"""What apps download, one directory for each bundle."""

UID = 49999
"""Every official image's user and group, ``app``."""

PROBE_PATH = "/v1/fleet/agent-probe"
PROBE_APPIO_PATH = "/v1/runtime/agent-probe"
"""Calls of the Fleet API and of AppIo that no Flower knows: it answers 404 and does nothing."""

_TAG = re.compile(r"(\d{1,4})\.(\d{1,4})\.(\d{1,4})(-[A-Za-z0-9_][A-Za-z0-9._-]*)?", re.ASCII)
_TAG_LENGTH = 128
_PREVIEW = re.compile(
    r"\d+\.\d+\.\d+[.-]?((a|b)\d+|(rc|dev|alpha|beta|nightly)\d*)(?![a-z])", re.ASCII
)


CONTROL = Address("127.0.0.1", 9093)
"""Where the Control API listens by default."""


class Lost(enum.Enum):
    """What a SuperNode logs of a message that it lost (``supernode/start_client_internal.py``).

    The group is the message's ID, or its run. No version sends such a message again.
    """

    MESSAGE = re.compile(r"\bFailed to receive message ([0-9a-f]{64}): ")
    ANSWER = re.compile(r"\bFailed to send message ([0-9a-f]{64}): ")
    TASK = re.compile(r"\bFailed to create task for run ID (\d{1,20})\. The message will not be ")


class Transport(enum.StrEnum):
    """How an API speaks; either may have TLS."""

    GRPC = "grpc"
    HTTP = "http"


@dataclasses.dataclass(frozen=True, slots=True)
class Version:
    """A Flower version as given; compare `release`, not the version itself."""

    major: int
    minor: int
    patch: int
    tag: str | None = None
    """The full image tag where one was given (``1.25.0-py3.13-ubuntu24.04``)."""

    @property
    def release(self) -> tuple[int, int, int]:
        """The three numbers."""
        return self.major, self.minor, self.patch

    def __str__(self) -> str:
        return self.tag or f"{self.major}.{self.minor}.{self.patch}"


def parse_version(text: str) -> Version:
    """Return the version in `text`, a release or a full image tag.

    Raises ValueError that completes "FLOWER_VERSION is 'x': …".
    """
    if text in {"latest", "nightly", "unstable"}:
        raise ValueError(f"want a fixed version such as {DEFAULT}: the meaning of {text} changes")
    if _PREVIEW.match(text):
        raise ValueError(f"want a release such as {DEFAULT}, not a preview")
    if re.fullmatch(r"\d+\.\d+", text, re.ASCII):
        raise ValueError(f"want three numbers, such as {text}.0")
    match = _TAG.fullmatch(text)
    if match is None or len(text) > _TAG_LENGTH:
        raise ValueError(f"want a Flower version such as {DEFAULT}, or a full image tag")
    major, minor, patch = (int(number) for number in match.groups()[:3])
    if (major, minor) < OLDEST:
        raise ValueError("want 1.23.0 or newer: older versions have no node management")
    return Version(major, minor, patch, text if match[4] else None)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Band:
    """How the versions from `since` on behave, until the next row of `BANDS`."""

    id: str
    """Name of the band in the contract: A2, B, C, D or E; several rows share one."""

    since: tuple[int, int]
    """First major and minor."""

    suffix: str
    """What makes a SuperLink's or SuperNode's tag a glibc one; their bare tags are musl."""

    fleet_port: int = 9092
    """Flower's default; what a ``FLOWER_SERVER_ADDRESS`` without port means."""

    fleet: Transport = Transport.GRPC
    control: Transport = Transport.GRPC
    appio: Transport = Transport.GRPC

    fleet_flag: str = "--fleet-api-address"
    control_flag: str = "--control-api-address"
    appio_flag: str = "--serverappio-api-address"
    """APIs with the same flag share one port: the Fleet's, else the Control API's."""

    proxied: bool = False
    """A SuperLink has one port for all its APIs: it is on loopback, and HAProxy passes the Fleet's
    calls to it."""

    node_appio_flag: str = "--clientappio-api-address"
    """Where a SuperNode takes its AppIo's address."""

    attach_flag: str = "--appio-api-address"
    """Where a SuperExec takes the address to attach to."""

    plugin: bool = True
    """A SuperExec needs its plugin as an argument; later one SuperExec runs any task."""

    storage: bool = True
    """Apps lie in files beside the database; later inside it."""

    appio_tls_flags: str = ""
    """Prefix of the flags that give a SuperLink's AppIo TLS; empty: it cannot have any, or
    shares the certificate (`appio_shares_tls`)."""

    appio_shares_tls: bool = False
    """A SuperLink's AppIo has TLS exactly when its other APIs have it."""

    node_appio_tls_flags: str = ""
    """Prefix of the flags that give a SuperNode's AppIo TLS; empty: it cannot have any."""

    launch: str = "launch_app"
    """Method of ``BaseExecPlugin`` in which a SuperExec knows the run of the app it starts."""

    announces_node: bool = True
    """A SuperNode logs its ID when it has connected; 1.23 logs nothing then."""

    federation: str = "default"
    """The federation that a run is submitted to; empty: its own. 1.23 knows none."""

    losses: tuple[Lost, ...] = ()
    """What a SuperNode may log of a lost message. In 1.23 such an error ends its process."""

    deaf_after_loss: bool = False
    """A SuperNode that could not receive a message waits for its answer, and so for ever."""

    environment: tuple[tuple[str, str], ...] = ()
    """Variables to set beside telemetry and log level."""

    @property
    def appio_can_have_tls(self) -> bool:
        """Return whether a SuperExec can reach an AppIo elsewhere with TLS."""
        return bool(self.node_appio_tls_flags)


def _rows() -> tuple[Band, ...]:
    """Return the table; each row says only what changed in that version."""
    update, install = "FLWR_DISABLE_UPDATE_CHECK", "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION"
    http, change = Transport.HTTP, dataclasses.replace
    a23 = Band(id="A2", since=(1, 23), suffix="-py3.12-ubuntu24.04", announces_node=False)
    a24 = change(
        a23,
        since=(1, 24),
        suffix="-py3.13-ubuntu24.04",
        announces_node=True,
        losses=(Lost.MESSAGE, Lost.ANSWER),
        deaf_after_loss=True,
    )
    a26 = change(a24, since=(1, 26), federation="")
    a28 = change(a26, since=(1, 28), environment=((update, "1"),))
    a29 = change(a28, since=(1, 29), storage=False)
    own = "--appio-ssl-"
    b30 = change(
        a29,
        since=(1, 30),
        id="B",
        appio_tls_flags=own,
        node_appio_tls_flags=own,
        launch="launch_task",
        losses=tuple(Lost),
    )
    b32 = change(b30, since=(1, 32), environment=((install, "1"), (update, "1")))
    b33 = change(b32, since=(1, 33), deaf_after_loss=False)
    c35 = change(
        b33, since=(1, 35), id="C", appio=http, appio_flag=HOST_PORT, node_appio_flag=HOST_PORT
    )
    c36 = change(c35, since=(1, 36), attach_flag="--runtime-api-address")
    d37 = change(
        c36,
        since=(1, 37),
        id="D",
        control=http,
        control_flag=HOST_PORT,
        appio_tls_flags="",
        appio_shares_tls=True,
        node_appio_tls_flags="--ssl-",
    )
    d38 = change(d37, since=(1, 38), plugin=False)
    e40 = change(
        d38, since=(1, 40), id="E", fleet=http, fleet_flag=HOST_PORT, fleet_port=8000, proxied=True
    )
    return a23, a24, a26, a28, a29, b30, b32, b33, c35, c36, d37, d38, e40


BANDS = _rows()


def band(version: Version) -> Band:
    """Return the row for `version`; a newer one than the table knows gets the newest row."""
    return [row for row in BANDS if row.since <= version.release[:2]][-1]


def newer_than_known(version: Version) -> bool:
    """Return whether `version` is newer than any that the table was made from."""
    return version.release[:2] > NEWEST


def default_fleet_port(version: Version) -> int:
    """Return the Fleet port where none is given."""
    return band(version).fleet_port


def image(prefix: str, part: str, version: Version) -> str:
    """Return the image of `part` (superlink, supernode, superexec).

    A tag that was given is used for all three, save that no Alpine SuperExec is published.
    """
    number = ".".join(map(str, version.release))
    bare = part == "superexec" and (version.tag is None or "alpine" in version.tag)
    tag = number if bare else version.tag or number + band(version).suffix
    return f"{prefix}/{part}:{tag}"


def environment(version: Version, *, debug: bool) -> tuple[tuple[str, str], ...]:
    """Return the variables of every Flower container, sorted.

    Telemetry must be off: up to 1.27 its POST keeps a container from stopping in a closed network.
    Above INFO Flower hides the lines that prove a connection.
    """
    common = (("FLWR_LOG_LEVEL", "DEBUG" if debug else "INFO"), ("FLWR_TELEMETRY_ENABLED", "0"))
    return tuple(sorted(band(version).environment + common))


def control_listen(version: Version, control: Address, fleet_port: int | None) -> Address:
    """Return where the Control API listens: at `control`, save at the port that HAProxy has.

    Before HAProxy stood there, a Control address at the Fleet port was the consent to an open
    Control API; now it means the default.
    """
    row = band(version)
    return CONTROL if row.proxied and control.port == (fleet_port or row.fleet_port) else control
