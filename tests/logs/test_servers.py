"""Real servers: their own lines come out in our format, and a request's lines have its id."""

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
    """A server that runs `command` on a port of its own, and writes `log`."""
    port = free_port()
    arguments = [each.replace("{port}", str(port)) for each in command]
    with log.open("w") as errors:
        server = subprocess.Popen(
            [sys.executable, *arguments], cwd=ROOT, stdout=subprocess.DEVNULL, stderr=errors
        )
    try:
        # On connections of their own: a server may be closing one that was idle for long.
        headers, url = {"connection": "close"}, f"http://127.0.0.1:{port}"
        with httpx2.Client(base_url=url, headers=headers, timeout=PATIENCE) as client:
            wait_for(client, server)
            yield client
    finally:
        server.terminate()
        server.wait(PATIENCE)


def wait_for(client: httpx2.Client, server: subprocess.Popen[bytes]) -> None:
    """Wait until it answers."""

    def answers() -> bool:
        assert server.poll() is None, "the server has ended"
        try:
            client.get("/stream")
        except httpx2.TransportError:
            return False
        return True

    wait_until(answers, "the server does not listen")


def entries(log: Path) -> list[dict[str, Any]]:
    """The lines that are JSON."""
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
def test_all_lines_of_a_request_have_its_id(command: list[str], tmp_path: Path) -> None:
    """The application's, the access log's, and those about what it streams or raises."""
    log = tmp_path / "log"
    with serving(["-m", *command], log) as client:
        for path in ("whole", "stream", "failing"):
            answer = client.get(f"/{path}", headers={"x-request-id": path})
            assert path == "failing" or answer.headers["x-request-id"] == path

    lines = entries(log)
    access = [each for each in lines if each["module"] == "tokenpulse_mw.access"]
    assert [(each["route"], each["request_id"]) for each in access[-3:]] == [
        ("/whole", "whole"),
        ("/stream", "stream"),
        ("/failing", "failing"),
    ]
    assert [each["request_id"] for each in lines if each["message"] == "handled"] == ["whole"]


def test_uvicorns_own_lines_are_captured(tmp_path: Path) -> None:
    """From when the application is loaded, and with the id where they are about a request."""
    log = tmp_path / "log"
    with serving(["-m", "uvicorn", APP, "--port", "{port}"], log) as client:
        client.get("/whole", headers={"x-request-id": "asked"})
        client.get("/failing", headers={"x-request-id": "failed"})

    lines = entries(log)
    assert len(lines) == len(log.read_text().splitlines())
    assert "Application startup complete." in [each["message"] for each in lines]
    by_uvicorn = {
        each["request_id"]: each
        for each in lines
        if each["module"] == "uvicorn.error"
        if "request_id" in each
    }
    assert "RuntimeError: no upstream" in by_uvicorn["failed"]["error"]
    assert "asked" in [
        each.get("request_id") for each in lines if each["module"] == "uvicorn.access"
    ]


def test_an_access_log_that_was_turned_off_stays_off(tmp_path: Path) -> None:
    """Uvicorn's has paths and queries in it; its other lines and our access log are written."""
    log = tmp_path / "log"
    with serving(["-m", "uvicorn", APP, "--port", "{port}", "--no-access-log"], log) as client:
        client.get("/whole?key=AIza-secret")

    assert "AIza-secret" not in log.read_text()
    modules = {each["module"] for each in entries(log)}
    assert modules == {"uvicorn.error", "tokenpulse_mw.access", "Gateway"}


def test_without_a_configuration_of_its_own_uvicorn_writes_ours(tmp_path: Path) -> None:
    """`log_config=None` is the other way: then nothing has to be captured."""
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
