"""The scrape."""

from __future__ import annotations

import gzip
import logging
import threading
from collections.abc import Iterator
from typing import Any

import anyio
import pytest
from anyio.lowlevel import checkpoint
from fastapi import FastAPI
from prometheus_client import REGISTRY, Counter, generate_latest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.parser import text_string_to_metric_families
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.routing import Router
from starlette.testclient import TestClient

from tokenpulse_mw import Exchange, HttpMetrics, MetricsMiddleware, metrics_routes
from tokenpulse_mw.metrics.text_format import ROWS_PER_CHUNK

from ..support.asgi import Answer, drive, http_scope
from ..support.waiting import PATIENCE

OPENMETRICS = "application/openmetrics-text; version=1.0.0; charset=utf-8"


def client_of(metrics: HttpMetrics) -> TestClient:
    """A client of an application that has only the scrape, and asks for nothing by itself."""
    client = TestClient(Starlette(routes=metrics_routes(metrics, timeout=PATIENCE)))
    del client.headers["accept-encoding"]
    return client


def fill(metrics: HttpMetrics, *, series: int) -> None:
    """Requests of so many routes."""
    for number in range(series):
        exchange = Exchange("GET", 0.0)
        exchange.route, exchange.status, exchange.provider = f"/{number}", 200, "qwen"
        metrics.on_open()
        metrics(exchange)


class Broken:
    """A collector that fails, once it is registered."""

    def describe(self) -> Iterator[Metric]:
        """What it would have."""
        yield GaugeMetricFamily("broken", "Never seen")

    def collect(self) -> Iterator[Metric]:
        """No luck."""
        raise RuntimeError("no database")


class Hanging:
    """A collector that waits until it is told to go on."""

    def __init__(self) -> None:
        self.reached, self.go_on = threading.Event(), threading.Event()
        self.waiting = self.most_waiting = 0

    def describe(self) -> Iterator[Metric]:
        """What it would have."""
        yield GaugeMetricFamily("late", "Comes late")

    def collect(self) -> Iterator[Metric]:
        """Its metric, in the end."""
        self.waiting += 1
        self.most_waiting = max(self.most_waiting, self.waiting)
        self.reached.set()
        assert self.go_on.wait(PATIENCE)
        self.waiting -= 1
        yield GaugeMetricFamily("late", "Comes late", value=1)


def test_the_scrape_is_prometheus_text(metrics: HttpMetrics) -> None:
    """In the version that every Prometheus reads, and with what else the registry has."""
    Counter("mine", "My own", registry=metrics.registry).inc(3)

    answer = client_of(metrics).get("/metrics")

    assert answer.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    assert answer.headers["content-length"] == str(len(answer.content))
    assert answer.text.count("# TYPE tokenpulse_http_requests_total counter\n") == 1
    assert "mine_total 3.0\n" in answer.text


def test_a_scraper_can_have_openmetrics(metrics: HttpMetrics) -> None:
    """Where it likes it at least as much."""
    Counter("mine", "My own", registry=metrics.registry)

    answer = client_of(metrics).get("/metrics", headers={"accept": OPENMETRICS})

    assert answer.headers["content-type"] == OPENMETRICS
    assert "# TYPE tokenpulse_http_requests counter\n" in answer.text
    assert answer.text.endswith("# EOF\n")
    assert "# TYPE mine counter\n" in answer.text


def test_headers_may_be_repeated(metrics: HttpMetrics) -> None:
    """Several lines of a header are one list."""
    headers = [("accept", "text/plain;q=0.1"), ("accept", OPENMETRICS)]

    assert client_of(metrics).get("/metrics", headers=headers).text.endswith("# EOF\n")


def test_names_can_be_asked_for(metrics: HttpMetrics) -> None:
    """Of ours and of all others; a name that nobody has is an empty answer."""
    Counter("mine", "My own", registry=metrics.registry)
    client = client_of(metrics)
    gauge = "tokenpulse_http_requests_in_progress"

    found = client.get("/metrics", params={"name[]": [gauge, "mine_total"]}).text

    assert [line for line in found.splitlines() if line[0] != "#"] == [
        f"{gauge} 0.0",
        "mine_total 0.0",
    ]
    assert client.get("/metrics?name[]=nobody").content == b""


def test_it_is_compressed_for_those_who_take_gzip(metrics: HttpMetrics) -> None:
    """The length is that of what is sent."""
    metrics.on_error("x" * 1000)
    client = client_of(metrics)
    plain = client.get("/metrics")

    with client.stream("GET", "/metrics", headers={"accept-encoding": "gzip"}) as answer:
        packed = b"".join(answer.iter_raw())

    assert answer.headers["content-encoding"] == "gzip"
    assert answer.headers["content-length"] == str(len(packed))
    assert gzip.decompress(packed) == plain.content
    assert "content-encoding" not in plain.headers
    assert len(packed) < len(plain.content) / 2


