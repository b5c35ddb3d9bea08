"""One string to one value, for each kind of variable. Pure. Keys, certificates: `model.pem`.

Every parser raises ValueError whose text completes "NAME is 'x': …" and never repeats the value,
since that may be a secret.
Fact: Flower's ``--node-config`` silently drops what is not ``key=value`` (seen with 1.25 and 1.42).

Git reads more into a reference than a name (``+a:b`` writes, ``^x`` excludes, ``*`` matches), so
only names are taken: git-check-ref-format(1), git-fetch(1).
"""

import dataclasses
import enum
import re
import tomllib
from collections.abc import Callable, Mapping
from typing import TypeVar

from flower_agent.model import address
from flower_agent.model.secret import Secret

GATEWAY_PORT = 9443
HEALTH_PORTS = 3
"""Ports in a row from FLOWER_HEALTH_PORT, one a container."""


_SOURCE = re.compile(
    r"(?P<url>(?P<scheme>https|ssh|git)://(?:(?P<login>[^\s/@-][^\s/@]*)@)?"
    r"(?P<host>[A-Za-z0-9\[][A-Za-z0-9.:\]-]*)/(?P<path>[^\s@#-][^\s@#]*)"
    r"|[A-Za-z0-9][A-Za-z0-9._-]*@[A-Za-z0-9][A-Za-z0-9.-]*:[^\s@#-][^\s@#]*)"
    r"(?:@(?P<ref>[^\s@#:^~*?\[\\+-][^\s@#:^~*?\[\\]*))?(?:#(?P<subdirectory>[^\s#/-][^\s#]*))?"
)
_COMMIT = re.compile("[0-9a-f]{40}|[0-9a-f]{64}")

HEAD = "HEAD"


@dataclasses.dataclass(frozen=True, slots=True)
class AppSource:
    """An app in a git repository."""

    url: str
    """Without a password; for https without a user too."""

    ref: str = HEAD
    """Branch, tag or commit."""

    subdirectory: str = ""
    """Where the app is in the repository, without slashes at its ends."""

    login: Secret | None = None
    """``user:password`` for https, in the URL's own encoding."""

    @property
    def fixed(self) -> bool:
        """Return whether the ref is a commit, which never moves."""
        return bool(_COMMIT.fullmatch(self.ref))

    def __str__(self) -> str:
        """Return what may be shown."""
        ref = "" if self.ref == HEAD else f"@{self.ref}"
        return f"{self.url}{ref}" + (f"#{self.subdirectory}" if self.subdirectory else "")


def parse_app_source(text: str) -> AppSource:
    """Return the source in ``URL``, ``URL@ref`` or ``URL@ref#subdirectory``. Raises ValueError."""
    found = _SOURCE.fullmatch(text)
    if not found or ".." in text or not text.isprintable():
        raise ValueError("want URL, URL@ref or URL@ref#subdirectory; https, ssh or git")
    url, scheme, login = found["url"], found["scheme"], found["login"]
    secret = None
    if login and scheme == "https":
        url = f"{scheme}://{found['host']}/{found['path']}"
        secret = Secret(login if ":" in login else f"{login}:")
    elif login and ":" in login:
        raise ValueError(f"want no password in a URL with {scheme}")
    return AppSource(url, found["ref"] or HEAD, (found["subdirectory"] or "").strip("/"), secret)


E = TypeVar("E", bound=enum.StrEnum)

Pairs = tuple[tuple[str, str], ...]


class Role(enum.StrEnum):
    """What a VM is."""

    SUPERLINK = "superlink"
    SUPERNODE = "supernode"
    SUPEREXEC = "superexec"


class Isolation(enum.StrEnum):
    """Where Flower runs an app: in a SuperExec's container or inside the program itself."""

    PROCESS = "process"
    SUBPROCESS = "subprocess"


class GpuMode(enum.StrEnum):
    """Whether a GPU must, must not or may be used."""

    YES = "yes"
    NO = "no"
    AUTO = "auto"


