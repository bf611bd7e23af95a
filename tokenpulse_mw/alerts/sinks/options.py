"""What may be set of every sink that sends by HTTP, and is checked before anything is sent."""

from __future__ import annotations

import re
from collections.abc import Mapping

_NAME = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")
_VALUE = re.compile(r"[\x21-\x7e]([\x20-\x7e\t]*[\x21-\x7e])?")
_OURS = {"connection", "content-length", "content-type", "host", "transfer-encoding"}


def check_headers(headers: Mapping[str, str] | None) -> dict[str, str]:
    """Headers with their names in lower case. Errors name a header, and never show its value.

    Raises:
        ValueError: One cannot be sent, or is ours to set.
    """
    checked: dict[str, str] = {}
    for name, value in (headers or {}).items():
        if not isinstance(name, str) or not _NAME.fullmatch(name):
            # What is not a name may be a whole line, with the value in it.
            raise ValueError(
                "the name of a header must be a word such as 'X-Team', without its value"
            )
        if name.lower() in _OURS or name.lower().startswith("webhook-"):
            raise ValueError(f"the header {name!r} is set by the sink: leave it out of headers")
        if not isinstance(value, str) or not _VALUE.fullmatch(value):
            raise ValueError(
                f"the value of the header {name!r} must be printable ASCII on one line, "
                "without spaces around it"
            )
        checked[name.lower()] = value
    return checked
