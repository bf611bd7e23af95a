"""OpenAPI 3.1 description of an API for operators, generated from its operations."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from http import HTTPStatus
from typing import Any

import msgspec
from msgspec import UNSET, Struct, UnsetType

from .operation import ApiRequest, ApiResponse, Operation
from .problems import PROBLEM_JSON

Json = dict[str, Any]

_REF = "#/components/schemas/{name}"
_COMMON_STATUSES = (401, 403, 422, 429, 503)
_BODY_STATUSES = (400, 413, 415)
_FORBIDDEN = "Forbidden: the caller lacks the right `{right}`"
_CROSS_SITE = "Forbidden: the request is cross-site, or the caller lacks the right `{right}`"
_TOO_MANY = "Too Many Requests: too many wrong tokens from this address"


class InvalidValue(Struct):
    """Location of an invalid value, and the error message."""

    loc: list[str | int]
    msg: str


class Problem(Struct, kw_only=True):
    """Problem details (RFC 9457)."""

    type: str
    title: str
    status: int
    detail: str
    errors: list[InvalidValue] | UnsetType = UNSET
    version: int | UnsetType | None = UNSET


def openapi_operation(
    operations: Sequence[Operation], prefix: str, *, title: str, text: str
) -> Operation:
    """Return `GET /openapi.json`, the OpenAPI document of `operations`.

    Args:
        operations: Operations below `prefix`.
        prefix: Path of the API.
        title: Title of the API.
        text: Description of the API.
    """
    document = _document(operations, prefix, title=title, text=text)

    async def get_openapi(request: ApiRequest) -> ApiResponse:
        root = request.http.scope.get("root_path")
        return ApiResponse({**document, "servers": [{"url": root}]} if root else document)

    return Operation(
        method="GET",
        path="/openapi.json",
        handle=get_openapi,
        summary="Return the OpenAPI description of this API",
    )


def _document(operations: Sequence[Operation], prefix: str, *, title: str, text: str) -> Json:
    types = {
        body_type
        for operation in operations
        for body_type in (operation.response_type, operation.body_type)
        if body_type is not None
    }
    ordered = sorted(types | {Problem}, key=lambda body_type: str(body_type.__name__))
    refs, components = msgspec.json.schema_components(ordered, ref_template=_REF)
    schema_of = dict(zip(ordered, refs, strict=True))
    paths: dict[str, Json] = {}
    for operation in operations:
        path = paths.setdefault(prefix + operation.path, {})
        path[operation.method.lower()] = _operation(operation, schema_of)
    return {
        "openapi": "3.1.0",
        "info": {"title": title, "version": "1", "description": text},
        "security": [{"bearer": []}],
        "paths": paths,
        "components": {
            "schemas": components,
            "securitySchemes": {"bearer": {"type": "http", "scheme": "bearer"}},
        },
    }


def _operation(operation: Operation, schema_of: dict[Any, Json]) -> Json:
    description: Json = {
        "operationId": getattr(operation.handle, "__name__", operation.path),
        "summary": operation.summary,
        "parameters": list(_parameters(operation)),
        "responses": _responses(operation, schema_of),
    }
    if operation.body_type is not None:
        schema = schema_of[operation.body_type]
        if operation.other_body is not None:
            schema = {"anyOf": [schema, operation.other_body]}
        content = {"application/json": {"schema": schema}}
        description["requestBody"] = {"required": not operation.optional, "content": content}
    return description


def _parameters(operation: Operation) -> Iterator[Json]:
    string: Json = {"type": "string"}
    for name in re.findall(r"{(\w+)}", operation.path):
        yield {"name": name, "in": "path", "required": True, "schema": string}
    for parameter in operation.query:
        yield {
            "name": parameter.name,
            "in": "query",
            "description": parameter.description,
            "schema": parameter.schema,
        }
    for name, required in operation.conditions.items():
        yield {"name": name, "in": "header", "required": required, "schema": string}


def _responses(operation: Operation, schema_of: dict[Any, Json]) -> Json:
    success: Json = {"description": HTTPStatus(operation.status).phrase}
    if operation.headers:
        success["headers"] = {name: {"schema": {"type": "string"}} for name in operation.headers}
    if operation.response_type is not None:
        success["content"] = {
            "application/json": {"schema": schema_of[operation.response_type]},
            **{name: {"schema": {"type": "string"}} for name in operation.text_types},
        }
    changes = operation.method != "GET"
    errors = {*_COMMON_STATUSES, *operation.error_statuses}
    if changes:
        errors.update(_BODY_STATUSES)
    problem = {PROBLEM_JSON: {"schema": schema_of[Problem]}}
    responses = {
        str(operation.status): success,
        **{str(status): _error(status, problem) for status in sorted(errors)},
    }
    forbidden = _CROSS_SITE if changes else _FORBIDDEN
    responses["403"]["description"] = forbidden.format(right=operation.right)
    responses["429"] = {
        **_error(429, problem),
        "description": _TOO_MANY,
        "headers": {"retry-after": {"schema": {"type": "integer"}}},
    }
    return responses


def _error(status: int, problem: Json) -> Json:
    description: Json = {"description": HTTPStatus(status).phrase}
    return description if status == 304 else {**description, "content": problem}
