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
from tokenpulse_mw.logs.background import BackgroundHandler

PATIENCE = 10  # seconds

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
def stuck() -> Iterator[tuple[BackgroundHandler, Stuck]]:
    """A handler with room for one line, and its stream, which is stuck with another."""
    stream = Stuck()
    handler = BackgroundHandler(stream, 1)
    say(handler, "first")
    assert stream.busy.wait(PATIENCE)
    yield handler, stream
    stream.free.set()
    handler.close()


def say(handler: logging.Handler, message: str) -> None:
    """Log one line."""
    handler.handle(logging.makeLogRecord({"msg": message}))


@pytest.mark.usefixtures("logging_as_it_was")
def test_every_line_is_written_in_its_order() -> None:
    """Once the handler is closed, as it is at the end of the process, all of it is there."""
    stream = io.StringIO()
    configure_logging(stream=stream, queue=1000)

    for number in range(100):
        logging.getLogger("test").info("%d", number)
    configure_logging()

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

    told = "lines dropped, as they came faster than they could be written: 2"
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

    assert stream.getvalue().splitlines()[2].endswith("could be written: 1")


def test_what_a_stream_refuses_is_lost_alone() -> None:
    """The lines after it are written."""
    stream = Failing()
    handler = BackgroundHandler(stream, 10)

    say(handler, "lost")
    say(handler, "kept")
    handler.close()

    assert stream.getvalue() == "kept\n"


def test_after_the_end_lines_are_written_at_once() -> None:
    """Somebody else's `dictConfig` closes every handler there is, and logging goes on."""
    stream = io.StringIO()
    handler = BackgroundHandler(stream, 10)
    handler.close()

    say(handler, "late")

    assert stream.getvalue() == "late\n"


def test_a_forked_process_writes_its_own_lines() -> None:
    """A server that forks its workers loses no line, and none is written twice."""
    ended = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", FORKING],
        capture_output=True,
        text=True,
        timeout=PATIENCE * 3,
        check=True,
    )

    said = [line.partition("[root] ")[2] for line in ended.stderr.splitlines()]
    assert sorted(said) == ["child", "parent, after", "parent, before"]
