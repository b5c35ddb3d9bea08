"""Image references and digests: a pinned image stays the same. Pure.

Reference grammar: distribution/reference (``host:port/path:tag@digest``).
"""

import dataclasses
import json
from collections.abc import Mapping
from typing import Any

from flower_agent.model import errors, state
from flower_agent.model.errors import AgentError, ImagePullError
from flower_agent.model.secret import Secret
from flower_agent.model.state import AppNeeds

LABEL_MADE_OF = "org.flower-agent.made-of"
"""On a derived image: what it was made of, see `frameworks.made_of`."""

MIRROR = (
    "This is a limit of Docker Hub; the agent tries again. Log in (FLOWER_REGISTRY_USER, "
    "FLOWER_REGISTRY_PASSWORD), pull from a mirror (FLOWER_IMAGE_PREFIX), or put the images into "
    "the VM's image (flower-agent bake)."
)
LOGIN = (
    "Check FLOWER_IMAGE_PREFIX and FLOWER_VERSION; for a private image set FLOWER_REGISTRY_USER "
    "and FLOWER_REGISTRY_PASSWORD: a `docker login` on the VM has no effect here."
)
WRONG_LOGIN = "Check FLOWER_REGISTRY_USER and FLOWER_REGISTRY_PASSWORD."
ABSENT = "Check FLOWER_IMAGE_PREFIX and FLOWER_VERSION: there is no such image or tag."
CERTIFICATE = (
    "Docker does not trust the registry's certificate: put its CA into "
    "/etc/docker/certs.d/HOST:PORT/ca.crt; Docker needs no restart for that."
)
REASONS = (
    (("toomanyrequests", "429 too many requests", "pull rate limit"), "image.pull", MIRROR),
    (
        ("no matching manifest for", "no match for platform", "cannot be used on this platform"),
        "image.architecture",
        "",
    ),
    (("incorrect username or password",), "image.denied", WRONG_LOGIN),
    (("signed by unknown authority",), "image.pull", CERTIFICATE),
    (("denied", "unauthorized", "no basic auth"), "image.denied", LOGIN),
    (("not found", "manifest unknown", "name unknown"), "image.denied", ABSENT),
)
"""Words of Docker and registries, the code, and the remedy; the first that fits counts."""


@dataclasses.dataclass(frozen=True, slots=True)
class Reference:
    """An image reference taken apart."""

    repository: str
    tag: str

    @classmethod
    def parse(cls, text: str) -> "Reference":
        """Split ``registry:5000/flwr/superlink:1.25.0`` at the colon of its tag."""
        head, slash, last = text.rpartition("/")
        name, _, tag = last.partition(":")
        return cls(f"{head}{slash}{name}", tag or "latest")


@dataclasses.dataclass(frozen=True, slots=True)
class Image:
    """A local image (``GET /images/NAME/json``)."""

    image_id: str
    """``sha256:…`` of its configuration."""

    digests: tuple[str, ...]
    """``repository@sha256:…`` for each registry it came from; empty when built here."""

    made_of: str = ""
    """``sha256:…`` of what a derived image was made of (`frameworks.made_of`), off its label."""

    size_bytes: int = 0
    """All layers together."""

    entrypoint: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True, slots=True)
class Registry:
    """Credentials of a private registry."""

    user: str
    password: Secret


def locked_reference(reference: str, digest: str) -> str:
    """Return ``repository@digest``."""
    return f"{Reference.parse(reference).repository}@{digest}"


def pinned(reference: str, image: Image, digest: str = "") -> str | None:
    """Return by which name to create a container from `image`, by digest where one is known.

    None when `digest` is pinned and `image` is another one: a tag that moved is never used by
    stealth. An image that was built here has no digest of a registry: what is pinned is its ID, or
    what it was made of; unpinned, its tag must do.
    """
    if digest and digest in (image.image_id, image.made_of):
        return image.image_id
    repository = _familiar(Reference.parse(reference).repository)
    names = tuple(name for name in image.digests if name.startswith(f"{repository}@"))
    if digest:
        wanted = f"{repository}@{digest}"
        return wanted if wanted in names else None
    return names[0] if names else reference


def _familiar(repository: str) -> str:
    """Return a repository as Docker shows it: without the host of its own registry."""
    host, _, rest = repository.partition("/")
    return rest.removeprefix("library/") if host in ("docker.io", "index.docker.io") else repository


def parse_lock(data: bytes | None) -> dict[str, str]:
    """Return reference → digest of an ``images.lock``; absent is empty. Raises ValueError."""
    if data is None:
        return {}
    found = json.loads(data)
    rows = found.get("images") if isinstance(found, dict) else None
    if not isinstance(rows, dict) or not all(isinstance(v, str) for v in rows.values()):
        raise ValueError('want {"images": {"REFERENCE": "sha256:…"}}')
    return {str(reference): digest for reference, digest in rows.items()}


def parse_apps(data: bytes | None) -> dict[str, AppNeeds]:
    """Return what baked apps need, by source. Raises ValueError."""
    found = json.loads(data) if data is not None else {}
    rows = found.get("apps") if isinstance(found, dict) else None
    if rows is None:
        return {}
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise ValueError('want {"apps": [{"source": …}]}')
    return {needs.source: needs for needs in map(state.read_needs, rows)}


def dump_lock(rows: Mapping[str, str], apps: Mapping[str, AppNeeds] | None = None) -> bytes:
    """Return the content of an ``images.lock``."""
    document: dict[str, object] = {"images": dict(sorted(rows.items()))}
    if apps:
        document["apps"] = [state.needs_document(apps[name]) for name in sorted(apps)]
    return (json.dumps(document, indent=1) + "\n").encode()


def pin(reference: str, image: Image) -> str:
    """Return what ``images.lock`` says of an image: what it was made of, digest, or ID."""
    name = pinned(reference, image)
    digest = name.partition("@")[2] if name else ""
    return image.made_of or digest or image.image_id


def inspected_image(row: dict[str, Any]) -> Image:
    """Return the image in an answer of ``GET /images/NAME/json``."""
    config = row.get("Config") or {}
    return Image(
        image_id=str(row["Id"]),
        digests=tuple(row.get("RepoDigests") or ()),
        made_of=str((config.get("Labels") or {}).get(LABEL_MADE_OF, "")),
        size_bytes=int(row.get("Size") or 0),
        entrypoint=tuple(config.get("Entrypoint") or ()),
    )


def pull_failure(reference: str, reason: str) -> AgentError:
    """Return why a pull failed, from its words: Docker answers with 404 or 500, or in the stream.

    What only a change mends is not retryable.
    """
    said = reason.lower()
    found = (row for row in REASONS if any(words in said for words in row[0]))
    _, code, hint = next(found, ((), "image.pull", ""))
    kind = errors.kind(code)
    if issubclass(kind, ImagePullError):
        return kind(code, f"{reference} could not be pulled: {reason}", hint, retryable=True)
    return kind(code, f"the registry does not give {reference}: {reason}", hint)
