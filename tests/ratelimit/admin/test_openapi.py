"""OpenAPI description of the limits, and conformance of the endpoints to it."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import anyio
import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.errors import Unsatisfiable
from schemathesis import GenerationMode, checks
from starlette.applications import Starlette
from starlette.routing import Mount, Route
from starlette.testclient import TestClient

from tokenpulse_mw import InFlight, Policy, keys

from .api import Api

PREFIX = "/admin/limits"
HEADERS = {"authorization": "Bearer s3cret"}
CHECKS = [
    checks.not_a_server_error,
    checks.status_code_conformance,
    checks.content_type_conformance,
    checks.response_schema_conformance,
]
EXAMPLES = {GenerationMode.POSITIVE: 20, GenerationMode.NEGATIVE: 12}


def filled() -> Api:
    """Return limits with some usage, blocks and rejections."""
    tenant = keys.annotation("tenant")
    api = Api(
        Policy("10/minute", name="tenant", key=tenant),
        Policy("5 USD/day", name="budget", key=tenant, reserve="0.01 USD"),
        Policy({"free": "5/minute"}, name="plans", key=tenant),
        Policy(InFlight(3), name="slots", key=tenant),
    )
    for policy in api.policies:
        policy.local.hit("free", 3)
        api.rejections.add(policy, "free", None)
    return api


def document(api: Api) -> Any:
    """Return the OpenAPI document."""
    return TestClient(api.app, headers=HEADERS).get(f"{PREFIX}/openapi.json").json()


def test_document_describes_every_route_and_method() -> None:
    """The document is valid, has the paths and methods of all routes, and requires a token."""
    api = filled()
    description = document(api)

    schemathesis.openapi.from_dict(description).validate()
    assert description["security"] == [{"bearer": []}]
    *routes, not_found = [route for route in api.routes if isinstance(route, Route)]
    assert not_found.path == f"{PREFIX}/{{path:path}}"
    paths = {route.path: route.methods for route in routes}
    del paths[f"{PREFIX}/openapi.json"]
    assert set(description["paths"]) == set(paths)
    for path, operations in description["paths"].items():
        allow = TestClient(api.app, headers=HEADERS).request("TRACE", path).headers["allow"]
        assert {method.upper() for method in operations} == set(allow.split(", ")) - {"HEAD"}


def test_document_names_the_rights_and_the_limit_of_wrong_tokens() -> None:
    """A 403 says which right is missing, and a 429 when to retry."""
    paths = document(filled())["paths"]
    listing = paths[f"{PREFIX}/{{policy}}/keys"]["get"]["responses"]
    block = paths[f"{PREFIX}/{{policy}}/keys/{{key}}/block"]["put"]["responses"]

    assert "the right `read`" in listing["403"]["description"]
    assert "the right `limits`" in block["403"]["description"]
    assert "cross-site" in block["403"]["description"]
    assert "retry-after" in listing["429"]["headers"]
    assert {"200", "400", "401", "403", "404", "409", "413", "415", "422", "429", "503"} == set(
        block
    )


def test_document_below_a_mount_has_its_root_path() -> None:
    """The server URL of the document is the root path of a mounted API."""
    app = Starlette(routes=[Mount("/ops", routes=filled().routes)])

    description = TestClient(app, headers=HEADERS).get(f"/ops{PREFIX}/openapi.json").json()

    assert description["servers"] == [{"url": "/ops"}]


def statuses(operation: Any, mode: GenerationMode, app: Any, handles: dict[str, str]) -> set[int]:
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
        name=st.sampled_from([*handles, None]),
        is_known=st.booleans(),
    )
    def send(case: Any, name: str | None, is_known: bool) -> None:
        if name is not None and "policy" in case.path_parameters:
            case.path_parameters["policy"] = name
            if is_known and "key" in case.path_parameters:
                case.path_parameters["key"] = handles[name]
        if is_known and "If-Match" in (case.headers or {}):
            case.headers["If-Match"] = "*"
        response = case.call(app=app, headers=HEADERS)
        case.validate_response(response, checks=CHECKS)
        results.add(response.status_code)

    with suppress(Unsatisfiable):  # an operation may have no invalid requests
        send()
    return results


@pytest.mark.slow
def test_responses_conform_to_the_document() -> None:
    """All generated requests get a response that is described, and never 500."""
    api = filled()
    description = document(api)
    del description["security"]  # otherwise the token is what most invalid requests lack
    app: Any = Starlette(routes=api.routes)
    schema: Any = schemathesis.openapi.from_dict(description)
    schema.app = app
    results: dict[str, set[int]] = {}
    names = [policy.name for policy in api.policies]
    handles = {name: anyio.run(api.handle, "free", name) for name in names}

    for result in schema.get_all_operations():
        operation = result.ok()
        results[operation.label] = {
            status for mode in EXAMPLES for status in statuses(operation, mode, app, handles)
        }

    assert len(results) == 10
    # Generated text is hardly ever a rate.
    assert {label for label, codes in results.items() if not codes & {200, 204}} <= {
        f"PUT {PREFIX}/{{policy}}"
    }
