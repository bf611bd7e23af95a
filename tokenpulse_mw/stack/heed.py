"""Which settings something was made of, and whether they have any effect."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from ..config import PREFIX, Settings

_DEFAULTS = Settings()


@contextmanager
def set_by(*names: str) -> Iterator[None]:
    """Where a part refuses what it is made of, say by which settings that came."""
    try:
        yield
    except ValueError as error:
        variables = ", ".join(f"{PREFIX}{name.upper()}" for name in names)
        raise ValueError(f"{error} (set by {', '.join(names)}; {variables})") from error


def check_heeded(settings: Settings, names: Sequence[str], by: str, instead: str) -> None:
    """Refuse settings that have no effect: whoever has set them believes that they have.

    Args:
        settings: What the operator has set.
        names: Settings that must be the defaults.
        by: What was given in their place.
        instead: What to do with them.

    Raises:
        ValueError: One of them is not the default.
    """
    for name in names:
        if getattr(settings, name) != getattr(_DEFAULTS, name):
            raise ValueError(
                f"{name} ({PREFIX}{name.upper()}) is not heeded where TokenPulse is given {by}: "
                f"leave it out, or {instead}"
            )
