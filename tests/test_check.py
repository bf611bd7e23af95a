"""Checks of a running gateway."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route

from tokenpulse_mw import HealthRouter
from tokenpulse_mw.check import SUBJECTS, check, credentials_status, endpoint, health_status
from tokenpulse_mw.demo.server import LocalServer

from .support.servers import free_port, need
from .support.waiting import PATIENCE

HEALTH, CREDENTIALS = SUBJECTS["health"], SUBJECTS["credentials"]

# Script of the monitoring guide, with the address as an argument.
GUIDE_SCRIPT = """\
RESPONSE=$(curl -s $1/api/credentials/status)
INACTIVE=$(echo $RESPONSE | jq 'to_entries | map(select(.value == false)) | length')

if [ "$INACTIVE" -gt 0 ]; then
  echo "WARNING: $INACTIVE providers are inactive"
  echo $RESPONSE | jq 'to_entries | map(select(.value == false)) | .[].key'
  exit 1
fi

echo "OK: All providers active"
exit 0
"""


@pytest.mark.parametrize(
    ("status", "body", "code", "line"),
    [
        (200, b'{"status":"ok"}', 0, "OK: the status is ok"),
        (200, b'{"status":"ok","service":"a","providers":[]}', 0, "OK: the status is ok"),
        (200, b'{"status":"pass"}', 0, "OK: the status is pass"),
        (200, b'{"status":"warn"}', 0, "OK: the status is warn"),
        (200, b'{"status":"error"}', 1, "WARNING: the service responded with 200, status error"),
        (200, b'{"status":["ok"]}', 1, "WARNING: the service responded with 200, status ['ok']"),
        (503, b'{"status":"error"}', 1, "WARNING: the service responded with 503, status error"),
        (503, b"<html>", 1, "WARNING: the service responded with 503"),
        (503, b"{}", 1, "WARNING: the service responded with 503"),
        (200, b"ok", 3, "UNKNOWN: the response (200) is not JSON"),
        (200, b"", 3, "UNKNOWN: the response (200) is not JSON"),
        (200, b"\xff", 3, "UNKNOWN: the response (200) is not JSON"),
        (200, b"[" * 60000, 3, "UNKNOWN: the response (200) is not JSON"),
        (200, b'["ok"]', 3, "UNKNOWN: the response (200) is not a JSON object"),
        (200, b"{}", 3, "UNKNOWN: the response (200) has no status"),
        (404, b"Not Found", 3, "UNKNOWN: the response (404) is not JSON"),
        (500, b'{"status":"ok"}', 3, "UNKNOWN: the service responded with 500"),
    ],
)
def test_status_of_health(status: int, body: bytes, code: int, line: str) -> None:
    """The status is OK only for a response of a healthy gateway."""
    assert health_status(status, body[:65536]) == (code, line)


@pytest.mark.parametrize(
    ("status", "body", "code", "line"),
    [
        (200, {"claude": True}, 0, "OK: all providers are active (1)"),
        (200, {"claude": True, "qwen": True}, 0, "OK: all providers are active (2)"),
        (200, {"kiro": False}, 1, "WARNING: 1 of 1 provider is inactive: kiro"),
        (
            200,
            {"claude": True, "kiro": False, "qwen": False},
            1,
            "WARNING: 2 of 3 providers are inactive: kiro, qwen",
        ),
        (200, {"a\n\x1b[2J\u202e": False}, 1, "WARNING: 1 of 1 provider is inactive: "),
        (200, {}, 3, "UNKNOWN: the response does not map each provider to true or false"),
        (200, {"claude": 1}, 3, "UNKNOWN: the response does not map each provider "),
        (200, {"claude": True, "counts": {"claude": 2}}, 3, "UNKNOWN: the response does not map "),
        (200, ["claude"], 3, "UNKNOWN: the response is not a JSON object"),
        (200, None, 3, "UNKNOWN: the response is not a JSON object"),
        (
            503,
            {"error": "not known", "available": False},
            3,
            "UNKNOWN: the service responded with 503",
        ),
        (404, {"claude": True}, 3, "UNKNOWN: the service responded with 404"),
    ],
)
def test_status_of_credentials(status: int, body: object, code: int, line: str) -> None:
    """A valid response maps at least one provider to a bool."""
    result = credentials_status(status, json.dumps(body).encode())

    assert result.code == code
    assert result.line.startswith(line)


@given(st.integers(100, 599), st.binary() | st.text().map(str.encode))
def test_every_response_has_a_status_of_one_line(status: int, body: bytes) -> None:
    """The line has no control characters, even if the response has some."""
    for subject in SUBJECTS.values():
        result = subject.status_of(status, body)

        assert result.code in (0, 1, 3)
        assert result.line.isprintable()


@given(st.dictionaries(st.text(), st.booleans(), min_size=1))
def test_credentials_are_ok_if_all_providers_are_active(status: dict[str, bool]) -> None:
    """The rule holds for all names of providers."""
    result = credentials_status(200, json.dumps(status).encode())

    assert result.code == (0 if all(status.values()) else 1)
    assert result.line.isascii()


@pytest.mark.parametrize(
    ("url", "requested"),
    [
        ("http://127.0.0.1:8000", "http://127.0.0.1:8000/health/ready"),
        ("http://127.0.0.1:8000/", "http://127.0.0.1:8000/health/ready"),
        ("https://example.org/llm/health", "https://example.org/llm/health"),
    ],
)
def test_a_url_without_a_path_gets_the_path_of_the_subject(url: str, requested: str) -> None:
    """Any other URL is requested as it is."""
    assert endpoint(url, HEALTH) == requested


@pytest.mark.parametrize(
    "url",
    ["file:///etc/passwd", "127.0.0.1:8000", "http://", "", "http:/a", "http://a:b", "http://[a"],
)
def test_other_urls_than_http_are_refused(url: str) -> None:
    """A URL of a file is not read."""
    with pytest.raises(ValueError, match="expected a URL such as http://127"):
        endpoint(url, HEALTH)


@pytest.mark.parametrize(
    "url",
    [
        "http://user:hunter2@127.0.0.1:8000",
        "http://user:hunt/er2@127.0.0.1:8000",
        "http://hunter2@127.0.0.1/health",
        "http:/user:hunter2@127.0.0.1",
        "http://[user:hunter2@127.0.0.1",
        "ftp://user:hunter2@127.0.0.1",
        "user:hunter2@127.0.0.1",
    ],
)
def test_a_url_with_a_password_is_refused_and_not_repeated(url: str) -> None:
    """The error does not show the password, which cron would log."""
    with pytest.raises(ValueError, match="got one with an @: leave out user and") as caught:
        endpoint(url, HEALTH)
    assert "hunt" not in str(caught.value)


def test_an_at_sign_in_a_path_is_accepted() -> None:
    """Only an `@` in the authority separates user information."""
    assert endpoint("http://127.0.0.1:8000/@me", HEALTH) == "http://127.0.0.1:8000/@me"


@pytest.fixture
def gateway() -> Iterator[tuple[str, dict[str, bool]]]:
    """Yield the URL of a gateway, and the status of its credentials."""
    status = {"claude": True, "gemini": True}

    def home(request: Request) -> Response:
        return RedirectResponse("/health")

    async def long(request: Request) -> Response:
        return Response(b'{"status":"ok"}' + b" " * 65536)

    routes = [*HealthRouter(credentials=status).routes, Route("/home", home), Route("/long", long)]
    with LocalServer(Starlette(routes=routes)) as server:
        yield server.url, status


def test_a_running_gateway_is_checked(gateway: tuple[str, dict[str, bool]]) -> None:
    """The check sends a real HTTP request."""
    url, status = gateway

    assert check(HEALTH, f"{url}/health", timeout=PATIENCE) == (0, "OK: the status is ok")
    credentials = f"{url}/api/credentials/status"
    assert check(CREDENTIALS, credentials, timeout=PATIENCE) == (
        0,
        "OK: all providers are active (2)",
    )
    status["gemini"] = False
    assert check(CREDENTIALS, credentials, timeout=PATIENCE).code == 1


def test_a_timeout_may_be_longer_than_a_socket_can_wait(
    gateway: tuple[str, dict[str, bool]],
) -> None:
    """A timeout above a day is cut to a day."""
    assert check(HEALTH, f"{gateway[0]}/health", timeout=1e300).code == 0


def test_redirects_are_not_followed(gateway: tuple[str, dict[str, bool]]) -> None:
    """A redirect could lead to another service."""
    result = check(HEALTH, f"{gateway[0]}/home", timeout=PATIENCE)

    assert result == (3, "UNKNOWN: the response (307) is not JSON")


def test_a_long_response_is_not_read_to_its_end(gateway: tuple[str, dict[str, bool]]) -> None:
    """A response of more than 64 KiB is not one of the gateway."""
    result = check(HEALTH, f"{gateway[0]}/long", timeout=PATIENCE)

    assert result == (3, "UNKNOWN: the response is longer than 65536 bytes")


def test_proxy_variables_are_ignored(
    gateway: tuple[str, dict[str, bool]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The request goes to the gateway itself."""
    monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{free_port()}")
    monkeypatch.setenv("no_proxy", "")

    assert check(HEALTH, f"{gateway[0]}/health", timeout=PATIENCE).code == 0


