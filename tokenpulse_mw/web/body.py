"""Bounded, validated JSON bodies of requests."""

from __future__ import annotations

import re
from contextlib import aclosing
from typing import Any

import msgspec
from starlette.requests import ClientDisconnect, Request

from .problems import Error, Loc, ProblemError, invalid

MAX_BODY_BYTES = 64 * 1024

_JSON = "application/json"
_LOCATION = re.compile(r"\.([^.\[\]`]+)|\[(\d+)\]")
_FIELD = re.compile(r"Object (contains unknown|missing required) field `(.*)`", re.DOTALL)


async def read_body(request: Request, body_type: Any, *, optional: bool) -> Any:
    """Return the body decoded as `body_type`, or its default if `optional` and empty.

    Only `application/json` is accepted, which a form of another site cannot send, even if the
    operation ignores the body (`body_type` is None). The guard rejects cross-site requests without
    a body.

    Raises:
        ProblemError: The body is too large, is not JSON, or does not match `body_type`.
    """
    content_type = request.headers.get("content-type")
    if content_type is not None and content_type.partition(";")[0].strip().lower() != _JSON:
        raise _not_json()
    body = await _read(request)
    if body and content_type is None:
        raise _not_json()
    if body_type is None:
        return None
    return body_type() if optional and not body else _decode(body, body_type)


def _decode(body: bytes, body_type: Any) -> Any:
    try:
        return msgspec.json.decode(body, type=body_type)
    except msgspec.ValidationError as error:
        raise invalid(_locate(str(error))) from None
    except (ValueError, RecursionError):
        raise ProblemError(400, "Invalid JSON: send one JSON document as the body.") from None


async def _read(request: Request) -> bytes:
    """Return the body; at most 64 KiB are buffered."""
    body = bytearray()
    try:
        async with aclosing(request.stream()) as chunks:
            async for chunk in chunks:
                body += chunk
                if len(body) > MAX_BODY_BYTES:
                    raise ProblemError(413, f"Body too large: send at most {MAX_BODY_BYTES} bytes.")
    except ClientDisconnect:
        raise ProblemError(400, "Body incomplete: the client disconnected.") from None
    return bytes(body)


def _locate(error: str) -> Error:
    """Return the location and message of a validation error of msgspec."""
    message, _, path = error.rpartition(" - at `$")
    location: Loc = tuple(name or int(index) for name, index in _LOCATION.findall(path))
    field = _FIELD.match(message or error)
    if field is None:
        return location, message or error
    return (*location, field[2]), "is missing" if field[1][0] == "m" else "is not a known field"


def _not_json() -> ProblemError:
    return ProblemError(
        415,
        "Unsupported media type: send JSON with content-type: application/json.",
        headers={"accept": _JSON},
    )
