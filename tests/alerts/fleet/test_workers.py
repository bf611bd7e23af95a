"""Four uvicorn workers that share a SQLite file are one gateway."""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import httpx2
import pytest

from ...support.receiver import Receiver
from ...support.servers import Server
from ...support.waiting import PATIENCE
from .gateways import Gateway, clients_of_workers, wait_until

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[3]
WORKERS = 4


@contextmanager
def running(folder: Path) -> Iterator[tuple[Gateway, str]]:
    """Run the gateway in four workers, and yield it and its URL."""
    url = f"sqlite+aiosqlite:///{folder}/alerts.db"
    options = ["--port", "{port}", "--workers", str(WORKERS), "--timeout-keep-alive", "600"]
    command = [
        sys.executable,
        "-m",
        "uvicorn",
        "--factory",
        "tests.alerts.fleet.gateway:create",
        *options,
    ]
    with Receiver() as receiver:
        environment = {
            "PYTHONPATH": str(ROOT),
            "ALERT_STORE": url,
            "WEBHOOK": receiver.url,
            "COOLDOWN": "3600",
        }
        server = Server(command, folder, environment)
        server.start()
        try:
            place = f"http://{server.place}"
            with clients_of_workers(place, WORKERS) as clients:
                yield Gateway(url, receiver, clients), place
        finally:
            server.kill(signal.SIGTERM)


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """Yield the gateway of all tests but those of its total traffic."""
    with running(tmp_path_factory.mktemp("workers")) as (gateway, _):
        yield gateway


def test_traffic_of_all_workers_exceeds_a_threshold_once(tmp_path: Path) -> None:
    """`global_qps` compares the sum of all workers, of which each has a quarter."""
    with running(tmp_path) as (gateway, _):
        gateway.set_thresholds(0, global_qps=30)
        rounds, seconds = 0, 10.0
        while (
            seconds > 9
        ):  # all requests are within the window of 10 s, unless this machine is busy
            began = time.monotonic()
            gateway.chat_with_all(times=75)
            rounds, seconds = rounds + 1, time.monotonic() - began

        wait_until(lambda: gateway.events("0") != [], "nothing was sent")
        gateway.settle()
        assert gateway.transitions("0").count("fired") == 1
        assert gateway.events("0")[0]["value"] == 30 or rounds > 1


def test_traffic_that_the_kernel_spreads_exceeds_a_threshold_once(tmp_path: Path) -> None:
    """Connections that the kernel gives to any worker count together."""
    with running(tmp_path) as (gateway, url):
        gateway.set_thresholds(0, global_qps=5)

        # Each request has a connection of its own.
        with (
            httpx2.Client(timeout=PATIENCE, headers={"connection": "close"}) as client,
            ThreadPoolExecutor(8) as pool,
        ):
            responses = list(pool.map(client.get, [f"{url}/chat"] * 400))

        wait_until(lambda: gateway.events("0") != [], "nothing was sent")
        gateway.settle()
        assert {response.status_code for response in responses} == {200}
        assert gateway.transitions("0").count("fired") == 1


@pytest.mark.parametrize(
    ("requests", "failures", "severity"), [(8, 3, "warning"), (50, 30, "critical")]
)
def test_failures_of_a_key_on_all_workers_are_one_alert(
    gateway: Gateway, requests: int, failures: int, severity: str
) -> None:
    """Each worker has too few requests, or each of them would fire; together it is one alert."""
    key = f"failing-{requests}"
    gateway.chat_with_all(times=requests - failures, key=key)
    gateway.chat_with_all(times=failures, status=500, key=key)
    gateway.settle()

    # A worker may count an exchange some time after its response was received.
    rate = pytest.approx(failures / requests)
    wait_until(lambda: gateway.alert(f"key:{key}")["value"] == rate, "another rate was found")
    transitions = gateway.transitions(key)
    assert transitions.count("fired") == 1
    assert "resolved" not in transitions
    assert gateway.alert(f"key:{key}")["severity"] == severity


