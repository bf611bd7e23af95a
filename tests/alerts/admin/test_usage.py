"""Usage of tenants over HTTP."""

from __future__ import annotations

import csv
import io
from typing import Any

import anyio
import pytest
import schemathesis
from hypothesis import given, settings
from schemathesis import GenerationMode
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.routing import Mount
from starlette.testclient import TestClient

from tokenpulse_mw import TokenUsage, annotate
from tokenpulse_mw.alerts import AlertEngine
from tokenpulse_mw.alerts.admin import tenant_usage_routes, usage_routes
from tokenpulse_mw.alerts.traffic import OVERFLOW
from tokenpulse_mw.exchange.annotate import annotations_of

from ...support.clock import FakeClock
from ..exchanges import exchange
from .api import AUTHORIZE, NOON, TOKEN
from .test_openapi import CHECKS, EXAMPLES

HEADERS = {"authorization": f"Bearer {TOKEN}"}
USAGE = TokenUsage(100, 20, cache_read=40)


def tenant_of(request: Request) -> str | None:
    """Return the tenant in a header."""
    return request.headers.get("x-tenant")


class Gateway:
    """Engine with the routes of the usage."""

    def __init__(self) -> None:
        self.clock = FakeClock(NOON)
        self.engine = AlertEngine([], [], clock=self.clock, wall=self.clock)
        routes = usage_routes(self.engine, authorize=AUTHORIZE)
        self.app = Starlette(
            routes=[*routes, *tenant_usage_routes(self.engine, tenant_of=tenant_of)]
        )
        self.client = TestClient(self.app)

    def observe(self, tenant: str | None = "acme", model: str = "gpt-5", **fields: Any) -> None:
        """Observe the response of a model, and store it."""
        values = {"usage": USAGE, "usage_source": "reported", "cost_nanos": 1_500_000, **fields}
        self.engine.observe(exchange(tenant=tenant, model=model, provider="openai", **values))
        self.clock.advance(6)
        anyio.run(self.engine.evaluate)

    def get(self, query: str = "", path: str = "/admin/usage", **headers: str) -> Any:
        """Return the JSON body of a successful request."""
        response = self.client.get(f"{path}?{query}", headers={**HEADERS, **headers})
        assert response.status_code == 200, response.text
        return response.json()


def test_report_has_requests_tokens_and_cost() -> None:
    """Without parameters, the report sums up the last 24 hours."""
    gateway = Gateway()
    gateway.observe()
    gateway.observe("zeta", cost_nanos=None)

    assert gateway.get() == {
        "from": "2027-01-14T09:00:00Z",
        "to": "2027-01-15T09:00:00Z",
        "rows": [
            {
                "requests": 2,
                "input_tokens": 200,
                "output_tokens": 40,
                "cache_read_tokens": 80,
                "cache_write_tokens": 0,
                "reasoning_tokens": 0,
                "cost_usd": "0.001500000",
                "unpriced_requests": 1,
            }
        ],
    }


def test_rows_are_by_time_and_dimensions() -> None:
    """`by` and `step` split the rows; a missing tenant is an empty string."""
    gateway = Gateway()
    gateway.observe()
    gateway.observe("zeta", "gpt-5-mini")
    gateway.clock.advance(3600)
    gateway.observe(None)

    rows = gateway.get("by=tenant,model&step=hour")["rows"]

    assert [(row["time"], row["tenant"], row["model"], row["requests"]) for row in rows] == [
        ("2027-01-15T08:00:00Z", "acme", "gpt-5", 1),
        ("2027-01-15T08:00:00Z", "zeta", "gpt-5-mini", 1),
        ("2027-01-15T09:00:00Z", "", "gpt-5", 1),
    ]
    assert [row["tenant"] for row in gateway.get("by=tenant&tenant=zeta")["rows"]] == ["zeta"]
    day = gateway.get("step=day&from=2027-01-15&to=2027-01-16")["rows"]
    assert [(row["time"], row["requests"]) for row in day] == [("2027-01-15T00:00:00Z", 3)]
    assert gateway.get("from=2027-01-01&to=2027-01-02")["rows"] == []


def test_csv_has_the_same_rows() -> None:
    """CSV has a header, and no value that a spreadsheet runs as a formula."""
    gateway = Gateway()
    gateway.observe('=cmd|"calc"', tenant_name="=1+1")
    gateway.observe("zeta")

    response = gateway.client.get("/admin/usage?by=tenant&step=day&format=csv", headers=HEADERS)

    assert response.headers["content-type"] == "text/csv; charset=utf-8"
    assert response.text.splitlines() == [
        "time,tenant,tenant_name,requests,input_tokens,output_tokens,cache_read_tokens,cache_write_tokens,"
        "reasoning_tokens,cost_usd,unpriced_requests",
        '2027-01-15T00:00:00+00:00,"\'=cmd|""calc""",\'=1+1,1,100,20,40,0,0,0.001500000,0',
        "2027-01-15T00:00:00+00:00,zeta,,1,100,20,40,0,0,0.001500000,0",
    ]


@pytest.mark.parametrize("path", ["/admin/usage", "/usage"])
def test_rows_of_tenants_have_their_names(path: str) -> None:
    """The last known name stands beside the id; it is null if no exchange had one."""
    gateway = Gateway()
    gateway.observe("7", tenant_name="Acme")
    gateway.observe("7", tenant_name="Acme Ltd")
    gateway.observe("8")

    rows = [
        row
        for tenant in ("7", "8")
        for row in gateway.get(
            f"by=tenant&tenant={tenant}" if "admin" in path else "by=tenant",
            path=path,
            **{"x-tenant": tenant},
        )["rows"]
    ]

    assert [(row["tenant"], row["tenant_name"]) for row in rows] == [("7", "Acme Ltd"), ("8", None)]
    assert "tenant_name" not in gateway.get("by=model", path=path, **{"x-tenant": "7"})["rows"][0]


