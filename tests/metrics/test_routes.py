"""Route of the scrape, `/metrics`."""

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
    """Return a client of an application with only this route, without default headers."""
    client = TestClient(Starlette(routes=metrics_routes(metrics, timeout=PATIENCE)))
    del client.headers["accept-encoding"]
    return client


def fill(metrics: HttpMetrics, *, series: int) -> None:
    """Count a request for each of `series` routes."""
    for number in range(series):
        exchange = Exchange("GET", 0.0)
        exchange.route, exchange.status, exchange.provider = f"/{number}", 200, "qwen"
        metrics.on_open()
        metrics(exchange)


class Broken:
    """Collector that fails when it is collected."""

    def describe(self) -> Iterator[Metric]:
        """Yield the family without samples."""
        yield GaugeMetricFamily("broken", "Broken")

    def collect(self) -> Iterator[Metric]:
        """Raise an error."""
        raise RuntimeError("no database")


class Hanging:
    """Collector that waits for the event `resume`."""

    def __init__(self) -> None:
        self.reached, self.resume = threading.Event(), threading.Event()
        self.waiting = self.max_waiting = 0

    def describe(self) -> Iterator[Metric]:
        """Yield the family without samples."""
        yield GaugeMetricFamily("late", "Late")

    def collect(self) -> Iterator[Metric]:
        """Yield the metric after the event `resume`."""
        self.waiting += 1
        self.max_waiting = max(self.max_waiting, self.waiting)
        self.reached.set()
        assert self.resume.wait(PATIENCE)
        self.waiting -= 1
        yield GaugeMetricFamily("late", "Late", value=1)


def test_default_format_is_prometheus_text(metrics: HttpMetrics) -> None:
    """The default is version 0.0.4, including the other metrics of the registry."""
    Counter("custom", "Custom counter", registry=metrics.registry).inc(3)

    response = client_of(metrics).get("/metrics")

    assert response.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    assert response.headers["content-length"] == str(len(response.content))
    assert response.text.count("# TYPE tokenpulse_http_requests_total counter\n") == 1
    assert "custom_total 3.0\n" in response.text


def test_openmetrics_is_served_if_accepted(metrics: HttpMetrics) -> None:
    """OpenMetrics is chosen if it is at least as preferred as text."""
    Counter("custom", "Custom counter", registry=metrics.registry)

    response = client_of(metrics).get("/metrics", headers={"accept": OPENMETRICS})

    assert response.headers["content-type"] == OPENMETRICS
    assert "# TYPE tokenpulse_http_requests counter\n" in response.text
    assert response.text.endswith("# EOF\n")
    assert "# TYPE custom counter\n" in response.text


def test_repeated_accept_headers_are_one_list(metrics: HttpMetrics) -> None:
    """Several `Accept` lines are combined."""
    headers = [("accept", "text/plain;q=0.1"), ("accept", OPENMETRICS)]

    assert client_of(metrics).get("/metrics", headers=headers).text.endswith("# EOF\n")


def test_name_parameter_selects_samples(metrics: HttpMetrics) -> None:
    """`name[]` applies to all metrics; an unknown name gives an empty response."""
    Counter("custom", "Custom counter", registry=metrics.registry)
    client = client_of(metrics)
    gauge = "tokenpulse_http_requests_in_progress"

    text = client.get("/metrics", params={"name[]": [gauge, "custom_total"]}).text

    assert [line for line in text.splitlines() if line[0] != "#"] == [
        f"{gauge} 0.0",
        "custom_total 0.0",
    ]
    assert client.get("/metrics?name[]=unknown").content == b""


def test_gzip_is_used_if_accepted(metrics: HttpMetrics) -> None:
    """Content-Length is the compressed size."""
    metrics.on_error("x" * 1000)
    client = client_of(metrics)
    plain = client.get("/metrics")

    with client.stream("GET", "/metrics", headers={"accept-encoding": "gzip"}) as response:
        compressed = b"".join(response.iter_raw())

    assert response.headers["content-encoding"] == "gzip"
    assert response.headers["content-length"] == str(len(compressed))
    assert gzip.decompress(compressed) == plain.content
    assert "content-encoding" not in plain.headers
    assert len(compressed) < len(plain.content) / 2


def test_scrape_is_not_cacheable(metrics: HttpMetrics) -> None:
    """`no-store` forbids caching, and `Vary` lists the negotiated headers."""
    headers = client_of(metrics).get("/metrics").headers

    assert headers["cache-control"] == "no-store"
    assert headers["vary"] == "Accept, Accept-Encoding"


@pytest.mark.anyio
async def test_head_has_the_headers_of_get(metrics: HttpMetrics) -> None:
    """The response to HEAD has the headers of GET and an empty body."""
    app = Starlette(routes=metrics_routes(metrics))

    get = await drive(app, http_scope("/metrics"))
    head = await drive(app, http_scope("/metrics", method="HEAD"))

    assert head.headers == get.headers
    assert int(head.headers["content-length"]) == len(get.body)
    assert head.body == b""


