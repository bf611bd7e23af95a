"""The thresholds as JSON Schema has them, made from what checks them."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

from ..ranges import Flag, Range
from ..thresholds import Thresholds

Schema = dict[str, Any]


def schema_of(allowed: Range | Flag) -> Schema:
    """What a threshold may be."""
    if isinstance(allowed, Flag):
        return {"type": "boolean"}
    kind = "integer" if allowed.whole else "number"
    least = {"exclusiveMinimum": 0} if allowed.least is None else {"minimum": allowed.least}
    kinds = [kind, "null"] if allowed.optional else kind
    return {"type": kinds, **least, "maximum": allowed.most}


SOME: Schema = {
    "type": "object",
    "properties": {each.name: schema_of(each.metadata["allowed"]) for each in fields(Thresholds)},
    "additionalProperties": False,
}
ALL: Schema = {**SOME, "required": list(Thresholds.fields())}
