"""The table of variables: each field of `Settings` carries its row. Pure.

The fields of `Settings` are the one table of variables: parsing, defaults, `check`, the reference
page and redaction read it; how they must fit each other is in `validation`. Variables of another
role are ignored, since OneFlow hands every input to every VM.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, Generic, Literal, TypedDict, TypeVar, Unpack, overload

from flower_agent.config import account_roles, data_source, flower_versions, names, types
from flower_agent.config.account_roles import AllowRule
from flower_agent.config.state_disk import StateDisk, parse_state_disk
from flower_agent.config.types import Framework, GpuMode, Isolation, LogLevel, Pairs, Plugin, Role
from flower_agent.model import pem
from flower_agent.model.address import Address
from flower_agent.model.secret import Secret

T = TypeVar("T")

LENGTH_LIMIT = 64 * 1024
"""Characters of one value."""

_KEY = "<KEY>"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Setting(Generic[T]):
    """One row of the table."""

    name: str
    """Without ``ONEAPP_``; ends in ``<KEY>`` where it stands for a family of names."""

    parse: Callable[[str], T]
    """Raises ValueError that completes "NAME is 'x': …" and does not repeat the value."""

    help: str
    """What it means, for the reference page."""

    default: str | None = None
    """What is parsed when it is unset; None makes the field None."""

    unset: str = "none"
    """The effect of an unset variable without a default, for the reference page."""

    required: bool = False
    """On the VMs of its roles."""

    secret: bool = False
    """Never shown anywhere."""

    quiet: bool = False
    """A finding shows the length and not the value: it is long, or may contain a secret."""

    verbatim: bool = False
    """Of a family: the key is what stands behind the stem, as it is written."""

    roles: tuple[Role, ...] = tuple(Role)
    sample: str = ""

    @property
    def stem(self) -> str | None:
        """What the names of the family begin with; None for a single name."""
        return self.name.removesuffix(_KEY) if self.name.endswith(_KEY) else None

    def fallback(self) -> T | None:
        """Return the value when nothing was given."""
        return None if self.default is None else self.parse(self.default)

    def read(self, text: str) -> T:
        """Return the value that `text` stands for. Raises ValueError like `parse`."""
        if len(text) > LENGTH_LIMIT:
            raise ValueError(f"want at most {LENGTH_LIMIT} characters")
        return self.parse(text)

    def seen(self, text: str, shown: str) -> str:
        """Return the text for a message: the value `shown`, or only its length."""
        if self.secret or self.quiet or len(text) > LENGTH_LIMIT:
            return f"has {len(text)} characters"
        return f"is '{shown}'"


class Rest(TypedDict, total=False):
    """Optional fields of a row: those of `Setting`."""

    unset: str
    secret: bool
    quiet: bool
    verbatim: bool
    roles: tuple[Role, ...]
    sample: str


@overload
def setting(
    name: str, parse: Callable[[str], T], meaning: str, *, default: str, **rest: Unpack[Rest]
) -> T: ...
@overload
def setting(
    name: str,
    parse: Callable[[str], T],
    meaning: str,
    *,
    required: Literal[True],
    **rest: Unpack[Rest],
) -> T: ...
@overload
def setting(
    name: str, parse: Callable[[str], T], meaning: str, **rest: Unpack[Rest]
) -> T | None: ...
def setting(name: str, parse: Callable[[str], Any], meaning: str, **rest: Any) -> Any:
    """Return a dataclass field that carries its row, typed as its value."""
    row = Setting(name=name, parse=parse, help=meaning, **rest)
    return dataclasses.field(metadata={"setting": row})


def family(
    stem: str, parse: Callable[[str], T], meaning: str, **rest: Unpack[Rest]
) -> tuple[tuple[str, T], ...]:
    """Return a dataclass field for all names that begin with `stem`, as keys and values."""
    row = Setting(name=stem + _KEY, parse=parse, help=meaning, **rest)
    return dataclasses.field(metadata={"setting": row})  # type: ignore[no-any-return]  # a field


def row_of(field: "dataclasses.Field[Any]") -> Setting[Any]:
    """Return the row that `field` carries."""
    row: Setting[Any] = field.metadata["setting"]
    return row


# ruff: noqa: RUF009 - each field's default is its row of the table, made by `setting`


CONTROL = str(flower_versions.CONTROL)
"""Where the Control API listens by default."""

PARTITION_KEYS = ("partition-id", "num-partitions")
"""Keys that every SuperNode's `context.node_config` contains."""

