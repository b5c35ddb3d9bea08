"""Rules between variables. Pure.

`RULES` names for each rule the variables that it reads; a rule is left out while one of them has
no valid value, so that one mistake gives one finding.
"""

from collections.abc import Callable, Iterator
from collections.abc import Set as AbstractSet

from flower_agent.config import app_environment, flower_versions
from flower_agent.config.settings import Settings
from flower_agent.config.types import GATEWAY_PORT, HEALTH_PORTS, Isolation, Role
from flower_agent.model import address
from flower_agent.model.errors import Finding, warning
from flower_agent.model.pem import SYSTEM

Rule = Callable[[Settings, AbstractSet[str]], Iterator[Finding]]


def check(
    settings: Settings, given: AbstractSet[str], bad: AbstractSet[str]
) -> list[tuple[str, Finding]]:
    """Return the findings on `settings`, each with the variable beside which it belongs.

    `given` are the variables that somebody set, `bad` those whose field holds a stand-in because
    the value was not valid; with FLOWER_ROLE in `bad` the field `role` is not read.
    """
    return [
        (names[0], finding)
        for names, rule in RULES
        if not bad & set(names)
        for finding in rule(settings, given)
    ]


def _version_is_known(settings: Settings, _: AbstractSet[str]) -> Iterator[Finding]:
    if flower_versions.newer_than_known(settings.version):
        newest = ".".join(map(str, flower_versions.NEWEST))
        message = f"Flower {settings.version} is newer than {newest}, the newest known version"
        yield warning("version.newer", message)


def _tls_is_on(settings: Settings, _: AbstractSet[str]) -> Iterator[Finding]:
    if not settings.tls:
        message = "TLS_ENABLED is NO: models and updates travel in the clear"
        yield warning("tls.disabled", message)


def _pair_is_whole(settings: Settings, _: AbstractSet[str]) -> Iterator[Finding]:
    if settings.tls_cert and not settings.tls_key:
        yield Finding("setting.missing", "TLS_CERT is set without TLS_KEY")
    if settings.tls_key and not settings.tls_cert:
        yield Finding("setting.missing", "TLS_KEY is set without TLS_CERT")


def _one_trust(settings: Settings, _: AbstractSet[str]) -> Iterator[Finding]:
    if settings.ca_fingerprint and settings.tls_ca_cert == SYSTEM:
        message = "FLOWER_CA_FINGERPRINT names one CA, but TLS_CA_CERT=system trusts many"
        yield Finding("setting.conflict", message)


def _node_auth_has_tls(settings: Settings, _: AbstractSet[str]) -> Iterator[Finding]:
    if settings.node_auth and not settings.tls:
        yield Finding("setting.conflict", "FLOWER_NODE_AUTH is YES, but TLS_ENABLED is NO")


def _node_keys_have_an_effect(settings: Settings, _: AbstractSet[str]) -> Iterator[Finding]:
    off = "FLOWER_NODE_AUTH" if settings.node_auth is False else "TLS_ENABLED"
    if settings.tls and settings.node_auth is not False:
        return
    given = {
        "FLOWER_NODE_PUBLIC_KEYS": settings.node_public_keys,
        "FLOWER_NODE_PRIVATE_KEY": settings.node_private_key,
    }
    for name in (name for name, value in given.items() if value):
        message = f"{name} is set, but {off} is NO, so nodes are not authenticated"
        yield warning("setting.no_effect", message)


def _partitions_have_an_assigner(settings: Settings, _: AbstractSet[str]) -> Iterator[Finding]:
    off = "FLOWER_NODE_AUTH" if settings.node_auth is False else "TLS_ENABLED"
    if settings.partitions is not None and not (settings.tls and settings.node_auth is not False):
        message = f"FLOWER_PARTITIONS is set, but {off} is NO, so the SuperLink enrols nobody"
        yield warning("setting.no_effect", message)


def _control_is_closed(settings: Settings, given: AbstractSet[str]) -> Iterator[Finding]:
    chosen = "FLOWER_CONTROL_ADDRESS" in given
    listens = _control(settings)
    if listens != settings.control_address and settings.role is Role.SUPERLINK:
        message = (
            f"FLOWER_CONTROL_ADDRESS is {settings.control_address}, at the Fleet port that HAProxy "
            f"has; the Control API listens at {listens}"
        )
        yield warning("control.moved", message)
    elif chosen and not address.is_loopback(listens.host):
        message = f"FLOWER_CONTROL_ADDRESS is '{listens}': whoever reaches it"
        yield warning("control.open", f"{message} can run code on every node")


