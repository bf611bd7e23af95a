"""What has been said of the cost of one answer, by the merge rule of whoever said it."""

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


class Account(msgspec.Struct, eq=False):
    """The running account of one answer, from one statement to the next.

    Attributes:
        complete: The body came to its end.
        failed: The vendor reported an error inside an answer whose status is that of success.
    """

    failed: bool = False
    complete: bool = False
    _named: str | None = None  # the model of documents that were read as they came
    _stated: str | None = None  # the model of whoever spoke of the usage
    _family: Family | None = None
    _fields: dict[str, Any] = {}
    _final: bool = False
    _settled: bool = False  # what told of the error told the usage too

    @property
    def usage(self) -> TokenUsage | None:
        """The tokens the vendor has spoken of, or None when it has not."""
        return READERS[self._family](self._fields) if self._family else None

    @property
    def model(self) -> str | None:
        """The model that says it answered, or None."""
        return self._stated or self._named

    @property
    def source(self) -> Source:
        """How far `usage` can be trusted; what was said before an error may not be all."""
        if self._family is None:
            return "missing"
        whole = self._final and self.complete and (self._settled or not self.failed)
        return "reported" if whole else "partial"

    def _take(self, document: Document, said: Statement) -> None:
        if said.yields and self._final:
            if self._family == "anthropic":
                self._complete(said.fields)
            return
        name = model(document)
        if said.merges and self._family == said.family:
            self._merge({name: n for name, n in said.fields.items() if n is not None})
        else:
            self._fields = said.fields
        self._stated = name if said.whole else name or self._stated
        self._family = said.family
        self._final = said.final

    def _complete(self, metrics: dict[str, Any]) -> None:
        """Take from Bedrock's metrics what Claude's own events leave out, and nothing else.

        Both leave the cache out of the input; where they do not agree on it, it is not mended.
        """
        fields, read = self._fields, count(metrics, "inputTokenCount")
        agree = not counted(fields, "input_tokens") or count(fields, "input_tokens") == read
        for name, told in (_READ | _WRITTEN if agree else _WRITTEN).items():
            if not counted(fields, name):
                fields[name] = metrics.get(told)

    def _merge(self, fields: dict[str, Any]) -> None:
        """Anthropic lists the calls that its counts are made of; new counts make the list void."""
        if counted(fields, *ANTHROPIC):
            self._fields.pop("iterations", None)
        self._fields.update(fields)
