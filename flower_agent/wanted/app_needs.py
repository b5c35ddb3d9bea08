"""What the app of CUSTOM_APP_REPO needs where its code runs, and where that was learnt. Pure."""

import dataclasses
from collections.abc import Mapping


@dataclasses.dataclass(frozen=True, slots=True)
class Needs:
    """One app at one commit."""

    source: str
    """CUSTOM_APP_REPO as it may be shown: another one is fetched anew."""

    commit: str

    app: str
    """Publisher, name and version."""

    dependencies: tuple[str, ...] = ()
    """``[project] dependencies``, PEP 508."""

    def __str__(self) -> str:
        return f"{self.app} at {self.commit[:10]}"


def document(needs: Needs) -> dict[str, object]:
    """Return what `read` takes, for JSON."""
    return {
        "source": needs.source,
        "commit": needs.commit,
        "app": needs.app,
        "dependencies": list(needs.dependencies),
    }


def read(found: Mapping[str, object]) -> Needs:
    """Return the needs in a document. Raises ValueError for anything else."""
    texts = [found.get(name) for name in ("source", "commit", "app")]
    dependencies = found.get("dependencies")
    rows = dependencies if isinstance(dependencies, list) else [dependencies]
    if dependencies is not rows or not all(isinstance(text, str) for text in (*texts, *rows)):
        raise ValueError("want source, commit and app as texts, dependencies as a list of them")
    source, commit, app = map(str, texts)
    return Needs(source, commit, app, tuple(map(str, rows)))
