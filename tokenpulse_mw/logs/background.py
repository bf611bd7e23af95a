"""Writes the log in a thread of its own, so that a slow disk or pipe delays no request."""

from __future__ import annotations

import contextlib
import logging
import queue
import threading
from typing import TextIO

_PATIENCE = 5.0  # seconds that the end of the process waits for what is not written yet

_LOGGER = "tokenpulse_mw.logs"

_Lines = queue.Queue[str | None]  # None is the end


class BackgroundHandler(logging.Handler):
    """Lines are made where they are logged, and written by a thread.

    What does not fit into the queue is dropped and counted; a later line says how much it was.

    Args:
        stream: Where lines go.
        size: Lines that may wait.

    Raises:
        ValueError: `size` is below 1.
    """

    def __init__(self, stream: TextIO, size: int) -> None:
        if size < 1:
            raise ValueError(f"the queue must have room for at least 1 line, got {size!r}")
        super().__init__()
        self._stream = stream
        self._lines: _Lines = queue.Queue(size)
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
        try:
            if self._dropped:
                self._lines.put_nowait(self._dropped_line())
                self._dropped = 0
            self._lines.put_nowait(line)
        except queue.Full:
            self._dropped += 1

    def close(self) -> None:
        """Write what waits, for a few seconds at most."""
        self._ended = True
        if self._thread is not None and self._thread.is_alive():
            with contextlib.suppress(queue.Full):
                if self._dropped:
                    self._lines.put(self._dropped_line(), timeout=_PATIENCE)
                self._lines.put(None, timeout=_PATIENCE)
                self._thread.join(_PATIENCE)
        super().close()

    def _start(self) -> None:
        self._lines = queue.Queue(self._lines.maxsize)  # a parent tells its own lines
        self._dropped = 0
        self._thread = threading.Thread(
            target=_write_all, args=(self._lines, self._stream), name="tokenpulse-log", daemon=True
        )
        self._thread.start()

    def _dropped_line(self) -> str:
        told = "lines dropped, as they came faster than they could be written: %d"
        fields = {"name": _LOGGER, "levelno": logging.WARNING, "msg": told}
        return self.format(logging.makeLogRecord({**fields, "args": (self._dropped,)}))


def _write_all(lines: _Lines, stream: TextIO) -> None:
    for line in iter(lines.get, None):
        _write(stream, line)


def _write(stream: TextIO, line: str) -> None:
    with contextlib.suppress(Exception):  # there is nowhere left to say it
        stream.write(f"{line}\n")
        stream.flush()
