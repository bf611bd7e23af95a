"""Draining on SIGTERM, with real servers and signals."""

from __future__ import annotations

import asyncio
import http.client
import logging
import multiprocessing
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
import httpx2
import pytest
import uvicorn

from tokenpulse_mw.health import drain, drain_on_sigterm

from ..support.servers import free_port
from ..support.waiting import PATIENCE, wait_until

APP = "tests.health.draining_app:app"
UVICORN = ["uvicorn", APP, "--port={port}", "--log-level=warning"]
# The supervisor must not kill a worker that is slow.
HEALTHCHECK_TIMEOUT = f"--timeout-worker-healthcheck={PATIENCE:.0f}"
WORKERS = pytest.mark.parametrize(
    ("options", "code"),
    [
        pytest.param([], -signal.SIGTERM, id="one process"),
        pytest.param(["--workers=2", HEALTHCHECK_TIMEOUT], 0, id="two workers"),
    ],
)


class Gateway:
    """The draining application, run by a real server in a subprocess."""

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
        """Return the status of a request on a new connection, or 0 without one in a second."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=1)
        try:
            connection.request("GET", path)
            with connection.getresponse() as response:
                return response.status
        except OSError:
            return 0
        finally:
            connection.close()

    @contextmanager
    def streaming(self) -> Iterator[http.client.HTTPResponse]:
        """Open a stream that ends when the file `finish` exists."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE)
        with closing(connection):
            connection.request("GET", "/stream")
            with connection.getresponse() as response:
                assert response.read(6) == b"begin "
                yield response

    def wait(self) -> int:
        """Wait for the end of the process, and return its exit code."""
        return self.process.wait(PATIENCE)


@contextmanager
def serving(command: list[str], folder: Path, *, delay: float) -> Iterator[Gateway]:
    """Run a gateway that is ready; all its processes are killed at the end."""
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
def test_uvicorn_fails_readiness_and_completes_requests(
    options: list[str], code: int, tmp_path: Path
) -> None:
    """Balancers get 503 during the delay, and a running stream is completed."""
    with (
        serving([*UVICORN, *options], tmp_path, delay=3600) as gateway,
        gateway.streaming() as stream,
    ):
        gateway.process.send_signal(signal.SIGTERM)

        wait_until(lambda: gateway.status("/health/ready") == 503)
        wait_until(lambda: gateway.status("/health/live") == 200)
        assert gateway.process.poll() is None
        gateway.finish.touch()

        assert stream.read() == b"end"
        # End the delay in every process.
        os.killpg(gateway.process.pid, signal.SIGTERM)
        assert gateway.wait() == code


@pytest.mark.slow
@WORKERS
def test_stream_longer_than_the_delay_is_completed(
    options: list[str], code: int, tmp_path: Path
) -> None:
    """After the delay, the server waits for running responses as usual."""
    command = [*UVICORN, *options]
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
def test_second_signal_ends_the_delay(second: signal.Signals, code: int, tmp_path: Path) -> None:
    """A second SIGTERM or a SIGINT ends the process without waiting."""
    with serving(UVICORN, tmp_path, delay=3600) as gateway:
        gateway.process.send_signal(signal.SIGTERM)
        wait_until(lambda: gateway.status("/health/ready") == 503)
        gateway.process.send_signal(second)

        assert gateway.wait() == code


@pytest.mark.slow
def test_sigint_is_not_delayed(tmp_path: Path) -> None:
    """Ctrl-C ends the process immediately."""
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
def test_granian_and_hypercorn_close_at_once_and_complete_responses(
    command: list[str], tmp_path: Path
) -> None:
    """Their SIGTERM handlers cannot be delayed."""
    with serving(command, tmp_path, delay=3600) as gateway, gateway.streaming() as stream:
        gateway.process.send_signal(signal.SIGTERM)
        wait_until(lambda: gateway.status("/health/live") == 0)
        gateway.finish.touch()

        assert stream.read() == b"end"
        assert gateway.wait() == 0


