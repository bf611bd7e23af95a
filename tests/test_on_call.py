"""TokenPulse: requests that hang, the providers' limits, and rejected credentials."""

from __future__ import annotations

from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.testclient import TestClient

from tokenpulse_mw import Settings, Thresholds, TokenPulse, annotate

from .alerts.rules.open_request import Open
from .support.apps import answering


async def chat(request: Request) -> Response:
    """Respond as a provider whose limit is nearly used up, or which rejects the credential."""
    annotate(request, credential="c1", credential_group="prod", provider="openai")
    headers = {"x-ratelimit-limit-requests": "100", "x-ratelimit-remaining-requests": "3"}
    return JSONResponse({}, status_code=int(request.path_params["status"]), headers=headers)


def gateway() -> tuple[TokenPulse, Starlette]:
    """Return a gateway with one route."""
    pulse = TokenPulse(providers=["openai"], settings=Settings(price_list="off"))
    app = Starlette(routes=[Route("/chat/{status}", chat, methods=["POST"])])
    pulse.install(app)
    return pulse, app


@pytest.mark.anyio
async def test_default_alerts_find_a_low_quota_and_a_rejected_credential() -> None:
    """Both need no configuration but the annotated credential."""
    pulse, app = gateway()
    client = TestClient(app)

    for _ in range(5):
        assert client.post("/chat/401").status_code == 401

    fired = {event.fingerprint for event in await pulse.engine.evaluate()}
    assert {"credential_rejected:apikey:c1", "upstream_quota_low:requests:apikey:c1"} <= fired
    assert "stalled_request" in pulse.engine.rules


def test_scrape_shows_age_idle_time_quota_and_faults() -> None:
    """All gauges are wired, and a reset forgets the quotas."""
    pulse, app = gateway()
    client = TestClient(app)
    client.post("/chat/503")

    scrape = client.get("/metrics").text

    assert 'tokenpulse_http_failures_total{provider="openai",fault="provider"} 1.0' in scrape
    assert 'tokenpulse_upstream_remaining_ratio{provider="openai",unit="requests"} 0.03' in scrape
    assert "tokenpulse_http_oldest_request_seconds 0.0" in scrape
    assert 'tokenpulse_http_longest_idle_seconds{phase="waiting"} 0.0' in scrape
    assert len(list(pulse.upstream.pools())) == 1
    pulse.reset()
    assert list(pulse.upstream.pools()) == []


def test_requests_in_progress_are_sampled_while_the_gateway_runs() -> None:
    """The lifespan runs the task, and a request is listed while it is handled."""
    listed = []

    async def endpoint(request: Request) -> Response:
        listed.extend(pulse.in_progress.requests())
        return JSONResponse({})

    pulse = TokenPulse(settings=Settings(price_list="off"))
    app = Starlette(routes=[Route("/slow", endpoint)])
    pulse.install(app)

    with TestClient(app) as client:
        client.get("/slow")

    (request,) = listed
    assert (request.exchange.route, request.phase) == ("/slow", "waiting")
    assert len(pulse.in_progress) == 0


@pytest.mark.parametrize(
    ("thresholds", "stalled"), [({}, True), ({"stalled_first_byte": None}, False)]
)
def test_live_page_marks_stalled_requests_by_the_thresholds_of_the_alert(
    thresholds: dict[str, Any], stalled: bool
) -> None:
    """The page and the alert agree, also after a change of the thresholds."""
    pulse = TokenPulse(
        settings=Settings(price_list="off", admin_token="a-token-of-an-operator"),
        thresholds=Thresholds(**thresholds),
    )
    pulse.in_progress.open[Open(-1000)] = None
    client = TestClient(pulse.wrap(answering()))
    client.headers["authorization"] = "Bearer a-token-of-an-operator"

    (request,) = client.get("/admin/live/inflight").json()["requests"]
    state = client.get("/admin/live/state").json()

    assert request["stalled"] == stalled
    assert request["idle_seconds"] >= 1000
    assert state["in_flight"]["stalled"] == int(stalled)