LINK, NODE, EXEC = ((role,) for role in Role)


# A row of the table stays together, so the formatter is kept off the table.
# fmt: off
@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What the context and the image's defaults say; the rows' texts describe the fields."""

    role: Role = setting(
        "FLOWER_ROLE", types.choice(Role, {"server": Role.SUPERLINK, "client": Role.SUPERNODE}),
        "What this VM is: `server` or `superlink`, `client` or `supernode`, `superexec`.",
        required=True, sample="server")
    version: flower_versions.Version = setting(
        "FLOWER_VERSION", flower_versions.parse_version,
        "Flower's version, or a full image tag. The oldest is 1.23.0.",
        default=flower_versions.DEFAULT, sample="1.25.0-py3.13-ubuntu24.04")
    server_address: str | None = setting(
        "FLOWER_SERVER_ADDRESS", types.peer_text,
        "The SuperLink's Fleet API: `host`, `host:port` or `[v6]:port`. Without a port: the Fleet "
        "port of the version.", unset="discovered", roles=NODE + EXEC, sample="10.0.0.5:9092")
    num_rounds: int | None = setting(
        "FL_NUM_ROUNDS", types.whole(1, 1_000_000),
        "Rounds of the run that `CUSTOM_APP_REPO` starts.",
        unset="the app's own", roles=LINK, sample="10")
    strategy: str | None = setting(
        "FL_STRATEGY", types.identifier,
        "Strategy of the run, if the app has a setting for the strategy.",
        unset="the app's own", roles=LINK, sample="FedProx")
    min_clients: int = setting(
        "FL_MIN_CLIENTS", types.whole(1, 1_000_000),
        "SuperNodes that must be connected before the agent submits the run. If the variable is "
        "set, the app gets the number too.",
        default="2", roles=LINK, sample="5")
    run_config: Pairs = family(
        "FL_CONFIG_", types.line,
        "Another key of the run's config: `FL_CONFIG_LOCAL_EPOCHS` sets `local-epochs`, or the "
        "key as the app spells it.",
        quiet=True, roles=LINK, sample="5")
    tls: bool = setting(
        "TLS_ENABLED", types.boolean, "TLS on every API that leaves the VM.",
        default="YES", sample="YES")
    tls_ca_cert: str | None = setting(
        "TLS_CA_CERT", pem.trust,
        "The CA to trust, as PEM or base64 of PEM; `system` means the system's CA store. A "
        "SuperNode with this variable does not ask OneGate.",
        unset="made by the agent", quiet=True, sample="LS0tLS1CRUdJTi…")
    tls_cert: str | None = setting(
        "TLS_CERT", pem.certificates,
        "The SuperLink's certificate and its intermediates, as PEM or base64 of PEM.",
        unset="made by the agent", quiet=True, roles=LINK, sample="LS0tLS1CRUdJTi…")
    tls_key: Secret | None = setting(
        "TLS_KEY", pem.tls_key, "The private key of `TLS_CERT`, as PEM or base64 of PEM.",
        unset="made by the agent", secret=True, roles=LINK, sample="LS0tLS1CRUdJTi…")
    gpu: GpuMode = setting(
        "GPU_ENABLED", types.gpu_mode,
        "`YES`: a missing or unusable GPU is an error. `AUTO`: use a GPU if it works. `NO`: show "
        "a GPU, but do not use it.", default="NO", roles=NODE + EXEC, sample="AUTO")
    framework: Framework | None = setting(
        "ML_FRAMEWORK", types.choice(Framework),
        "The framework in the SuperExec image that runs the apps: `pytorch`, `tensorflow` or "
        "`sklearn`.",
        sample="pytorch")
    app_repo: str | None = setting(
        "CUSTOM_APP_REPO", types.app,
        "Git URL of a Flower app: `URL`, `URL@ref` or `URL@ref#subdirectory`; https, ssh or git. "
        "The SuperLink submits the app once. VMs that run app code add the app's dependencies to "
        "the image.",
        quiet=True, roles=LINK + NODE + EXEC, sample="https://git.example.org/team/app.git@v1")
    isolation: Isolation = setting(
        "FLOWER_ISOLATION", types.choice(Isolation),
        "`process`: apps run in SuperExec containers. `subprocess`: inside SuperLink and "
        "SuperNode.", default="process", sample="subprocess")
    node_config: Pairs | None = setting(
        "FLOWER_NODE_CONFIG", types.pairs,
        "Values that apps read as `context.node_config`: `key=value key2='two words'`. The agent "
        "adds `partition-id` and `num-partitions`; this variable may override them.",
        unset="those two only", roles=NODE, sample="dataset-path='/app/data/x' fold=3")
    node_auth: bool | None = setting(
        "FLOWER_NODE_AUTH", types.boolean,
        "SuperNode authentication: each SuperNode has a key, and the SuperLink enrols the "
        "SuperNodes of its own service.",
        unset="SuperLink: `YES` inside a service with TLS; SuperNode: the SuperLink's published "
        "value, else `NO`; `YES` if keys are set", roles=LINK + NODE, sample="NO")
    node_public_keys: tuple[str, ...] = setting(
        "FLOWER_NODE_PUBLIC_KEYS", pem.node_keys,
        "Public keys of SuperNodes outside the service, in OpenSSH form, one per line or "
        "separated by commas.",
        default="", quiet=True, roles=LINK, sample="ecdsa-sha2-nistp384 AAAAE2Vj…")
    node_private_key: Secret | None = setting(
        "FLOWER_NODE_PRIVATE_KEY", pem.node_private_key,
        "Private key of a SuperNode outside the service: EC, OpenSSH form, or base64 of it.",
        unset="made by the agent", secret=True, roles=NODE, sample="LS0tLS1CRUdJTi…")
    partitions: int | None = setting(
        "FLOWER_PARTITIONS", types.whole(1, types.MOST_PARTITIONS),
        "Into how many parts apps split the data: the SuperLink assigns each SuperNode of its "
        "service one id, and remembers it. More nodes than that wait for an id.",
        unset="as many as the role's VMs, at each node's first start", roles=LINK, sample="8")
    ca_fingerprint: str | None = setting(
        "FLOWER_CA_FINGERPRINT", pem.fingerprint,
        "SHA-256 of the CA certificate that OneGate may provide; the VM refuses any other CA.",
        roles=NODE + EXEC, sample="3f:9a:…")
    address: str | None = setting(
        "FLOWER_ADDRESS", types.own_address,
        "Address on which the Fleet API listens, or `ETHn`.",
        unset="the default route's", roles=LINK, sample="ETH1")
    public_address: str | None = setting(
        "FLOWER_PUBLIC_ADDRESS", types.peer_text,
        "Published name or address, also in the certificate. Set it if nodes connect to another "
        "address than `FLOWER_ADDRESS`.",
        unset="`FLOWER_ADDRESS`", roles=LINK, sample="fl.example.org:443")
    tls_sans: tuple[str, ...] = setting(
        "FLOWER_TLS_SANS", types.names,
        "More names and addresses for the agent's own certificate, separated by commas or "
        "spaces. A SuperNode has such a certificate for the AppIo of `FLOWER_APPIO_LISTEN`.",
        default="", roles=LINK + NODE, sample="fl.example.org, 192.0.2.10")
    control_address: Address = setting(
        "FLOWER_CONTROL_ADDRESS", types.listen(9093),
        "Where the Control API listens. Flower does not authenticate it, and it runs the code it "
        "is given on every node: anything but loopback is a warning. From 1.40 on AppIo is there, "
        "too.", default=CONTROL, roles=LINK, sample="127.0.0.1:19093")
    fleet_port: int | None = setting(
        "FLOWER_FLEET_PORT", types.port(), "Port of the Fleet API.",
        unset="9092 (8000 from 1.40)", roles=LINK + NODE, sample="9092")
    serverappio_port: int = setting(
        "FLOWER_SERVERAPPIO_PORT", types.port(), "Port of the SuperLink's AppIo API.",
        default="9091", roles=LINK, sample="19091")
    clientappio_port: int = setting(
        "FLOWER_CLIENTAPPIO_PORT", types.port(), "Port of the SuperNode's AppIo API.",
        default="9094", roles=NODE, sample="19094")
    health_port: int = setting(
        "FLOWER_HEALTH_PORT", types.port(types.HEALTH_PORTS),
        "First of three consecutive loopback ports for the health services, one per container.",
        default="9097", sample="19097")
    appio_listen: Address | None = setting(
        "FLOWER_APPIO_LISTEN", types.listen(),
        "`address:port` where this VM offers its AppIo to a SuperExec on another VM. Then no "
        "SuperExec starts on this VM.", roles=LINK + NODE, sample="10.0.0.5:9091")
    appio_address: Address | None = setting(
        "FLOWER_APPIO_ADDRESS", types.peer, "AppIo of another VM, to which a SuperExec VM "
        "connects.",
        required=True, roles=EXEC, sample="10.0.0.5:9091")
    superexec_plugin: Plugin = setting(
        "FLOWER_SUPEREXEC_PLUGIN", types.choice(Plugin),
        "Kind of app that a SuperExec VM runs: `serverapp` or `clientapp`.",
        default="clientapp", roles=EXEC, sample="serverapp")
    gateway: bool = setting(
        "FLOWER_GATEWAY", types.boolean,
        "Accounts: people log in with `flwr login` and use the federation without access to this "
        "VM. HAProxy serves the gateway at `FLOWER_GATEWAY_ADDRESS`.",
        default="NO", roles=LINK, sample="YES")
    gateway_address: Address | None = setting(
        "FLOWER_GATEWAY_ADDRESS", types.own_listen(types.GATEWAY_PORT),
        "Where the gateway listens: `address:port`, port 1024 or higher. Without a port: 9443.",
        unset="`FLOWER_ADDRESS`, port 9443", roles=LINK, sample="10.0.0.5:9443")
    gateway_url: str | None = setting(
        "FLOWER_GATEWAY_URL", types.origin,
        "The gateway's address for people, if it differs from where the gateway listens: "
        "`https://HOST` or `https://HOST:PORT`.",
        unset="the host of `FLOWER_PUBLIC_ADDRESS` or the gateway's own, with its port",
        roles=LINK, sample="https://fl.example.org")
    gateway_cert: str | None = setting(
        "FLOWER_GATEWAY_CERT", pem.certificates,
        "The gateway's certificate and its intermediates, as PEM or base64 of PEM; for browsers "
        "and laptops, which may trust other CAs than the nodes.",
        unset="the SuperLink's", quiet=True, roles=LINK, sample="LS0tLS1CRUdJTi…")
    gateway_key: Secret | None = setting(
        "FLOWER_GATEWAY_KEY", pem.tls_key,
        "The private key of `FLOWER_GATEWAY_CERT`, as PEM or base64 of PEM.",
        unset="the SuperLink's", secret=True, roles=LINK, sample="LS0tLS1CRUdJTi…")
    oidc_issuer: str | None = setting(
        "FLOWER_OIDC_ISSUER", types.issuer,
        "OpenID Connect provider whose people may sign in at the gateway: the issuer, as its "
        "discovery document has it.",
        unset="local accounts alone", roles=LINK, sample="https://login.example.org/realms/ml")
    oidc_client_id: str | None = setting(
        "FLOWER_OIDC_CLIENT_ID", types.line,
        "The gateway's client at the provider; public, with PKCE. Its redirect address is the "
        "gateway's, with `/oidc/callback`.",
        roles=LINK, sample="federation")
    oidc_client_secret: Secret | None = setting(
        "FLOWER_OIDC_CLIENT_SECRET", types.secret_line,
        "The client's secret, if the provider wants one. Every VM of a service can read the "
        "context, so a public client is better.",
        secret=True, roles=LINK, sample="…")
    oidc_allow: tuple[AllowRule, ...] = setting(
        "FLOWER_OIDC_ALLOW", account_roles.parse_rules,
        "Who of the provider has which role: `mail:`, `domain:`, `group:` or `subject:`, then "
        "`=viewer`, `=submitter` or `=admin`; several with blanks between.",
        default="", roles=LINK, sample="domain:example.org=viewer group:ml-team=submitter")
    image_prefix: str = setting(
        "FLOWER_IMAGE_PREFIX", types.image_prefix, "Registry and namespace of the images.",
        default="flwr", sample="registry.example.org/mirror/flwr")
    registry_user: str | None = setting(
        "FLOWER_REGISTRY_USER", types.line, "User at a private registry.", sample="puller")
    registry_password: Secret | None = setting(
        "FLOWER_REGISTRY_PASSWORD", types.secret_line, "Password at a private registry.",
        secret=True, sample="…")
    memory_limit: int | None = setting(
        "FLOWER_MEMORY_LIMIT", types.size_bytes(types.MEMORY_FLOOR_BYTES),
        "Memory limit of the SuperExec container, so that the kernel kills an app and not the "
        "agent.",
        unset="the VM's memory less 512 MiB", sample="4G")
    shm_size: int | None = setting(
        "FLOWER_SHM_SIZE", types.size_bytes(types.SHM_FLOOR_BYTES),
        "Size of `/dev/shm` in containers that run apps; DataLoader workers share data there. "
        "Its content counts against the memory limit.",
        unset="half of the memory limit", sample="2G")
    data: data_source.DataSource | None = setting(
        "FLOWER_DATA", data_source.parse_data_source,
        "Source of the apps' `/app/data`, read-only: a directory, a disk by `LABEL=…`, `UUID=…` "
        "or device, or `nfs://HOST/EXPORT`.",
        unset="`/var/lib/flower-agent/data`", roles=NODE + EXEC, sample="LABEL=flower-data")
    state_disk: StateDisk | None = setting(
        "FLOWER_STATE_DISK", parse_state_disk,
        "A disk that keeps `/var/lib/flower-agent`, so that another VM can take it over: "
        "`LABEL=…`, `UUID=…` or a device. A whole, empty disk named by its device gets a file "
        "system. A change applies at the next boot.",
        unset="the VM's own disk", roles=LINK, sample="/dev/vdb")
    outputs_limit: int | None = setting(
        "FLOWER_OUTPUTS_LIMIT", types.size_bytes(types.OUTPUTS_FLOOR_BYTES),
        "Disk space for the outputs of all runs on this VM. The agent removes ended runs first, "
        "the oldest first.",
        unset="a quarter of the disk", sample="20G")
    cache_limit: int | None = setting(
        "FLOWER_CACHE_LIMIT", types.size_bytes(types.OUTPUTS_FLOOR_BYTES),
        "Disk space for the download caches of apps on this VM.",
        unset="a quarter of the disk", sample="20G")
    http_proxy: Secret | None = setting(
        "FLOWER_HTTP_PROXY", types.proxy,
        "Proxy of app processes, git and pip for `http://`: `http://HOST:PORT`, with user and "
        "password if the proxy requires a login. AppIo, SuperLink, OneGate and loopback never "
        "use the proxy.",
        secret=True, sample="http://proxy.example.org:3128")
    https_proxy: Secret | None = setting(
        "FLOWER_HTTPS_PROXY", types.proxy, "The same for `https://`.",
        secret=True, sample="http://proxy.example.org:3128")
    no_proxy: tuple[str, ...] = setting(
        "FLOWER_NO_PROXY", types.direct,
        "Destinations without a proxy: names, domains that begin with a dot, addresses and "
        "networks, separated by commas or spaces. Loopback and the AppIo are always included.",
        default="", sample=".example.org, 10.0.0.0/8")
    app_environment: tuple[tuple[str, Secret], ...] = family(
        "FLOWER_ENV_", types.secret_text,
        "A variable in the environment of app processes: `FLOWER_ENV_HF_TOKEN` sets `HF_TOKEN`. "
        "Every VM of a service can read every CONTEXT.",
        secret=True, verbatim=True, sample="hf_…")
    log_level: LogLevel = setting(
        "FLOWER_LOG_LEVEL", types.choice(LogLevel),
        "Log level of the agent: DEBUG, INFO, WARNING or ERROR. Flower itself gets INFO, or "
        "DEBUG for DEBUG.",
        default="INFO", sample="DEBUG")
    metrics: bool = setting(
        "FLOWER_METRICS", types.boolean,
        "Metrics for node_exporter's textfile collector, in /run/flower-agent/metrics.",
        default="NO", sample="YES")
    ready_timeout_s: int = setting(
        "FLOWER_READY_TIMEOUT", types.whole(10, 86_400),
        "Seconds after which a VM that is not ready reports `failed`. The agent continues to try.",
        default="600", sample="1200")

    given: frozenset[str] = frozenset()
    """The variables that somebody set."""
# fmt: on

    @property
    def is_numbered(self) -> bool:
        """Whether FLOWER_NODE_CONFIG sets both keys of the partition."""
        return set(PARTITION_KEYS) <= dict(self.node_config or ()).keys()


SETTINGS: tuple[Setting[Any], ...] = tuple(
    row_of(field) for field in dataclasses.fields(Settings) if field.metadata
)
"""The table, FLOWER_ROLE first: which other rows apply depends on it."""


def secret_names() -> frozenset[str]:
    """Return the names whose values are never shown, bare and with ``ONEAPP_``."""
    secret = {row.name for row in SETTINGS if row.secret}
    return frozenset(secret | {names.PREFIX + name for name in secret})
