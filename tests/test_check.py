"""The verdicts of `tokenpulse-mw check`, and how it asks for what they are about."""

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
from tokenpulse_mw.check import SUBJECTS, check, endpoint, judge_credentials, judge_health
from tokenpulse_mw.demo.server import LocalServer

from .support.servers import free_port, need
from .support.waiting import PATIENCE

HEALTH, CREDENTIALS = SUBJECTS["health"], SUBJECTS["credentials"]

# The seed's script, with the address as an argument.
SEEDS_SCRIPT = """\
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
        (200, b'{"status":"error"}', 1, "WARNING: the service answered 200, status error"),
        (200, b'{"status":["ok"]}', 1, "WARNING: the service answered 200, status ['ok']"),
        (503, b'{"status":"error"}', 1, "WARNING: the service answered 503, status error"),
        (503, b"<html>", 1, "WARNING: the service answered 503"),
        (503, b"{}", 1, "WARNING: the service answered 503"),
        (200, b"ok", 3, "UNKNOWN: the answer (200) is not JSON"),
        (200, b"", 3, "UNKNOWN: the answer (200) is not JSON"),
        (200, b"\xff", 3, "UNKNOWN: the answer (200) is not JSON"),
        (200, b"[" * 60000, 3, "UNKNOWN: the answer (200) is not JSON"),
        (200, b'["ok"]', 3, "UNKNOWN: the answer (200) is not a JSON object"),
        (200, b"{}", 3, "UNKNOWN: the answer (200) has no status"),
        (404, b"Not Found", 3, "UNKNOWN: the answer (404) is not JSON"),
        (500, b'{"status":"ok"}', 3, "UNKNOWN: the service answered 500"),
    ],
)
def test_what_is_said_of_health(status: int, body: bytes, code: int, line: str) -> None:
    """Fine, not fine, or not to be told: never fine by mistake."""
    assert judge_health(status, body[:65536]) == (code, line)


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
        (200, {}, 3, "UNKNOWN: the answer does not say of each provider true or false"),
        (200, {"claude": 1}, 3, "UNKNOWN: the answer does not say of each provider "),
        (200, {"claude": True, "counts": {"claude": 2}}, 3, "UNKNOWN: the answer does not say "),
        (200, ["claude"], 3, "UNKNOWN: the answer is not a JSON object"),
        (200, None, 3, "UNKNOWN: the answer is not a JSON object"),
        (503, {"error": "not known", "available": False}, 3, "UNKNOWN: the service answered 503"),
        (404, {"claude": True}, 3, "UNKNOWN: the service answered 404"),
    ],
)
def test_what_is_said_of_credentials(status: int, body: object, code: int, line: str) -> None:
    """Only bools by provider, and at least one, are an answer."""
    verdict = judge_credentials(status, json.dumps(body).encode())

    assert verdict.code == code
    assert verdict.line.startswith(line)


@given(st.integers(100, 599), st.binary() | st.text().map(str.encode))
def test_every_answer_has_a_verdict_of_one_line(status: int, body: bytes) -> None:
    """Whatever comes, and there is nothing in it that a terminal would obey."""
    for subject in SUBJECTS.values():
        verdict = subject.judge(status, body)

        assert verdict.code in (0, 1, 3)
        assert verdict.line.isprintable()


@given(st.dictionaries(st.text(), st.booleans(), min_size=1))
def test_credentials_are_fine_if_all_are(status: dict[str, bool]) -> None:
    """Whatever the providers are called."""
    verdict = judge_credentials(200, json.dumps(status).encode())

    assert verdict.code == (0 if all(status.values()) else 1)
    assert verdict.line.isascii()


@pytest.mark.parametrize(
    ("url", "asked"),
    [
        ("http://127.0.0.1:8000", "http://127.0.0.1:8000/health/ready"),
        ("http://127.0.0.1:8000/", "http://127.0.0.1:8000/health/ready"),
        ("https://example.org/llm/health", "https://example.org/llm/health"),
    ],
)
def test_a_url_without_a_path_gets_the_subjects_own(url: str, asked: str) -> None:
    """Any other is asked as it is."""
    assert endpoint(url, HEALTH) == asked


@pytest.mark.parametrize(
    "url",
    ["file:///etc/passwd", "127.0.0.1:8000", "http://", "", "http:/a", "http://a:b", "http://[a"],
)
def test_what_is_no_url_of_http_is_refused(url: str) -> None:
    """No file is read for it."""
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
    """It would stand in a log, such as that of cron."""
    with pytest.raises(ValueError, match="got one with an @: leave out user and") as refused:
        endpoint(url, HEALTH)
    assert "hunt" not in str(refused.value)


def test_an_at_in_a_path_is_none_of_a_user() -> None:
    """It is a character like others there."""
    assert endpoint("http://127.0.0.1:8000/@me", HEALTH) == "http://127.0.0.1:8000/@me"


@pytest.fixture
def gateway() -> Iterator[tuple[str, dict[str, bool]]]:
    """A gateway's URL, and the status of its credentials."""
    status = {"claude": True, "gemini": True}

    def home(request: Request) -> Response:
        return RedirectResponse("/health")

    async def long(request: Request) -> Response:
        return Response(b'{"status":"ok"}' + b" " * 65536)

    routes = [*HealthRouter(credentials=status).routes, Route("/home", home), Route("/long", long)]
    with LocalServer(Starlette(routes=routes)) as server:
        yield server.url, status


