"""What a request is told that is not done, as problem details (RFC 9457)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from http import HTTPStatus
from typing import Any

from starlette.responses import JSONResponse, Response

Loc = tuple[str | int, ...]


Error = tuple[Loc, str]


PROBLEM_JSON = "application/problem+json"


_MAX_ERRORS = 100


_MAX_NAME_CHARS = 100  # characters, of what a client has made up


_MAX_MESSAGE_CHARS = 250


class ProblemError(Exception):
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


def invalid(*errors: Error) -> ProblemError:
    """422: what was asked can be read, and is wrong."""
    return ProblemError(422, "Nothing was done: see errors.", errors=errors)


def not_found(what: str) -> ProblemError:
    """404: there is no such thing."""
    return ProblemError(404, f"There is no {what} of this id.")


def problem_response(refused: ProblemError) -> Response:
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
            {"loc": [_part(each) for each in loc], "msg": _truncate(message, _MAX_MESSAGE_CHARS)}
            for loc, message in refused.errors[:_MAX_ERRORS]
        ]
    headers = {"cache-control": "no-store", **refused.headers}
    return JSONResponse(body, refused.status, headers, media_type=PROBLEM_JSON)


def _part(part: str | int) -> str | int:
    return _truncate(part, _MAX_NAME_CHARS) if isinstance(part, str) else part


def _truncate(text: str, longest: int) -> str:
    short = text if len(text) <= longest else f"{text[: longest - 3]}..."
    return short.encode("utf-8", "replace").decode()  # which half a surrogate pair is not
