"""Logging handler with a writer thread."""

from __future__ import annotations

import io
import logging
import subprocess
import sys
import threading
from collections.abc import Iterator

import pytest

from tokenpulse_mw import configure_logging
from tokenpulse_mw.logs.queue_handler import BackgroundHandler

from ..support.defaults import set_default
from ..support.waiting import PATIENCE

# The process waits for its lines at exit, however slow the machine is.
PATIENT = f"""
from tokenpulse_mw.logs.queue_handler import BackgroundHandler
BackgroundHandler.__init__.__kwdefaults__["patience"] = {PATIENCE}
"""


FORKING = """
import logging, os, sys
from tokenpulse_mw import configure_logging
configure_logging(queue=10)
logging.info("parent, before")
child = os.fork()
if child:
    os.waitpid(child, 0)
logging.info("parent, after" if child else "child")
"""


RECONFIGURED = """
import logging, sys, time
from tokenpulse_mw import configure_logging

class Slow:
    def write(self, text):
        time.sleep(0.1)
        return sys.stderr.write(text)
    def flush(self): pass

configure_logging(stream=Slow(), queue=10)
for number in range(3):
    logging.info("%d", number)
configure_logging()
"""


class BlockingStream(io.StringIO):
    """Stream whose writes block until `free` is set."""

    def __init__(self) -> None:
        super().__init__()
        self.blocked, self.free = threading.Event(), threading.Event()

    def write(self, text: str) -> int:
        self.blocked.set()
        assert self.free.wait(PATIENCE)
        return super().write(text)


class FailingStream(io.StringIO):
    """Stream whose first write fails."""

    failed = False

    def write(self, text: str) -> int:
        if not self.failed:
            self.failed = True
            raise OSError("no space left on device")
        return super().write(text)


@pytest.fixture
def join_timeouts(monkeypatch: pytest.MonkeyPatch) -> list[float | None]:
    """Record the timeout of each `Thread.join`."""
    join, timeouts = threading.Thread.join, list[float | None]()

    def recording_join(thread: threading.Thread, timeout: float | None = None) -> None:
        timeouts.append(timeout)
        join(thread, timeout)

    monkeypatch.setattr(threading.Thread, "join", recording_join)
    return timeouts


@pytest.fixture
def blocked() -> Iterator[tuple[BackgroundHandler, BlockingStream]]:
    """Return a handler with a queue of one line, and its stream, which blocks on another line."""
    stream = BlockingStream()
    handler = BackgroundHandler(stream, 1, patience=PATIENCE)
    log(handler, "first")
    assert stream.blocked.wait(PATIENCE)
    yield handler, stream
    stream.free.set()
    handler.close()


def log(handler: logging.Handler, message: str) -> None:
    """Log one line."""
    handler.handle(logging.makeLogRecord({"msg": message}))


def logged_by(program: str) -> list[str]:
    """Return the lines that a process logs."""
    process = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", PATIENT + program],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=True,
    )
    return process.stderr.splitlines()


def wait_for_writers() -> None:
    """Wait until all writer threads have ended."""
    for thread in threading.enumerate():
        if thread.name == "tokenpulse-log":
            thread.join(PATIENCE)
            assert not thread.is_alive()


@pytest.mark.usefixtures("logging_as_it_was")
def test_reconfiguration_does_not_wait_for_a_blocked_stream(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The event loop may call it; queued lines are written when the stream is free again."""
    # A call that waits would block until this timeout, and fail the test.
    set_default(monkeypatch, BackgroundHandler.__init__, "patience", 2 * PATIENCE)
    stream = BlockingStream()
    configure_logging(stream=stream, queue=1)
    logging.info("first")
    assert stream.blocked.wait(PATIENCE)
    for message in ("second", "third"):
        logging.info(message)

    configure_logging()
    stream.free.set()
    wait_for_writers()

    messages = [line.rpartition("] ")[2] for line in stream.getvalue().splitlines()]
    assert messages[:2] == ["first", "second"]
    assert messages[2].endswith("reason=queue-full count=1")


@pytest.mark.slow
def test_process_exit_waits_for_lines_of_a_replaced_handler() -> None:
    """A replaced handler still writes its queued lines."""
    lines = logged_by(RECONFIGURED)

    assert [line.rpartition(" ")[2] for line in lines] == ["0", "1", "2"]


def test_close_waits_once_for_a_blocked_stream(join_timeouts: list[float | None]) -> None:
    """The close takes at most `patience` seconds for any number of queued or dropped lines."""
    stream = BlockingStream()
    handler = BackgroundHandler(stream, 1, patience=0.05)
    log(handler, "first")
    assert stream.blocked.wait(PATIENCE)
    for message in ("second", "third"):
        log(handler, message)

    handler.close()
    assert join_timeouts == [0.05]
    assert stream.getvalue() == ""
    stream.free.set()
    wait_for_writers()

    assert len(stream.getvalue().splitlines()) == 3


@pytest.mark.usefixtures("logging_as_it_was")
def test_lines_are_written_in_order() -> None:
    """A reconfiguration does not change the order."""
    stream = io.StringIO()
    configure_logging(stream=stream, queue=1000)

    for number in range(100):
        logging.getLogger("test").info("%d", number)
    configure_logging()
    wait_for_writers()

    messages = [line.rpartition(" ")[2] for line in stream.getvalue().splitlines()]
    assert messages == [str(number) for number in range(100)]


def test_full_queue_drops_lines_and_logs_their_number(
    blocked: tuple[BackgroundHandler, BlockingStream],
) -> None:
    """The calling thread does not wait; the next queued line follows the number."""
    handler, stream = blocked
    for message in ("second", "third", "fourth"):
        log(handler, message)

    stream.blocked.clear()
    stream.free.set()
    while "second" not in stream.getvalue():
        assert stream.blocked.wait(PATIENCE)
    log(handler, "fifth")
    handler.close()

    notice = "log lines dropped: reason=queue-full count=2"
    assert stream.getvalue().splitlines()[:3] == ["first", "second", notice]


def test_close_logs_the_number_of_dropped_lines(
    blocked: tuple[BackgroundHandler, BlockingStream],
) -> None:
    """No further line is needed."""
    handler, stream = blocked
    for message in ("second", "third"):
        log(handler, message)

    stream.free.set()
    handler.close()

    assert stream.getvalue().splitlines()[2].endswith("reason=queue-full count=1")


def test_failed_write_loses_only_its_line() -> None:
    """Their number is logged before the next line."""
    stream = FailingStream()
    handler = BackgroundHandler(stream, 10, patience=PATIENCE)

    log(handler, "lost")
    log(handler, "written")
    handler.close()

    notice = "log lines dropped: reason=write-failed count=1"
    assert stream.getvalue() == f"{notice}\nwritten\n"


def test_closed_handler_writes_in_the_calling_thread() -> None:
    """`dictConfig` closes all handlers, and logging continues."""
    stream = io.StringIO()
    handler = BackgroundHandler(stream, 10, patience=PATIENCE)
    handler.close()

    log(handler, "late")

    assert stream.getvalue() == "late\n"


@pytest.mark.slow
def test_forked_process_writes_its_own_lines() -> None:
    """No line of a server that forks workers is lost or written twice."""
    lines = logged_by(FORKING)

    assert sorted(line.partition("[root] ")[2] for line in lines) == [
        "child",
        "parent, after",
        "parent, before",
    ]
