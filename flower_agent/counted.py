"""Numbers of things in messages. Pure."""


def counted(count: int, noun: str, plural: str = "") -> str:
    """Return ``1 file`` or ``2 files``; `plural` where an s makes none."""
    return f"{count} {noun if count == 1 else plural or noun + 's'}"
