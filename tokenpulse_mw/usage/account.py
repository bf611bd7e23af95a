"""The running account of one response: its usage, merged by the rules of the vendor."""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from .document import Document
from .statement import Statement
from .tokens import TokenUsage, count, counted
from .vendors import ANTHROPIC, READERS, Family
from .whose import model

# What Bedrock's metrics of an invocation call the counts of Anthropic.
_READ = {
    "input_tokens": "inputTokenCount",
    "cache_read_input_tokens": "cacheReadInputTokenCount",
    "cache_creation_input_tokens": "cacheWriteInputTokenCount",
}
_WRITTEN = {"output_tokens": "outputTokenCount"}

Source = Literal["reported", "partial", "missing"]
_Fields = dict[str, Any]


class Account(msgspec.Struct, eq=False):
    """The running account of one response, from one statement to the next.

    Attributes:
        complete: The body came to its end.
        failed: The vendor reported an error in a response with a status of success.
        guessed: Only the first bytes of the body show how to read it: it may be any page, and its
            usage may have been written by the model.
        implausible: The vendor's last statement has counts that no response can have.
        usage: The tokens that the vendor reported so far, or None.
    """

    failed: bool = False
    complete: bool = False
    guessed: bool = False
    implausible: bool = False
    usage: TokenUsage | None = None
    _named: str | None = None  # the model in documents without a usage
    _stated: str | None = None  # the model in the document with the usage
    _family: Family | None = None
    _fields: _Fields = {}
    _final: bool = False
    _settled: bool = False  # the document with the error has the usage too

    @property
    def model(self) -> str | None:
        """The model that the response names, or None."""
        return self._stated or self._named

    @property
    def source(self) -> Source:
        """How far `usage` can be trusted.

        What was reported before an error may not be all.
        """
        if self.usage is None:
            return "missing"
        whole = self._final and self.complete and (self._settled or not self.failed)
        return "partial" if not whole or self.guessed or self.implausible else "reported"

    @property
    def doubtful(self) -> bool:
        """Return True if `usage` may be wrong, and so must not lower a charge."""
        return self.guessed or self.implausible

    def _take(self, document: Document, statement: Statement) -> bool:
        """Merge `statement` into the account; return False if the result is implausible.

        An implausible statement changes no count: neither 0 nor a bound is what was used.
        """
        family, supplements = statement.family, statement.yields and self._final
        if supplements:
            if self._family != "anthropic":
                return True
            family, fields = self._family, _supplemented(self._fields, statement.fields)
            usage = READERS[family](fields)
        elif statement.merges and self._family == family:
            fields = _merged(self._fields, statement.fields)
            usage = READERS[family](fields)
        else:
            fields, usage = statement.fields, statement.usage
        if not usage.is_plausible:
            self.implausible = True
            return False
        self.usage, self._family, self._fields = usage, family, fields
        if not supplements:
            name = model(document)
            partly = statement.merges or statement.yields
            self._stated = name or (self._stated if partly else None)
            self._final = statement.final
            self.implausible = self.implausible and statement.merges
        return True


def _supplemented(fields: _Fields, metrics: _Fields) -> _Fields:
    """Return Claude's `fields` with what only Bedrock's metrics report, and nothing else.

    Both leave the cache out of the input; if they disagree on the input, only the output is taken.
    """
    read = count(metrics, "inputTokenCount")
    agree = not counted(fields, "input_tokens") or count(fields, "input_tokens") == read
    names = _READ | _WRITTEN if agree else _WRITTEN
    missing = {name: metrics.get(names[name]) for name in names if not counted(fields, name)}
    return {**fields, **missing}


def _merged(fields: _Fields, update: _Fields) -> _Fields:
    """Return `fields` overridden by those of `update` that are not null.

    Anthropic lists the calls that its counts are made of; new counts make an older list void.
    """
    new = {name: value for name, value in update.items() if value is not None}
    old = {name: fields[name] for name in fields if name != "iterations"}
    return {**(old if counted(new, *ANTHROPIC) else fields), **new}
