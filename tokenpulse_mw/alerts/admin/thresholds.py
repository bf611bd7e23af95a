"""Operations on thresholds."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import suppress
from types import EllipsisType
from typing import Any, NamedTuple

import msgspec
from msgspec import NODEFAULT, Raw, Struct

from ...web.etag import Tags, if_match, parse_tags, quoted
from ...web.parameters import integer
from ...web.problems import Error, ProblemError, invalid
from ..engine import AlertEngine
from ..store import Conflict
from ..thresholds import InvalidThresholds, Thresholds
from . import schemas
from .operation import AdminRequest, AdminResponse, Operation
from .serializers import to_datetime

Body = dict[str, Raw]

_MAX_NUMBER_CHARS = 100  # of a number in JSON
_VERSION = re.compile(r"[0-9]{1,15}")


async def get_thresholds(request: AdminRequest) -> AdminResponse:
    """Return the current thresholds, or 304 if `If-None-Match` has their ETag."""
    response = _current(request.engine)
    header = ",".join(request.http.headers.getlist("if-none-match"))
    try:
        unchanged = parse_tags(header).match_weakly(str(_version(request.engine)))
    except ValueError:
        unchanged = False
    return AdminResponse(status=304, headers=response.headers) if unchanged else response


async def put_thresholds(request: AdminRequest) -> AdminResponse:
    """Set all thresholds; or some, if the body has them as its fields and no version is required.

    Clients of the seed send the second form.
    """
    if "if-match" in request.http.headers or "thresholds" in request.body or not request.body:
        return await _set(request, complete=True)
    try:
        return await _set_fields(request, expected=_version(request.engine) or None)
    except ProblemError as problem:
        if problem.status != 412:
            raise
        # Another process has changed other thresholds, which are current here now.
        return await _set_fields(request, expected=...)


async def patch_thresholds(request: AdminRequest) -> AdminResponse:
    """Set some thresholds."""
    return await _set(request, complete=False)


async def get_thresholds_history(request: AdminRequest) -> AdminResponse:
    """Return the versions of the thresholds."""
    versions = [
        schemas.ThresholdsVersion(
            version.version, to_datetime(version.at), version.by, version.values
        )
        for version in await request.engine.store.history(request.query["limit"])
    ]
    return AdminResponse(schemas.ThresholdsHistory(versions))


async def _set(request: AdminRequest, *, complete: bool) -> AdminResponse:
    engine = request.engine
    tags = if_match(request.http)
    body_type = schemas.AllThresholdsBody if complete else schemas.SomeThresholdsBody
    change = parse_thresholds(engine.thresholds, request.body, body_type, complete=complete)
    version = _base_version(tags, _version(engine), complete=complete)
    return await _store(request, change, expected=... if tags.any else version or None)


async def _set_fields(
    request: AdminRequest, *, expected: int | EllipsisType | None
) -> AdminResponse:
    thresholds, problems = _changed(request.engine.thresholds, request.body, complete=False)
    if problems:
        raise invalid(*(_error((name,), problem) for name, problem in problems))
    return await _store(request, Change(thresholds, ""), expected=expected)


async def _store(
    request: AdminRequest, change: Change, *, expected: int | EllipsisType | None
) -> AdminResponse:
    by, controls = request.author_or(change.by), request.engine.controls
    try:
        await controls.set_thresholds(change.thresholds, by=by, expected=expected)
    except Conflict as conflict:
        raise _precondition_failed(conflict.current or 0) from None
    return _current(request.engine)


def _base_version(tags: Tags, version: int, *, complete: bool) -> int:
    """Return the version that the change replaces."""
    if tags.match(str(version)):
        return version
    if complete and tags.strong and _VERSION.fullmatch(tags.strong[0]):
        # The store may have a version that is invalid here, and so was not applied.
        return int(tags.strong[0])
    raise _precondition_failed(version)


def _precondition_failed(version: int) -> ProblemError:
    return ProblemError(
        412,
        "Precondition failed: the thresholds have changed; read them again.",
        headers={"etag": quoted(version)},
        more={"version": version or None},
    )


def _version(engine: AlertEngine) -> int:
    version = engine.controls.version
    return 0 if version is None else version.version


def _current(engine: AlertEngine) -> AdminResponse:
    version, values = engine.controls.version, engine.thresholds.as_dict()
    body = (
        schemas.CurrentThresholds(None, None, None, values)
        if version is None
        else schemas.CurrentThresholds(version.version, to_datetime(version.at), version.by, values)
    )
    return AdminResponse(body, headers={"etag": quoted(_version(engine))})


_CHANGE: dict[str, Any] = {
    "path": "/thresholds",
    "raw_type": Body,
    "response_type": schemas.CurrentThresholds,
    "headers": ("ETag",),
    "error_statuses": (412, 428),
}

OPERATIONS = (
    Operation(
        method="GET",
        path="/thresholds",
        handle=get_thresholds,
        summary="Return the current thresholds",
        response_type=schemas.CurrentThresholds,
        conditions={"If-None-Match": False},
        headers=("ETag",),
        error_statuses=(304,),
    ),
    Operation(
        method="PUT",
        right="thresholds",
        handle=put_thresholds,
        summary="Set all thresholds with If-Match, or those that are fields of the body without it",
        body_type=schemas.AllThresholdsBody,
        other_body=schemas.FIELDS,
        conditions={"If-Match": False},
        **_CHANGE,
    ),
    Operation(
        method="PATCH",
        right="thresholds",
        handle=patch_thresholds,
        summary="Set some thresholds and keep the others",
        body_type=schemas.SomeThresholdsBody,
        conditions={"If-Match": True},
        **_CHANGE,
    ),
    Operation(
        method="GET",
        path="/thresholds/history",
        handle=get_thresholds_history,
        summary="List versions of the thresholds, newest first",
        response_type=schemas.ThresholdsHistory,
        query=(integer("limit", "Maximum number of versions", maximum=1000, default=100),),
    ),
)


class Change(NamedTuple):
    """Changed thresholds, and the author in the body."""

    thresholds: Thresholds
    by: str


def parse_thresholds(
    thresholds: Thresholds, body: Body, body_type: type[Struct], *, complete: bool = False
) -> Change:
    """Return a copy of `thresholds` with the changes of a request.

    Args:
        thresholds: The current thresholds.
        body: Body of the request.
        body_type: Type that the body must match.
        complete: Require all thresholds.

    Raises:
        ProblemError: Fields or thresholds are invalid, unknown or missing; it lists all of them.
    """
    errors = list(_field_errors(body, body_type))
    if "thresholds" in body:
        try:
            values = msgspec.json.decode(body["thresholds"], type=Body)
        except ValueError:  # includes invalid UTF-8
            raise invalid(*errors, (("thresholds",), "must be an object")) from None
        thresholds, problems = _changed(thresholds, values, complete=complete)
        errors += [_error(("thresholds", name), problem) for name, problem in problems]
    if errors:
        raise invalid(*errors)
    return Change(thresholds, msgspec.json.decode(body.get("by", b'""'), type=str))


def _field_errors(body: Body, body_type: type[Struct]) -> Iterator[Error]:
    fields = {field.name: field for field in msgspec.structs.fields(body_type)}
    yield from (((name,), "is not a known field") for name in body if name not in fields)
    for name, field in fields.items():
        if name in body:
            try:
                msgspec.json.decode(body[name], type=field.type)
            except ValueError as error:  # includes invalid UTF-8
                yield (name,), str(error)
        elif field.default is NODEFAULT and field.default_factory is NODEFAULT:
            yield (name,), "is missing"


def _changed(
    thresholds: Thresholds, values: Body, *, complete: bool
) -> tuple[Thresholds, list[tuple[str, str]]]:
    """Return the changed thresholds, and the problems of invalid ones."""
    names = Thresholds.fields()
    problems = [(name, "is not a threshold") for name in values if name not in names]
    problems += [(name, "is missing") for name in names if complete and name not in values]
    try:
        thresholds = thresholds.changed(
            **{name: _value(values[name]) for name in names if name in values}
        )
    except InvalidThresholds as error:
        problems += error.problems
    return thresholds, problems


def _value(raw: Raw) -> Any:
    """Return a number, a bool or None; other JSON as its text, which no threshold accepts."""
    text = bytes(raw)
    if len(text) <= _MAX_NUMBER_CHARS:
        with suppress(ValueError):
            value = msgspec.json.decode(text, type=int | float | bool | None)
            # JSON does not distinguish 1.0 from 1.
            return int(value) if isinstance(value, float) and value.is_integer() else value
    return text[:_MAX_NUMBER_CHARS].decode(errors="replace")


def _error(loc: tuple[str, ...], problem: str) -> Error:
    return loc, problem.replace("or None to", "or null to")