def test_a_gateway_that_is_asked_answers(gateway: tuple[str, dict[str, bool]]) -> None:
    """Over real HTTP."""
    url, status = gateway

    assert check(HEALTH, f"{url}/health", timeout=PATIENCE) == (0, "OK: the status is ok")
    asked = f"{url}/api/credentials/status"
    assert check(CREDENTIALS, asked, timeout=PATIENCE) == (0, "OK: all providers are active (2)")
    status["gemini"] = False
    assert check(CREDENTIALS, asked, timeout=PATIENCE).code == 1


def test_a_timeout_may_be_longer_than_a_socket_can_wait(
    gateway: tuple[str, dict[str, bool]],
) -> None:
    """It is a day then, which nobody sits out."""
    assert check(HEALTH, f"{gateway[0]}/health", timeout=1e300).code == 0


def test_no_redirect_is_followed(gateway: tuple[str, dict[str, bool]]) -> None:
    """The answer would be that of somebody else."""
    verdict = check(HEALTH, f"{gateway[0]}/home", timeout=PATIENCE)

    assert verdict == (3, "UNKNOWN: the answer (307) is not JSON")


def test_no_more_is_read_than_an_answer_needs(gateway: tuple[str, dict[str, bool]]) -> None:
    """It is no answer of ours then."""
    verdict = check(HEALTH, f"{gateway[0]}/long", timeout=PATIENCE)

    assert verdict == (3, "UNKNOWN: the answer is longer than 65536 bytes")


def test_no_proxy_is_asked(
    gateway: tuple[str, dict[str, bool]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever the environment says: the question is of this very gateway."""
    monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{free_port()}")
    monkeypatch.setenv("no_proxy", "")

    assert check(HEALTH, f"{gateway[0]}/health", timeout=PATIENCE).code == 0


def test_a_gateway_that_is_down_is_not_called_fine() -> None:
    """The seed's script did so."""
    verdict = check(HEALTH, f"http://127.0.0.1:{free_port()}/health", timeout=PATIENCE)

    assert verdict.code == 3
    assert verdict.line.startswith("UNKNOWN: no answer: ")
    assert "refused" in verdict.line


def test_what_is_no_http_is_no_answer() -> None:
    """It may be any other program on that port."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def answer() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.recv(1000)
                connection.sendall(b"+PONG\r\n")

        thread = threading.Thread(target=answer)
        thread.start()
        verdict = check(HEALTH, f"http://127.0.0.1:{listener.getsockname()[1]}/", timeout=PATIENCE)
        thread.join()

    assert verdict == (3, "UNKNOWN: no answer: +PONG\\r\\n")


def test_a_server_that_says_a_byte_now_and_then_is_not_waited_for() -> None:
    """The timeout is for all of it."""
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
        verdict = check(HEALTH, f"http://127.0.0.1:{listener.getsockname()[1]}/", timeout=0.2)
        ended.set()
        thread.join()

    assert verdict.code == 3
    # Where the machine stands still, no byte comes for as long either.
    assert verdict.line.removeprefix("UNKNOWN: no answer") in (" within 0.2 s", ": timed out")


def run_seeds_script(url: str, folder: Path) -> tuple[int, list[str]]:
    """Run the seed's script; its exit code and output."""
    need("jq", "jq")
    need("curl", "curl")
    script = folder / "check_credentials.sh"
    script.write_text(SEEDS_SCRIPT)
    environment = {"PATH": os.environ["PATH"]}
    run = subprocess.run(
        ["bash", script, url], env=environment, capture_output=True, text=True, check=False
    )
    return run.returncode, run.stdout.splitlines()


def test_the_seeds_script_works(gateway: tuple[str, dict[str, bool]], tmp_path: Path) -> None:
    """As it is written, with curl and jq."""
    url, status = gateway

    assert run_seeds_script(url, tmp_path) == (0, ["OK: All providers active"])
    status["gemini"] = False
    assert run_seeds_script(url, tmp_path) == (
        1,
        ["WARNING: 1 providers are inactive", '"gemini"'],
    )


def test_the_seeds_script_does_not_take_an_error_for_fine(tmp_path: Path) -> None:
    """It looks at no status code, and counts what is false: so the error has that in it."""

    def source() -> dict[str, bool]:
        raise OSError("no database")

    routes = HealthRouter(credentials=source).routes
    with LocalServer(Starlette(routes=routes)) as server:
        assert run_seeds_script(server.url, tmp_path)[0] == 1
        assert (
            check(CREDENTIALS, f"{server.url}/api/credentials/status", timeout=PATIENCE).code == 3
        )
