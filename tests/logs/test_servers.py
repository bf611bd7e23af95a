"""Logs of real servers: their lines in our format, with request ids."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import httpx2
import pytest

from ..support.servers import free_port, lack
from ..support.waiting import PATIENCE, wait_until

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
APP = "tests.logs.gateway:app"
UNCONFIGURED = "tests.logs.plain_gateway:app"
LINE = re.compile(
    r"\[\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z\] \[(DEBUG|INFO|WARN|ERROR)\] \[.+?\] .*"
)


@contextmanager
def serving(
    command: list[str],
    log: Path,
    *,
    environment: Mapping[str, str] | None = None,
    stdout: bool = False,
) -> Iterator[httpx2.Client]:
    """Run a server with `command` on a free port; its standard error, and output, go to `log`."""
    port = free_port()
    arguments = [argument.replace("{port}", str(port)) for argument in command]
    with log.open("w") as errors:
        server = subprocess.Popen(
            [sys.executable, *arguments],
            cwd=ROOT,
            env={**os.environ, **(environment or {})},
            stdout=errors if stdout else subprocess.DEVNULL,
            stderr=errors,
        )
    try:
        # New connections: the server may close a connection that was idle.
        headers, url = {"connection": "close"}, f"http://127.0.0.1:{port}"
        with httpx2.Client(base_url=url, headers=headers, timeout=PATIENCE) as client:
            wait_for_server(client, server)
            yield client
    finally:
        server.terminate()
        server.wait(PATIENCE)


def wait_for_server(client: httpx2.Client, server: subprocess.Popen[bytes]) -> None:
    """Wait until the server responds."""

    def responds() -> bool:
        assert server.poll() is None, "the server has ended"
        try:
            client.get("/stream")
        except httpx2.TransportError:
            return False
        return True

    wait_until(responds, "the server does not listen")


def entries(log: Path) -> list[dict[str, Any]]:
    """Return the JSON lines."""
    return [json.loads(line) for line in log.read_text().splitlines() if line.startswith("{")]


@pytest.mark.parametrize(
    "command",
    [
        ["uvicorn", APP, "--port", "{port}"],
        ["hypercorn", APP, "--bind", "127.0.0.1:{port}"],
        ["hypercorn", APP, "--bind", "127.0.0.1:{port}", "--worker-class", "trio"],
        ["granian", APP, "--interface", "asgi", "--port", "{port}"],
    ],
    ids=["uvicorn", "hypercorn", "hypercorn on trio", "granian"],
)
def test_lines_of_a_request_have_its_id(command: list[str], tmp_path: Path) -> None:
    """Lines of the application and the access log have it, for responses, streams and errors."""
    log = tmp_path / "log"
    with serving(["-m", *command], log) as client:
        for path in ("whole", "stream", "failing"):
            response = client.get(f"/{path}", headers={"x-request-id": path})
            assert path == "failing" or response.headers["x-request-id"] == path

    lines = entries(log)
    access = [line for line in lines if line["module"] == "tokenpulse_mw.access"]
    assert [(line["route"], line["request_id"]) for line in access[-3:]] == [
        ("/whole", "whole"),
        ("/stream", "stream"),
        ("/failing", "failing"),
    ]
    assert [line["request_id"] for line in lines if line["message"] == "handled"] == ["whole"]


def test_lines_of_uvicorn_are_captured(tmp_path: Path) -> None:
    """Lines about a request have its id."""
    log = tmp_path / "log"
    with serving(["-m", "uvicorn", APP, "--port", "{port}"], log) as client:
        client.get("/whole", headers={"x-request-id": "handled"})
        client.get("/failing", headers={"x-request-id": "failed"})

    lines = entries(log)
    assert len(lines) == len(log.read_text().splitlines())
    assert "Application startup complete." in [line["message"] for line in lines]
    errors_by_id = {
        line["request_id"]: line
        for line in lines
        if line["module"] == "uvicorn.error"
        if "request_id" in line
    }
    assert "RuntimeError: no upstream" in errors_by_id["failed"]["error"]
    assert "handled" in [
        line.get("request_id") for line in lines if line["module"] == "uvicorn.access"
    ]


def test_disabled_access_log_of_uvicorn_stays_disabled(tmp_path: Path) -> None:
    """The access log of uvicorn contains queries; all other lines are written."""
    log = tmp_path / "log"
    with serving(["-m", "uvicorn", APP, "--port", "{port}", "--no-access-log"], log) as client:
        client.get("/whole?key=AIza-secret")

    assert "AIza-secret" not in log.read_text()
    modules = {line["module"] for line in entries(log)}
    assert modules == {"uvicorn.error", "tokenpulse_mw.access", "Gateway"}


def test_uvicorn_without_log_config_uses_our_format(tmp_path: Path) -> None:
    """With `log_config=None`, no logger must be captured."""
    log = tmp_path / "log"
    code = (
        "import uvicorn\n"
        "from tokenpulse_mw import configure_logging\n"
        "from starlette.applications import Starlette\n"
        "configure_logging()\n"
        "uvicorn.run(Starlette(), port={port}, log_config=None)\n"
    )
    with serving(["-c", code], log) as client:
        client.get("/whole")

    lines = log.read_text().splitlines()
    assert all(LINE.fullmatch(line) for line in lines), lines
    assert any("[uvicorn.access] " in line for line in lines)


UNCONFIGURED_SERVERS = {
    "uvicorn": ["uvicorn", UNCONFIGURED, "--port", "{port}"],
    "uvicorn with a worker": ["uvicorn", UNCONFIGURED, "--port", "{port}", "--workers", "1"],
    "gunicorn": [
        *("gunicorn", UNCONFIGURED, "-k", "uvicorn_worker.UvicornWorker"),
        *("-b", "127.0.0.1:{port}", "--no-control-socket"),
    ],
    "hypercorn": ["hypercorn", UNCONFIGURED, "--bind", "127.0.0.1:{port}"],
    "granian": ["granian", UNCONFIGURED, "--interface", "asgi", "--port", "{port}"],
}


def need_packages(server: str) -> None:
    """Skip the test if a package of the server is missing."""
    if server == "gunicorn" and not (find_spec("gunicorn") and find_spec("uvicorn_worker")):
        lack("gunicorn with uvicorn-worker")


@pytest.mark.parametrize("server", UNCONFIGURED_SERVERS)
def test_lines_are_readable_without_configuration(server: str, tmp_path: Path) -> None:
    """Alerts, their ends, SIGTERM and the access log have time, level and logger, once each."""
    need_packages(server)
    log, drains = tmp_path / "log", server not in ("hypercorn", "granian")

    def lines(text: str) -> list[str]:
        return [line for line in log.read_text().splitlines() if text in line]

    with serving(["-m", *UNCONFIGURED_SERVERS[server]], log) as client:
        client.post("/trouble")
        wait_until(lambda: bool(lines("fired trouble")))
        client.post("/trouble")
        wait_until(lambda: bool(lines("resolved trouble")))

    expected = {
        "fired trouble:key:k1 [warning]: M": "[WARN] [tokenpulse_mw.alerts] ",
        "resolved trouble:key:k1 [warning]: T": "[INFO] [tokenpulse_mw.alerts] ",
        "drain started: signal=SIGTERM delay=0.1" if drains else "SIGTERM cannot be delayed: ": (
            f"[{'INFO' if drains else 'WARN'}] [tokenpulse_mw.health] "
        ),
    }
    for message, prefix in expected.items():
        (line,) = lines(message)
        assert LINE.fullmatch(line), line
        assert f"{prefix}{message}" in line
    assert all(LINE.fullmatch(line) for line in lines("POST /trouble 200"))
    assert len(lines("[tokenpulse_mw.access] POST /trouble 200")) == 2


@pytest.mark.parametrize("server", UNCONFIGURED_SERVERS)
def test_setting_of_the_format_includes_the_lines_of_the_server(
    server: str, tmp_path: Path
) -> None:
    """From the start of the application, each line of its process is written once, in JSON."""
    need_packages(server)
    log, environment = tmp_path / "log", {"TOKENPULSE_LOG_FORMAT": "json"}
    with serving(["-m", *UNCONFIGURED_SERVERS[server]], log, environment=environment) as client:
        client.get("/version")

    lines = log.read_text().splitlines()
    for entry in entries(log):
        if "method" not in entry:  # the access log has equal lines
            message = entry["message"]
            assert [line for line in lines if line.endswith(f" {message}")] == []