class Framework(enum.StrEnum):
    """Which SuperExec image runs the apps."""

    PYTORCH = "pytorch"
    TENSORFLOW = "tensorflow"
    SKLEARN = "sklearn"


class LogLevel(enum.StrEnum):
    """From which level on the agent logs."""

    DEBUG = "DEBUG"
    INFO = "INFO"
    WARNING = "WARNING"
    ERROR = "ERROR"


class Plugin(enum.StrEnum):
    """The kind of apps that a SuperExec runs."""

    SERVERAPP = "serverapp"
    CLIENTAPP = "clientapp"


BOOLEANS = dict.fromkeys(("yes", "true", "on", "1"), True) | dict.fromkeys(
    ("no", "false", "off", "0"), False
)


MOST_PARTITIONS = 10_000
MEMORY_FLOOR_BYTES = 256 * 1024**2
SHM_FLOOR_BYTES = 1024**2
OUTPUTS_FLOOR_BYTES = 64 * 1024**2
_CEILING_BYTES = 1024**5
_SIZE = re.compile(
    r"([0-9]{1,15})(?:\.([0-9]{1,3}))?[ ]?([KMGT]?)(?:I?B)?", re.IGNORECASE | re.ASCII
)

_PAIR = re.compile(
    r"([A-Za-z0-9_][A-Za-z0-9_-]{0,63})=('[^']*+'|\"[^\"]*+\"|[^\s'\"=\\]++)(?:\s++|\Z)", re.ASCII
)
_PROXY = re.compile(
    r"https?://(?:[A-Za-z0-9._~%!$&*+,;=:-]+@)?(\[[0-9a-fA-F:.]+\]|[A-Za-z0-9.-]+):([0-9]{1,5})/?",
    re.ASCII,
)
_LAST_PORT = 65535
_HTTPS = 443
_ISSUER = re.compile(r"https://[A-Za-z0-9.\[\]:-]+(/[A-Za-z0-9._~/-]*)?", re.ASCII)
_ORIGIN = re.compile(
    r"https://(\[[0-9a-f:.]{2,45}\]|[a-z0-9.-]{1,253})(?::([0-9]{1,5}))?/?",
    re.IGNORECASE | re.ASCII,
)
_DIRECT = re.compile(
    r"\*|\.?[A-Za-z0-9_-][A-Za-z0-9._-]*(?::[0-9]{1,5}|/[0-9]{1,2})?"
    r"|\[?[0-9a-fA-F:]+(?:/[0-9]{1,3}|\](?::[0-9]{1,5})?)?",
    re.ASCII,
)
_COMPONENT = r"[a-z0-9]+(?:(?:\.|__?|-+)[a-z0-9]+)*"
_PREFIX = re.compile(rf"{_COMPONENT}(?::[0-9]{{1,5}})?(?:/{_COMPONENT})*")
_PREFIX_LENGTH = 200


def choice(kind: type[E], also: Mapping[str, E] | None = None) -> Callable[[str], E]:
    """Return a parser for the members of `kind` and the other words in `also`; case is ignored."""
    words = {str(member).lower(): member for member in kind} | dict(also or {})
    want = f"want {_one_of([*(str(member) for member in kind), *(also or {})])}"

    def parse(text: str) -> E:
        if text.lower() not in words:
            raise ValueError(want)
        return words[text.lower()]

    return parse


def boolean(text: str) -> bool:
    """Return the boolean of YES, TRUE, ON, 1 and their opposites."""
    if text.lower() not in BOOLEANS:
        raise ValueError("want YES or NO")
    return BOOLEANS[text.lower()]


def gpu_mode(text: str) -> GpuMode:
    """Return YES, NO (both as `boolean` takes them) or AUTO."""
    if text.lower() == GpuMode.AUTO:
        return GpuMode.AUTO
    if text.lower() not in BOOLEANS:
        raise ValueError("want YES, NO or AUTO")
    return GpuMode.YES if BOOLEANS[text.lower()] else GpuMode.NO


