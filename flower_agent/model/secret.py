"""A string that must never be shown: tokens, private keys, registry passwords."""

from typing import NoReturn


class Secret:
    """A value that prints as ``***`` everywhere and refuses to be pickled.

    ``reveal()`` gives the string. It is called only at the edges that send or write the value:
    ``git grep 'reveal()'`` is the audit.
    """

    __slots__ = ("_value",)

    def __init__(self, value: str) -> None:
        self._value = value

    def reveal(self) -> str:
        """Return the string itself."""
        return self._value

    def __len__(self) -> int:
        return len(self._value)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and other._value == self._value

    def __hash__(self) -> int:
        return hash((Secret, self._value))

    def __repr__(self) -> str:
        return "***"

    def __reduce__(self) -> NoReturn:
        msg = "a Secret cannot be pickled"
        raise TypeError(msg)