def _control(settings: Settings) -> address.Address:
    given, port = settings.control_address, settings.fleet_port
    return flower_versions.control_listen(settings.version, given, port)


def _ports_differ(settings: Settings, _: AbstractSet[str]) -> Iterator[Finding]:
    taken: dict[int, str] = {}
    for name, port in _ports(settings):
        other = taken.setdefault(port, name)
        if other != name:
            hint = (
                f"Give each its own port; the health services use {HEALTH_PORTS} consecutive ports."
            )
            yield Finding("setting.conflict", f"{other} and {name} both take port {port}", hint)


def _ports(settings: Settings) -> Iterator[tuple[str, int]]:
    """Yield the ports that are listened on here. APIs with the same flag share the first's."""
    band = flower_versions.band(settings.version)
    fleet_port = settings.fleet_port or band.fleet_port
    if settings.gateway:
        given = settings.gateway_address
        yield "FLOWER_GATEWAY_ADDRESS", given.port if given else GATEWAY_PORT
    if settings.role is Role.SUPERLINK and band.proxied:
        yield "FLOWER_FLEET_PORT", fleet_port
        yield "FLOWER_CONTROL_ADDRESS", _control(settings).port
        if settings.appio_listen and settings.appio_listen.port != fleet_port:
            yield "FLOWER_APPIO_LISTEN", settings.appio_listen.port
    elif settings.role is Role.SUPERLINK:
        shared = {
            band.appio_flag: _appio(settings, "FLOWER_SERVERAPPIO_PORT", settings.serverappio_port),
            band.control_flag: ("FLOWER_CONTROL_ADDRESS", settings.control_address.port),
            band.fleet_flag: ("FLOWER_FLEET_PORT", fleet_port),
        }
        yield from reversed(shared.values())
    if settings.role is Role.SUPERNODE:
        yield _appio(settings, "FLOWER_CLIENTAPPIO_PORT", settings.clientappio_port)
    for offset in range(HEALTH_PORTS):
        yield "FLOWER_HEALTH_PORT", settings.health_port + offset


def _appio(settings: Settings, name: str, port: int) -> tuple[str, int]:
    if settings.appio_listen:
        return "FLOWER_APPIO_LISTEN", settings.appio_listen.port
    return name, port


def _appio_is_closed(settings: Settings, _: AbstractSet[str]) -> Iterator[Finding]:
    where, dialled = settings.appio_listen, settings.appio_address
    if settings.tls and flower_versions.band(settings.version).appio_can_have_tls:
        return
    version = f"Flower {settings.version}" if settings.tls else "TLS_ENABLED=NO"
    if where is not None and not address.is_loopback(where.host):
        yield warning(
            "appio.open", f"FLOWER_APPIO_LISTEN is {where}, and that AppIo has no TLS ({version})"
        )
    if dialled is not None and not address.is_loopback(dialled.host):
        message = f"FLOWER_APPIO_ADDRESS is {dialled}, and that AppIo has no TLS ({version})"
        yield warning("appio.plaintext", message)


def _appio_has_its_own_port(settings: Settings, _: AbstractSet[str]) -> Iterator[Finding]:
    band = flower_versions.band(settings.version)
    shares = band.appio_shares_tls and not band.proxied
    where, control = settings.appio_listen, settings.control_address
    if settings.role is Role.SUPERLINK and where and shares and where != control:
        yield warning(
            "setting.no_effect",
            f"FLOWER_APPIO_LISTEN is {where}, but a SuperLink of Flower {settings.version} serves "
            f"its AppIo at the address of its Control API, {control}",
            "Set FLOWER_CONTROL_ADDRESS and FLOWER_APPIO_LISTEN to the same address, and let the "
            "SuperExec connect to that address.",
        )


def _apps_run_in_one_place(settings: Settings, _: AbstractSet[str]) -> Iterator[Finding]:
    if settings.appio_listen and settings.isolation is Isolation.SUBPROCESS:
        message = "FLOWER_APPIO_LISTEN lets apps run elsewhere, FLOWER_ISOLATION=subprocess here"
        yield Finding("setting.conflict", message, "Leave one of the two empty.")


