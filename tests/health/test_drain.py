"""SIGTERM: not ready at once, served for a while, ended as ever; by real servers and signals."""

from __future__ import annotations

import asyncio
import http.client
import logging
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from types import SimpleNamespace

import anyio
import anyio.lowlevel
import pytest

from tokenpulse_mw.health import drain, drain_on_sigterm

from ..support.servers import free_port
from ..support.waiting import PATIENCE, wait_until

APP = "tests.health.draining_app:app"
UVICORN = ["uvicorn", APP, "--port={port}", "--log-level=warning"]
# A worker that is only slow is not to be killed by its supervisor.
PATIENT = f"--timeout-worker-healthcheck={PATIENCE:.0f}"
WORKERS = pytest.mark.parametrize(
    ("more", "code"),
    [
        pytest.param([], -signal.SIGTERM, id="one process"),
        pytest.param(["--workers=2", PATIENT], 0, id="two workers"),
    ],
)


class Gateway:
    """The draining application, served by a real server in processes of its own."""

    def __init__(self, command: list[str], folder: Path, *, delay: float) -> None:
        self.port = free_port()
        self.finish = folder / "finish"
        environment = {"DRAINING_FINISH": str(self.finish), "DRAINING_DELAY": str(delay)}
        self.process = subprocess.Popen(
            [sys.executable, "-m", *(part.format(port=self.port) for part in command)],
            env={**os.environ, **environment},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )

    def status(self, path: str) -> int:
        """What `path` answers on a connection of its own; 0 where there is none in a second."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=1)
        try:
            connection.request("GET", path)
            with connection.getresponse() as answer:
                return answer.status
        except OSError:
            return 0
        finally:
            connection.close()

    @contextmanager
    def streaming(self) -> Iterator[http.client.HTTPResponse]:
        """A stream that has begun, and goes on until `finish` is there."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE)
        with closing(connection):
            connection.request("GET", "/stream")
            with connection.getresponse() as answer:
                assert answer.read(6) == b"begin "
                yield answer

    def wait(self) -> int:
        """The exit code, when it has ended."""
        return self.process.wait(PATIENCE)


@contextmanager
def serving(command: list[str], folder: Path, *, delay: float) -> Iterator[Gateway]:
    """A gateway that is ready; nothing is left of it afterwards."""
    gateway = Gateway(command, folder, delay=delay)
    try:
        wait_until(lambda: gateway.status("/health/ready") == 200)
        yield gateway
    finally:
        with suppress(ProcessLookupError):
            os.killpg(gateway.process.pid, signal.SIGKILL)
        gateway.process.wait()


@pytest.mark.slow
@WORKERS
def test_uvicorn_serves_on_without_being_ready_and_ends_as_ever(
    more: list[str], code: int, tmp_path: Path
) -> None:
    """The balancer sees 503 while it can still ask; the stream that runs is finished whole."""
    with serving([*UVICORN, *more], tmp_path, delay=3600) as gateway, gateway.streaming() as stream:
        gateway.process.send_signal(signal.SIGTERM)

        wait_until(lambda: gateway.status("/health/ready") == 503)
        wait_until(lambda: gateway.status("/health/live") == 200)
        assert gateway.process.poll() is None
        gateway.finish.touch()

        assert stream.read() == b"end"
        # The delay may be over at last, for every process.
        os.killpg(gateway.process.pid, signal.SIGTERM)
        assert gateway.wait() == code


@pytest.mark.slow
@WORKERS
def test_a_stream_that_is_longer_than_the_delay_is_finished_too(
    more: list[str], code: int, tmp_path: Path
) -> None:
    """The delay is for the balancer; for what runs, the server waits as it always does."""
    command = [*UVICORN, *more]
    with serving(command, tmp_path, delay=0.2) as gateway, gateway.streaming() as stream:
        gateway.process.send_signal(signal.SIGTERM)
        wait_until(lambda: gateway.status("/health/live") == 0)
        gateway.finish.touch()

        assert stream.read() == b"end"
        assert gateway.wait() == code


