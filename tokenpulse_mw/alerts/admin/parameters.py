"""Query parameters of the admin API: subjects and cursors."""

from __future__ import annotations

from ...web.parameters import Parameter
from ..store.paging import from_cursor


def subject(name: str, description: str) -> Parameter:
    """Return a parameter that is a subject as `kind:id`."""

    def read(text: str) -> str:
        if ":" not in text:
            raise ValueError("must be kind:id, such as provider:claude")
        return text

    return Parameter(name, description, {"type": "string", "pattern": ":"}, read)


def cursor(name: str, description: str) -> Parameter:
    """Return a parameter that is the cursor of a page."""

    def read(text: str) -> str:
        try:
            from_cursor(text)
        except ValueError:
            raise ValueError(
                "must be `next` of the previous page (omit it for the first page)"
            ) from None
        return text

    return Parameter(name, description, {"type": "string"}, read)
