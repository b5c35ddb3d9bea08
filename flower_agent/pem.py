r"""Keys and certificates as text: PEM blocks, OpenSSH keys, fingerprints. Pure, textual only.

Whether they are sound and belong together is asked in `tls`. Parsers as in `parsers`: ValueError
completes "NAME has N characters: …" and never repeats the value.
Facts: OneFlow turns a newline inside a context value into ``,\n``, so base64 is taken for
everything of several lines; Flower wants its node keys in OpenSSH form, EC, without a passphrase.
"""

import base64
import re

from .parsers import SYSTEM
from .secret import Secret

_NODE_KEY = re.compile(r"(ecdsa-sha2-nistp(?:256|384|521)) +([A-Za-z0-9+/]{64,400}={0,2})( .*)?")
_BLOCK = re.compile(r"-----BEGIN ([A-Z0-9 ]{1,40}+)-----([A-Za-z0-9+/=\s]*+)-----END \1-----")
_WANT_PEM = "want PEM or base64 of PEM"
_WANT_NODE_KEY = "want an EC private key in OpenSSH form without a passphrase, or base64 of it"
_OPENSSH_PLAIN = b"openssh-key-v1\0\0\0\0\4none"


def fingerprint(text: str) -> str:
    """Return a SHA-256 fingerprint as 64 lower-case hexadecimal digits."""
    bare = text.replace(":", "").lower()
    if not re.fullmatch("[0-9a-f]{64}", bare):
        raise ValueError("want a SHA-256 fingerprint: 64 hexadecimal digits, colons allowed")
    return bare


def node_keys(text: str) -> tuple[str, ...]:
    """Return public keys in OpenSSH form, without comments; a line or a comma ends each."""
    parts = [part.strip() for part in re.split(r"[\r\n,]+", text) if part.strip()]
    found = [_NODE_KEY.fullmatch(part) for part in parts]
    if not all(found):
        raise ValueError("want public keys 'ecdsa-sha2-nistp384 AAAA…', one a line or with commas")
    return tuple(dict.fromkeys(f"{match[1]} {match[2]}" for match in found if match))


def node_private_key(text: str) -> Secret:
    """Return a SuperNode's private key in OpenSSH form."""
    blocks = _blocks(text, _WANT_NODE_KEY)
    if [label for label, _ in blocks] != ["OPENSSH PRIVATE KEY"]:
        raise ValueError(_WANT_NODE_KEY)
    content = blocks[0][1]
    if not content.startswith(_OPENSSH_PLAIN) or b"ecdsa-sha2-nistp" not in content:
        raise ValueError(_WANT_NODE_KEY)
    return Secret(_text(blocks))


def certificates(text: str) -> str:
    """Return one or more certificates as PEM, without what stood around them."""
    blocks = _blocks(text, _WANT_PEM)
    if any(label != "CERTIFICATE" for label, _ in blocks):
        raise ValueError(f"{_WANT_PEM} of certificates and nothing else, above all no private key")
    return _text(blocks)


def trust(text: str) -> str:
    """Return certificates as PEM, or `SYSTEM`."""
    if text.lower() == SYSTEM:
        return SYSTEM
    try:
        return certificates(text)
    except ValueError as error:
        raise ValueError(f"{error}, or the word {SYSTEM}") from None


def tls_key(text: str) -> Secret:
    """Return a private key as PEM; the EC PARAMETERS that openssl writes before it are dropped."""
    blocks = [b for b in _blocks(text, _WANT_PEM) if b[0] != "EC PARAMETERS"]
    labels = [label for label, _ in blocks]
    if labels not in (["PRIVATE KEY"], ["EC PRIVATE KEY"], ["RSA PRIVATE KEY"]):
        raise ValueError(f"{_WANT_PEM} of one private key without a passphrase")
    return Secret(_text(blocks))


def _blocks(text: str, want: str) -> list[tuple[str, bytes]]:
    """Return label and content of each PEM block; blanks may stand where lines ended."""
    pem = text if "-----BEGIN" in text else _from_base64(text, want)
    if ",\n" in pem:
        raise ValueError("want base64 of PEM: OneFlow has put a comma behind each line")
    blocks = _BLOCK.findall(pem)
    if not blocks or len(blocks) != pem.count("-----BEGIN"):
        raise ValueError(want)
    try:
        return [(label, _decoded(body)) for label, body in blocks]
    except ValueError:
        raise ValueError(want) from None


def _from_base64(text: str, want: str) -> str:
    try:
        return _decoded(text).decode("utf-8")
    except ValueError:
        raise ValueError(want) from None


def _decoded(text: str) -> bytes:
    content = base64.b64decode("".join(text.split()), validate=True)
    if not content:
        raise ValueError("empty")
    return content


def _text(blocks: list[tuple[str, bytes]]) -> str:
    return "".join(
        f"-----BEGIN {label}-----\n{_wrapped(content)}-----END {label}-----\n"
        for label, content in blocks
    )


def _wrapped(content: bytes) -> str:
    text = base64.b64encode(content).decode("ascii")
    return "".join(f"{text[start : start + 64]}\n" for start in range(0, len(text), 64))
