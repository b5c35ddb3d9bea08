"""One row of the table of variables, and how a dataclass field carries it. Pure."""

import dataclasses
from collections.abc import Callable
from typing import Any, Generic, Literal, TypedDict, TypeVar, Unpack, overload

from .parsers import Role

T = TypeVar("T")

LENGTH_LIMIT = 64 * 1024
"""Characters of one value."""

_KEY = "<KEY>"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Setting(Generic[T]):
    """One row of the table."""

    name: str
    """Without ``ONEAPP_``; ends in ``<KEY>`` where it stands for a family of names."""

    parse: Callable[[str], T]
    """Raises ValueError that completes "NAME is 'x': …" and does not repeat the value."""

    help: str
    """What it means, for the reference page."""

    default: str | None = None
    """What is parsed when it is unset; None makes the field None."""

    unset: str = "none"
    """What being unset comes to, for the reference page, where no default says it."""

    required: bool = False
    """On the VMs of its roles."""

    secret: bool = False
    """Never shown anywhere."""

    quiet: bool = False
    """A finding tells the length and not the value: it is long, or may hold a secret."""

    verbatim: bool = False
    """Of a family: the key is what stands behind the stem, as it is written."""

    roles: tuple[Role, ...] = tuple(Role)
    sample: str = ""

    @property
    def stem(self) -> str | None:
        """What the names of the family begin with; None for a single name."""
        return self.name.removesuffix(_KEY) if self.name.endswith(_KEY) else None

    def fallback(self) -> T | None:
        """Return the value when nothing was given."""
        return None if self.default is None else self.parse(self.default)

    def read(self, text: str) -> T:
        """Return the value that `text` stands for. Raises ValueError like `parse`."""
        if len(text) > LENGTH_LIMIT:
            raise ValueError(f"want at most {LENGTH_LIMIT} characters")
        return self.parse(text)

    def seen(self, text: str, shown: str) -> str:
        """Return what a message may say about `text`: `shown`, or only how long it is."""
        if self.secret or self.quiet or len(text) > LENGTH_LIMIT:
            return f"has {len(text)} characters"
        return f"is '{shown}'"


class Rest(TypedDict, total=False):
    """What a row may have beside name, parser and help: fields of `Setting`."""

    unset: str
    secret: bool
    quiet: bool
    verbatim: bool
    roles: tuple[Role, ...]
    sample: str


@overload
def setting(
    name: str, parse: Callable[[str], T], meaning: str, *, default: str, **rest: Unpack[Rest]
) -> T: ...
@overload
def setting(
    name: str,
    parse: Callable[[str], T],
    meaning: str,
    *,
    required: Literal[True],
    **rest: Unpack[Rest],
) -> T: ...
@overload
def setting(
    name: str, parse: Callable[[str], T], meaning: str, **rest: Unpack[Rest]
) -> T | None: ...
def setting(name: str, parse: Callable[[str], Any], meaning: str, **rest: Any) -> Any:
    """Return a dataclass field that carries its row, typed as its value."""
    row = Setting(name=name, parse=parse, help=meaning, **rest)
    return dataclasses.field(metadata={"setting": row})


def family(
    stem: str, parse: Callable[[str], T], meaning: str, **rest: Unpack[Rest]
) -> tuple[tuple[str, T], ...]:
    """Return a dataclass field for all names that begin with `stem`, as keys and values."""
    row = Setting(name=stem + _KEY, parse=parse, help=meaning, **rest)
    return dataclasses.field(metadata={"setting": row})  # type: ignore[no-any-return]  # a field


def row_of(field: "dataclasses.Field[Any]") -> Setting[Any]:
    """Return the row that `field` carries."""
    row: Setting[Any] = field.metadata["setting"]
    return row