def test_scrape_is_not_counted_as_a_request(metrics: HttpMetrics) -> None:
    """A scrape is neither counted nor in progress."""
    app = Starlette(routes=metrics_routes(metrics))
    app.add_middleware(MetricsMiddleware, metrics=metrics)
    client = TestClient(app)

    client.get("/metrics")
    text = client.get("/metrics").text

    assert "tokenpulse_http_requests_in_progress 0.0\n" in text
    assert "tokenpulse_http_requests_total{" not in text


def test_guarded_scrape_without_access_is_404(metrics: HttpMetrics) -> None:
    """With access the status is 200."""
    routes = metrics_routes(metrics, authorize=lambda request: "x-me" in request.headers)
    client = TestClient(Starlette(routes=routes))

    assert client.get("/metrics").status_code == 404
    assert client.get("/metrics", headers={"x-me": "1"}).status_code == 200


@pytest.mark.parametrize("application", [Starlette, FastAPI])
def test_guarded_scrape_equals_a_missing_route(
    metrics: HttpMetrics, application: type[Starlette]
) -> None:
    """A client without access cannot detect the route."""
    client = TestClient(
        application(routes=[*metrics_routes(metrics, authorize=lambda request: False)])
    )

    scrape, missing = client.get("/metrics"), client.get("/missing")

    assert (scrape.status_code, scrape.text, scrape.headers) == (
        missing.status_code,
        missing.text,
        missing.headers,
    )


@pytest.mark.anyio
async def test_guarded_scrape_of_a_bare_router_is_404(metrics: HttpMetrics) -> None:
    """The route does not need an application."""
    app = Router(metrics_routes(metrics, authorize=lambda request: False))

    response = await drive(app, http_scope("/metrics"))

    assert (response.status, response.body) == (404, b"Not Found")


@pytest.mark.parametrize("accept", ["text/plain", OPENMETRICS])
def test_failing_collector_does_not_affect_other_families(
    metrics: HttpMetrics, caplog: pytest.LogCaptureFixture, accept: str
) -> None:
    """Each failure is counted, and the outage is logged."""
    broken = Broken()
    metrics.registry.register(broken)
    client = client_of(metrics)

    with caplog.at_level(logging.INFO, logger="tokenpulse_mw"):
        responses = [client.get("/metrics", headers={"accept": accept}) for _ in range(2)]
        metrics.registry.unregister(broken)
        client.get("/metrics", headers={"accept": accept})

    assert [response.status_code for response in responses] == [200, 200]
    errors = 'tokenpulse_internal_errors_total{component="metrics"}'
    assert f"{errors} 1.0\n" in responses[0].text
    assert f"{errors} 2.0\n" in responses[1].text
    assert responses[0].text.endswith("# EOF\n") is (accept == OPENMETRICS)
    assert [record.exc_info is not None for record in caplog.records] == [True, False]
    assert "no database" in caplog.text
    assert "metrics recovered from" in caplog.messages[1]


@pytest.mark.anyio
async def test_hanging_collector_blocks_only_scrapes(
    metrics: HttpMetrics,
) -> None:
    """Concurrent scrapes do not run the collector twice."""
    hanging = Hanging()
    metrics.registry.register(hanging)
    app = Starlette(routes=metrics_routes(metrics, timeout=PATIENCE))
    responses: list[Answer] = []

    async def scrape() -> None:
        responses.append(await drive(app, http_scope("/metrics")))

    async with anyio.create_task_group() as tasks:
        for _ in range(3):
            tasks.start_soon(scrape)
        while not hanging.reached.is_set():
            await checkpoint()
        other = await drive(app, http_scope("/other"))
        assert not responses
        hanging.resume.set()

    assert other.status == 404
    assert [b"late 1.0\n" in response.body for response in responses] == [True] * 3
    assert hanging.max_waiting == 1


@pytest.mark.anyio
async def test_collector_is_abandoned_after_the_timeout(metrics: HttpMetrics) -> None:
    """The families of this package are served, and scrapes do not pile up."""
    hanging = Hanging()
    metrics.registry.register(hanging)
    app = Starlette(routes=metrics_routes(metrics, timeout=0.01))

    responses = [await drive(app, http_scope("/metrics")) for _ in range(3)]
    hanging.resume.set()

    assert [response.status for response in responses] == [200] * 3
    assert b'tokenpulse_internal_errors_total{component="metrics"} 3.0\n' in responses[2].body
    assert hanging.max_waiting == 1


def test_scrape_works_in_several_event_loops(metrics: HttpMetrics) -> None:
    """The route keeps no state of an event loop."""
    app = Starlette(routes=metrics_routes(metrics))

    backends: list[Any] = ["asyncio", "trio", "asyncio"]
    responses = [TestClient(app, backend=backend).get("/metrics") for backend in backends]

    assert [response.status_code for response in responses] == [200] * 3
    assert b"internal_errors_total{" not in responses[2].content