def test_no_cache_keeps_it(metrics: HttpMetrics) -> None:
    """One that does all the same must not give OpenMetrics to who cannot read it."""
    headers = client_of(metrics).get("/metrics").headers

    assert headers["cache-control"] == "no-store"
    assert headers["vary"] == "Accept, Accept-Encoding"


@pytest.mark.anyio
async def test_head_is_get_without_the_body(metrics: HttpMetrics) -> None:
    """With the same headers."""
    app = Starlette(routes=metrics_routes(metrics))

    got = await drive(app, http_scope("/metrics"))
    head = await drive(app, http_scope("/metrics", method="HEAD"))

    assert head.headers == got.headers
    assert int(head.headers["content-length"]) == len(got.body)
    assert head.body == b""


def test_the_scrape_does_not_count_itself(metrics: HttpMetrics) -> None:
    """Neither among the requests nor among those in progress."""
    app = Starlette(routes=metrics_routes(metrics))
    app.add_middleware(MetricsMiddleware, metrics=metrics)
    client = TestClient(app)

    client.get("/metrics")
    text = client.get("/metrics").text

    assert "tokenpulse_http_requests_in_progress 0.0\n" in text
    assert "tokenpulse_http_requests_total{" not in text


def test_the_scrape_can_be_guarded(metrics: HttpMetrics) -> None:
    """Whoever may not read it gets 404."""
    routes = metrics_routes(metrics, authorize=lambda request: "x-me" in request.headers)
    client = TestClient(Starlette(routes=routes))

    assert client.get("/metrics").status_code == 404
    assert client.get("/metrics", headers={"x-me": "1"}).status_code == 200


@pytest.mark.parametrize("application", [Starlette, FastAPI])
def test_a_guarded_scrape_looks_like_nothing(
    metrics: HttpMetrics, application: type[Starlette]
) -> None:
    """Nobody can tell it from a path that the application does not have."""
    client = TestClient(
        application(routes=[*metrics_routes(metrics, authorize=lambda request: False)])
    )

    scrape, nothing = client.get("/metrics"), client.get("/nothing")

    assert (scrape.status_code, scrape.text, scrape.headers) == (
        nothing.status_code,
        nothing.text,
        nothing.headers,
    )


@pytest.mark.anyio
async def test_a_guarded_scrape_needs_no_application_around_it(metrics: HttpMetrics) -> None:
    """Below a bare router it answers by itself."""
    app = Router(metrics_routes(metrics, authorize=lambda request: False))

    answer = await drive(app, http_scope("/metrics"))

    assert (answer.status, answer.body) == (404, b"Not Found")


@pytest.mark.parametrize("accept", ["text/plain", OPENMETRICS])
def test_somebody_elses_collector_that_fails_does_not_blind_us(
    metrics: HttpMetrics, caplog: pytest.LogCaptureFixture, accept: str
) -> None:
    """Our own families are served, each failure is counted among them, the outage is logged."""
    broken = Broken()
    metrics.registry.register(broken)
    client = client_of(metrics)

    with caplog.at_level(logging.INFO, logger="tokenpulse_mw"):
        answers = [client.get("/metrics", headers={"accept": accept}) for _ in range(2)]
        metrics.registry.unregister(broken)
        client.get("/metrics", headers={"accept": accept})

    assert [answer.status_code for answer in answers] == [200, 200]
    errors = 'tokenpulse_internal_errors_total{component="metrics"}'
    assert f"{errors} 1.0\n" in answers[0].text
    assert f"{errors} 2.0\n" in answers[1].text
    assert answers[0].text.endswith("# EOF\n") is (accept == OPENMETRICS)
    assert [record.exc_info is not None for record in caplog.records] == [True, False]
    assert "no database" in caplog.text
    assert "metrics recovered from" in caplog.messages[1]


@pytest.mark.anyio
async def test_somebody_elses_collector_that_hangs_holds_up_scrapes_only(
    metrics: HttpMetrics,
) -> None:
    """Other requests go on meanwhile, and it is not asked by two scrapes at once."""
    hanging = Hanging()
    metrics.registry.register(hanging)
    app = Starlette(routes=metrics_routes(metrics, timeout=PATIENCE))
    answers: list[Answer] = []

    async def scrape() -> None:
        answers.append(await drive(app, http_scope("/metrics")))

    async with anyio.create_task_group() as tasks:
        for _ in range(3):
            tasks.start_soon(scrape)
        while not hanging.reached.is_set():
            await checkpoint()
        other = await drive(app, http_scope("/other"))
        assert not answers
        hanging.go_on.set()

    assert other.status == 404
    assert [b"late 1.0\n" in answer.body for answer in answers] == [True] * 3
    assert hanging.most_waiting == 1