def whole(low: int, high: int) -> Callable[[str], int]:
    """Return a parser for whole numbers from `low` to `high`."""

    def parse(text: str) -> int:
        if not re.fullmatch("[0-9]{1,9}", text) or not low <= int(text) <= high:
            raise ValueError(f"want a whole number from {low} to {high}")
        return int(text)

    return parse


def port(room: int = 1) -> Callable[[str], int]:
    """Return a parser for the first of `room` ports in a row."""
    number = whole(1, 65536 - room)

    def parse(text: str) -> int:
        try:
            return number(text)
        except ValueError:
            row = f", the first of {room} consecutive ports" if room > 1 else ""
            raise ValueError(f"want a port from 1 to {65536 - room}{row}") from None

    return parse


def listen(default_port: int | None = None) -> Callable[[str], address.Address]:
    """Return a parser for where to listen; without a port it is `default_port`."""

    def parse(text: str) -> address.Address:
        return address.parse_address(_zoneless(text), default_port)

    return parse


def own_listen(default_port: int) -> Callable[[str], address.Address]:
    """Return a parser for where to listen that takes no name: nobody looks one up."""

    def parse(text: str) -> address.Address:
        where = address.parse_address(_zoneless(text), default_port)
        if not address.is_ip(where.host):
            raise ValueError("want an IP address of this VM, with or without a port")
        return where

    return parse


def peer(text: str) -> address.Address:
    """Return the address of a peer, with its port."""
    return _dialled(address.parse_address(_zoneless(text)))


def peer_text(text: str) -> str:
    """Return `text` if it is the address of a peer, with or without a port."""
    _dialled(address.parse_address(_zoneless(text), default_port=1))
    return text


def own_address(text: str) -> str:
    """Return an IP address, or ``ETHn`` or ``ETHn_ALIASm`` in capitals."""
    if re.fullmatch("ETH[0-9]{1,3}(_ALIAS[0-9]{1,3})?", text, re.IGNORECASE | re.ASCII):
        return text.upper()
    if not address.is_ip(_zoneless(text)):
        raise ValueError("want an IP address of this VM, ETHn or ETHn_ALIASm")
    return text


def names(text: str) -> tuple[str, ...]:
    """Return names and IP addresses, each once; commas or blanks stand between them."""
    parts = (part for part in re.split(r"[\s,]+", _zoneless(text)) if part)
    found = dict.fromkeys(map(address.parse_host, parts))
    return tuple(found)


def pairs(text: str) -> Pairs:
    """Return the pairs of ``key=value key2="two words"``; a quoted value keeps its quotes.

    Quotes are TOML's, as Flower writes them: they make a string of what looks like a number.
    Strict, since Flower drops what is no pair.
    """
    found: list[tuple[str, str]] = []
    position, whole = 0, text.strip()
    while position < len(whole):
        match = _PAIR.match(whole, position)
        if match is None or not match[2].isprintable() or not _is_toml(match[2]):
            raise ValueError(
                "want key=value key2='two words'; outside quotes no blank, quote, backslash or "
                'further =, inside "…" a backslash as TOML has it'
            )
        found.append((match[1], match[2]))
        position = match.end()
    if len(dict(found)) != len(found):
        raise ValueError("want each key once")
    return tuple(found)


def line(text: str) -> str:
    """Return `text` if it is one line of printable characters."""
    if not text.isprintable():
        raise ValueError("want one line of printable characters")
    return text


def secret_line(text: str) -> Secret:
    """Return `text` as a secret if it is one line of printable characters."""
    return Secret(line(text))


def secret_text(text: str) -> Secret:
    """Return `text` as a secret if it may stand in a process's environment."""
    if "\0" in text:
        raise ValueError("want text without a NUL")
    return Secret(text)


