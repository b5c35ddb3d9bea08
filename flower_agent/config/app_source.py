"""Where a Flower app comes from: the value of CUSTOM_APP_REPO taken apart. Pure.

Git reads more into a reference than a name (``+a:b`` writes, ``^x`` excludes, ``*`` matches), so
only names are taken: git-check-ref-format(1), git-fetch(1).
"""

import dataclasses
import re

from flower_agent.secret import Secret

_SOURCE = re.compile(
    r"(?P<url>(?P<scheme>https|ssh|git)://(?:(?P<login>[^\s/@-][^\s/@]*)@)?"
    r"(?P<host>[A-Za-z0-9\[][A-Za-z0-9.:\]-]*)/(?P<path>[^\s@#-][^\s@#]*)"
    r"|[A-Za-z0-9][A-Za-z0-9._-]*@[A-Za-z0-9][A-Za-z0-9.-]*:[^\s@#-][^\s@#]*)"
    r"(?:@(?P<ref>[^\s@#:^~*?\[\\+-][^\s@#:^~*?\[\\]*))?(?:#(?P<subdirectory>[^\s#/-][^\s#]*))?"
)
_COMMIT = re.compile("[0-9a-f]{40}|[0-9a-f]{64}")

HEAD = "HEAD"


@dataclasses.dataclass(frozen=True, slots=True)
class Source:
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
        """Tell whether the ref is a commit, which never moves."""
        return bool(_COMMIT.fullmatch(self.ref))

    def __str__(self) -> str:
        """Return what may be shown."""
        ref = "" if self.ref == HEAD else f"@{self.ref}"
        return f"{self.url}{ref}" + (f"#{self.subdirectory}" if self.subdirectory else "")


def parse_source(text: str) -> Source:
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
        raise ValueError(f"want no password in a URL of {scheme}")
    return Source(url, found["ref"] or HEAD, (found["subdirectory"] or "").strip("/"), secret)
