"""The access log: one line for each exchange."""

from __future__ import annotations

import json
import logging
import random
import re
from collections.abc import Callable, Iterable
from typing import Any

from ..exchange import Exchange
from .levels import level_number
from .request_id import current_request_id

ACCESS_LOGGER = "tokenpulse_mw.access"
_FAILED = ("error", "truncated")
_MAY_INCLUDE = ("tenant", "api_key", "credential")
_LONGEST = 256  # characters of one value
_PLAIN = re.compile(r"[!#-<>-~]+")  # needs no quotes: printable, without `"`, `=` and space


class AccessLog:
    """An observer that logs each exchange.

    The line begins with method, route (the template, never the path) and status; `name=value`
    follows for provider, outcome, duration and time to first byte (seconds), tokens, model,
    `limited` and the request's id, as far as there are such. The record has the same as
    attributes, so that JSON has them as fields. No body, header or query is ever written.

    What failed, by a status from 500 up, an error or an answer cut short, is at WARN.

    Args:
        logger: `tokenpulse_mw.access` when None.
        level: Of the lines of what did not fail: "DEBUG", "INFO", "WARN" or "ERROR", in any case.
        sample: Share of the lines of what did not fail that are written, from 0 to 1.
        include: Which of "tenant", "api_key" and "credential" are written too.
        chance: Gives numbers from 0 to below 1, by which is sampled.

    Raises:
        ValueError: There is no such level, `sample` is not a share, or `include` names
            something else.
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
            raise ValueError(f"sample must be a share from 0 to 1, got {sample!r}")
        if isinstance(include, str):
            raise ValueError(f"include must be a list of names, got the string {include!r}")
        self._include = tuple(include)
        for name in self._include:
            if name not in _MAY_INCLUDE:
                raise ValueError(f"include can name {', '.join(_MAY_INCLUDE)}; got {name!r}")
        self._logger = logging.getLogger(ACCESS_LOGGER) if logger is None else logger
        self._level = level_number(level)
        self._failed_level = max(self._level, logging.WARNING)
        self._sample = sample
        self._chance = chance

    def __call__(self, exchange: Exchange) -> None:
        """Log `exchange`, unless its level is off or it is not in the sample."""
        if exchange.status >= 500 or exchange.outcome in _FAILED:
            if self._logger.isEnabledFor(self._failed_level):
                self._log(self._failed_level, exchange)
        elif self._logger.isEnabledFor(self._level) and (
            self._sample == 1 or self._chance() < self._sample
        ):
            self._log(self._level, exchange)

    def _log(self, level: int, exchange: Exchange) -> None:
        fields = _fields(exchange, self._include)
        self._logger.log(level, "%s", _Line(fields), extra=fields)


class _Line:
    """The text of a line, made when it is written."""

    def __init__(self, fields: dict[str, Any]) -> None:
        self._fields = fields

    def __str__(self) -> str:
        method, route, status, *others = self._fields.items()
        words = [_word(value) for _, value in (method, route, status)]
        return " ".join([*words, *(f"{name}={_word(value)}" for name, value in others)])


def _fields(exchange: Exchange, include: Iterable[str]) -> dict[str, Any]:
    usage = exchange.usage
    fields = {
        "method": exchange.method,
        "route": exchange.route,
        "status": exchange.status,
        "provider": exchange.provider,
        "outcome": exchange.outcome,
        "duration": round(exchange.duration, 4),
        "time_to_first_byte": _rounded(exchange.time_to_first_byte),
        "input_tokens": None if usage is None else usage.input,
        "output_tokens": None if usage is None else usage.output,
        "model": exchange.model,
        "limited": exchange.limited or None,
        **{name: getattr(exchange, name) for name in include},
        "request_id": current_request_id(),
    }
    return {name: _short(value) for name, value in fields.items() if value is not None}


def _rounded(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 4)


def _short(value: Any) -> Any:
    return value[:_LONGEST] if isinstance(value, str) else value


def _word(value: object) -> str:
    """`value` as one word, so that no model's name can pass for other fields."""
    if value is True:
        return "true"
    text = str(value)
    return text if _PLAIN.fullmatch(text) else json.dumps(text)