def proxy(text: str) -> Secret:
    """Return the URL of a proxy; without a port curl and Python mean different ones."""
    found = _PROXY.fullmatch(text)
    if found is None or not 1 <= int(found[2]) <= _LAST_PORT:
        raise ValueError("want http://HOST:PORT or http://USER:PASSWORD@HOST:PORT")
    address.parse_host(found[1].strip("[]"))
    return Secret(text.rstrip("/"))


def origin(text: str) -> str:
    """Return the origin of a site with TLS (RFC 6454), as browsers write it in ``Origin``."""
    found = _ORIGIN.fullmatch(text)
    port = int(found[2] or _HTTPS) if found else 0
    if found is None or not 1 <= port <= _LAST_PORT:
        raise ValueError("want https://HOST or https://HOST:PORT, without a path")
    host = address.canonical_host(address.parse_host(found[1].strip("[]")))
    return https_url(_dialled(address.Address(host, port)))


def issuer(text: str) -> str:
    """Return the issuer of an OpenID Connect provider (OpenID Connect Discovery 1.0, section 3)."""
    if _ISSUER.fullmatch(text) is None:
        raise ValueError("want https://HOST[:PORT][/PATH], without query or fragment")
    return text


def https_url(where: address.Address) -> str:
    """Return the URL of a site with TLS; without the port that https has anyway."""
    bare = str(where) if where.port != _HTTPS else str(where).removesuffix(f":{_HTTPS}")
    return f"https://{bare}"


def direct(text: str) -> tuple[str, ...]:
    """Return what is dialled without a proxy, each once; commas or blanks stand between."""
    found = tuple(dict.fromkeys(part for part in re.split(r"[\s,]+", text) if part))
    if not all(_DIRECT.fullmatch(part) for part in found):
        raise ValueError("want names, .domains, addresses and networks, separated by commas")
    return found


def identifier(text: str) -> str:
    """Return the name of a strategy: letters and digits."""
    if not re.fullmatch("[A-Za-z][A-Za-z0-9]{0,63}", text):
        raise ValueError("want a name of at most 64 letters and digits, such as FedAvg")
    return text


def size_bytes(floor: int) -> Callable[[str], int]:
    """Return a parser for sizes from `floor` bytes, whole MiB, to 1024T, as bytes.

    K, M, G and T are powers of 1024, with or without B or iB.
    """

    def parse(text: str) -> int:
        match = _SIZE.fullmatch(text)
        if match is None:
            raise ValueError("want a size such as 2048M or 4G")
        unit = 1024 ** " KMGT".index(match[3].upper() or " ")
        fraction = match[2] or ""
        size: int = int(match[1] + fraction) * unit // 10 ** len(fraction)
        if not floor <= size <= _CEILING_BYTES:
            raise ValueError(f"want a size from {floor >> 20}M to 1024T")
        return size

    return parse


def image_prefix(text: str) -> str:
    """Return registry and namespace of an image reference."""
    if len(text) > _PREFIX_LENGTH or not _PREFIX.fullmatch(text):
        raise ValueError("want a registry and namespace in lower case, such as flwr or host:5000/x")
    return text


def app(text: str) -> str:
    """Return the Git URL of an app, with its ref and subdirectory. It may hold credentials."""
    parse_app_source(text)
    return text


def _is_toml(value: str) -> bool:
    """Return whether a quoted value is a string of TOML; what has no quotes is none, and well."""
    if value[0] not in "'\"":
        return True
    try:
        tomllib.loads(f"value = {value}")
    except tomllib.TOMLDecodeError:
        return False
    return True


def _one_of(words: list[str]) -> str:
    return f"{', '.join(words[:-1])} or {words[-1]}"


def _zoneless(text: str) -> str:
    """Return `text`; refuse a zone, which may hold any character and means something only here."""
    if "%" in text:
        raise ValueError("want a name or an address without a zone (%)")
    return text


def _dialled(where: address.Address) -> address.Address:
    if address.is_any(where.host):
        raise ValueError("want an address that other VMs can dial")
    return where
