"""Errors and warnings that name the variable, file or argument of the operator."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager

from ..config import Settings

logger = logging.getLogger("tokenpulse_mw")


@contextmanager
def blame_settings(settings: Settings, names: Mapping[str, str]) -> Iterator[None]:
    """Let a `ValueError` of the body name the variable, file or argument of the operator.

    Args:
        settings: Settings of the operator.
        names: Settings by the parameter that the error names instead.
    """
    try:
        yield
    except ValueError as error:
        subject, must, rest = str(error).partition(" must ")
        for parameter, name in names.items():
            origin = settings.origins.get(name)
            if origin is not None and must and subject.endswith(parameter):
                subject = subject.removesuffix(parameter) + origin
                raise ValueError(f"{subject}{must}{rest}") from error
        origins = [settings.origins[name] for name in names.values() if name in settings.origins]
        if not origins:
            raise
        raise ValueError(f"{error} (set by {', '.join(origins)})") from error


def check_unused(settings: Settings, names: Sequence[str], by: str, instead: str) -> None:
    """Reject settings that have no effect.

    Args:
        settings: Settings of the operator.
        names: Names of settings that must not be set.
        by: The argument that replaces them.
        instead: How to set them instead.

    Raises:
        ValueError: One of them is set.
    """
    for name in names:
        if name in settings.origins:
            raise ValueError(
                f"{settings.origins[name]} has no effect if TokenPulse is given {by}: "
                f"leave it out, or {instead}"
            )


def warn_unused(settings: Settings, names: Iterable[str], reason: str) -> None:
    """Log a warning for each of these settings that is set: it has no effect."""
    for name in names:
        if name in settings.origins:
            logger.warning("setting has no effect: name=%s; %s", settings.origins[name], reason)
