"""The description of the API, and that the API is as it says."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

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

from .gateway import PREFIX, TOKEN, Api, trouble

CHECKS = [
    checks.not_a_server_error,
    checks.status_code_conformance,
    checks.content_type_conformance,
    checks.response_schema_conformance,
]
HEADERS = {"authorization": f"Bearer {TOKEN}"}
EXAMPLES = {GenerationMode.POSITIVE: 8, GenerationMode.NEGATIVE: 6}


def test_every_route_is_described() -> None:
    """By its path and all its methods, and as one that needs a token."""
    api = Api()

    described = api.get("/openapi.json")

    assert described["openapi"] == "3.1.0"
    assert described["security"] == [{"bearer": []}]
    *routes, nothing = [each.path for each in api.routes]
    assert nothing == f"{PREFIX}/{{path:path}}"
    assert set(described["paths"]) == set(routes) - {f"{PREFIX}/openapi.json"}
    for path, operations in described["paths"].items():
        allow = api.ask("TRACE", path.removeprefix(PREFIX)).headers["allow"]
        assert {each.upper() for each in operations} == set(allow.split(", ")) - {"HEAD"}


def test_the_ranges_of_thresholds_are_described() -> None:
    """As they are checked: every name, and no other."""
    schemas = Api().get("/openapi.json")["components"]["schemas"]

    values = schemas["AllThresholdsBody"]["properties"]["thresholds"]

    assert list(values["properties"]) == values["required"] == list(Thresholds.fields())
    assert values["additionalProperties"] is False
    assert values["properties"]["error_rate"] == {
        "type": ["number", "null"],
        "exclusiveMinimum": 0,
        "maximum": 1,
    }
    assert values["properties"]["critical_factor"]["minimum"] == 1
    assert values["properties"]["error_evidence"] == {"type": "boolean"}


def test_a_description_below_a_mount_says_where_the_api_is() -> None:
    """Tools that read it ask the right paths."""
    app = Starlette(routes=[Mount("/ops", routes=Api().routes)])

    described = TestClient(app, headers=HEADERS).get(f"/ops{PREFIX}/openapi.json").json()

    assert described["servers"] == [{"url": "/ops"}]


@contextmanager
def served(store: AlertStore) -> Iterator[tuple[Any, list[str]]]:
    """The operations of an API with some alerts, and the ids of these and of a silence."""
    api = Api(trouble(), trouble("k2", "critical"), store=store)

    async def fill() -> list[str]:
        await api.engine.evaluate()
        made = await api.engine.controls.silence(Matcher("metric", "x"), ends_at=4e9, by="ada")
        kept = await store.alerts()
        await store.aclose()
        return [*(each.id for each in kept.items), made.id]

    async def close(request: Request) -> Response:
        await store.aclose()
        return Response()

    known = anyio.run(fill)
    app: Any = Starlette(routes=[*api.routes, Route("/close", close)])
    document = Api().get("/openapi.json")
    del document["security"]  # else most of what is wrong is the token
    schema = schemathesis.openapi.from_dict(document)
    schema.app = app
    yield schema, known
    with get_client(app) as client:  # it keeps one event loop, to which the store belongs
        client.get("/close")


def asked(operation: Any, mode: GenerationMode, known: list[str]) -> set[int]:
    """What an operation answers to requests of all kinds, each of which is as described."""
    seen: set[int] = set()

    @settings(
        max_examples=EXAMPLES[mode],
        database=None,
        derandomize=True,
        suppress_health_check=list(HealthCheck),
    )
    @given(case=operation.as_strategy(generation_mode=mode), known=st.sampled_from([*known, None]))
    def ask(case: Any, known: str | None) -> None:
        if known and "id" in case.path_parameters:
            case.path_parameters["id"] = known
        answer = case.call(headers=HEADERS)
        seen.add(answer.status_code)
        case.validate_response(answer, checks=CHECKS)

    with suppress(Unsatisfiable):  # where nothing can be wrong
        ask()
    return seen


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["memory", "sql"])
def test_the_api_is_as_described(kind: str, tmp_path: Path) -> None:
    """Whatever is asked, right or wrong, is answered as the description says, and never by 500."""
    url = f"sqlite+aiosqlite:///{tmp_path}/alerts.db"
    store = MemoryAlertStore() if kind == "memory" else SQLAlertStore(url)
    seen: dict[str, set[int]] = {}

    with served(store) as (schema, known):
        for each in schema.get_all_operations():
            operation = each.ok()
            seen[operation.label] = {
                status for mode in EXAMPLES for status in asked(operation, mode, known)
            }

    assert len(seen) == len(OPERATIONS)
    fine = {each.status for each in OPERATIONS}
    assert {label for label, found in seen.items() if not found & fine} <= {
        f"POST {PREFIX}/test",  # the names of sinks are not described
    }
