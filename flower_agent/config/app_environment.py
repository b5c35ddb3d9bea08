"""The environment of app processes in addition to Flower's own: one JSON object. Pure.

It reaches the app's process by a file, so nothing of it is in ``docker inspect``, and no other
process gets it: gRPC obeys ``https_proxy`` (grpc/grpc, doc/environment_variables.md), which would
lead a SuperExec's own calls, or a SuperNode's, out of the VM.
"""

import dataclasses
import json
import re
from collections.abc import Iterable

from flower_agent.config.settings import Settings
from flower_agent.model.secret import Secret

LIMIT_BYTES = 256 * 1024
"""Of all names and values: the kernel takes an environment of some megabytes at most."""

LOOPBACK = ("127.0.0.1", "localhost", "::1")

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*", re.ASCII)
_LOADER, _PYTHON, _FLOWER = "the program loader", "Python", "Flower"
_SHELL, _AGENT = "the shell", "the agent"
_PREFIXES = {
    "LD_": _LOADER,
    "GLIBC_": _LOADER,
    "OPENSSL_": _LOADER,
    "PYTHON": _PYTHON,
    "FLWR_": _FLOWER,
    "FLOWER_": _AGENT,
    "XDG_": _AGENT,
    "NVIDIA_": _AGENT,
}
_WORDS = {
    _LOADER: "PATH GCONV_PATH LOCPATH",
    _PYTHON: "VIRTUAL_ENV __PYVENV_LAUNCHER__",
    _FLOWER: "GRPC_PROXY NO_GRPC_PROXY GRPC_PROXY_EXP GRPC_DEFAULT_SSL_ROOTS_FILE_PATH",
    _SHELL: "IFS ENV BASH_ENV BASHOPTS SHELLOPTS CDPATH PS4 PROMPT_COMMAND",
    _AGENT: "HOME PWD OLDPWD TMPDIR TMP TEMP HF_HOME TORCH_HOME MPLCONFIGDIR ALL_PROXY",
}
OWNERS = {word: owner for owner, words in _WORDS.items() for word in words.split()}
"""The owner of each name that no FLOWER_ENV_ variable may set, in upper case."""

PROXIES = ("HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY")
"""Set by FLOWER_HTTP_PROXY and its kind, which keep loopback and AppIo out of them."""


@dataclasses.dataclass(frozen=True, slots=True)
class Proxies:
    """The proxies of the context, for downloads from outside the VM."""

    http: Secret | None
    """URL for ``http://``; it may hold a login."""

    https: Secret | None

    no_proxy: str
    """Names and addresses that are dialled directly, with commas between; loopback always."""

    def variables(self) -> dict[str, str]:
        """Return the variables that programs obey, in capitals and not; none without a proxy."""
        found = {"HTTP_PROXY": self.http, "HTTPS_PROXY": self.https}
        revealed = {name: url.reveal() for name, url in found.items() if url is not None}
        if not revealed:
            return {}
        revealed["NO_PROXY"] = self.no_proxy
        return revealed | {name.lower(): value for name, value in revealed.items()}


def proxies(settings: Settings, direct: Iterable[str] = ()) -> Proxies:
    """Return the proxies; the hosts in `direct` are dialled without, as loopback is."""
    hosts = dict.fromkeys((*LOOPBACK, *direct, *settings.no_proxy))
    return Proxies(settings.http_proxy, settings.https_proxy, ",".join(hosts))


def owner(name: str) -> str:
    """Return who else owns a name of the environment; empty: an app's process may have it set."""
    upper = name.upper()
    for prefix, found in _PREFIXES.items():
        if upper.startswith(prefix):
            return found
    return OWNERS.get(upper, "")


def is_name(name: str) -> bool:
    """Return whether every program can read a variable of that name."""
    return bool(_NAME.fullmatch(name))


def document(settings: Settings, direct: Iterable[str]) -> bytes | None:
    """Return the file's content, ``{"NAME": "value"}``; None where nothing is set.

    `direct` are the hosts of the AppIo, which no proxy may stand before.
    """
    found = {name: value.reveal() for name, value in settings.app_environment}
    found |= proxies(settings, direct).variables()
    return json.dumps(found, sort_keys=True).encode() + b"\n" if found else None


def words(settings: Settings) -> str:
    """Return what is set, for the status: names, never a value."""
    names = [name for name, _ in settings.app_environment]
    given = {"HTTP_PROXY": settings.http_proxy, "HTTPS_PROXY": settings.https_proxy}
    return ", ".join([*names, *(name for name, url in given.items() if url is not None)])
