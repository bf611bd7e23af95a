"""What a request wants the settings to be, and what it is told when that cannot be."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import aclosing
from http import HTTPStatus
from typing import Any

import msgspec
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response

from .levels import LEVELS

_LARGEST_BODY = 64 * 1024


class RefusedError(Exception):
    """A request is not done; `errors` say what is wrong with its body, and where."""

    def __init__(
        self,
        status: int,
        detail: str,
        headers: Mapping[str, str] | None = None,
        *,
        errors: Sequence[Mapping[str, str]] = (),
    ) -> None:
        super().__init__(detail)
        self.status = status
        self.detail = detail
        self.headers = headers or {}
        self.errors = errors


def problem(refused: RefusedError) -> Response:
    """Problem details (RFC 9457)."""
    body: dict[str, Any] = {
        "title": HTTPStatus(refused.status).phrase,
        "status": refused.status,
        "detail": refused.detail,
    }
    if refused.errors:
        body["errors"] = refused.errors
    headers = {"cache-control": "no-store", **refused.headers}
    return JSONResponse(body, refused.status, headers, media_type="application/problem+json")


async def wanted_settings(request: Request) -> dict[str, str]:
    """The settings in the body.

    Raises:
        RefusedError: The body is none that can be read, or has something else in it.
    """
    content_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if content_type != "application/json":
        wanted = {"accept": "application/json"}
        raise RefusedError(415, "The body must be application/json.", wanted)
    try:
        given: Any = msgspec.json.decode(await _body(request))
    except (ValueError, RecursionError):
        raise RefusedError(400, "The body is not JSON.") from None
    errors = list(_errors(given))
    if errors:
        raise RefusedError(422, "The settings were not changed.", errors=errors)
    return {"log_level": given["log_level"]}


async def _body(request: Request) -> bytes:
    body = b""
    try:
        async with aclosing(request.stream()) as chunks:
            async for chunk in chunks:
                body += chunk
                if len(body) > _LARGEST_BODY:
                    raise RefusedError(413, f"The body may have {_LARGEST_BODY} bytes.")
    except ClientDisconnect:
        return b""  # whatever is answered, nobody reads it
    return body


def _errors(given: Any) -> Iterator[dict[str, str]]:
    """What is wrong with `given`, each with a pointer to it (RFC 6901)."""
    if not isinstance(given, dict):
        yield {"pointer": "#", "detail": 'expected an object such as {"log_level": "INFO"}'}
        return
    for name in given.keys() - {"log_level"}:
        pointer = name.replace("~", "~0").replace("/", "~1")
        yield {"pointer": f"#/{pointer}", "detail": "there is no such setting"}
    if "log_level" not in given:
        yield {"pointer": "#/log_level", "detail": "is missing"}
    elif given["log_level"] not in list(LEVELS):  # a list, as it may be anything that JSON has
        yield {"pointer": "#/log_level", "detail": f"expected one of {', '.join(LEVELS)}"}