@pytest.mark.slow
@pytest.mark.parametrize(
    ("second", "code"), [(signal.SIGTERM, -signal.SIGTERM), (signal.SIGINT, 0)]
)
def test_a_second_signal_cuts_the_wait_short(
    second: signal.Signals, code: int, tmp_path: Path
) -> None:
    """Whoever is in a hurry does not wait a minute."""
    with serving(UVICORN, tmp_path, delay=3600) as gateway:
        gateway.process.send_signal(signal.SIGTERM)
        wait_until(lambda: gateway.status("/health/ready") == 503)
        gateway.process.send_signal(second)

        assert gateway.wait() == code


@pytest.mark.slow
def test_sigint_is_not_delayed(tmp_path: Path) -> None:
    """Ctrl-C ends what runs in a terminal as ever."""
    with serving(UVICORN, tmp_path, delay=3600) as gateway:
        gateway.process.send_signal(signal.SIGINT)

        assert gateway.wait() == 0


@pytest.mark.slow
@pytest.mark.parametrize(
    "command",
    [
        pytest.param(["granian", "--interface=asgi", "--port={port}", APP], id="granian"),
        pytest.param(
            ["hypercorn", APP, "--bind=127.0.0.1:{port}", f"--graceful-timeout={PATIENCE:.0f}"],
            id="hypercorn",
        ),
    ],
)
def test_other_servers_close_at_once_and_finish_what_runs(
    command: list[str], tmp_path: Path
) -> None:
    """They take SIGTERM where it cannot be held back, so that something else has to wait."""
    with serving(command, tmp_path, delay=3600) as gateway, gateway.streaming() as stream:
        gateway.process.send_signal(signal.SIGTERM)
        wait_until(lambda: gateway.status("/health/live") == 0)
        gateway.finish.touch()

        assert stream.read() == b"end"
        assert gateway.wait() == 0


@pytest.fixture
def server_handler() -> Iterator[list[int]]:
    """A server's handler for SIGTERM, and the signals that it was told of."""
    told: list[int] = []
    before = signal.signal(signal.SIGTERM, lambda number, frame: told.append(number))
    yield told
    signal.signal(signal.SIGTERM, before)


@pytest.mark.anyio
async def test_the_servers_handler_is_called_after_the_delay(server_handler: list[int]) -> None:
    """And it has its place again afterwards."""
    health, theirs = SimpleNamespace(draining=False), signal.getsignal(signal.SIGTERM)

    async with drain_on_sigterm(health, delay=0.05):
        signal.raise_signal(signal.SIGTERM)
        assert (health.draining, server_handler) == (True, [])
        with anyio.fail_after(PATIENCE):
            while not server_handler:
                await anyio.lowlevel.checkpoint()
        signal.raise_signal(signal.SIGTERM)
        assert server_handler == [signal.SIGTERM] * 2
    assert signal.getsignal(signal.SIGTERM) is theirs


@pytest.mark.anyio
async def test_signals_without_end_are_borne(server_handler: list[int]) -> None:
    """However many come before the event loop is at it again."""
    async with drain_on_sigterm(SimpleNamespace(draining=False), delay=3600):
        for _ in range(5000):
            signal.raise_signal(signal.SIGTERM)
        with anyio.fail_after(PATIENCE):
            while not server_handler:
                await anyio.lowlevel.checkpoint()


@pytest.mark.anyio
async def test_who_chained_the_handler_in_turn_keeps_it(server_handler: list[int]) -> None:
    """What it passes on still comes to the server, when nothing drains any more."""
    health = SimpleNamespace(draining=False)
    async with drain_on_sigterm(health, delay=3600):
        ours = signal.getsignal(signal.SIGTERM)
        assert callable(ours)
        signal.signal(signal.SIGTERM, lambda number, frame: ours(number, frame))

    signal.raise_signal(signal.SIGTERM)

    assert server_handler == [signal.SIGTERM]


