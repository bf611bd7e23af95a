"""Silences: what is told to nobody for a time, because somebody knows."""

from __future__ import annotations

from collections.abc import Iterator
from urllib.parse import quote

from ...web.problems import Error, ProblemError, invalid, not_found
from ..silences import check_matchers
from ..store.records import Matcher
from . import schemas
from .operation import AdminRequest, AdminResponse, Operation
from .serializers import silence


async def list_silences(asked: AdminRequest) -> AdminResponse:
    """Silences that have not ended."""
    return AdminResponse(
        schemas.Silences([silence(each) for each in asked.engine.controls.silences])
    )


async def get_silence(asked: AdminRequest) -> AdminResponse:
    """One silence that has not ended."""
    wanted = asked.request.path_params["id"]
    for each in asked.engine.controls.silences:
        if each.id == wanted:
            return AdminResponse(silence(each))
    raise not_found("silence")


async def create_silence(asked: AdminRequest) -> AdminResponse:
    """Tell nobody of some alerts for a time."""
    body: schemas.SilenceBody = asked.body
    matchers = [
        Matcher(each.name, each.value, each.is_regex, each.is_equal) for each in body.matchers
    ]
    now = asked.engine.controls.now
    starts_at = now if body.starts_at is None else body.starts_at.timestamp()
    ends_at = starts_at + (body.duration or 0)
    if body.ends_at is not None:
        ends_at = body.ends_at.timestamp()
    errors = [
        *_wrong_matchers(matchers),
        *_wrong_times(body, starts_at, ends_at, now),
    ]
    if errors:
        raise invalid(*errors)
    try:
        made = await asked.engine.controls.silence(
            *matchers, starts_at=starts_at, ends_at=ends_at, by=asked.by, comment=body.comment
        )
    except ValueError as error:  # there are too many
        raise ProblemError(409, f"{error}.") from None
    place = f"{asked.request.url.path}/{made.id}"
    return AdminResponse(silence(made), 201, {"location": quote(place, safe="/%")})


async def delete_silence(asked: AdminRequest) -> AdminResponse:
    """End a silence."""
    if not await asked.engine.controls.unsilence(asked.request.path_params["id"]):
        raise not_found("silence")
    return AdminResponse(status=204)


def _wrong_matchers(matchers: list[Matcher]) -> Iterator[Error]:
    for number, matcher in enumerate(matchers):
        try:
            check_matchers([matcher])
        except ValueError as error:
            yield ("matchers", number), str(error)


def _wrong_times(
    body: schemas.SilenceBody, starts_at: float, ends_at: float, now: float
) -> Iterator[Error]:
    if (body.ends_at is None) == (body.duration is None):
        yield ("ends_at",), "give either ends_at, or duration in seconds"
    elif ends_at <= max(starts_at, now):
        yield (
            ("ends_at" if body.duration is None else "duration",),
            "must end in the future, and after it starts",
        )


OPERATIONS = (
    Operation(
        method="GET",
        path="/silences",
        handle=list_silences,
        summary="Silences that have not ended, by their start",
        response_type=schemas.Silences,
    ),
    Operation(
        method="POST",
        path="/silences",
        handle=create_silence,
        summary="Tell nobody of alerts that all matchers pick, for a time",
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
        summary="One silence that has not ended",
        response_type=schemas.Silence,
        error_statuses=(404,),
    ),
    Operation(
        method="DELETE",
        path="/silences/{id}",
        handle=delete_silence,
        summary="End a silence",
        status=204,
        error_statuses=(404,),
    ),
)
