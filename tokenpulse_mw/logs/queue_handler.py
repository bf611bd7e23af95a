"""Writes the log in a thread of its own, so that a slow disk or pipe delays no request."""

from __future__ import annotations

import logging
import queue
import threading
from typing import TextIO

_LOGGER = "tokenpulse_mw.logs"


_DROPPED = "lines dropped, as they came faster than they could be written: %d"


_FAILED = "lines lost or late, as the stream failed when they were written: %d"


_Lines = queue.SimpleQueue[str | None]  # None is the end


class BackgroundHandler(logging.Handler):
    """Lines are made where they are logged, and written by a thread.

    What does not fit into the queue is dropped and counted; a later line says how much it was. So
    are lines that cannot be written, as on a full disk.

    Args:
        stream: Where lines go.
        size: Lines that may wait.
        patience: Seconds that the end of the process waits for what is not written yet.

    Raises:
        ValueError: `size` is below 1.
    """

    def __init__(self, stream: TextIO, size: int, *, patience: float = 5.0) -> None:
        if size < 1:
            raise ValueError(f"the queue must have room for at least 1 line, got {size!r}")
        super().__init__()
        self._stream = stream
        self._size = size
        self._patience = patience
        self._lines: _Lines = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._dropped = 0
        self._ended = False

    def emit(self, record: logging.LogRecord) -> None:
        """Let one line be written; `logging` calls this by one thread at a time."""
        line = self.format(record)
        if self._ended:  # the process ends, or somebody's `dictConfig` has closed all handlers
            _write(self._stream, line)
            return
        if self._thread is None or not self._thread.is_alive():  # a fork leaves threads behind
            self._start()
        if self._lines.qsize() >= self._size:
            self._dropped += 1
            return
        self._tell_dropped()
        self._lines.put(line)

    def finish(self) -> None:
        """Take no more lines; what waits is still written, and nobody waits for that."""
        if self._ended:
            return
        self.acquire()  # no line may come after the end
        try:
            self._ended = True
            self._tell_dropped()
            self._lines.put(None)
        finally:
            self.release()

    def close(self) -> None:
        """Write what waits, for a few seconds at most."""
        self.finish()
        if self._thread is not None:
            self._thread.join(self._patience)
        super().close()

    def _start(self) -> None:
        self._lines = queue.SimpleQueue()  # a parent tells its own lines
        self._dropped = 0
        # The thread holds on to this handler, so that the end of the process finds and closes it.
        self._thread = threading.Thread(target=self._write_all, name="tokenpulse-log", daemon=True)
        self._thread.start()

    def _write_all(self) -> None:
        failed = 0
        for line in iter(self._lines.get, None):
            if failed and _write(self._stream, self._count(_FAILED, failed)):
                failed = 0
            failed += not _write(self._stream, line)

    def _tell_dropped(self) -> None:
        if not self._dropped:
            return
        self._lines.put(self._count(_DROPPED, self._dropped))
        self._dropped = 0

    def _count(self, message: str, lines: int) -> str:
        """Return the line that says how many lines are missing."""
        fields = {"name": _LOGGER, "levelno": logging.WARNING, "msg": message, "args": (lines,)}
        return self.format(logging.makeLogRecord(fields))


def _write(stream: TextIO, line: str) -> bool:
    """Return True if `line` was written."""
    try:
        stream.write(f"{line}\n")
        stream.flush()
    except Exception:  # noqa: BLE001 - there is no other place to log it
        return False
    return True
