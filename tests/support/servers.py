"""Real servers on loopback that tests can kill, stop, resume and restart."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import socket
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import NoReturn

import pytest

from .waiting import PATIENCE, wait_until

# Ports below the range for outgoing connections (on Linux from 32768), so that no connection takes
# one while its server is down. Each pytest worker has a disjoint set.
_RUN = random.Random(os.environ.get("PYTEST_XDIST_TESTRUNUID"))  # the same in all workers of a run
_WORKER = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
_WORKERS = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
_PORTS = iter(_RUN.sample(range(10_000, 32_000), k=22_000)[_WORKER::_WORKERS])


class Server:
    """Process that listens on a port, and keeps the port when it is restarted.

    Args:
        command: Program and arguments; `{port}` is replaced by the port.
        folder: Working directory of the process.
        environment: Variables in addition to those of this process.
    """

    def __init__(
        self, command: list[str], folder: Path, environment: Mapping[str, str] | None = None
    ) -> None:
        self.port = free_port()
        self._command = [part.format(port=self.port) for part in command]
        self._folder = folder
        self._environment = environment or {}
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def program(self) -> str:
        """Return the name of the program."""
        return self._command[0]

    @property
    def place(self) -> str:
        """Return host and port, as in a URL."""
        return f"127.0.0.1:{self.port}"

    @property
    def output(self) -> str:
        """Return the output since the last start."""
        return self._output.read_text()

    @property
    def _output(self) -> Path:
        return self._folder / f"{self.port}.log"

    def start(self) -> None:
        """Start the process and wait until it listens; kill it if it does not."""
        with self._output.open("wb") as output:
            self._process = subprocess.Popen(
                self._command,
                cwd=self._folder,
                env={**os.environ, **self._environment},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
            )
        try:
            wait_until(self._listens, f"{self._command} does not listen")
        except BaseException:
            self.kill()
            raise

    @property
    def runs(self) -> bool:
        """Return True unless the process was killed."""
        return self._process is not None

    def kill(self, number: signal.Signals = signal.SIGKILL) -> None:
        """Kill the process with a signal, if it runs."""
        if self._process is not None:
            self._process.send_signal(number)
            self._process.wait()
            self._process = None

    def stop(self) -> None:
        """Suspend the process: its socket accepts connections, but nothing responds."""
        _, status = os.waitpid(self._signal(signal.SIGSTOP), os.WUNTRACED)
        assert os.WIFSTOPPED(status), f"{self._command} has ended"

    def resume(self) -> None:
        """Resume the process after `stop`."""
        self._signal(signal.SIGCONT)

    def _signal(self, number: signal.Signals) -> int:
        """Send a signal to the process, and return the process id."""
        assert self._process is not None, f"{self._command} is not running"
        self._process.send_signal(number)
        return self._process.pid

    def _listens(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, f"{self._command} has ended"
        try:
            socket.create_connection(("127.0.0.1", self.port), timeout=PATIENCE).close()
        except OSError:
            return False
        return True


def redis_server(folder: Path, *options: str) -> Server:
    """Return a Redis that stores nothing on disk."""
    command = ["redis-server", "--port", "{port}", "--bind", "127.0.0.1"]
    return Server([*command, "--save", "", "--appendonly", "no", *options], folder)


def memcached_server(folder: Path, *options: str) -> Server:
    """Return a Memcached."""
    # Memcached does not start as root without `-u`.
    command = ["memcached", "-p", "{port}", "-l", "127.0.0.1", "-U", "0", "-u", "root"]
    return Server([*command, *options], folder)


def prometheus_server(folder: Path, target: str, *, interval: str = "500ms") -> Server:
    """Return a Prometheus that scrapes `/metrics` of `target`, a host and port."""
    config = {
        "global": {"scrape_interval": interval, "scrape_timeout": interval},
        "scrape_configs": [{"job_name": "gateway", "static_configs": [{"targets": [target]}]}],
    }
    (folder / "prometheus.yml").write_text(json.dumps(config))  # JSON is valid YAML
    options = ["--config.file=prometheus.yml", "--storage.tsdb.path=data"]
    return Server(["prometheus", *options, "--web.listen-address=127.0.0.1:{port}"], folder)


def alertmanager_server(folder: Path, webhook: str) -> Server:
    """Return an Alertmanager that sends each alert at once, ungrouped, to the URL `webhook`."""
    receiver = {"name": "test", "webhook_configs": [{"url": webhook, "send_resolved": True}]}
    route = {
        "receiver": "test",
        "group_by": ["..."],
        "group_wait": "10ms",
        "group_interval": "100ms",
        "repeat_interval": "1h",
    }
    config = {"route": route, "receivers": [receiver]}
    (folder / "alertmanager.yml").write_text(json.dumps(config))  # JSON is valid YAML
    options = ["--config.file=alertmanager.yml", "--storage.path=data", "--cluster.listen-address="]
    command = ["prometheus-alertmanager", *options, "--web.listen-address=127.0.0.1:{port}"]
    return Server(command, folder)


def started(server: Server, package: str) -> Iterator[Server]:
    """Run `server` for a fixture; skip the test if the system package `package` is missing."""
    need(server.program, package)
    server.start()
    try:
        yield server
    finally:
        server.kill()


def need(program: str, package: str) -> None:
    """Skip the test if `program` of the system package `package` is missing; fail it in CI."""
    if shutil.which(program) is None:
        lack(package)


def lack(package: str) -> NoReturn:
    """Skip a test that requires the system package `package`; fail it in CI."""
    reason = f"install the package {package}"
    if os.environ.get("CI") == "true":
        pytest.fail(reason)
    pytest.skip(reason)


def free_port() -> int:
    """Return an unused port of loopback; no port is returned twice."""
    for port in _PORTS:
        with socket.socket() as listener, suppress(OSError):
            listener.bind(("127.0.0.1", port))
            return port
    raise RuntimeError("no free port is left for this test process")
