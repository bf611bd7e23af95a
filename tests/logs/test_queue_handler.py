"""Lines that are written by a thread."""

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

# The end of a process waits for its lines, however slow the machine is.
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


class Stuck(io.StringIO):
    """A stream that takes nothing until it is let go."""

    def __init__(self) -> None:
        super().__init__()
        self.busy, self.free = threading.Event(), threading.Event()

    def write(self, text: str) -> int:
        self.busy.set()
        assert self.free.wait(PATIENCE)
        return super().write(text)


class Failing(io.StringIO):
    """A stream whose first line finds no room."""

    failed = False

    def write(self, text: str) -> int:
        if not self.failed:
            self.failed = True
            raise OSError("no space left on device")
        return super().write(text)


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float | None]:
    """How long each who waited for the end of a thread was ready to wait."""
    join, seen = threading.Thread.join, list[float | None]()

    def noting(thread: threading.Thread, timeout: float | None = None) -> None:
        seen.append(timeout)
        join(thread, timeout)

    monkeypatch.setattr(threading.Thread, "join", noting)
    return seen


@pytest.fixture
def stuck() -> Iterator[tuple[BackgroundHandler, Stuck]]:
    """A handler with room for one line, and its stream, which is stuck with another."""
    stream = Stuck()
    handler = BackgroundHandler(stream, 1, patience=PATIENCE)
    say(handler, "first")
    assert stream.busy.wait(PATIENCE)
    yield handler, stream
    stream.free.set()
    handler.close()


def say(handler: logging.Handler, message: str) -> None:
    """Log one line."""
    handler.handle(logging.makeLogRecord({"msg": message}))


def logged_by(program: str) -> list[str]:
    """Return the lines that a process logs."""
    ended = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", PATIENT + program],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=True,
    )
    return ended.stderr.splitlines()


def wait_for_writers() -> None:
    """Until all threads that write a log have come to their end."""
    for thread in threading.enumerate():
        if thread.name == "tokenpulse-log":
            thread.join(PATIENCE)
            assert not thread.is_alive()


@pytest.mark.usefixtures("logging_as_it_was")
def test_another_configuration_does_not_wait_for_a_stream_that_is_stuck(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Whoever asks for it may be the event loop; what waited is written when it can be."""
    # Who waited would do so until the stream is no longer stuck, and loses its lines.
    set_default(monkeypatch, BackgroundHandler.__init__, "patience", 2 * PATIENCE)
    stream = Stuck()
    configure_logging(stream=stream, queue=1)
    logging.info("first")
    assert stream.busy.wait(PATIENCE)
    for message in ("second", "third"):
        logging.info(message)

    configure_logging()
    stream.free.set()
    wait_for_writers()

    said = [line.rpartition("] ")[2] for line in stream.getvalue().splitlines()]
    assert said[:2] == ["first", "second"]
    assert said[2].endswith("was full: count=1")


@pytest.mark.slow
def test_the_end_of_the_process_waits_for_what_was_configured_before() -> None:
    """Its last lines are not lost only because another configuration has come since."""
    lines = logged_by(RECONFIGURED)

    assert [line.rpartition(" ")[2] for line in lines] == ["0", "1", "2"]


def test_the_end_waits_for_a_stream_that_is_stuck_once(waits: list[float | None]) -> None:
    """For as long as it has patience, however much waits or was dropped."""
    stream = Stuck()
    handler = BackgroundHandler(stream, 1, patience=0.05)
    say(handler, "first")
    assert stream.busy.wait(PATIENCE)
    for message in ("second", "third"):
        say(handler, message)

    handler.close()
    assert waits == [0.05]
    assert stream.getvalue() == ""
    stream.free.set()
    wait_for_writers()

    assert len(stream.getvalue().splitlines()) == 3


@pytest.mark.usefixtures("logging_as_it_was")
def test_every_line_is_written_in_its_order() -> None:
    """After another configuration, which does not wait for it, too."""
    stream = io.StringIO()
    configure_logging(stream=stream, queue=1000)

    for number in range(100):
        logging.getLogger("test").info("%d", number)
    configure_logging()
    wait_for_writers()

    said = [line.rpartition(" ")[2] for line in stream.getvalue().splitlines()]
    assert said == [str(number) for number in range(100)]


def test_a_stream_that_is_stuck_delays_nobody(stuck: tuple[BackgroundHandler, Stuck]) -> None:
    """What does not fit is dropped, and the next line that does fit comes after the number."""
    handler, stream = stuck
    for message in ("second", "third", "fourth"):
        say(handler, message)

    stream.busy.clear()
    stream.free.set()
    while "second" not in stream.getvalue():
        assert stream.busy.wait(PATIENCE)
    say(handler, "fifth")
    handler.close()

    told = "lines dropped because the queue was full: count=2"
    assert stream.getvalue().splitlines()[:3] == ["first", "second", told]


def test_lines_that_were_dropped_last_are_told_at_the_end(
    stuck: tuple[BackgroundHandler, Stuck],
) -> None:
    """No line after them is needed for it."""
    handler, stream = stuck
    for message in ("second", "third"):
        say(handler, message)

    stream.free.set()
    handler.close()

    assert stream.getvalue().splitlines()[2].endswith("was full: count=1")


def test_what_a_stream_refuses_is_lost_alone() -> None:
    """The lines after it are written, and before them how many it has refused."""
    stream = Failing()
    handler = BackgroundHandler(stream, 10, patience=PATIENCE)

    say(handler, "lost")
    say(handler, "kept")
    handler.close()

    told = "lines lost because the stream failed: count=1"
    assert stream.getvalue() == f"{told}\nkept\n"


def test_after_the_end_lines_are_written_at_once() -> None:
    """Somebody else's `dictConfig` closes every handler there is, and logging goes on."""
    stream = io.StringIO()
    handler = BackgroundHandler(stream, 10, patience=PATIENCE)
    handler.close()

    say(handler, "late")

    assert stream.getvalue() == "late\n"


@pytest.mark.slow
def test_a_forked_process_writes_its_own_lines() -> None:
    """A server that forks its workers loses no line, and none is written twice."""
    lines = logged_by(FORKING)

    assert sorted(line.partition("[root] ")[2] for line in lines) == [
        "child",
        "parent, after",
        "parent, before",
    ]