@pytest.mark.slow
@pytest.mark.parametrize(
    "command",
    [
        ["-m", "uvicorn", "reloaded:app", "--port={port}", "--reload"],
        ["-c", "import uvicorn; uvicorn.run('reloaded:app', port={port}, reload=True)"],
    ],
    ids=["option", "argument"],
)
def test_uvicorn_reload_is_not_delayed(command: list[str], tmp_path: Path) -> None:
    """The new code is served immediately, not after the delay."""
    source = tmp_path / "reloaded.py"
    code = (
        "from starlette.applications import Starlette\n"
        "from starlette.responses import PlainTextResponse\n"
        "from starlette.routing import Route\n"
        "from tokenpulse_mw import Settings, TokenPulse\n"
        "app = Starlette(routes=[Route('/version', lambda request: PlainTextResponse('one'))])\n"
        "TokenPulse(settings=Settings(drain_delay=3600)).install(app)\n"
    )
    source.write_text(code)
    port = free_port()
    process = subprocess.Popen(
        [sys.executable, *(part.format(port=port) for part in command)],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path])},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )

    def version() -> str:
        try:
            return httpx2.get(f"http://127.0.0.1:{port}/version", timeout=PATIENCE).text
        except httpx2.TransportError:
            return ""

    try:
        wait_until(lambda: version() == "one")
        source.write_text(code.replace("'one'", "'other'"))
        wait_until(lambda: version() == "other")
        process.terminate()
        assert process.wait(PATIENCE) == 0
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


@pytest.fixture
def received_signals() -> Iterator[list[int]]:
    """Install a server's handler for SIGTERM, and return the signals that it receives."""
    signals: list[int] = []
    previous = signal.signal(signal.SIGTERM, lambda number, frame: signals.append(number))
    yield signals
    signal.signal(signal.SIGTERM, previous)


@pytest.mark.anyio
async def test_handler_of_the_server_is_called_after_the_delay(received_signals: list[int]) -> None:
    """The original handler is restored at the end."""
    health, original = SimpleNamespace(draining=False), signal.getsignal(signal.SIGTERM)

    async with drain_on_sigterm(health, delay=0.05):
        signal.raise_signal(signal.SIGTERM)
        assert (health.draining, received_signals) == (True, [])
        with anyio.fail_after(PATIENCE):
            while not received_signals:
                await anyio.lowlevel.checkpoint()
        signal.raise_signal(signal.SIGTERM)
        assert received_signals == [signal.SIGTERM] * 2
    assert signal.getsignal(signal.SIGTERM) is original


@pytest.mark.anyio
async def test_many_signals_do_not_block(received_signals: list[int]) -> None:
    """The signal handler never blocks, however many signals arrive."""
    async with drain_on_sigterm(SimpleNamespace(draining=False), delay=3600):
        for _ in range(5000):
            signal.raise_signal(signal.SIGTERM)
        with anyio.fail_after(PATIENCE):
            while not received_signals:
                await anyio.lowlevel.checkpoint()


@pytest.mark.anyio
async def test_handler_that_wraps_ours_is_not_replaced(received_signals: list[int]) -> None:
    """After the drain, a signal still reaches the server's handler through it."""
    health = SimpleNamespace(draining=False)
    async with drain_on_sigterm(health, delay=3600):
        handler = signal.getsignal(signal.SIGTERM)
        assert callable(handler)
        signal.signal(signal.SIGTERM, lambda number, frame: handler(number, frame))

    signal.raise_signal(signal.SIGTERM)

    assert received_signals == [signal.SIGTERM]


@pytest.mark.anyio
async def test_error_in_the_body_is_raised_unchanged(received_signals: list[int]) -> None:
    """An error of the lifespan is not wrapped in an exception group."""
    original = signal.getsignal(signal.SIGTERM)

    with pytest.raises(OSError, match="no port"):
        async with drain_on_sigterm(SimpleNamespace(draining=False), delay=1):
            raise OSError("no port")
    assert signal.getsignal(signal.SIGTERM) is original