@pytest.mark.parametrize("first", ["=", "+", "-", "@", "\t", "\r", "\n", "\uff1d", "\uff20"])
def test_name_is_no_formula_in_csv(first: str) -> None:
    """A name with any beginning of a formula is text in a spreadsheet."""
    gateway = Gateway()
    gateway.observe(f"{first}1+1")

    report = gateway.client.get("/admin/usage?by=tenant&format=csv", headers=HEADERS)

    _, row = csv.reader(io.StringIO(report.content.decode(), newline=""))
    assert row[0] == f"'{first}1+1"


@pytest.mark.parametrize(
    ("query", "error"),
    [
        ("by=color", "must be one or more of tenant,model,provider, got 'color'"),
        ("by=model,model", "must be one or more of tenant,model,provider, got 'model,model'"),
        ("from=yesterday", "must be a time such as 2026-01-21T14:00:00Z, or a date"),
        ("from=9999-12-31", "must be a time such as"),
        ("from=2027-01-02&to=2027-01-01", "must be at least an hour before `to`"),
        ("step=week", "must be one of hour, day, got 'week'"),
        ("format=xml", "must be one of json, csv"),
        ("colour=red", "is not a known parameter"),
    ],
)
def test_invalid_parameter_is_rejected(query: str, error: str) -> None:
    """The error names the parameter, and what to send instead."""
    response = Gateway().client.get(f"/admin/usage?{query}", headers=HEADERS)

    assert response.status_code == 422
    assert error in response.json()["errors"][0]["msg"]


def test_report_of_too_many_rows_is_rejected(monkeypatch: pytest.MonkeyPatch) -> None:
    """A report is complete or rejected, never cut."""
    monkeypatch.setattr("tokenpulse_mw.alerts.admin.usage._MAX_ROWS", 1)
    gateway = Gateway()
    gateway.observe()
    gateway.observe("zeta")

    response = gateway.client.get("/admin/usage?by=tenant", headers=HEADERS)

    assert response.status_code == 422
    assert "results in more than 1 rows" in response.json()["errors"][0]["msg"]


def test_report_of_all_tenants_needs_authorization() -> None:
    """A tenant cannot read the usage of another one."""
    gateway = Gateway()
    gateway.observe()

    assert gateway.client.get("/admin/usage").status_code == 401
    assert gateway.client.get("/usage").status_code == 401
    response = gateway.client.get("/usage?tenant=acme", headers={"x-tenant": "zeta"})
    assert response.status_code == 422


def test_tenant_reads_its_own_usage() -> None:
    """The report has the usage of the tenant that the application's function returns."""
    gateway = Gateway()
    gateway.observe()
    gateway.observe("zeta", "gpt-5-mini")

    rows = gateway.get("by=tenant,model", path="/usage", **{"x-tenant": "zeta"})["rows"]

    assert [(row["tenant"], row["model"], row["requests"]) for row in rows] == [
        ("zeta", "gpt-5-mini", 1)
    ]


def test_tenant_with_a_long_name_reads_its_own_usage() -> None:
    """The id is shortened for the report as `annotate` shortens it."""
    gateway = Gateway()
    scope: dict[str, Any] = {"type": "http"}
    annotate(scope, tenant="a" * 300)
    annotations = annotations_of(scope)
    assert annotations is not None
    gateway.observe(annotations["tenant"])

    rows = gateway.get(path="/usage", **{"x-tenant": "a" * 300})["rows"]

    assert [row["requests"] for row in rows] == [1]


@pytest.mark.parametrize("answer", [True, OVERFLOW])
def test_request_without_a_tenant_is_rejected(answer: object) -> None:
    """Neither True nor the name under which further tenants are counted is a tenant."""
    admitted: Any = lambda request: answer  # noqa: E731
    routes = tenant_usage_routes(AlertEngine([], []), tenant_of=admitted)

    assert TestClient(Starlette(routes=routes)).get("/usage").status_code == 403


def test_tenant_of_another_type_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    """The line names the function of the tenant, and what it must return."""
    numbered: Any = lambda request: 7  # noqa: E731
    routes = tenant_usage_routes(AlertEngine([], []), tenant_of=numbered)

    assert TestClient(Starlette(routes=routes)).get("/usage").status_code == 401
    assert "tenant_of must return the id of a tenant or None, got <class 'int'>" in caplog.text


def test_description_below_a_mount_has_its_root_path() -> None:
    """Otherwise a client would send requests to paths that do not exist."""
    app = Starlette(routes=[Mount("/ops", app=Gateway().app)])

    document = TestClient(app, headers=HEADERS).get("/ops/admin/usage/openapi.json").json()

    assert document["servers"] == [{"url": "/ops"}]


@pytest.mark.slow
@pytest.mark.parametrize("mode", EXAMPLES)
def test_responses_conform_to_the_description(mode: GenerationMode) -> None:
    """Generated requests get documented responses, and no error of the server."""
    gateway = Gateway()
    gateway.observe()
    document = gateway.get(path="/admin/usage/openapi.json")
    assert document["info"]["title"] == "Usage"
    del document["security"]
    schema: Any = schemathesis.openapi.from_dict(document)
    schema.app = gateway.app
    [operation] = [result.ok() for result in schema.get_all_operations()]

    @settings(max_examples=30, database=None, derandomize=True, deadline=None)
    @given(case=operation.as_strategy(generation_mode=mode))
    def send(case: Any) -> None:
        case.validate_response(case.call(headers=HEADERS), checks=CHECKS)

    send()
