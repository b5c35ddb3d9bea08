"""Addresses as people write them: ``host``, ``host:port``, ``[v6]:port``."""

import dataclasses
import ipaddress
import re

_NAME = re.compile(
    r"(?=.{1,253}\Z)[A-Za-z0-9_]([A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?"
    r"(\.[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?)*\.?\Z"
)


@dataclasses.dataclass(frozen=True, slots=True)
class Address:
    """A host with a port: ``str()`` gives what gRPC and Flower's flags take."""

    host: str
    """A DNS name, an IPv4 or an IPv6 address without brackets."""

    port: int
    """1 to 65535."""

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def canonical_host(host: str) -> str:
    """Return `host` as it is compared: addresses in canonical text, names in lower case."""
    try:
        return str(ipaddress.ip_address(host.partition("%")[0]))
    except ValueError:
        return host.lower().removesuffix(".")


def is_ip(host: str) -> bool:
    """Return whether `host` is an IP address and not a name."""
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def is_loopback(host: str) -> bool:
    """Return whether `host` can be reached from its own machine only."""
    return host.lower() == "localhost" or (is_ip(host) and ipaddress.ip_address(host).is_loopback)


def is_any(host: str) -> bool:
    """Return whether `host` stands for every address of the machine (0.0.0.0, ::)."""
    return is_ip(host) and ipaddress.ip_address(host).is_unspecified


def parse_port(text: str) -> int:
    """Return a TCP port. Raises ValueError that says what was wanted."""
    if not re.fullmatch(r"[0-9]{1,5}", text) or not 1 <= int(text) <= 65535:  # noqa: PLR2004
        raise ValueError("want a port from 1 to 65535")
    return int(text)


def parse_host(text: str) -> str:
    """Return a name or an IP address without brackets. Raises ValueError."""
    bare = text[1:-1] if text.startswith("[") and text.endswith("]") else text
    if is_ip(bare) and "%" not in bare:  # a zone holds on one machine only, and any letters
        return bare
    if bare != text or not _NAME.match(text) or re.fullmatch(r"[0-9.]+", text):
        raise ValueError("want a DNS name or an IP address")
    return text


def parse_address(text: str, default_port: int | None = None) -> Address:
    """Return the address in `text`; without a port it gets `default_port`.

    An IPv6 address with a port wants brackets. Raises ValueError that says what was wanted.
    """
    if text.startswith("[") or text.count(":") == 1:
        host, colon, port = text.rpartition(":")
        if text.endswith("]"):
            host, colon, port = text, "", ""
    else:
        host, colon, port = text, "", ""
    if not colon and default_port is None:
        raise ValueError("want host:port or [v6]:port")
    try:
        return Address(parse_host(host), parse_port(port) if colon else default_port or 0)
    except ValueError as error:
        raise ValueError(f"{error} in host:port or [v6]:port") from None
