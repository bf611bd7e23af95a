"""Query parameters of the endpoints."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from ..web.parameters import Parameter, choice


def choice_of(name: str, description: str, choices: Sequence[str]) -> Parameter:
    """Return a parameter that is one of `choices`, by default the first one."""
    parameter = choice(name, description, choices)
    return replace(
        parameter, schema={**parameter.schema, "default": choices[0]}, default=choices[0]
    )


def seconds_of(name: str, description: str, choices: Sequence[int]) -> Parameter:
    """Return a parameter that is one of some numbers of seconds, by default the last one."""

    def read(text: str) -> int:
        if text not in map(str, choices):
            raise ValueError(f"must be one of {', '.join(map(str, choices))}")
        return int(text)

    schema = {"type": "integer", "enum": list(choices), "default": choices[-1]}
    return Parameter(name, description, schema, read, choices[-1])


def tenant_cursor(name: str, description: str) -> Parameter:
    """Return a parameter that is the cursor of a page of tenants."""

    def read(text: str) -> tuple[int, str]:
        requests, colon, tenant = text.partition(":")
        if not colon or not requests.isascii() or not requests.isdecimal() or len(requests) > 18:
            raise ValueError("must be `next` of the previous page (omit it for the first page)")
        return int(requests), tenant

    return Parameter(name, description, {"type": "string"}, read)


def to_cursor(requests: int, tenant: str) -> str:
    """Return the cursor of the page after a tenant."""
    return f"{requests}:{tenant}"
