"""The access log: one line for each exchange."""

from __future__ import annotations

import json
import logging
import random
import re
from collections.abc import Callable, Iterable
from copy import copy
from typing import Any

from ..exchange import Exchange
from ..validation import check_choice, check_strings
from .levels import level_number
from .request_id import current_request_id

ACCESS_LOGGER = "tokenpulse_mw.access"
_FAILED = ("error", "truncated")
_OPTIONAL_FIELDS = ("tenant", "tenant_name", "api_key", "credential", "credential_group")
_MAX_VALUE_CHARACTERS = 256
_WEBSOCKET = "WEBSOCKET"  # distinguishes the responses over a connection from its handshake
_UNQUOTED = re.compile(r"[!#-<>-~]+")  # printable ASCII without `"`, `=` and space


class AccessLog:
    """Observer that logs each exchange.

    A line begins with method, route template and status. `name=value` pairs follow: provider,
    outcome, fault, duration and time to first byte in seconds, tokens, model, `limited` and the
    request id. Unknown values are omitted. The record has the same fields as attributes, so that
    JSON lines have them too. Paths, queries, headers and bodies are never logged.

    A response of a model over a WebSocket has a line of its own if usage is metered there. Its
    method is `WEBSOCKET`.

    Failed exchanges are logged as WARN: a status of 500 or above, an error, or a response that
    ended early.

    Args:
        logger: Receives the lines; `tokenpulse_mw.access` if None.
        level: Level of exchanges that did not fail: "DEBUG", "INFO", "WARN" or "ERROR",
            case-insensitive.
        sample: Share of the exchanges that did not fail to log, from 0 to 1.
        include: Additional fields: "tenant", "tenant_name", "api_key", "credential" or
            "credential_group".
        chance: Returns random numbers from 0 to below 1, for the sample.

    Raises:
        ValueError: The level is unknown, `sample` is not from 0 to 1, or `include` has an unknown
            field.
    """

    def __init__(
        self,
        logger: logging.Logger | None = None,
        *,
        level: str = "INFO",
        sample: float = 1.0,
        include: Iterable[str] = (),
        chance: Callable[[], float] = random.random,
    ) -> None:
        if not 0 <= sample <= 1:
            raise ValueError(f"sample must be a number from 0 to 1, got {sample!r}")
        self._include = check_strings("include", include, "['tenant']")
        for name in self._include:
            check_choice("include", name, _OPTIONAL_FIELDS)
        self._logger = logging.getLogger(ACCESS_LOGGER) if logger is None else logger
        self._level = level_number(level)
        self._failed_level = max(self._level, logging.WARNING)
        self._sample = sample
        self._chance = chance

    def __call__(self, exchange: Exchange) -> None:
        """Log `exchange` if its level is enabled and it is in the sample."""
        if exchange.status >= 500 or exchange.outcome in _FAILED:
            if self._logger.isEnabledFor(self._failed_level):
                self._log(self._failed_level, exchange)
        elif self._logger.isEnabledFor(self._level) and (
            self._sample == 1 or self._chance() < self._sample
        ):
            self._log(self._level, exchange)

    def on_websocket_usage(self, exchange: Exchange) -> None:
        """Log a response of a model over a WebSocket, with the method `WEBSOCKET`."""
        response = copy(exchange)
        response.method = _WEBSOCKET
        self(response)

    def _log(self, level: int, exchange: Exchange) -> None:
        fields = _fields(exchange, self._include)
        self._logger.log(level, "%s", _Line(fields), extra=fields)


class _Line:
    """Text of a line, formatted only when it is written."""

    def __init__(self, fields: dict[str, Any]) -> None:
        self._fields = fields

    def __str__(self) -> str:
        method, route, status, *others = self._fields.items()
        words = [_quoted(value) for _, value in (method, route, status)]
        return " ".join([*words, *(f"{name}={_quoted(value)}" for name, value in others)])


def _fields(exchange: Exchange, include: Iterable[str]) -> dict[str, Any]:
    usage = exchange.usage
    fields = {
        "method": exchange.method,
        "route": exchange.route,
        "status": exchange.status,
        "provider": exchange.provider,
        "outcome": exchange.outcome,
        "fault": exchange.fault,
        "duration": round(exchange.duration, 4),
        "time_to_first_byte": _rounded(exchange.time_to_first_byte),
        "input_tokens": None if usage is None else usage.input,
        "output_tokens": None if usage is None else usage.output,
        "model": exchange.model,
        "limited": exchange.limited or None,
        **{name: getattr(exchange, name) for name in include},
        "request_id": current_request_id(),
    }
    return {name: _truncated(value) for name, value in fields.items() if value is not None}


def _rounded(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 4)


def _truncated(value: Any) -> Any:
    return value[:_MAX_VALUE_CHARACTERS] if isinstance(value, str) else value


def _quoted(value: object) -> str:
    """Return `value` as one word, quoted if needed: a model name must not forge other fields."""
    if value is True:
        return "true"
    text = str(value)
    return text if _UNQUOTED.fullmatch(text) else json.dumps(text)
