"""OpenAPI 3.1 descriptions of endpoints, generated from their operations."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from http import HTTPStatus
from typing import Any, Protocol

import msgspec
from msgspec import UNSET, Struct, UnsetType

from .parameters import Parameter
from .problems import PROBLEM_JSON

Json = dict[str, Any]

_REF = "#/components/schemas/{name}"
_COMMON_STATUSES = (401, 403, 422, 503)
_BODY_STATUSES = (400, 413, 415)
_CROSS_SITE = "Forbidden: the request is cross-site, or authorization failed"


class InvalidValue(Struct):
    """Location and message of one invalid value."""

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


class Operation(Protocol):
    """One method of one path, as far as it is described."""

    @property
    def method(self) -> str:
        """HTTP method; GET includes HEAD."""
        ...

    @property
    def path(self) -> str:
        """Path below the prefix."""
        ...

    @property
    def handle(self) -> Callable[..., object]:
        """Function that handles the request; its name is the id of the operation."""
        ...

    @property
    def summary(self) -> str:
        """One line."""
        ...

    @property
    def response_type(self) -> Any:
        """Type of the response body, or None."""
        ...

    @property
    def text_types(self) -> tuple[str, ...]:
        """Other media types of the response body."""
        ...

    @property
    def status(self) -> int:
        """Status of success."""
        ...

    @property
    def body_type(self) -> Any:
        """Type of the request body, or None."""
        ...

    @property
    def other_body(self) -> Mapping[str, Any] | None:
        """JSON Schema of another request body, or None."""
        ...

    @property
    def optional(self) -> bool:
        """True if the body may be omitted."""
        ...

    @property
    def query(self) -> tuple[Parameter, ...]:
        """Query parameters."""
        ...

    @property
    def conditions(self) -> Mapping[str, bool]:
        """Names of the request headers in use, and True if the header is required."""
        ...

    @property
    def headers(self) -> tuple[str, ...]:
        """Names of the response headers."""
        ...

    @property
    def error_statuses(self) -> tuple[int, ...]:
        """Other statuses, except those that every operation has."""
        ...


def describe(operations: Sequence[Operation], prefix: str, *, title: str, text: str) -> Json:
    """Return the OpenAPI document of `operations` below `prefix`, with a title and description."""
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
    errors = {*_COMMON_STATUSES, *operation.error_statuses, *(_BODY_STATUSES if changes else ())}
    problem = {PROBLEM_JSON: {"schema": schema_of[Problem]}}
    responses = {
        str(operation.status): success,
        **{str(status): _error(status, problem) for status in sorted(errors)},
    }
    if changes:
        responses["403"]["description"] = _CROSS_SITE
    return responses


def _error(status: int, problem: Json) -> Json:
    description: Json = {"description": HTTPStatus(status).phrase}
    return description if status == 304 else {**description, "content": problem}
