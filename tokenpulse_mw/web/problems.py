"""Problem details (RFC 9457) of rejected requests."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from http.client import responses
from typing import Any

from starlette.responses import JSONResponse, Response

from .text import replace_surrogates

Loc = tuple[str | int, ...]
Error = tuple[Loc, str]

PROBLEM_JSON = "application/problem+json"

_MAX_ERRORS = 100
_MAX_NAME_CHARS = 100  # of a field name, which the client chooses
_MAX_MESSAGE_CHARS = 250


class ProblemError(Exception):
    """A rejected request.

    Args:
        status: Status code of the response.
        detail: One sentence for users.
        headers: Headers of the response.
        errors: Location and message of each invalid value.
        more: Additional members of the response.
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
    """Return a 422 for a request that is well-formed but invalid."""
    return ProblemError(422, "Validation failed; nothing was changed. See `errors`.", errors=errors)


def not_found(what: str) -> ProblemError:
    """Return a 404 for an unknown id."""
    return ProblemError(404, f"Not found: no {what} has this id.")


def problem_response(problem: ProblemError) -> Response:
    """Return the response to a rejected request; values of the request are truncated."""
    body = {
        "type": "about:blank",
        "title": responses.get(problem.status, "Error"),
        "status": problem.status,
        "detail": replace_surrogates(problem.detail),
        **problem.more,
    }
    if problem.errors:
        body["errors"] = [
            {"loc": [_part(part) for part in loc], "msg": _truncate(message, _MAX_MESSAGE_CHARS)}
            for loc, message in problem.errors[:_MAX_ERRORS]
        ]
    headers = {"cache-control": "no-store", **problem.headers}
    return JSONResponse(body, problem.status, headers, media_type=PROBLEM_JSON)


def _part(part: str | int) -> str | int:
    return _truncate(part, _MAX_NAME_CHARS) if isinstance(part, str) else part


def _truncate(text: str, max_chars: int) -> str:
    return replace_surrogates(text if len(text) <= max_chars else f"{text[: max_chars - 3]}...")
