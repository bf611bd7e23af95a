"""Status of each provider's credentials, as the application reports it."""

from __future__ import annotations

import logging
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import anyio

from ..outages import Outage
from ..validation import describe
from .single_flight import SingleFlight

logger = logging.getLogger("tokenpulse_mw.health")

ByProvider = Mapping[str, bool]
Credentials = ByProvider | Callable[[], ByProvider | Awaitable[ByProvider]]

_TTL = 1.0  # seconds
_REFRESH_INTERVAL = 60.0  # seconds
_MAX_AGE = 300.0  # seconds for which `recent` returns a result if later calls fail


class CredentialStatus:
    """Status of credentials; concurrent requests share one call of the source.

    Args:
        source: A mapping, read for each request, or a function (async or not) that returns one.
            Results and failures of a function are cached for a second.
        timeout: Seconds that a function may take.
        clock: Monotonic seconds.

    Raises:
        ValueError: `source` is neither a function nor a mapping of names to bools.
    """

    def __init__(
        self,
        source: Credentials,
        *,
        timeout: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._source, self._clock = source, clock
        self._last: tuple[dict[str, bool], float] | None = None
        self._outage = Outage(logger, clock=clock)
        self._call: SingleFlight[dict[str, bool] | None] | None = None
        if callable(source):
            self._call = SingleFlight(
                source,
                read=self._read,
                fail=self._fail,
                ttl=lambda _: _TTL,
                timeout=timeout,
                clock=clock,
            )
        else:
            self._read(source)

    def clear(self) -> None:
        """Discard the last status."""
        self._last = None
        if self._call is not None:
            self._call.clear()

    async def get(self) -> dict[str, bool] | None:
        """Return the status of each provider, or None if it is unknown."""
        return self._read_mapping() if self._call is None else await self._call.get()

    def recent(self) -> dict[str, bool]:
        """Return the last status if it is at most five minutes old, else an empty mapping.

        A mapping is read again; a function is not called.
        """
        if self._call is None:
            self._read_mapping()
        if self._last is None or self._clock() - self._last[1] > _MAX_AGE:
            return {}
        return self._last[0]

    async def refresh(self) -> None:
        """Refresh the status once a minute, until it is cancelled."""
        while True:
            await self.get()
            await anyio.sleep(_REFRESH_INTERVAL)

    def _read_mapping(self) -> dict[str, bool] | None:
        try:
            return self._read(self._source)
        except Exception as error:  # noqa: BLE001 - the mapping is the application's
            self._fail(error)
            return None

    def _read(self, value: Any) -> dict[str, bool]:
        status = check_credentials(value)
        self._last = status, self._clock()
        self._outage.recovered("credentials status recovered")
        return status

    def _fail(self, error: BaseException | None) -> None:
        reason = "timeout" if error is None else type(error).__name__
        self._outage.failed("credentials status unknown: reason=%s", reason, error=error)


def check_credentials(value: Any) -> dict[str, bool]:
    """Return a mapping of provider names to bools.

    Raises:
        ValueError: `value` is not such a mapping. The error does not contain it, because it may be
            a secret.
    """
    if not isinstance(value, Mapping):
        raise ValueError(
            "credentials must be a mapping such as {'claude': True}, or a function that returns "
            f"one, got {describe(value)}"
        )
    status = dict(value)
    for name, active in status.items():
        if not isinstance(name, str):
            raise ValueError(f"credentials must have provider names as keys, got {describe(name)}")
        if not name.isascii() and any("\ud800" <= letter <= "\udfff" for letter in name):
            raise ValueError(f"provider name must be valid UTF-8, got {name!r}")
        if not isinstance(active, bool):
            raise ValueError(
                f"credentials of {name!r} must be True (active) or False, got {describe(active)}"
            )
    return status
