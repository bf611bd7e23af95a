"""The thresholds: read by all who may, changed only by those who know what they change."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, NamedTuple

import msgspec
from msgspec import NODEFAULT, Raw, Struct

from ...web.problems import Error, ProblemError, invalid
from ..engine import AlertEngine
from ..store import Conflict
from ..thresholds import InvalidThresholds, Thresholds
from . import schemas
from .operation import AdminRequest, AdminResponse, Operation
from .parameters import integer
from .serializers import when

_VERSION = re.compile(r"[0-9]{1,15}")


async def get_thresholds(asked: AdminRequest) -> AdminResponse:
    """Those that hold."""
    answer = _current(asked.engine)
    header = ",".join(asked.request.headers.getlist("if-none-match"))
    try:
        known = tags_of(header).match_weakly(str(_version(asked.engine)))
    except ValueError:
        known = False
    return AdminResponse(status=304, headers=answer.headers) if known else answer


async def put_thresholds(asked: AdminRequest) -> AdminResponse:
    """Set every threshold."""
    return await _set(asked, complete=True)


async def patch_thresholds(asked: AdminRequest) -> AdminResponse:
    """Set some thresholds."""
    return await _set(asked, complete=False)


async def get_thresholds_history(asked: AdminRequest) -> AdminResponse:
    """Those that were set."""
    versions = [
        schemas.ThresholdsVersion(each.version, when(each.at), each.by, each.values)
        for each in await asked.engine.store.history(asked.query["limit"])
    ]
    return AdminResponse(schemas.ThresholdsHistory(versions))


async def _set(asked: AdminRequest, *, complete: bool) -> AdminResponse:
    engine = asked.engine
    tags = _if_match(asked)
    body = schemas.AllThresholdsBody if complete else schemas.SomeThresholdsBody
    made, by = parse_thresholds(engine.thresholds, asked.body, body, complete=complete)
    expected = _expected(tags, _version(engine), complete=complete)
    wanted = ... if tags.every else expected or None
    try:
        await engine.controls.set_thresholds(made, by=asked.called(by), expected=wanted)
    except Conflict as conflict:
        raise _stale(conflict.current or 0) from None
    return _current(engine)


def _if_match(asked: AdminRequest) -> Tags:
    header = asked.request.headers.getlist("if-match")
    if not header:
        raise ProblemError(
            428, "Send the ETag that you have read as If-Match, or * for whatever holds."
        )
    try:
        return tags_of(",".join(header))
    except ValueError as error:
        raise ProblemError(400, f"If-Match cannot be read: {error}.") from None


def _expected(tags: Tags, version: int, *, complete: bool) -> int:
    """The version that the new thresholds are made from."""
    if tags.match(str(version)):
        return version
    if complete and tags.strong and _VERSION.fullmatch(tags.strong[0]):
        return int(tags.strong[0])  # the store may know of one that could not be used here
    raise _stale(version)


def _stale(version: int) -> ProblemError:
    return ProblemError(
        412,
        "Somebody else has set the thresholds: read them again.",
        headers={"etag": quoted(version)},
        more={"version": version or None},
    )


def _version(engine: AlertEngine) -> int:
    version = engine.controls.version
    return 0 if version is None else version.version


def _current(engine: AlertEngine) -> AdminResponse:
    version, values = engine.controls.version, engine.thresholds.as_dict()
    shown = (
        schemas.CurrentThresholds(None, None, None, values)
        if version is None
        else schemas.CurrentThresholds(version.version, when(version.at), version.by, values)
    )
    return AdminResponse(shown, headers={"etag": quoted(_version(engine))})


Body = dict[str, Raw]


_CHANGE: dict[str, Any] = {
    "path": "/thresholds",
    "raw_type": Body,
    "response_type": schemas.CurrentThresholds,
    "conditions": {"If-Match": True},
    "headers": ("ETag",),
    "error_statuses": (412, 428),
}


OPERATIONS = (
    Operation(
        method="GET",
        path="/thresholds",
        handle=get_thresholds,
        summary="The thresholds that hold",
        response_type=schemas.CurrentThresholds,
        conditions={"If-None-Match": False},
        headers=("ETag",),
        error_statuses=(304,),
    ),
    Operation(
        method="PUT",
        handle=put_thresholds,
        summary="Set every threshold",
        body_type=schemas.AllThresholdsBody,
        **_CHANGE,
    ),
    Operation(
        method="PATCH",
        handle=patch_thresholds,
        summary="Set some thresholds, and leave the others as they are",
        body_type=schemas.SomeThresholdsBody,
        **_CHANGE,
    ),
    Operation(
        method="GET",
        path="/thresholds/history",
        handle=get_thresholds_history,
        summary="Who set which thresholds, the newest first",
        response_type=schemas.ThresholdsHistory,
        query=(integer("limit", "How many at most", most=1000, default=100),),
    ),
)


# Elements of a list may be empty.
_ELEMENT = re.compile(r'[ \t]*+(?:(W/)?"([\x21\x23-\x7e\x80-\xff]*)")?[ \t]*+(?:,|\Z)')


@dataclass(frozen=True, slots=True)
class Tags:
    """What `If-Match` or `If-None-Match` lists.

    Attributes:
        every: It is `*`, which is anything that there is.
        strong: The tags, without their quotes, in their order.
        weak: Those that are marked as weak.
    """

    every: bool = False
    strong: tuple[str, ...] = ()
    weak: tuple[str, ...] = ()

    def match(self, tag: str) -> bool:
        """Strong comparison, as `If-Match` asks for: a weak tag is the same as none."""
        return self.every or tag in self.strong

    def match_weakly(self, tag: str) -> bool:
        """Weak comparison, as `If-None-Match` asks for."""
        return self.match(tag) or tag in self.weak


def quoted(tag: str | int) -> str:
    """A strong entity tag, as a header has it."""
    return f'"{tag}"'


def tags_of(header: str) -> Tags:
    """The tags that a header lists.

    Raises:
        ValueError: It lists none, or something else.
    """
    if header.strip(" \t") == "*":
        return Tags(every=True)
    strong: list[str] = []
    weak: list[str] = []
    at = 0
    while at < len(header):
        found = _ELEMENT.match(header, at)
        if found is None:
            raise _malformed()
        if found[2] is not None:
            (weak if found[1] else strong).append(found[2])
        at = found.end()
    if not strong and not weak:
        raise _malformed()
    return Tags(strong=tuple(strong), weak=tuple(weak))


def _malformed() -> ValueError:
    return ValueError('expected * or entity tags in their quotes, such as "3"')


_LONGEST = 100  # characters of a number


class Change(NamedTuple):
    """What a request makes of the thresholds, and who it says it is from."""

    thresholds: Thresholds
    by: str


def parse_thresholds(
    thresholds: Thresholds, body: Body, takes: type[Struct], *, complete: bool = False
) -> Change:
    """A copy of `thresholds` with those that a request gives: all, where it is to be `complete`.

    Raises:
        RefusedError: Tells of every field that is not as `takes` has it, of every threshold that
            is none or missing, and of every wrong value.
    """
    errors = list(_wrong(body, takes))
    if "thresholds" in body:
        thresholds, wrong = _made(thresholds, body["thresholds"], complete=complete)
        errors += wrong
    if errors:
        raise invalid(*errors)
    return Change(thresholds, msgspec.json.decode(body.get("by", b'""'), type=str))


def _wrong(body: Body, takes: type[Struct]) -> Iterator[Error]:
    """What is wrong with the fields of a body, one by one."""
    fields = {each.name: each for each in msgspec.structs.fields(takes)}
    yield from (((name,), "there is no such field") for name in body if name not in fields)
    for name, field in fields.items():
        if name in body:
            try:
                msgspec.json.decode(body[name], type=field.type)
            except ValueError as error:  # or no UTF-8
                yield (name,), str(error)
        elif field.default is NODEFAULT and field.default_factory is NODEFAULT:
            yield (name,), "is missing"


def _made(thresholds: Thresholds, raw: Raw, *, complete: bool) -> tuple[Thresholds, list[Error]]:
    try:
        given = msgspec.json.decode(raw, type=Body)
    except ValueError:  # or no UTF-8
        return thresholds, [(("thresholds",), "must be an object")]
    names = Thresholds.fields()
    problems = [(name, "is no threshold") for name in given if name not in names]
    problems += [(name, "is missing") for name in names if complete and name not in given]
    try:
        thresholds = thresholds.changed(
            **{name: _value(given[name]) for name in names if name in given}
        )
    except InvalidThresholds as error:
        problems += error.problems
    return thresholds, [_error(name, problem) for name, problem in problems]


def _value(raw: Raw) -> Any:
    """A number, a bool or None; of anything else its text, which no threshold is."""
    given = bytes(raw)
    if len(given) <= _LONGEST:
        with suppress(ValueError):
            value = msgspec.json.decode(given, type=int | float | bool | None)
            # JSON does not tell 1.0 from 1.
            return int(value) if isinstance(value, float) and value.is_integer() else value
    return given[:_LONGEST].decode(errors="replace")


def _error(name: str, problem: str) -> Error:
    return ("thresholds", name), problem.replace("or None to", "or null to")
