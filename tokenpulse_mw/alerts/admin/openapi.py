"""The description of the API (OpenAPI 3.1), made from what the router and the checks go by."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from http import HTTPStatus
from typing import Any

import msgspec

from ...web.problems import PROBLEM_JSON
from . import schemas
from .operation import Operation

Json = dict[str, Any]

_REF = "#/components/schemas/{name}"
_ALWAYS = (401, 403, 422, 503)
_WITH_BODY = (400, 413, 415)


def describe(operations: Sequence[Operation], prefix: str) -> Json:
    """All there is to know to use the API."""
    types = {
        each for op in operations for each in (op.response_type, op.body_type) if each is not None
    }
    ordered = sorted(types | {schemas.Problem}, key=lambda each: str(each.__name__))
    refs, components = msgspec.json.schema_components(ordered, ref_template=_REF)
    known = dict(zip(ordered, refs, strict=True))
    paths: dict[str, Json] = {}
    for each in operations:
        paths.setdefault(prefix + each.path, {})[each.method.lower()] = _operation(each, known)
    return {
        "openapi": "3.1.0",
        "info": {"title": "Alerts", "version": "1", "description": _ABOUT},
        "security": [{"bearer": []}],
        "paths": paths,
        "components": {
            "schemas": components,
            "securitySchemes": {"bearer": {"type": "http", "scheme": "bearer"}},
        },
    }


def _operation(operation: Operation, known: dict[Any, Json]) -> Json:
    described: Json = {
        "operationId": getattr(operation.handle, "__name__", operation.path),
        "summary": operation.summary,
        "parameters": list(_parameters(operation)),
        "responses": _responses(operation, known),
    }
    if operation.body_type is not None:
        content = {"application/json": {"schema": known[operation.body_type]}}
        described["requestBody"] = {"required": not operation.optional, "content": content}
    return described


def _parameters(operation: Operation) -> Iterator[Json]:
    text: Json = {"type": "string"}
    for name in re.findall(r"{(\w+)}", operation.path):
        yield {"name": name, "in": "path", "required": True, "schema": text}
    for each in operation.query:
        yield {
            "name": each.name,
            "in": "query",
            "description": each.about,
            "schema": each.schema,
        }
    for name, required in operation.conditions.items():
        yield {"name": name, "in": "header", "required": required, "schema": text}


def _responses(operation: Operation, known: dict[Any, Json]) -> Json:
    fine: Json = {"description": HTTPStatus(operation.status).phrase}
    if operation.headers:
        fine["headers"] = {name: {"schema": {"type": "string"}} for name in operation.headers}
    if operation.response_type is not None:
        fine["content"] = {"application/json": {"schema": known[operation.response_type]}}
    changes = operation.method != "GET"
    refusals = {*_ALWAYS, *operation.error_statuses, *(_WITH_BODY if changes else ())}
    problem = {PROBLEM_JSON: {"schema": known[schemas.Problem]}}
    responses = {
        str(operation.status): fine,
        **{str(status): _refusal(status, problem) for status in sorted(refusals)},
    }
    if changes:
        responses["403"]["description"] = _CROSS_SITE
    return responses


def _refusal(status: int, problem: Json) -> Json:
    described: Json = {"description": HTTPStatus(status).phrase}
    return described if status == 304 else {**described, "content": problem}


_CROSS_SITE = "Forbidden: a cross-site request, or the authorization cannot be verified"
_ABOUT = (
    "Times are RFC 3339 in UTC, and names are in snake_case. Whatever is refused is answered with "
    "problem details (RFC 9457)."
)
