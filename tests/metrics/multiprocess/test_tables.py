"""WorkerTables: HttpMetrics in several workers, two of which are in this process."""

from __future__ import annotations

import os
from pathlib import Path

import anyio
import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.mmap_dict import MmapedDict, mmap_key

from tokenpulse_mw import Exchange, HttpMetrics, Limiter, Policy, Settings, TokenPulse
from tokenpulse_mw.metrics import families
from tokenpulse_mw.metrics.multiprocess import WorkerFiles, Workers

from ...support.waiting import PATIENCE

REQUESTS = "tokenpulse_http_requests_total"


IN_PROGRESS = "tokenpulse_http_requests_in_progress"


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


def test_a_scrape_shows_what_all_workers_have_counted(folder: Path) -> None:
    """In this one, and in any exposition of its registry."""
    metrics, other = worker(), WorkerFiles(folder)
    for _ in range(2):
        metrics.on_open()
        metrics(finished())
    other.new_row(families.REQUESTS, ("POST", "/chat", "200", "claude"))[0] += 1
    other.new_row(families.IN_PROGRESS, ())[0] += 1

    line = f'{REQUESTS}{{method="POST",route="/chat",status="200",provider="claude"}} 3.0\n'
    assert line.encode() in metrics.render()
    assert f"{IN_PROGRESS} 1.0\n".encode() in generate_latest(metrics.registry)


def test_all_metrics_of_a_process_count_in_the_same_families() -> None:
    """The files know nothing of registries; nothing is counted twice for having two."""
    first, second = worker(), worker()
    first(finished())

    assert first == second
    assert first.render() == second.render()
    with pytest.raises(ValueError, match="our families are there already with buckets"):
        HttpMetrics(CollectorRegistry(), buckets=[1, 2])


def test_a_forked_child_counts_for_itself() -> None:
    """What its parent has counted is not counted again, nor is what it counts lost."""
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


def test_the_folder_may_be_named_from_where_the_process_was(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process that goes elsewhere still finds it."""
    monkeypatch.chdir(folder.parent)
    monkeypatch.setenv("PROMETHEUS_MULTIPROC_DIR", folder.name)
    metrics = worker()
    monkeypatch.chdir("/")

    metrics(finished())

    assert f"{REQUESTS}{{".encode() in metrics.render()


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
    assert metrics.render_others(["mine_total"]).endswith(b"\nmine_total 3.0\n")
    assert metrics.render_others(["nobodys"]) == b""


@pytest.mark.anyio
async def test_what_a_worker_looks_up_is_seen_by_the_others(folder: Path) -> None:
    """Every second, while its application lives."""
    limiter = Limiter("10/minute")
    limiter.hit("somebody")
    pulse = TokenPulse(settings=Settings(), metrics=worker(), policies=[Policy(limiter)])
    keys = families.LIMIT_KEYS

    async with pulse.lifespan():
        with anyio.fail_after(PATIENCE):
            while keys.name not in Workers(folder).series():  # noqa: ASYNC110 - as a scraper would
                await anyio.sleep(0.001)

    assert Workers(folder).series()[keys.name] == (keys, {("default",): [1]})


@pytest.mark.anyio
async def test_what_ends_an_application_comes_out_as_it_is() -> None:
    """Not wrapped by what looks up beside it."""
    with pytest.raises(RuntimeError, match="no database"):
        async with TokenPulse(settings=Settings(), metrics=worker()).lifespan():
            raise RuntimeError("no database")


def test_a_folder_that_is_not_there_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """At construction, and the error says what to do."""
    monkeypatch.setenv("PROMETHEUS_MULTIPROC_DIR", "/nowhere/at/all")

    with pytest.raises(ValueError, match=r"'/nowhere/at/all'.*make it before the workers start"):
        worker()