def test_guarded_scrape_without_access_is_404_for_any_method(metrics: HttpMetrics) -> None:
    """With access, other methods than GET and HEAD give 405."""
    routes = metrics_routes(metrics, authorize=lambda request: "x-me" in request.headers)
    client = TestClient(Starlette(routes=routes))

    assert {client.request(method, "/metrics").status_code for method in ("POST", "PUT")} == {404}
    response = client.post("/metrics", headers={"x-me": "1"})
    assert (response.status_code, response.headers["allow"]) == (405, "GET, HEAD")


def test_rejected_scrape_is_counted_as_a_request(metrics: HttpMetrics) -> None:
    """Attempts to guess the token are visible."""
    app = Starlette(routes=metrics_routes(metrics, authorize=lambda request: False))
    app.add_middleware(MetricsMiddleware, metrics=metrics)

    TestClient(app).get("/metrics")

    assert b'route="/metrics",status="404"' in metrics.render()


@pytest.mark.parametrize(("result", "status"), [(True, 200), ("alice", 200), (False, 404)])
def test_guard_may_be_async(metrics: HttpMetrics, result: Any, status: int) -> None:
    """The result of an async guard is awaited."""

    async def authorize(request: Request) -> Any:
        return result

    client = TestClient(Starlette(routes=metrics_routes(metrics, authorize=authorize)))

    assert client.get("/metrics").status_code == status


def test_failing_guard_rejects_the_scrape(metrics: HttpMetrics) -> None:
    """The client gets 404, and the error is logged."""

    def authorize(request: Request) -> bool:
        raise OSError("no database")

    client = TestClient(Starlette(routes=metrics_routes(metrics, authorize=authorize)))

    assert client.get("/metrics").status_code == 404


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"timeout": 0}, "^timeout must be a number of seconds above 0, got 0$"),
        ({"timeout": "5"}, "^timeout must be a number of seconds above 0, got '5'$"),
        ({"timeout": float("inf")}, "^timeout must be a number of seconds above 0, got inf$"),
        (
            {"authorize": "tok"},
            r"^authorize of metrics_routes must be .* type str; use bearer\(token\)",
        ),
        ({"metrics": REGISTRY}, r"^metrics must be an HttpMetrics, got .*; use HttpMetrics\(regis"),
    ],
)
def test_invalid_argument_is_rejected(
    options: dict[str, Any], message: str, metrics: HttpMetrics
) -> None:
    """Arguments are checked at construction."""
    with pytest.raises(ValueError, match=message):
        metrics_routes(**{"metrics": metrics, **options})


@pytest.mark.slow
@pytest.mark.anyio
async def test_large_scrape_does_not_block_other_requests(metrics: HttpMetrics) -> None:
    """Other requests run between two chunks and may count in the meantime."""
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
        response = await drive(app, http_scope("/metrics"))
        tasks.cancel_scope.cancel()

    assert turns >= 20
    assert response.body.count(b"\n") >= before
    assert list(text_string_to_metric_families(response.body.decode()))


@pytest.mark.slow
@pytest.mark.anyio
@pytest.mark.parametrize("encoding", [b"identity", b"gzip"])
async def test_large_scrape_is_sent_in_chunks_between_which_others_run(
    metrics: HttpMetrics, encoding: bytes
) -> None:
    """No message is larger than one chunk of rows, and other tasks run between two messages."""
    fill(metrics, series=60 * ROWS_PER_CHUNK)
    app = Starlette(routes=metrics_routes(metrics))
    scope = http_scope("/metrics", headers=[(b"accept-encoding", encoding)])
    turns = 0
    turns_at_message: list[int] = []

    async def count() -> None:
        nonlocal turns
        while True:
            turns += 1
            await checkpoint()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(count)
        response = await drive(app, scope, on_send=lambda _: turns_at_message.append(turns))
        tasks.cancel_scope.cancel()

    bodies = turns_at_message[1:]
    assert len(bodies) == len(response.chunks) > 1
    # trio runs the tasks that are ready in a random order.
    assert all(first < third for first, third in zip(bodies, bodies[2:], strict=False))
    assert max(map(len, response.chunks)) < 200_000
    assert int(response.headers["content-length"]) == len(response.body)
    text = gzip.decompress(response.body) if encoding == b"gzip" else response.body
    assert text.count(b"tokenpulse_http_requests_total{") == 60 * ROWS_PER_CHUNK


@pytest.mark.anyio
async def test_small_scrape_and_head_are_one_message(metrics: HttpMetrics) -> None:
    """A response that fits into one chunk, or has no body, has one message with the body."""
    app = Starlette(routes=metrics_routes(metrics))
    get = await drive(app, http_scope("/metrics"))
    fill(metrics, series=20 * ROWS_PER_CHUNK)
    head = await drive(app, http_scope("/metrics", method="HEAD"))

    assert len(get.chunks) == len(head.chunks) == 1
    assert int(head.headers["content-length"]) > 1_000_000
