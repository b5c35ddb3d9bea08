"""The keys with which a distribution signs its archive, where this machine has not got them.

Debian has no package with Ubuntu's: Ubuntu's own is fetched, and taken only when it is the one
whose SHA-256 stands in `suites`.
"""

import hashlib
import pathlib
import subprocess
import urllib.request

from suites import Suite

FETCH_S = 60


def find(suite: Suite, mirror: str, work: pathlib.Path) -> pathlib.Path:
    """Return the keyring of `suite`; `work` is a folder for it. Raises OSError, RuntimeError."""
    installed = pathlib.Path(suite.keyring)
    if installed.exists():
        return installed
    place, sha256 = suite.keyring_package
    if not place:
        raise RuntimeError(f"there is no {installed}, against which {mirror} is checked")
    url = f"{mirror.rstrip('/')}/{place}"
    with urllib.request.urlopen(url, timeout=FETCH_S) as answer:  # noqa: S310 - its hash is known
        data = answer.read()
    if hashlib.sha256(data).hexdigest() != sha256:
        raise RuntimeError(f"{mirror} has another {pathlib.Path(place).name} than is known")
    package, tree = work / "keyring.deb", work / "keyring"
    package.write_bytes(data)
    subprocess.run(["dpkg-deb", "-x", str(package), str(tree)], check=True, timeout=FETCH_S)
    return tree / suite.keyring.lstrip("/")