async def assert_not_delayed(
    reason: str, caplog: pytest.LogCaptureFixture, *, delay: float = 1
) -> None:
    """Assert that the handler is unchanged, and that a DEBUG line has the reason."""
    caplog.set_level(logging.DEBUG, logger="tokenpulse_mw.health")
    original = signal.getsignal(signal.SIGTERM)
    async with drain_on_sigterm(SimpleNamespace(draining=False), delay=delay):
        assert signal.getsignal(signal.SIGTERM) is original
    assert caplog.messages == [f"SIGTERM not delayed: reason={reason!r}"]


async def assert_warns(reason: str, caplog: pytest.LogCaptureFixture) -> None:
    """Assert that the handler is unchanged, and that a warning has the reason."""
    original = signal.getsignal(signal.SIGTERM)
    async with drain_on_sigterm(SimpleNamespace(draining=False), delay=1.5):
        assert signal.getsignal(signal.SIGTERM) is original
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert caplog.messages[0].startswith(
        f"SIGTERM cannot be delayed: delay=1.5 reason={reason!r}; readiness does not fail"
    )
    assert "Wait before SIGTERM, such as in preStop" in caplog.messages[0]


@pytest.mark.anyio
async def test_zero_delay_changes_nothing(
    received_signals: list[int], caplog: pytest.LogCaptureFixture
) -> None:
    """SIGTERM is left to the server."""
    await assert_not_delayed("the delay is 0", caplog, delay=0)


@pytest.mark.anyio
async def test_missing_server_handler_logs_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    """SIGTERM ends the process without a delay."""
    await assert_warns("the server has no SIGTERM handler", caplog)


def test_handler_of_the_event_loop_logs_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    """The signal wakes the loop directly, as with granian and gunicorn's worker `-k asgi`."""

    async def serve() -> None:
        loop, signalled = asyncio.get_running_loop(), asyncio.Event()
        loop.add_signal_handler(signal.SIGTERM, signalled.set)
        try:
            await assert_warns("the event loop handles SIGTERM", caplog)
            health = SimpleNamespace(draining=False)
            async with drain_on_sigterm(health, delay=3600):
                signal.raise_signal(signal.SIGTERM)
                await signalled.wait()
            assert health.draining is False
        finally:
            loop.remove_signal_handler(signal.SIGTERM)

    asyncio.run(asyncio.wait_for(serve(), PATIENCE))


@pytest.mark.anyio
async def test_windows_changes_nothing(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Windows has no SIGTERM, so there is no warning."""
    monkeypatch.setattr(drain, "sys", SimpleNamespace(platform="win32"))

    await assert_not_delayed("Windows has no SIGTERM", caplog)


@pytest.mark.anyio
async def test_reloading_server_changes_nothing(
    received_signals: list[int],
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The arguments of a process of uvicorn have its configuration."""
    config = uvicorn.Config("gateway:app", reload=True)
    process = SimpleNamespace(_kwargs={"config": config})
    monkeypatch.setattr(multiprocessing, "current_process", lambda: process)

    await assert_not_delayed("the server reloads the code", caplog)


def test_other_thread_changes_nothing(caplog: pytest.LogCaptureFixture) -> None:
    """Test clients run lifespans in threads, so there is no warning."""
    reason = "not the main thread"
    thread = threading.Thread(target=lambda: anyio.run(lambda: assert_not_delayed(reason, caplog)))
    thread.start()
    thread.join()

    assert caplog.messages == [f"SIGTERM not delayed: reason={reason!r}"]


@pytest.mark.parametrize("delay", [-1.0, float("nan"), float("inf")])
@pytest.mark.anyio
async def test_invalid_delay_is_rejected(delay: float) -> None:
    """The delay is a finite number of at least 0."""
    with pytest.raises(ValueError, match=r"^delay must be a number of seconds, 0 or more, got"):
        async with drain_on_sigterm(SimpleNamespace(draining=False), delay=delay):
            pass