def _framework_has_a_container(settings: Settings, _: AbstractSet[str]) -> Iterator[Finding]:
    if settings.framework and settings.isolation is Isolation.SUBPROCESS:
        yield warning(
            "setting.no_effect",
            "ML_FRAMEWORK is set, but with FLOWER_ISOLATION=subprocess apps run in Flower's own "
            "container, which has no framework",
            "Leave FLOWER_ISOLATION empty, or use a FLOWER_IMAGE_PREFIX with your own images.",
        )


def _registry_login_is_whole(settings: Settings, _: AbstractSet[str]) -> Iterator[Finding]:
    user, password = "FLOWER_REGISTRY_USER", "FLOWER_REGISTRY_PASSWORD"
    if settings.registry_user and not settings.registry_password:
        yield Finding("setting.missing", f"{user} is set without {password}")
    if settings.registry_password and not settings.registry_user:
        yield Finding("setting.missing", f"{password} is set without {user}")


def _env_names_are_free(settings: Settings, _: AbstractSet[str]) -> Iterator[Finding]:
    size_bytes = 0
    for name, value in settings.app_environment:
        variable = f"FLOWER_ENV_{name}"
        size_bytes += len(name) + len(value.reveal().encode("utf-8", "surrogatepass"))
        if not app_environment.is_name(name):
            yield Finding("setting.invalid", f"{variable}: want a letter or _ after FLOWER_ENV_")
        elif name.upper() in app_environment.PROXIES:
            hint = f"Set FLOWER_{name.upper()}: the agent adds the exceptions."
            yield Finding("env.reserved", f"{variable} would set a proxy", hint)
        elif owner := app_environment.owner(name):
            yield Finding("env.reserved", f"{variable} would set {name}, which is {owner}'s own")
    if size_bytes > (limit := app_environment.LIMIT_BYTES):
        message = f"FLOWER_ENV_<NAME>: names and values have {size_bytes} bytes, want at most"
        yield Finding("setting.invalid", f"{message} {limit}")


def _no_proxy_has_a_proxy(settings: Settings, _: AbstractSet[str]) -> Iterator[Finding]:
    if settings.no_proxy and settings.http_proxy is None and settings.https_proxy is None:
        message = "FLOWER_NO_PROXY is set, but neither FLOWER_HTTP_PROXY nor FLOWER_HTTPS_PROXY is"
        yield warning("setting.no_effect", message)


def _data_has_readers(settings: Settings, _: AbstractSet[str]) -> Iterator[Finding]:
    if settings.data is not None and settings.appio_listen is not None:
        yield warning(
            "setting.no_effect",
            "FLOWER_DATA is set, but with FLOWER_APPIO_LISTEN no app runs on this VM",
            "Set it on the VM of the SuperExec.",
        )


def _gateway_pair_is_whole(settings: Settings, _: AbstractSet[str]) -> Iterator[Finding]:
    cert, key = "FLOWER_GATEWAY_CERT", "FLOWER_GATEWAY_KEY"
    if settings.gateway_cert and not settings.gateway_key:
        yield Finding("setting.missing", f"{cert} is set without {key}")
    if settings.gateway_key and not settings.gateway_cert:
        yield Finding("setting.missing", f"{key} is set without {cert}")


def _gateway_has_tls(settings: Settings, _: AbstractSet[str]) -> Iterator[Finding]:
    if settings.gateway and not settings.tls and not settings.gateway_cert:
        yield Finding(
            "setting.conflict",
            "FLOWER_GATEWAY is YES, but TLS_ENABLED is NO, so the gateway has no certificate",
            "Leave TLS_ENABLED empty, or set FLOWER_GATEWAY_CERT and FLOWER_GATEWAY_KEY.",
        )


def _oidc_is_whole(settings: Settings, _: AbstractSet[str]) -> Iterator[Finding]:
    wanted = {
        "FLOWER_OIDC_ISSUER": settings.oidc_issuer,
        "FLOWER_OIDC_CLIENT_ID": settings.oidc_client_id,
        "FLOWER_OIDC_ALLOW": settings.oidc_allow,
    }
    given = [name for name, value in wanted.items() if value]
    if given or settings.oidc_client_secret:
        for name, value in wanted.items():
            if not value:
                named = given[0] if given else "FLOWER_OIDC_CLIENT_SECRET"
                yield Finding("setting.missing", f"{named} is set without {name}")


