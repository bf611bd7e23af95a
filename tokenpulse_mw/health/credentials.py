"""Status of each provider's credentials, as the application reports it."""

from __future__ import annotations

import logging
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import anyio

from ..outages import Outage
from .single_flight import SingleFlight

logger = logging.getLogger("tokenpulse_mw.health")

ByProvider = Mapping[str, bool]
Credentials = ByProvider | Callable[[], ByProvider | Awaitable[ByProvider]]

_KEPT = 1.0  # seconds
_EVERY = 60.0  # seconds between two calls if no request asks
_STANDS = 300.0  # seconds for which a result is shown if later calls fail


class CredentialStatus:
    """Status of credentials; concurrent requests share one call.

    Args:
        source: A mapping, read each time, or a function (async or not) that returns one; its
            results and failures are cached for a second.
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
        self._answer: SingleFlight[dict[str, bool] | None] | None = None
        if callable(source):
            self._answer = SingleFlight(
                source,
                read=self._read,
                fail=self._fail,
                keep=lambda _: _KEPT,
                timeout=timeout,
                clock=clock,
            )
        else:
            self._read(source)

    async def get(self) -> dict[str, bool] | None:
        """Return the status of each provider, or None if it is unknown."""
        return self._looked_up() if self._answer is None else await self._answer.get()

    def known(self) -> dict[str, bool]:
        """Return the status of the last five minutes, or an empty mapping.

        A mapping is read for it; no function is called.
        """
        if self._answer is None:
            self._looked_up()
        if self._last is None or self._clock() - self._last[1] > _STANDS:
            return {}
        return self._last[0]

    async def keep_known(self) -> None:
        """Refresh the status once a minute, without end."""
        while True:
            await self.get()
            await anyio.sleep(_EVERY)

    def _looked_up(self) -> dict[str, bool] | None:
        try:
            return self._read(self._source)
        except Exception as error:  # noqa: BLE001 - the mapping is the application's
            self._fail(error)
            return None

    def _read(self, given: Any) -> dict[str, bool]:
        status = bools(given)
        self._last = status, self._clock()
        self._outage.recovered("the status of credentials is known again")
        return status

    def _fail(self, error: BaseException | None) -> None:
        why = "timeout" if error is None else type(error).__name__
        self._outage.failed("the status of credentials is not known: %s", why, error=error)


def bools(given: Any) -> dict[str, bool]:
    """`given` as it is, if it maps names to bools.

    Raises:
        ValueError: It does not. The value is not shown, because it may be a secret.
    """
    if not isinstance(given, Mapping):
        raise ValueError(
            "credentials must be a mapping such as {'claude': True}, or a function that gives "
            f"one; got {_kind(given)}"
        )
    status = dict(given)
    for name, active in status.items():
        if not isinstance(name, str):
            raise ValueError(f"credentials must be given by provider's name, got {_kind(name)}")
        if not name.isascii() and any("\ud800" <= each <= "\udfff" for each in name):
            raise ValueError(f"provider name must be valid UTF-8, got {name!r}")
        if not isinstance(active, bool):
            raise ValueError(
                f"credentials of {name!r} must be True (active) or False, got {_kind(active)}"
            )
    return status


def _kind(value: object) -> str:
    return f"a value of type {type(value).__name__}"