def test_upstream_is_down_at_the_tenth_failure_in_a_row_on_any_worker(gateway: Gateway) -> None:
    """Nine failures in a row over all workers do not fire, and the tenth fires once."""
    for number in range(9):
        gateway.chat(number % WORKERS, status=502, credential="in-a-row")
    gateway.settle()
    assert gateway.events("in-a-row") == []

    gateway.chat(1, status=502, credential="in-a-row")
    gateway.settle()
    (event,) = gateway.events("in-a-row")
    assert (event["transition"], event["type"], event["value"]) == ("fired", "provider_down", 10)


def test_failures_of_one_worker_between_successes_of_others_are_not_in_a_row(
    gateway: Gateway,
) -> None:
    """A quarter of the requests fails, all of them on one worker, which has no success."""
    for _ in range(12):
        for number in (1, 2, 3):
            gateway.chat(number, credential="mixed")
        gateway.chat(0, status=502, credential="mixed")
    gateway.settle()

    assert gateway.events("mixed") == []


def test_thresholds_set_on_one_worker_are_those_of_all(gateway: Gateway) -> None:
    """Each read after the change returns the new value, whichever worker it reaches."""
    gateway.set_thresholds(0, master_tpm=12_345)

    values = [gateway.thresholds(number % WORKERS)["master_tpm"] for number in range(200)]
    assert values == [12_345] * 200


def test_read_on_one_worker_and_write_on_the_next_succeeds(gateway: Gateway) -> None:
    """The ETag of a worker is valid on all of them, and an older one on none."""
    statuses, old = list[int](), gateway.admin(0, "GET", "/thresholds").headers["etag"]
    for number in range(40):
        read = gateway.admin(number % WORKERS, "GET", "/thresholds")
        body = {"thresholds": {"master_rpd": 1_000_000 + number}}
        headers = {"if-match": read.headers["etag"]}
        writer = (number + 1) % WORKERS
        written = gateway.admin(writer, "PATCH", "/thresholds", json=body, headers=headers)
        statuses.append(written.status_code)
    outdated = gateway.admin(2, "PATCH", "/thresholds", json=body, headers={"if-match": old})

    assert statuses == [200] * 40
    assert outdated.status_code == 412


def test_firing_alerts_are_listed_and_acknowledged_on_every_worker(gateway: Gateway) -> None:
    """All workers list the same alerts, and each of them can acknowledge any alert."""
    for number in range(WORKERS):
        gateway.chat(number, times=12, status=500, key=f"listed-{number}")
    gateway.settle()

    lists = [gateway.alerts(number, state="firing") for number in range(WORKERS)]
    assert all(alerts == lists[0] for alerts in lists)
    subjects = {alert["subject"]["id"]: alert["id"] for alert in lists[0]}
    ids = [subjects[f"listed-{number}"] for number in range(WORKERS)]

    acknowledged = [
        gateway.admin(number, "POST", f"/{ids[0]}/ack", json={"by": f"worker-{number}"})
        for number in range(WORKERS)
    ]
    assert [response.status_code for response in acknowledged] == [200] * WORKERS
    authors = {
        gateway.admin(number, "GET", f"/{ids[0]}").json()["ack"]["by"] for number in range(WORKERS)
    }
    assert authors == {f"worker-{WORKERS - 1}"}


def test_silence_of_one_worker_mutes_the_alerts_of_all(gateway: Gateway) -> None:
    """No event is sent while it lasts, and every worker lists it."""
    matcher = {"name": "subject_id", "value": "silenced"}
    body = {"matchers": [matcher], "duration": 3600, "comment": "maintenance"}
    created = gateway.admin(0, "POST", "/silences", json=body)
    assert created.status_code == 201
    gateway.chat_with_all(times=10, status=500, key="silenced")
    gateway.settle()

    listed = [gateway.admin(number, "GET", "/silences").json() for number in range(WORKERS)]
    assert [[silence["id"] for silence in page["silences"]] for page in listed] == [
        [created.json()["id"]]
    ] * WORKERS
    assert gateway.alert("key:silenced")["silenced_by"] == created.json()["id"]
    assert gateway.events("silenced") == []
