"""WorkerTables: HttpMetrics in several workers, two of which are in this process."""

from __future__ import annotations

from pathlib import Path

import anyio
import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.mmap_dict import MmapedDict, mmap_key

from tokenpulse_mw import Exchange, HttpMetrics, Limiter, Policy, Settings, TokenPulse

REQUESTS = "tokenpulse_http_requests_total"
IN_PROGRESS = "tokenpulse_http_requests_in_progress"
SHOWN = b'tokenpulse_rate_limit_keys{policy="default"} 1.0\n'


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of all workers."""
    monkeypatch.setenv("PROMETHEUS_MULTIPROC_DIR", str(tmp_path))
    return tmp_path


def worker() -> HttpMetrics:
    """The metrics of one worker."""
    return HttpMetrics(CollectorRegistry())


def finished(provider: str = "claude", seconds: float = 0.2) -> Exchange:
    """An exchange that went well."""
    return Exchange("POST", 0.0, "/chat", 200, provider, duration=seconds)


def test_a_scrape_of_any_worker_shows_what_all_have_counted() -> None:
    """In each of them, and in any exposition of its registry."""
    first, second = worker(), worker()
    for metrics in (first, first, second):
        metrics.opened()
        metrics(finished())
    second.opened()

    line = f'{REQUESTS}{{method="POST",route="/chat",status="200",provider="claude"}} 3.0\n'
    assert first.render() == second.render()
    assert line.encode() in first.render()
    assert f"{IN_PROGRESS} 1.0\n".encode() in generate_latest(first.registry)


def test_a_worker_that_does_not_serve_takes_no_place(folder: Path) -> None:
    """Such as a parent that only makes the application, and is scraped perhaps."""
    worker().render()

    assert list(folder.iterdir()) == []


def test_what_exceeds_the_cap_is_folded_and_told() -> None:
    """As in one process."""
    metrics = HttpMetrics(CollectorRegistry(), max_series=1)

    for provider in ("claude", "codex"):
        metrics(finished(provider))

    text = metrics.render().decode()
    assert f'{REQUESTS}{{method="__overflow__",route="__overflow__"' in text
    assert f'tokenpulse_series_overflow_total{{family="{REQUESTS}"}}' in text


def test_others_metrics_are_in_the_scrape(folder: Path) -> None:
    """Those of prometheus_client, as it adds them up; by name too, and ours not twice."""
    for process in (1, 2):
        stock = MmapedDict(str(folder / f"counter_{process}.db"))  # type: ignore[no-untyped-call]
        key = mmap_key("mine", "mine_total", [], [], "My own")
        stock.write_value(key, process, 0.0)  # type: ignore[no-untyped-call]
        stock.close()  # type: ignore[no-untyped-call]
    metrics = worker()
    metrics(finished())

    text = metrics.render().decode()

    assert "\nmine_total 3.0\n" in text
    assert text.count(f"# TYPE {REQUESTS} counter") == 1
    assert metrics.rest(["mine_total"]).endswith(b"\nmine_total 3.0\n")
    assert metrics.rest(["nobodys"]) == b""


@pytest.mark.anyio
async def test_what_a_worker_looks_up_is_seen_by_the_others() -> None:
    """Every second, while its application lives."""
    limiter = Limiter("10/minute")
    limiter.hit("somebody")
    mine, others = worker(), worker()
    pulse = TokenPulse(settings=Settings(), metrics=mine, policies=[Policy(limiter)])

    async with pulse.running():
        with anyio.fail_after(10):
            while SHOWN not in others.render():  # noqa: ASYNC110 - as a scraper would
                await anyio.sleep(0.001)


def test_a_folder_that_is_not_there_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """At construction, and the error says what to do."""
    monkeypatch.setenv("PROMETHEUS_MULTIPROC_DIR", "/nowhere/at/all")

    with pytest.raises(ValueError, match=r"'/nowhere/at/all'.*make it before the workers start"):
        worker()
