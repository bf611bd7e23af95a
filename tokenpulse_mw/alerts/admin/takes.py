"""What the admin API takes; requests are checked by it, and its description is made from it."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

from msgspec import Meta, Raw, Struct, field

from ..labels import NAMES
from .ranges import ALL, SOME

_All = Annotated[Raw, Meta(extra_json_schema=ALL)]
_Some = Annotated[Raw, Meta(extra_json_schema=SOME)]
_Text = Annotated[str, Meta(max_length=1000)]
_Who = Annotated[str, Meta(max_length=100)]
_Label = Annotated[str, Meta(max_length=100, extra_json_schema={"enum": list(NAMES)})]
_Pattern = Annotated[str, Meta(max_length=200)]
_Time = Annotated[datetime, Meta(tz=True)]
_Seconds = Annotated[float, Meta(gt=0, le=10 * 366 * 86_400)]


class _Given(Struct, forbid_unknown_fields=True, kw_only=True):
    """What a request holds."""


class Matcher(Struct, forbid_unknown_fields=True):
    """Picks alerts by a label; a pattern must match the whole value."""

    name: _Label
    value: _Pattern
    is_regex: bool = False
    is_equal: bool = True


class AcknowledgementBody(_Given):
    """Who has seen an alert, and what they say of it."""

    note: _Text = ""
    by: _Who = ""


class AllThresholdsBody(_Given):
    """Every threshold."""

    thresholds: _All
    by: _Who = ""


class SomeThresholdsBody(_Given):
    """Thresholds to be changed; the others stay as they are."""

    thresholds: _Some
    by: _Who = ""


class EvaluationBody(_Given):
    """Thresholds to be tried; the others are those that hold."""

    thresholds: _Some = field(default_factory=lambda: Raw(b"{}"))


class TestBody(_Given):
    """Which sink to tell a test alert."""

    sink: Annotated[str, Meta(max_length=1000)]


class SilenceBody(_Given):
    """Alerts that all matchers pick are told to nobody, until `ends_at` or for `duration`."""

    matchers: Annotated[list[Matcher], Meta(min_length=1, max_length=20)]
    starts_at: _Time | None = None
    ends_at: _Time | None = None
    duration: _Seconds | None = None
    comment: _Text = ""
    by: _Who = ""
