"""Logging handler with a writer thread, so that a slow disk or pipe delays no request."""

from __future__ import annotations

import logging
import queue
import threading
from typing import TextIO

_LOGGER = "tokenpulse_mw.logs"
_DROPPED = "log lines dropped: reason=queue-full count=%d"
_FAILED = "log lines dropped: reason=write-failed count=%d"

_Lines = queue.SimpleQueue[str | None]  # None ends the writer thread


class BackgroundHandler(logging.Handler):
    """Handler that formats lines in the calling thread and writes them in another.

    Lines that do not fit into the queue or cannot be written, as on a full disk, are dropped. A
    later line states their number.

    Args:
        stream: Receives the lines.
        size: Lines that may wait, at least 1.
        patience: Seconds that the end of the process waits for unwritten lines.
    """

    def __init__(self, stream: TextIO, size: int, *, patience: float = 5.0) -> None:
        super().__init__()
        self._stream = stream
        self._size = size
        self._patience = patience
        self._lines: _Lines = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._dropped = 0
        self._ended = False

    def emit(self, record: logging.LogRecord) -> None:
        """Queue one line; `logging` calls this from one thread at a time."""
        line = self.format(record)
        if self._ended:  # the process ends, or `dictConfig` closed all handlers
            write_line(self._stream, line)
            return
        if self._thread is None or not self._thread.is_alive():  # a forked process has no threads
            self._start()
        if self._lines.qsize() >= self._size:
            self._dropped += 1
            return
        self._report_dropped()
        self._lines.put(line)

    def finish(self) -> None:
        """Accept no more lines; queued lines are still written, without waiting."""
        if self._ended:
            return
        self.acquire()  # no line may be queued after the end
        try:
            self._ended = True
            self._report_dropped()
            self._lines.put(None)
        finally:
            self.release()

    def close(self) -> None:
        """Write the queued lines, for at most `patience` seconds."""
        self.finish()
        if self._thread is not None:
            self._thread.join(self._patience)
        super().close()

    def _start(self) -> None:
        self._lines = queue.SimpleQueue()  # the parent process writes its own lines
        self._dropped = 0
        # The thread references this handler, so that the end of the process closes it.
        self._thread = threading.Thread(target=self._write_all, name="tokenpulse-log", daemon=True)
        self._thread.start()

    def _write_all(self) -> None:
        failed = 0
        for line in iter(self._lines.get, None):
            if failed and write_line(self._stream, self._count(_FAILED, failed)):
                failed = 0
            failed += not write_line(self._stream, line)

    def _report_dropped(self) -> None:
        if not self._dropped:
            return
        self._lines.put(self._count(_DROPPED, self._dropped))
        self._dropped = 0

    def _count(self, message: str, lines: int) -> str:
        """Return the line that states how many lines are missing."""
        fields = {"name": _LOGGER, "levelno": logging.WARNING, "msg": message, "args": (lines,)}
        return self.format(logging.makeLogRecord(fields))


def write_line(stream: TextIO, line: str) -> bool:
    """Write `line` to `stream`, and return True if it was written."""
    try:
        stream.write(f"{line}\n")
        stream.flush()
    except Exception:  # noqa: BLE001 - the error itself cannot be logged
        return False
    return True
