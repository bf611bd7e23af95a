"""Handler of last resort for the lines of this library, while the application has none."""

from __future__ import annotations

import logging
import sys

from .formatters import TextFormatter
from .levels import LAST_RESORT_LEVEL, LIBRARY
from .queue_handler import write_line
from .request_id import add_request_id


def add_last_resort(*, request_id: bool = False) -> None:
    """Write the lines of this library to standard error if the application configures no logging.

    Python's own handler of last resort writes neither time, level nor logger, and nothing below
    WARNING. The logger `tokenpulse_mw` gets a handler and the level INFO, unless it or the root
    logger is configured already. Both are removed at the first line that another handler receives.

    Args:
        request_id: Add the request id to the lines of a request.
    """
    library = logging.getLogger(LIBRARY)
    if library.hasHandlers() or library.level or library.disabled or not library.propagate:
        return
    library.addHandler(_LastResort(TextFormatter(request_id=request_id)))
    library.setLevel(LAST_RESORT_LEVEL)


class _LastResort(logging.Handler):
    """Handler that writes records that no other handler receives."""

    def __init__(self, formatter: logging.Formatter) -> None:
        super().__init__()
        self.setFormatter(formatter)
        self.addFilter(add_request_id)

    def emit(self, record: logging.LogRecord) -> None:
        """Write one line, or end the last resort: the application has configured logging since."""
        if not self._is_alone(logging.getLogger(LIBRARY)):
            self._end()
        elif self._is_alone(logging.getLogger(record.name)):
            write_line(sys.stderr, self.format(record))

    def _is_alone(self, logger: logging.Logger | None) -> bool:
        """Return True if no other handler receives the records of `logger`."""
        while logger is not None:
            if any(handler is not self for handler in logger.handlers):
                return False
            logger = logger.parent if logger.propagate else None
        return True

    def _end(self) -> None:
        library = logging.getLogger(LIBRARY)
        # A new list, because `logging` iterates over the present one.
        library.handlers = [handler for handler in library.handlers if handler is not self]
        if library.level == LAST_RESORT_LEVEL:
            library.setLevel(logging.NOTSET)
