"""OpenAPI description of the admin API, and conformance of the API to it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

import anyio
import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.errors import Unsatisfiable
from schemathesis import GenerationMode, checks
from schemathesis.python.asgi import get_client
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Mount, Route
from starlette.testclient import TestClient

from tokenpulse_mw.alerts import Thresholds
from tokenpulse_mw.alerts.admin.routes import OPERATIONS
from tokenpulse_mw.alerts.store import AlertStore, Matcher, MemoryAlertStore, SQLAlertStore

from .api import PREFIX, TOKEN, Api, trouble

CHECKS = [
    checks.not_a_server_error,
    checks.status_code_conformance,
    checks.content_type_conformance,
    checks.response_schema_conformance,
]
HEADERS = {"authorization": f"Bearer {TOKEN}"}
EXAMPLES = {GenerationMode.POSITIVE: 8, GenerationMode.NEGATIVE: 6}


def test_document_describes_every_route_and_method() -> None:
    """The document has the paths and methods of all routes, and requires a token."""
    api = Api()

    document = api.get("/openapi.json")

    assert document["openapi"] == "3.1.0"
    assert document["security"] == [{"bearer": []}]
    *routes, not_found = [route.path for route in api.routes if isinstance(route, Route)]
    assert not_found == f"{PREFIX}/{{path:path}}"
    assert set(document["paths"]) == set(routes) - {f"{PREFIX}/openapi.json"}
    for path, operations in document["paths"].items():
        allow = api.request("TRACE", path.removeprefix(PREFIX)).headers["allow"]
        assert {method.upper() for method in operations} == set(allow.split(", ")) - {"HEAD"}


def test_document_has_the_ranges_of_all_thresholds() -> None:
    """The schema of the thresholds has all names, their ranges and their defaults."""
    schemas = Api().get("/openapi.json")["components"]["schemas"]

    thresholds = schemas["AllThresholdsBody"]["properties"]["thresholds"]

    assert list(thresholds["properties"]) == thresholds["required"] == list(Thresholds.fields())
    assert thresholds["additionalProperties"] is False
    assert thresholds["properties"]["error_rate"] == {
        "type": ["number", "null"],
        "exclusiveMinimum": 0,
        "maximum": 1,
        "default": 0.1,
    }
    assert thresholds["properties"]["critical_factor"]["minimum"] == 1
    assert thresholds["properties"]["error_evidence"] == {"type": "boolean", "default": True}


def test_document_below_a_mount_has_its_root_path() -> None:
    """The server URL of the document is the root path of a mounted API."""
    app = Starlette(routes=[Mount("/ops", routes=Api().routes)])

    document = TestClient(app, headers=HEADERS).get(f"/ops{PREFIX}/openapi.json").json()

    assert document["servers"] == [{"url": "/ops"}]


class Served(NamedTuple):
    """Application of an API, and the ids of an alert and a silence."""

    app: Any
    alert_id: str
    silence_id: str


@contextmanager
def served(store: AlertStore) -> Iterator[Served]:
    """Yield an application with two alerts and a silence."""
    api = Api(trouble(), trouble("k2", "critical"), store=store)

    async def fill() -> tuple[str, str]:
        await api.engine.evaluate()
        silence = await api.engine.controls.silence(Matcher("metric", "x"), ends_at=4e9, by="ada")
        alerts = await store.alerts()
        await store.aclose()
        return alerts.items[0].id, silence.id

    async def close(request: Request) -> Response:
        await store.aclose()
        return Response()

    alert_id, silence_id = anyio.run(fill)
    app: Any = Starlette(routes=[*api.routes, Route("/close", close)])
    yield Served(app, alert_id, silence_id)
    with get_client(app) as client:  # it has one event loop, to which the store belongs
        client.get("/close")


def statuses(operation: Any, mode: GenerationMode, apps: list[Served]) -> set[int]:
    """Return the statuses of generated requests; check that each response is as described."""
    results: set[int] = set()

    @settings(
        max_examples=EXAMPLES[mode],
        database=None,
        derandomize=True,
        suppress_health_check=list(HealthCheck),
    )
    @given(
        case=operation.as_strategy(generation_mode=mode),
        known=st.sampled_from([True, False]),
    )
    def send(case: Any, known: bool) -> None:
        codes = []
        for app, alert_id, silence_id in apps:
            if known and "id" in case.path_parameters:
                silences = "/silences/" in operation.path
                case.path_parameters["id"] = silence_id if silences else alert_id
            response = case.call(app=app, headers=HEADERS)
            codes.append(response.status_code)
            case.validate_response(response, checks=CHECKS)
        assert len(set(codes)) == 1, codes
        results.update(codes)

    with suppress(Unsatisfiable):  # an operation may have no invalid requests
        send()
    return results


@pytest.mark.slow
def test_responses_conform_to_the_document(tmp_path: Path) -> None:
    """With both stores, all requests get the same responses, as described and never 500."""
    sql = SQLAlertStore(f"sqlite+aiosqlite:///{tmp_path}/alerts.db")
    document = Api().get("/openapi.json")
    del document["security"]  # otherwise the token is what most invalid requests lack
    schema: Any = schemathesis.openapi.from_dict(document)
    results: dict[str, set[int]] = {}

    with ExitStack() as stack:
        apps = [stack.enter_context(served(store)) for store in (MemoryAlertStore(), sql)]
        schema.app = apps[0].app
        for result in schema.get_all_operations():
            operation = result.ok()
            results[operation.label] = {
                status for mode in EXAMPLES for status in statuses(operation, mode, apps)
            }

    assert len(results) == len(OPERATIONS)
    successes = {operation.status for operation in OPERATIONS}
    assert {label for label, codes in results.items() if not codes & successes} <= {
        f"POST {PREFIX}/test",  # the document does not have the names of sinks
    }
