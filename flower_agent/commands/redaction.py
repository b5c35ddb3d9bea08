"""Takes what is secret out of a text that leaves the VM. Pure.

What is secret is said by the table of variables (`settings`), by names that sound so, and by the
looks of a thing: private keys, passwords in URLs, headers. A known value is found in each form in
which programs write it: as it is, in JSON, in a URL, as base64 and out of it, line by line.
"""

import base64
import binascii
import dataclasses
import json
import re
import urllib.parse
from collections.abc import Iterable, Iterator, Mapping

from flower_agent.config import names
from flower_agent.config.settings import SETTINGS

HIDDEN = "***"
SHORTEST = 4
"""A value with fewer characters is hidden where it stands under its name, and not elsewhere."""

LINE = 16
"""A line of a secret of several lines that is as long is secret itself."""

_IN_URL = re.compile(r"\w://[^/@:\s]*:([^/@\s]+)@")
_SOUNDS = re.compile(r"PASS|SECRET|TOKEN|CRED|PRIVATE|KEY(?!S?_?ID)|AUTH", re.IGNORECASE)
_ROWS = {row.name: row for row in SETTINGS if row.stem is None}
_SECRET_STEMS = tuple(row.stem for row in SETTINGS if row.stem is not None and row.secret)

_LOOKS = (
    (
        re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(-----END [A-Z ]*PRIVATE KEY-----|\Z)",
                   re.DOTALL),
        HIDDEN,
    ),
    (re.compile(r"(\w://)[^/@\s\"']+@"), rf"\1{HIDDEN}@"),
    (re.compile(r"((?:authorization|x-onegate-token)\W{1,4})(?:(?:basic|bearer) )?[^\s\"',]+",
                re.IGNORECASE), rf"\1{HIDDEN}"),
    (re.compile(r"((?:passw(?:or)?d|passphrase|secret|tokentxt|token|api_?key)"
                r"[\"']?\s*[=:]\s*[\"']?)(?!\*\*\*)[^\s\"',;}]+", re.IGNORECASE), rf"\1{HIDDEN}"),
)  # fmt: skip
"""What is secret by its looks, and what takes its place."""


@dataclasses.dataclass(frozen=True, slots=True)
class Redactor:
    """Hides what it was told, and what looks secret."""

    forms: tuple[str, ...]
    """Texts to hide, the longest first."""

    def text(self, text: str) -> str:
        """Return `text` without anything secret."""
        for form in self.forms:
            text = text.replace(form, HIDDEN)
        for pattern, place in _LOOKS:
            text = pattern.sub(place, text)
        return text


def redactor(secrets: Iterable[str]) -> Redactor:
    """Return what hides each of `secrets`, in each form."""
    found = {form for secret in secrets for form in _forms(secret.strip())}
    return Redactor(tuple(sorted(found, key=lambda form: (-len(form), form))))


def values(variables: Mapping[str, str]) -> Iterator[str]:
    """Yield the secret values of a context or of ``config.yaml``."""
    for name, value in variables.items():
        if _is_secret(name):
            yield value
        for password in _IN_URL.findall(value):
            yield password
            if (plain := urllib.parse.unquote(password)) != password:
                yield plain


def _is_secret(name: str) -> bool:
    row = _ROWS.get(_bare(name))
    if row is not None:
        return row.secret
    return _bare(name).startswith(_SECRET_STEMS) or bool(_SOUNDS.search(name))


def loose(text: str) -> dict[str, str]:
    """Return names and values of a text that may be damaged: ``NAME='value'``, ``name: value``."""
    rows = re.findall(r"^[ \t]*+(?:export )?(\w++)[ \t]*+[=:]\s*+(\S.*)$", text, re.MULTILINE)
    return {name: value.strip().strip("'\"") for name, value in rows}


def listing(variables: Mapping[str, str]) -> str:
    """Return names and values, one a line; a value is shown where the table says that it may be.

    Of every other one the length is told: it may hold anything, such as a script.
    """
    return "".join(f"{name}={_shown(name, variables[name])}\n" for name in sorted(variables))


def environment(entries: Iterable[str]) -> list[str]:
    """Return a container's environment, ``NAME=value``.

    Values are kept of names that the agent or Flower's images set, and that do not sound secret.
    """
    return [entry if _is_harmless(name) else f"{name}={HIDDEN}" for entry, name in _split(entries)]


def _shown(name: str, value: str) -> str:
    row = _ROWS.get(_bare(name))
    plain = (row is not None and not row.secret and not row.quiet) or name in _HARMLESS
    return names.shown(value) if plain else f"{HIDDEN} ({len(value)} characters)"


_HARMLESS = frozenset({"NETWORK", "REPORT_READY", "TARGET", "VMID", "ONEGATE_ENDPOINT"})


def _split(entries: Iterable[str]) -> Iterator[tuple[str, str]]:
    yield from ((entry, entry.partition("=")[0]) for entry in entries)


def _is_harmless(name: str) -> bool:
    ours = name.startswith(("FLWR_", "NVIDIA_", "PYTHON")) or name in ("PATH", "LANG", "HOME")
    return ours and not _SOUNDS.search(name)


def _bare(name: str) -> str:
    return name.upper().removeprefix(names.PREFIX)


def _forms(secret: str) -> Iterator[str]:
    for text in (secret, *_decoded(secret)):
        if len(text) < SHORTEST:
            continue
        yield text
        yield json.dumps(text)[1:-1]
        yield repr(text)[1:-1]
        yield urllib.parse.quote(text, safe="")
        yield urllib.parse.quote(text)
        yield base64.b64encode(text.encode()).decode()
        lines = text.splitlines()
        yield from (line for line in lines if len(lines) > 1 and len(line) >= LINE)


def _decoded(secret: str) -> Iterator[str]:
    """Yield what `secret` is base64 of, where that is text."""
    try:
        yield base64.b64decode(secret, validate=True).decode("utf-8").strip()
    except (binascii.Error, ValueError):
        return
