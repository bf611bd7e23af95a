"""Tables of one worker whose scrape merges all workers."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import anyio
import pytest
from prometheus_client import REGISTRY, CollectorRegistry, Counter, generate_latest
from prometheus_client.mmap_dict import MmapedDict, mmap_key

from tokenpulse_mw import Exchange, HttpMetrics, Limiter, Policy, Settings, TokenPulse
from tokenpulse_mw.metrics import families
from tokenpulse_mw.metrics.multiprocess import WorkerFiles, Workers
from tokenpulse_mw.metrics.multiprocess.reader import client_registry
from tokenpulse_mw.metrics.rows import Rows

from ...support.waiting import PATIENCE

REQUESTS = "tokenpulse_http_requests_total"
IN_PROGRESS = "tokenpulse_http_requests_in_progress"
WEBSOCKETS = "tokenpulse_websocket_connections"


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the folder of all workers."""
    monkeypatch.setenv("PROMETHEUS_MULTIPROC_DIR", str(tmp_path))
    return tmp_path


def worker() -> HttpMetrics:
    """Return the metrics of a worker."""
    return HttpMetrics(CollectorRegistry())


def client_files(folder: Path) -> None:
    """Write the files of two workers that count with prometheus_client itself."""
    for process in (1, 2):
        client_file = MmapedDict(str(folder / f"counter_{process}.db"))  # type: ignore[no-untyped-call]
        key = mmap_key("custom", "custom_total", [], [], "Custom counter")
        client_file.write_value(key, process, 0.0)  # type: ignore[no-untyped-call]
        client_file.close()  # type: ignore[no-untyped-call]


def finished(provider: str = "claude", seconds: float = 0.2) -> Exchange:
    """Return a successful exchange."""
    return Exchange("POST", 0.0, "/chat", 200, provider, duration=seconds)


def test_scrape_merges_all_workers(folder: Path) -> None:
    """The rows are merged for `render` and for any exposition of the registry."""
    metrics, other = worker(), WorkerFiles(folder)
    for _ in range(2):
        metrics.on_open()
        metrics(finished())
    other.new_row(families.REQUESTS, ("POST", "/chat", "200", "claude"))[0] += 1
    other.new_row(families.IN_PROGRESS, ())[0] += 1

    line = f'{REQUESTS}{{method="POST",route="/chat",status="200",provider="claude"}} 3.0\n'
    assert line.encode() in metrics.render()
    assert f"{IN_PROGRESS} 1.0\n".encode() in generate_latest(metrics.registry)


def test_own_series_are_those_of_this_worker(folder: Path) -> None:
    """Counts of other workers are left out; those of an earlier one are there from the start."""
    earlier, other = WorkerFiles(folder), WorkerFiles(folder)
    earlier.new_row(families.REQUESTS, ("POST", "/chat", "200", "claude"))[0] += 5
    other.new_row(families.REQUESTS, ("POST", "/chat", "200", "claude"))[0] += 7
    earlier.close()
    metrics = worker()

    def requests() -> list[float]:
        rows = [rows for family, rows in metrics.own_series() if family.name == REQUESTS]
        return [row[0] for part in rows for row in part.values()]

    before = requests()
    metrics.on_open()
    metrics(finished())

    assert (before, requests()) == ([5], [6])
    other.new_row(families.IN_PROGRESS, ())
    assert metrics.workers() == 2
    assert [row[0] for row in dict(_by_name(metrics))[REQUESTS].values()] == [13]


def _by_name(metrics: HttpMetrics) -> list[tuple[str, Any]]:
    return [(family.name, rows) for family, rows in metrics.series()]


def test_open_websockets_of_all_workers_are_added(folder: Path) -> None:
    """Connections of a killed worker no longer count."""
    metrics, other = worker(), WorkerFiles(folder)
    metrics.on_websocket_accept()
    other.new_row(families.WEBSOCKETS, ())[0] += 2

    assert f"{WEBSOCKETS} 3.0\n".encode() in metrics.render()
    other.close()
    assert f"{WEBSOCKETS} 1.0\n".encode() in metrics.render()
    metrics.on_websocket_close()
    assert f"{WEBSOCKETS} 0.0\n".encode() in metrics.render()


