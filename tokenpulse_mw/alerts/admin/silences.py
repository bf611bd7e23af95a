"""Operations on silences."""

from __future__ import annotations

from collections.abc import Iterator
from urllib.parse import quote

from ...web.problems import Error, ProblemError, invalid, not_found
from ..silences import check_matchers
from ..store.records import Matcher
from . import schemas
from .operation import AdminRequest, AdminResponse, Operation
from .serializers import silence


async def list_silences(request: AdminRequest) -> AdminResponse:
    """Return the pending and active silences."""
    silences = request.engine.controls.silences
    return AdminResponse(schemas.Silences([silence(record) for record in silences]))


async def get_silence(request: AdminRequest) -> AdminResponse:
    """Return a pending or active silence."""
    silence_id = request.http.path_params["id"]
    for record in request.engine.controls.silences:
        if record.id == silence_id:
            return AdminResponse(silence(record))
    raise not_found("silence")


async def create_silence(request: AdminRequest) -> AdminResponse:
    """Create a silence."""
    body: schemas.SilenceBody = request.body
    matchers = [
        Matcher(matcher.name, matcher.value, matcher.is_regex, matcher.is_equal)
        for matcher in body.matchers
    ]
    controls = request.engine.controls
    now = controls.now
    starts_at = now if body.starts_at is None else body.starts_at.timestamp()
    ends_at = starts_at + (body.duration or 0)
    if body.ends_at is not None:
        ends_at = body.ends_at.timestamp()
    errors = [*_matcher_errors(matchers), *_time_errors(body, starts_at, ends_at, now)]
    if errors:
        raise invalid(*errors)
    try:
        record = await controls.silence(
            *matchers, starts_at=starts_at, ends_at=ends_at, by=request.author, comment=body.comment
        )
    except ValueError as error:  # too many silences
        raise ProblemError(409, f"{error}.") from None
    location = f"{request.http.url.path}/{record.id}"
    return AdminResponse(silence(record), 201, {"location": quote(location, safe="/%")})


async def delete_silence(request: AdminRequest) -> AdminResponse:
    """Expire a silence."""
    if not await request.engine.controls.unsilence(request.http.path_params["id"]):
        raise not_found("silence")
    return AdminResponse(status=204)


def _matcher_errors(matchers: list[Matcher]) -> Iterator[Error]:
    for number, matcher in enumerate(matchers):
        try:
            check_matchers([matcher])
        except ValueError as error:
            yield ("matchers", number), str(error)


def _time_errors(
    body: schemas.SilenceBody, starts_at: float, ends_at: float, now: float
) -> Iterator[Error]:
    if (body.ends_at is None) == (body.duration is None):
        yield ("ends_at",), "send either ends_at or duration"
    elif ends_at <= max(starts_at, now):
        name = "ends_at" if body.duration is None else "duration"
        yield (name,), "the end must be in the future and after the start"


OPERATIONS = (
    Operation(
        method="GET",
        path="/silences",
        handle=list_silences,
        summary="List pending and active silences by start time",
        response_type=schemas.Silences,
    ),
    Operation(
        method="POST",
        right="ack",
        path="/silences",
        handle=create_silence,
        summary="Create a silence for alerts that match all matchers",
        body_type=schemas.SilenceBody,
        response_type=schemas.Silence,
        status=201,
        headers=("Location",),
        error_statuses=(409,),
    ),
    Operation(
        method="GET",
        path="/silences/{id}",
        handle=get_silence,
        summary="Return a pending or active silence",
        response_type=schemas.Silence,
        error_statuses=(404,),
    ),
    Operation(
        method="DELETE",
        right="ack",
        path="/silences/{id}",
        handle=delete_silence,
        summary="Expire a silence",
        status=204,
        error_statuses=(404,),
    ),
)
