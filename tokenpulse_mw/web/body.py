"""The body of a request: bounded, JSON, and what an operation takes."""

from __future__ import annotations

import re
from contextlib import aclosing
from typing import Any

import msgspec
from starlette.requests import ClientDisconnect, Request

from .problems import Error, Loc, ProblemError, invalid

MAX_BODY_BYTES = 64 * 1024  # bytes


_JSON = "application/json"


_WHERE = re.compile(r"\.([^.\[\]`]+)|\[(\d+)\]")


_FIELD = re.compile(r"Object (contains unknown|missing required) field `(.*)`", re.DOTALL)


async def read_body(request: Request, body_type: Any, *, optional: bool) -> Any:
    """Return the body decoded as `body_type`, or its default if `optional` and empty.

    Only `application/json` is accepted, also if the operation does not use the body (`body_type` is
    None): a form of another site cannot send it. The guard refuses cross-site requests without a
    body.

    Raises:
        RefusedError: The body is too large, is not JSON, or does not match `body_type`.
    """
    kind = request.headers.get("content-type")
    if kind is not None and kind.partition(";")[0].strip().lower() != _JSON:
        raise _not_json()
    body = await _read(request)
    if body and kind is None:
        raise _not_json()
    if body_type is None:
        return None
    return body_type() if optional and not body else _decoded(body, body_type)


def _decoded(body: bytes, takes: Any) -> Any:
    try:
        return msgspec.json.decode(body, type=takes)
    except msgspec.ValidationError as error:
        raise invalid(_locate(str(error))) from None
    except (ValueError, RecursionError):
        raise ProblemError(400, "The body is not JSON.") from None


async def _read(request: Request) -> bytes:
    """The body, of which no more than 64 KiB are ever held."""
    body = bytearray()
    try:
        async with aclosing(request.stream()) as chunks:
            async for chunk in chunks:
                body += chunk
                if len(body) > MAX_BODY_BYTES:
                    raise ProblemError(413, f"The body may have {MAX_BODY_BYTES} bytes.")
    except ClientDisconnect:
        raise ProblemError(400, "The body is not complete.") from None
    return bytes(body)


def _locate(said: str) -> Error:
    """Where a wrong value stands, and what is wrong with it, from what msgspec says."""
    message, _, path = said.rpartition(" - at `$")
    where: Loc = tuple(name or int(index) for name, index in _WHERE.findall(path))
    field = _FIELD.match(message or said)
    if field is None:
        return where, message or said
    return (*where, field[2]), "is missing" if field[1][0] == "m" else "there is no such field"


def _not_json() -> ProblemError:
    return ProblemError(
        415,
        "The body must be JSON: send content-type: application/json.",
        headers={"accept": _JSON},
    )
