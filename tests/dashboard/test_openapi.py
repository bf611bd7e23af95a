"""OpenAPI description of the endpoints, and conformance to it."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import anyio
import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis.errors import Unsatisfiable
from schemathesis import GenerationMode, checks

from tokenpulse_mw.dashboard import Streak, schemas

from .board import START, TOKEN, Board, exchange
from .test_endpoints import request
from .test_state import tenant

CHECKS = [
    checks.not_a_server_error,
    checks.status_code_conformance,
    checks.content_type_conformance,
    checks.response_schema_conformance,
]
HEADERS = {"authorization": f"Bearer {TOKEN}"}


def filled() -> Board:
    """Return a dashboard that has something of everything."""
    board = Board(
        tenants=[tenant(f"t{number}") for number in range(5)],
        requests=[request(1, 1.0)],
        active={"claude": True},
        checks=[schemas.Check("db", "warn", "slow")],
    )
    board.facts.streaks = [Streak("apikey", "k1", "claude", "", 1, START)]
    board.facts.upstream = {"claude": schemas.Upstream(tokens_remaining=1.0)}

    async def fill() -> None:
        for _ in range(3):
            await board.step(exchange(), exchange(status=503, fault="provider"))

    anyio.run(fill)
    board.dashboard.on_alert("fired", "Provider down", START)
    return board


def statuses_of(operation: Any, mode: GenerationMode, app: Any) -> set[int]:
    """Return the statuses of generated requests; check that each response is as described."""
    statuses = set[int]()

    @settings(
        max_examples=25, database=None, derandomize=True, suppress_health_check=list(HealthCheck)
    )
    @given(case=operation.as_strategy(generation_mode=mode))
    def send(case: Any) -> None:
        response = case.call(app=app, headers=HEADERS)
        statuses.add(response.status_code)
        case.validate_response(response, checks=CHECKS)

    with suppress(Unsatisfiable):  # an operation may have no invalid requests
        send()
    return statuses


@pytest.mark.slow
@pytest.mark.parametrize("mode", [GenerationMode.POSITIVE, GenerationMode.NEGATIVE])
def test_responses_conform_to_the_document(mode: GenerationMode) -> None:
    """Each generated request gets a documented response, and none is a 500."""
    board = filled()
    document = board.get("/openapi.json")
    del document["security"]  # otherwise the token is what most invalid requests lack
    schema: Any = schemathesis.openapi.from_dict(document)
    schema.app = app = board.client.app
    statuses: dict[str, set[int]] = {}

    for result in schema.get_all_operations():
        operation = result.ok()
        statuses[operation.path] = statuses_of(operation, mode, app)

    assert len(statuses) == 5
    if mode is GenerationMode.POSITIVE:
        assert all(200 in codes for codes in statuses.values())