def test_timestamp_of_a_former_leader_is_not_shown(folder: Path) -> None:
    """The newest timestamp of all workers is shown, until none of them has one."""
    metrics, other = worker(), WorkerFiles(folder)
    timestamps = {(): 20.0}
    metrics.add_callback(families.LAST_EVALUATION.name, lambda: timestamps)
    former = other.new_row(families.LAST_EVALUATION, ())

    def shown() -> list[bytes]:
        lines = metrics.render().splitlines()
        return [line for line in lines if line.startswith(families.LAST_EVALUATION.name.encode())]

    former[0] = 30
    assert shown() == [b"tokenpulse_alert_last_evaluation_timestamp_seconds 30.0"]
    former[0] = 0
    assert shown() == [b"tokenpulse_alert_last_evaluation_timestamp_seconds 20.0"]
    timestamps = {}
    assert shown() == []


def test_least_value_of_the_workers_that_know_one_is_shown(folder: Path) -> None:
    """A worker that has not called the provider must not make its limit look used up."""
    metrics, other, idle = worker(), WorkerFiles(folder), WorkerFiles(folder)
    family, name = families.UPSTREAM_REQUESTS, families.UPSTREAM_REQUESTS.name.encode()
    remaining = {("openai",): 40.0}
    metrics.add_callback(family.name, lambda: remaining)
    rows = Rows(family, max_series=9, on_overflow=lambda family: None, new_row=other.new_row)
    idle.new_row(family, ("openai",))

    def shown() -> list[bytes]:
        return [line for line in metrics.render().splitlines() if line.startswith(name)]

    rows.update({("openai",): 0})
    assert shown() == [b'tokenpulse_upstream_remaining_requests{provider="openai"} 0.0']
    rows.update({("openai",): 60})
    assert shown() == [b'tokenpulse_upstream_remaining_requests{provider="openai"} 40.0']
    remaining = {}
    assert shown() == [b'tokenpulse_upstream_remaining_requests{provider="openai"} 60.0']
    rows.update({})
    assert shown() == []


def test_instances_of_a_process_share_their_families() -> None:
    """The files are independent of registries; no request is counted twice."""
    first, second = worker(), worker()
    first(finished())

    assert first == second
    assert first.render() == second.render()
    with pytest.raises(ValueError, match=r"buckets must be .*, as already registered"):
        HttpMetrics(CollectorRegistry(), buckets=[1, 2])


def test_forked_child_counts_separately() -> None:
    """Counts of the parent are not duplicated, and counts of the child are not lost."""
    metrics = worker()
    metrics.on_open()
    metrics(finished())

    child = os.fork()
    if not child:
        metrics.on_open()
        metrics(finished())
        os._exit(0)
    os.waitpid(child, 0)

    line = f'{REQUESTS}{{method="POST",route="/chat",status="200",provider="claude"}} 2.0\n'
    assert line.encode() in metrics.render()
    assert f"{IN_PROGRESS} 0.0\n".encode() in metrics.render()