@pytest.mark.anyio
async def test_a_collector_that_hangs_for_too_long_is_left_behind(metrics: HttpMetrics) -> None:
    """Our own families are served alone, each time, and scrapes do not pile up behind it."""
    hanging = Hanging()
    metrics.registry.register(hanging)
    app = Starlette(routes=metrics_routes(metrics, timeout=0.01))

    answers = [await drive(app, http_scope("/metrics")) for _ in range(3)]
    hanging.go_on.set()

    assert [answer.status for answer in answers] == [200] * 3
    assert b'tokenpulse_internal_errors_total{component="metrics"} 3.0\n' in answers[2].body
    assert hanging.most_waiting == 1


def test_one_application_can_be_scraped_in_several_event_loops(metrics: HttpMetrics) -> None:
    """Of whatever kind they are."""
    app = Starlette(routes=metrics_routes(metrics))

    backends: list[Any] = ["asyncio", "trio", "asyncio"]
    answers = [TestClient(app, backend=backend).get("/metrics") for backend in backends]

    assert [answer.status_code for answer in answers] == [200] * 3
    assert b"internal_errors_total{" not in answers[2].content


def test_a_guarded_scrape_is_nothing_for_any_method(metrics: HttpMetrics) -> None:
    """To those who may read it, it has two."""
    routes = metrics_routes(metrics, authorize=lambda request: "x-me" in request.headers)
    client = TestClient(Starlette(routes=routes))

    assert {client.request(each, "/metrics").status_code for each in ("POST", "PUT")} == {404}
    refused = client.post("/metrics", headers={"x-me": "1"})
    assert (refused.status_code, refused.headers["allow"]) == (405, "GET, HEAD")


def test_a_scrape_that_is_refused_is_traffic(metrics: HttpMetrics) -> None:
    """Whoever guesses tokens is seen."""
    app = Starlette(routes=metrics_routes(metrics, authorize=lambda request: False))
    app.add_middleware(MetricsMiddleware, metrics=metrics)

    TestClient(app).get("/metrics")

    assert b'route="/metrics",status="404"' in metrics.render()


@pytest.mark.parametrize(("seen", "status"), [(True, 200), ("alice", 200), (False, 404)])
def test_the_guard_may_be_asynchronous(metrics: HttpMetrics, seen: Any, status: int) -> None:
    """What it gives counts, not that it gives something to be awaited."""

    async def authorize(request: Request) -> Any:
        return seen

    client = TestClient(Starlette(routes=metrics_routes(metrics, authorize=authorize)))

    assert client.get("/metrics").status_code == status


def test_a_guard_that_fails_lets_nobody_in(metrics: HttpMetrics) -> None:
    """To whoever asks there is nothing; the log has why."""

    def authorize(request: Request) -> bool:
        raise OSError("no database")

    client = TestClient(Starlette(routes=metrics_routes(metrics, authorize=authorize)))

    assert client.get("/metrics").status_code == 404


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"timeout": 0}, "^timeout must be a number of seconds above 0, got 0$"),
        ({"timeout": "5"}, "^timeout must be a number of seconds above 0, got '5'$"),
        ({"timeout": float("inf")}, "^timeout must be a number of seconds above 0, got inf$"),
        ({"authorize": "tok"}, r"^metrics_routes needs authorize, .* bearer\(token\) .* type str$"),
        ({"metrics": REGISTRY}, r"^metrics_routes needs HttpMetrics, such as HttpMetrics\(regis"),
    ],
)
def test_what_could_not_be_scraped_is_refused(
    options: dict[str, Any], said: str, metrics: HttpMetrics
) -> None:
    """At construction, and not at every scrape."""
    with pytest.raises(ValueError, match=said):
        metrics_routes(**{"metrics": metrics, **options})


@pytest.mark.slow
@pytest.mark.anyio
async def test_while_a_large_scrape_is_made_others_go_on(metrics: HttpMetrics) -> None:
    """After every few rows others have a turn; what they count meanwhile harms nothing."""
    fill(metrics, series=10 * ROWS_PER_CHUNK)
    app = Starlette(routes=metrics_routes(metrics))
    turns = 0

    async def stream() -> None:
        nonlocal turns
        while True:
            turns += 1
            fill(metrics, series=turns)
            await checkpoint()

    async with anyio.create_task_group() as tasks:
        before = generate_latest(metrics.registry).count(b"\n")
        tasks.start_soon(stream)
        answer = await drive(app, http_scope("/metrics"))
        tasks.cancel_scope.cancel()

    assert turns >= 20
    assert answer.body.count(b"\n") >= before
    assert list(text_string_to_metric_families(answer.body.decode()))