def _gateway_is_on(settings: Settings, given: AbstractSet[str]) -> Iterator[Finding]:
    if settings.gateway or settings.role is not Role.SUPERLINK:
        return
    for name in sorted(
        name for name in given if name.startswith(("FLOWER_GATEWAY_", "FLOWER_OIDC_"))
    ):
        message = f"{name} is set, but FLOWER_GATEWAY is NO"
        yield warning("setting.no_effect", message, "Set FLOWER_GATEWAY=YES, or remove it.")


RULES: tuple[tuple[tuple[str, ...], Rule], ...] = (
    (("FLOWER_VERSION",), _version_is_known),
    (("TLS_ENABLED",), _tls_is_on),
    (("TLS_CERT", "TLS_KEY"), _pair_is_whole),
    (("FLOWER_CA_FINGERPRINT", "TLS_CA_CERT"), _one_trust),
    (("FLOWER_NODE_AUTH", "TLS_ENABLED"), _node_auth_has_tls),
    (
        (
            "FLOWER_NODE_AUTH",
            "TLS_ENABLED",
            "FLOWER_NODE_PUBLIC_KEYS",
            "FLOWER_NODE_PRIVATE_KEY",
        ),
        _node_keys_have_an_effect,
    ),
    (("FLOWER_PARTITIONS", "FLOWER_NODE_AUTH", "TLS_ENABLED"), _partitions_have_an_assigner),
    (
        ("FLOWER_CONTROL_ADDRESS", "FLOWER_VERSION", "FLOWER_ROLE", "FLOWER_FLEET_PORT"),
        _control_is_closed,
    ),
    (
        (
            "FLOWER_FLEET_PORT",
            "FLOWER_SERVERAPPIO_PORT",
            "FLOWER_CLIENTAPPIO_PORT",
            "FLOWER_HEALTH_PORT",
            "FLOWER_GATEWAY",
            "FLOWER_GATEWAY_ADDRESS",
            "FLOWER_CONTROL_ADDRESS",
            "FLOWER_APPIO_LISTEN",
            "FLOWER_VERSION",
            "FLOWER_ROLE",
        ),
        _ports_differ,
    ),
    (("FLOWER_REGISTRY_USER", "FLOWER_REGISTRY_PASSWORD"), _registry_login_is_whole),
    (
        ("FLOWER_APPIO_LISTEN", "FLOWER_CONTROL_ADDRESS", "FLOWER_VERSION", "FLOWER_ROLE"),
        _appio_has_its_own_port,
    ),
    (
        ("FLOWER_APPIO_LISTEN", "FLOWER_APPIO_ADDRESS", "FLOWER_VERSION", "TLS_ENABLED"),
        _appio_is_closed,
    ),
    (("FLOWER_APPIO_LISTEN", "FLOWER_ISOLATION"), _apps_run_in_one_place),
    (("ML_FRAMEWORK", "FLOWER_ISOLATION"), _framework_has_a_container),
    (("FLOWER_DATA", "FLOWER_APPIO_LISTEN"), _data_has_readers),
    (("FLOWER_ENV_<KEY>",), _env_names_are_free),
    (("FLOWER_NO_PROXY", "FLOWER_HTTP_PROXY", "FLOWER_HTTPS_PROXY"), _no_proxy_has_a_proxy),
    (("FLOWER_GATEWAY_CERT", "FLOWER_GATEWAY_KEY"), _gateway_pair_is_whole),
    (
        (
            "FLOWER_OIDC_ISSUER",
            "FLOWER_OIDC_CLIENT_ID",
            "FLOWER_OIDC_CLIENT_SECRET",
            "FLOWER_OIDC_ALLOW",
        ),
        _oidc_is_whole,
    ),
    (("FLOWER_GATEWAY", "TLS_ENABLED", "FLOWER_GATEWAY_CERT"), _gateway_has_tls),
    (("FLOWER_GATEWAY", "FLOWER_ROLE"), _gateway_is_on),
)