def test_a_gateway_that_is_down_is_unknown() -> None:
    """The script of the monitoring guide reports OK in this case."""
    result = check(HEALTH, f"http://127.0.0.1:{free_port()}/health", timeout=PATIENCE)

    assert result.code == 3
    assert result.line.startswith("UNKNOWN: no response: ")
    assert "refused" in result.line


def test_a_response_that_is_not_http_is_unknown() -> None:
    """Another program may listen on the port."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def respond() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.recv(1000)
                connection.sendall(b"+PONG\r\n")

        thread = threading.Thread(target=respond)
        thread.start()
        result = check(HEALTH, f"http://127.0.0.1:{listener.getsockname()[1]}/", timeout=PATIENCE)
        thread.join()

    assert result == (3, "UNKNOWN: no response: +PONG\\r\\n")


def test_the_timeout_covers_the_whole_response() -> None:
    """A server that sends a byte now and then does not extend it."""
    ended = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def drip() -> None:
            connection, _ = listener.accept()
            with connection:
                for _ in range(int(PATIENCE / 0.02)):
                    if ended.wait(0.02):
                        break
                    connection.sendall(b"H")

        thread = threading.Thread(target=drip)
        thread.start()
        result = check(HEALTH, f"http://127.0.0.1:{listener.getsockname()[1]}/", timeout=0.2)
        ended.set()
        thread.join()

    assert result.code == 3
    # On a stalled machine, the timeout of the socket may expire first.
    assert result.line.removeprefix("UNKNOWN: no response") in (" within 0.2 s", ": timed out")


def run_guide_script(url: str, folder: Path) -> tuple[int, list[str]]:
    """Run the script of the guide, and return its exit code and output lines."""
    need("jq", "jq")
    need("curl", "curl")
    script = folder / "check_credentials.sh"
    script.write_text(GUIDE_SCRIPT)
    environment = {"PATH": os.environ["PATH"]}
    run = subprocess.run(
        ["bash", script, url], env=environment, capture_output=True, text=True, check=False
    )
    return run.returncode, run.stdout.splitlines()


def test_script_of_the_guide_works(gateway: tuple[str, dict[str, bool]], tmp_path: Path) -> None:
    """The script runs unchanged, with curl and jq."""
    url, status = gateway

    assert run_guide_script(url, tmp_path) == (0, ["OK: All providers active"])
    status["gemini"] = False
    assert run_guide_script(url, tmp_path) == (
        1,
        ["WARNING: 1 providers are inactive", '"gemini"'],
    )


def test_script_of_the_guide_reports_an_error(tmp_path: Path) -> None:
    """The script ignores the status code, so the error response has a false value in it."""

    def source() -> dict[str, bool]:
        raise OSError("no database")

    routes = HealthRouter(credentials=source).routes
    with LocalServer(Starlette(routes=routes)) as server:
        assert run_guide_script(server.url, tmp_path)[0] == 1
        assert (
            check(CREDENTIALS, f"{server.url}/api/credentials/status", timeout=PATIENCE).code == 3
        )