@pytest.mark.anyio
async def test_what_is_raised_beside_it_stays_what_it_is(server_handler: list[int]) -> None:
    """An application that fails in its lifespan is not hidden in a group of errors."""
    theirs = signal.getsignal(signal.SIGTERM)

    with pytest.raises(OSError, match="no port"):
        async with drain_on_sigterm(SimpleNamespace(draining=False), delay=1):
            raise OSError("no port")
    assert signal.getsignal(signal.SIGTERM) is theirs


async def _does_nothing(why: str, caplog: pytest.LogCaptureFixture, *, delay: float = 1) -> None:
    caplog.set_level(logging.DEBUG, logger="tokenpulse_mw.health")
    theirs = signal.getsignal(signal.SIGTERM)
    async with drain_on_sigterm(SimpleNamespace(draining=False), delay=delay):
        assert signal.getsignal(signal.SIGTERM) is theirs
    assert caplog.messages == [f"SIGTERM is left to the server: {why}"]


async def _warns(why: str, caplog: pytest.LogCaptureFixture) -> None:
    theirs = signal.getsignal(signal.SIGTERM)
    async with drain_on_sigterm(SimpleNamespace(draining=False), delay=1.5):
        assert signal.getsignal(signal.SIGTERM) is theirs
    assert [each.levelname for each in caplog.records] == ["WARNING"]
    assert caplog.messages[0].startswith("SIGTERM cannot be delayed by 1.5 s, ")
    assert f": {why}; wait before SIGTERM, " in caplog.messages[0]


@pytest.mark.anyio
async def test_without_a_delay_the_signal_is_the_servers(
    server_handler: list[int], caplog: pytest.LogCaptureFixture
) -> None:
    """As in development, where every reload would wait."""
    await _does_nothing("the delay is 0", caplog, delay=0)


@pytest.mark.anyio
async def test_without_a_servers_handler_nothing_is_done(caplog: pytest.LogCaptureFixture) -> None:
    """The process ends at SIGTERM then, as it would have; whoever counts on a delay is warned."""
    await _warns("the server has no handler for it", caplog)


def test_a_handler_of_the_event_loop_is_not_delayed(caplog: pytest.LogCaptureFixture) -> None:
    """The loop is woken by the signal itself: to announce a delay would be to lie.

    So it is with gunicorn's own worker, `-k asgi`, and with granian.
    """

    async def embedded() -> None:
        loop, told = asyncio.get_running_loop(), asyncio.Event()
        loop.add_signal_handler(signal.SIGTERM, told.set)
        try:
            await _warns("the event loop handles it", caplog)
            health = SimpleNamespace(draining=False)
            async with drain_on_sigterm(health, delay=3600):
                signal.raise_signal(signal.SIGTERM)
                await told.wait()
            assert health.draining is False
        finally:
            loop.remove_signal_handler(signal.SIGTERM)

    asyncio.run(asyncio.wait_for(embedded(), PATIENCE))


@pytest.mark.anyio
async def test_on_windows_nothing_is_done(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There is no such signal, and nobody expects one: that is no reason to warn."""
    monkeypatch.setattr(drain, "sys", SimpleNamespace(platform="win32"))

    await _does_nothing("Windows has none", caplog)


def test_outside_of_the_main_thread_nothing_is_done(caplog: pytest.LogCaptureFixture) -> None:
    """No signal could be handled there; test clients run lifespans so, and are not warned."""
    why = "this is not the main thread"
    thread = threading.Thread(target=lambda: anyio.run(lambda: _does_nothing(why, caplog)))
    thread.start()
    thread.join()

    assert caplog.messages == [f"SIGTERM is left to the server: {why}"]


@pytest.mark.parametrize("delay", [-1.0, float("nan"), float("inf")])
@pytest.mark.anyio
async def test_a_delay_that_could_not_be_waited_for_is_refused(delay: float) -> None:
    """A mistake shows at start."""
    with pytest.raises(ValueError, match=r"^delay must be a number of seconds, 0 or more, got"):
        async with drain_on_sigterm(SimpleNamespace(draining=False), delay=delay):
            pass
