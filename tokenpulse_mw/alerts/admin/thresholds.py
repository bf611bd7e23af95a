"""The thresholds: read by all who may, changed only by those who know what they change."""

from __future__ import annotations

import re
from typing import Any

from ...problems import RefusedError
from ..engine import AlertEngine
from ..store import Conflict
from . import schemas, takes
from .etags import Tags, quoted, tags_of
from .operation import Answer, Asked, Operation
from .parameters import whole
from .values import Body, changed
from .views import when

_VERSION = re.compile(r"[0-9]{1,15}")


async def get_thresholds(asked: Asked) -> Answer:
    """Those that hold."""
    answer = _current(asked.engine)
    header = ",".join(asked.request.headers.getlist("if-none-match"))
    try:
        known = tags_of(header).match_weakly(str(_version(asked.engine)))
    except ValueError:
        known = False
    return Answer(status=304, headers=answer.headers) if known else answer


async def put_thresholds(asked: Asked) -> Answer:
    """Set every threshold."""
    return await _set(asked, complete=True)


async def patch_thresholds(asked: Asked) -> Answer:
    """Set some thresholds."""
    return await _set(asked, complete=False)


async def get_thresholds_history(asked: Asked) -> Answer:
    """Those that were set."""
    versions = [
        schemas.ThresholdsVersion(each.version, when(each.at), each.by, each.values)
        for each in await asked.engine.store.history(asked.query["limit"])
    ]
    return Answer(schemas.ThresholdsHistory(versions))


async def _set(asked: Asked, *, complete: bool) -> Answer:
    engine = asked.engine
    tags = _if_match(asked)
    body = takes.AllThresholdsBody if complete else takes.SomeThresholdsBody
    made, by = changed(engine.thresholds, asked.body, body, complete=complete)
    expected = _expected(tags, _version(engine), complete=complete)
    wanted = ... if tags.every else expected or None
    try:
        await engine.controls.set_thresholds(made, by=asked.called(by), expected=wanted)
    except Conflict as conflict:
        raise _stale(conflict.current or 0) from None
    return _current(engine)


def _if_match(asked: Asked) -> Tags:
    header = asked.request.headers.getlist("if-match")
    if not header:
        raise RefusedError(
            428, "Send the ETag that you have read as If-Match, or * for whatever holds."
        )
    try:
        return tags_of(",".join(header))
    except ValueError as error:
        raise RefusedError(400, f"If-Match cannot be read: {error}.") from None


def _expected(tags: Tags, version: int, *, complete: bool) -> int:
    """The version that the new thresholds are made from."""
    if tags.match(str(version)):
        return version
    if complete and tags.strong and _VERSION.fullmatch(tags.strong[0]):
        return int(tags.strong[0])  # the store may know of one that could not be used here
    raise _stale(version)


def _stale(version: int) -> RefusedError:
    return RefusedError(
        412,
        "Somebody else has set the thresholds: read them again.",
        headers={"etag": quoted(version)},
        more={"version": version or None},
    )


def _version(engine: AlertEngine) -> int:
    version = engine.controls.version
    return 0 if version is None else version.version


def _current(engine: AlertEngine) -> Answer:
    version, values = engine.controls.version, engine.thresholds.as_dict()
    shown = (
        schemas.CurrentThresholds(None, None, None, values)
        if version is None
        else schemas.CurrentThresholds(version.version, when(version.at), version.by, values)
    )
    return Answer(shown, headers={"etag": quoted(_version(engine))})


_CHANGE: dict[str, Any] = {
    "path": "/thresholds",
    "reads": Body,
    "gives": schemas.CurrentThresholds,
    "conditions": {"If-Match": True},
    "headers": ("ETag",),
    "refusals": (412, 428),
}

OPERATIONS = (
    Operation(
        method="GET",
        path="/thresholds",
        handle=get_thresholds,
        summary="The thresholds that hold",
        gives=schemas.CurrentThresholds,
        conditions={"If-None-Match": False},
        headers=("ETag",),
        refusals=(304,),
    ),
    Operation(
        method="PUT",
        handle=put_thresholds,
        summary="Set every threshold",
        takes=takes.AllThresholdsBody,
        **_CHANGE,
    ),
    Operation(
        method="PATCH",
        handle=patch_thresholds,
        summary="Set some thresholds, and leave the others as they are",
        takes=takes.SomeThresholdsBody,
        **_CHANGE,
    ),
    Operation(
        method="GET",
        path="/thresholds/history",
        handle=get_thresholds_history,
        summary="Who set which thresholds, the newest first",
        gives=schemas.ThresholdsHistory,
        query=(whole("limit", "How many at most", most=1000, default=100),),
    ),
)