def test_relative_folder_survives_a_change_of_directory(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A relative path is resolved at construction."""
    monkeypatch.chdir(folder.parent)
    monkeypatch.setenv("PROMETHEUS_MULTIPROC_DIR", folder.name)
    metrics = worker()
    monkeypatch.chdir("/")

    metrics(finished())

    assert f"{REQUESTS}{{".encode() in metrics.render()


def test_process_without_requests_uses_no_slot(folder: Path) -> None:
    """A parent of the workers may create and render the metrics without a slot."""
    worker().render()

    assert list(folder.iterdir()) == []


def test_full_family_counts_in_an_overflow_series() -> None:
    """The overflow is counted as in a single process."""
    metrics = HttpMetrics(CollectorRegistry(), max_series=1)

    for provider in ("claude", "codex"):
        metrics(finished(provider))

    text = metrics.render().decode()
    assert f'{REQUESTS}{{method="__overflow__",route="__overflow__"' in text
    assert f'tokenpulse_series_overflow_total{{family="{REQUESTS}"}}' in text


def test_metrics_of_prometheus_client_are_in_the_scrape(folder: Path) -> None:
    """Other metrics are merged by prometheus_client and can be selected by name."""
    client_files(folder)
    registry = CollectorRegistry()
    Counter("custom", "Custom counter", registry=registry)
    metrics = HttpMetrics(registry)
    metrics(finished())

    text = metrics.render().decode()

    assert "\ncustom_total 3.0\n" in text
    assert text.count(f"# TYPE {REQUESTS} counter") == 1
    assert metrics.render_others(["custom_total"]).endswith(b"\ncustom_total 3.0\n")
    assert metrics.render_others(["unknown"]) == b""


def test_metrics_of_other_registries_are_not_in_the_scrape(folder: Path) -> None:
    """The folder has the metrics of all registries, and only the default one shows all of them."""
    client_files(folder)

    assert b"custom" not in worker().render()
    assert b"custom" not in TokenPulse(settings=Settings()).metrics.render()
    assert b"\ncustom_total 3.0\n" in generate_latest(client_registry(folder, REGISTRY))


@pytest.mark.anyio
async def test_callbacks_are_refreshed_for_scrapes_of_other_workers(folder: Path) -> None:
    """Callbacks are read every second while the application runs."""
    limiter = Limiter("10/minute")
    limiter.hit("client")
    pulse = TokenPulse(settings=Settings(), metrics=worker(), policies=[Policy(limiter)])
    keys = families.LIMIT_KEYS

    async with pulse.lifespan():
        with anyio.fail_after(PATIENCE):
            while keys.name not in Workers(folder).series():  # noqa: ASYNC110 - a scraper polls
                await anyio.sleep(0.001)

    stored = keys._replace(merge="max")  # a file has only the aggregation of workers
    assert Workers(folder).series()[keys.name] == (stored, {("default",): [1]})


@pytest.mark.anyio
async def test_error_of_the_application_is_not_wrapped() -> None:
    """The background refresh does not create an exception group."""
    with pytest.raises(RuntimeError, match="no database"):
        async with TokenPulse(settings=Settings(), metrics=worker()).lifespan():
            raise RuntimeError("no database")


@pytest.mark.parametrize("name", ["PROMETHEUS_MULTIPROC_DIR", "prometheus_multiproc_dir"])
@pytest.mark.parametrize(
    ("path", "error"),
    [
        ("/nowhere/at/all", r"got '/nowhere/at/all'.*create it before the workers start"),
        ("", "got '': remove the variable"),
    ],
)
def test_unusable_folder_is_rejected(
    name: str, path: str, error: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The error names the variable that is set, and states the fix."""
    monkeypatch.delenv("PROMETHEUS_MULTIPROC_DIR")
    monkeypatch.setenv(name, path)

    with pytest.raises(ValueError, match=f"^{name} must be a writable folder, {error}"):
        worker()


def test_counts_of_all_workers_survive_a_clear() -> None:
    """The files belong to the fleet, not to this process."""
    metrics = worker()
    metrics.on_open()
    metrics(finished())

    metrics.clear()

    labels = {"method": "POST", "route": "/chat", "status": "200", "provider": "claude"}
    assert metrics.registry.get_sample_value(REQUESTS, labels) == 1


def test_upper_case_precedes_lower_case(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As in prometheus_client, the deprecated spelling counts only alone."""
    monkeypatch.setenv("prometheus_multiproc_dir", "/nowhere/at/all")

    worker()(finished())

    assert list(folder.glob("*-tokenpulse.db"))


@pytest.mark.slow
def test_lower_case_enables_both_libraries(tmp_path: Path) -> None:
    """Whenever prometheus_client counts in a folder, so does this library."""
    code = (
        "from prometheus_client import Counter\n"
        "from tokenpulse_mw import Exchange, HttpMetrics\n"
        "HttpMetrics()(Exchange('GET', 0.0, '/', 200, duration=0.1))\n"
        "Counter('theirs', 'A counter of the application.').inc()\n"
    )
    environment = {k: v for k, v in os.environ.items() if k != "PROMETHEUS_MULTIPROC_DIR"}
    environment["prometheus_multiproc_dir"] = str(tmp_path)

    subprocess.run([sys.executable, "-c", code], env=environment, check=True, timeout=PATIENCE)

    names = {path.name for path in tmp_path.glob("counter_*.db")}
    assert sorted(name.endswith("-tokenpulse.db") for name in names) == [False, True]
