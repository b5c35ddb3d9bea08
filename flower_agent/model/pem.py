r"""Keys and certificates as text: PEM blocks, OpenSSH keys, fingerprints. Pure, textual only.

Whether they are sound and belong together is asked in `tls`. A parser raises ValueError, whose text
completes "NAME has N characters: …" and never repeats the value.
Facts: OneFlow turns a newline inside a context value into ``,\n``, so base64 is taken for
everything of several lines; Flower wants its node keys in OpenSSH form, EC, without a passphrase.
"""

import base64
import hashlib
import re

from flower_agent.model.secret import Secret

SYSTEM = "system"
"""The value of TLS_CA_CERT for the system's trust store."""


_NODE_KEY = re.compile(r"(ecdsa-sha2-nistp(?:256|384|521)) +([A-Za-z0-9+/]{64,400}={0,2})( .*)?")
_BLOCK = re.compile(r"-----BEGIN ([A-Z0-9 ]{1,40}+)-----([A-Za-z0-9+/=\s]*+)-----END \1-----")
_CURVES = {
    b"nistp256": ("3059301306072a8648ce3d020106082a8648ce3d030107034200", 65),
    b"nistp384": ("3076301006072a8648ce3d020106052b81040022036200", 97),
    b"nistp521": ("30819b301006072a8648ce3d020106052b8104002303818600", 133),
}
"""What stands before the point in a SubjectPublicKeyInfo (RFC 5480), and the point's bytes."""

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
    keys = tuple(dict.fromkeys(f"{match[1]} {match[2]}" for match in found if match))
    try:
        whole = all(found) and all(map(node_key_pem, keys))
    except ValueError:
        whole = False
    if not whole:
        raise ValueError(
            "want public keys 'ecdsa-sha2-nistp384 AAAA…', one per line or separated by commas"
        )
    return keys


def node_key_pem(key: str) -> bytes:
    """Return an OpenSSH public key as PEM, byte for byte as Flower writes and compares it.

    The line is one of `node_keys`; its inner form is RFC 5656. Raises ValueError for a key that is
    no point of its curve's size.
    """
    kind, _, encoded = key.partition(" ")
    rest, parts = base64.b64decode(encoded, validate=True), []
    while rest:
        size = int.from_bytes(rest[:4], "big")
        if len(rest) < 4 + size:
            raise ValueError("want a whole public key: its end is missing")
        parts.append(rest[4 : 4 + size])
        rest = rest[4 + size :]
    name, curve, point = parts if len(parts) == 3 else (b"", b"", b"")  # noqa: PLR2004
    head, length = _CURVES.get(curve, ("", 0))
    if name != kind.encode() or name[-8:] != curve or len(point) != length or point[:1] != b"\4":
        raise ValueError("want an EC public key of a NIST curve")
    content = _wrapped(bytes.fromhex(head) + point)
    return f"-----BEGIN PUBLIC KEY-----\n{content}-----END PUBLIC KEY-----\n".encode()


def node_key_fingerprint(key: str) -> str:
    """Return the fingerprint of an OpenSSH public key as ``ssh-keygen -l`` shows it."""
    digest = hashlib.sha256(base64.b64decode(key.partition(" ")[2])).digest()
    return "SHA256:" + base64.b64encode(digest).decode("ascii").rstrip("=")


def fingerprint_of_pem(data: bytes) -> str:
    """Return `node_key_fingerprint` of a key in `node_key_pem` form. Raises ValueError."""
    lines = data.decode("ascii", "replace").strip().splitlines()
    content = base64.b64decode("".join(lines[1:-1]), validate=True)
    for curve, (head, length) in _CURVES.items():
        if content[:-length] == bytes.fromhex(head):
            parts = (b"ecdsa-sha2-" + curve, curve, content[-length:])
            blob = b"".join(len(part).to_bytes(4, "big") + part for part in parts)
            return node_key_fingerprint(f"x {base64.b64encode(blob).decode()}")
    raise ValueError("want an EC public key of a NIST curve")


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
        raise ValueError(f"{_WANT_PEM} of certificates only, without a private key")
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
        raise ValueError("want base64 of PEM: OneFlow has put a comma at the end of each line")
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
