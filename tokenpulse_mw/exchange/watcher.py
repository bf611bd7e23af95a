"""Those who wait for the end of one exchange, because they hold something until then."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from .exchange import Exchange
from .observers import name_of

Report = Callable[[str, Exception], object]


class Watcher(Protocol):
    """Waits for the end of one exchange."""

    def finished(self, exchange: Exchange) -> None:
        """It is over: at its last byte, or when the application is gone without one."""
        ...

    async def close(self) -> None:
        """The application is gone; what has to be waited for can be now, if it takes not long."""
        ...


def told(watcher: Watcher, exchange: Exchange, report: Report) -> None:
    """Tell `watcher` that `exchange` is over; what goes wrong in it is reported."""
    try:
        watcher.finished(exchange)
    except Exception as error:  # noqa: BLE001 - it is not the request's failure
        report(name_of(watcher), error)


async def closed(watcher: Watcher, report: Report) -> None:
    """Let `watcher` do what takes time; what goes wrong in it is reported."""
    try:
        await watcher.close()
    except Exception as error:  # noqa: BLE001 - as above
        report(name_of(watcher), error)
