"""Logs of real servers: their lines in our format, with request ids."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx2
import pytest

from ..support.servers import free_port
from ..support.waiting import PATIENCE, wait_until

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
APP = "tests.logs.gateway:app"
LINE = re.compile(
    r"\[\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z\] \[(DEBUG|INFO|WARN|ERROR)\] \[.+?\] .*"
)


@contextmanager
def serving(command: list[str], log: Path) -> Iterator[httpx2.Client]:
    """Run a server with `command` on a free port, logging to `log`."""
    port = free_port()
    arguments = [argument.replace("{port}", str(port)) for argument in command]
    with log.open("w") as errors:
        server = subprocess.Popen(
            [sys.executable, *arguments], cwd=ROOT, stdout=subprocess.DEVNULL, stderr=errors
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
