"""What a request is told that is not done, as problem details (RFC 9457)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from http import HTTPStatus
from typing import Any

from starlette.responses import JSONResponse, Response

Loc = tuple[str | int, ...]
Error = tuple[Loc, str]

PROBLEM_JSON = "application/problem+json"

_MOST_ERRORS = 100
_LONGEST_NAME = 100  # characters, of what a client has made up
_LONGEST_MESSAGE = 250


class RefusedError(Exception):
    """A request is not done.

    Args:
        status: Of the answer.
        detail: One sentence for people.
        headers: Of the answer.
        errors: For each wrong value where it stands, and what is wrong with it.
        more: Members that the answer has besides.
    """

    def __init__(
        self,
        status: int,
        detail: str,
        *,
        headers: Mapping[str, str] | None = None,
        errors: Iterable[Error] = (),
        more: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(detail)
        self.status = status
        self.detail = detail
        self.headers = dict(headers or {})
        self.errors = list(errors)
        self.more = dict(more or {})


def invalid(*errors: Error) -> RefusedError:
    """422: what was asked can be read, and is wrong."""
    return RefusedError(422, "Nothing was done: see errors.", errors=errors)


def not_found(what: str) -> RefusedError:
    """404: there is no such thing."""
    return RefusedError(404, f"There is no {what} of this id.")


def as_response(refused: RefusedError) -> Response:
    """The answer; of what the request holds it repeats little."""
    body = {
        "type": "about:blank",
        "title": HTTPStatus(refused.status).phrase,
        "status": refused.status,
        "detail": refused.detail,
        **refused.more,
    }
    if refused.errors:
        body["errors"] = [
            {"loc": [_part(each) for each in loc], "msg": _short(message, _LONGEST_MESSAGE)}
            for loc, message in refused.errors[:_MOST_ERRORS]
        ]
    headers = {"cache-control": "no-store", **refused.headers}
    return JSONResponse(body, refused.status, headers, media_type=PROBLEM_JSON)


def _part(part: str | int) -> str | int:
    return _short(part, _LONGEST_NAME) if isinstance(part, str) else part


def _short(text: str, longest: int) -> str:
    short = text if len(text) <= longest else f"{text[: longest - 3]}..."
    return short.encode("utf-8", "replace").decode()  # which half a surrogate pair is not
