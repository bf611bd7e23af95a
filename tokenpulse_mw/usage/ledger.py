"""What an answer has said of its cost so far, by the merge rule of whoever said it."""

from __future__ import annotations

from typing import Any, Literal

from . import answer
from .tokens import TokenUsage
from .vendors import READERS, Family

Source = Literal["reported", "partial", "missing"]


class Ledger:
    """The running account of one answer.

    Attributes:
        complete: The body came to its end.
        model: The model that says it answered, or None.
        failed: The vendor reported an error inside a stream that had begun well.
        unreadable: Documents that were malformed or too long to be kept.
    """

    __slots__ = (
        "_family",
        "_fields",
        "_final",
        "complete",
        "failed",
        "model",
        "unreadable",
    )

    def __init__(self) -> None:
        self.model: str | None = None
        self.failed = False
        self.complete = False
        self.unreadable = 0
        self._family: Family | None = None
        self._fields: dict[str, Any] = {}
        self._final = False

    @property
    def usage(self) -> TokenUsage | None:
        """The tokens the vendor has spoken of, or None when it has not."""
        return READERS[self._family](self._fields) if self._family else None

    @property
    def source(self) -> Source:
        """How far `usage` can be trusted."""
        if self._family is None:
            return "missing"
        return "reported" if self._final and self.complete else "partial"

    def read(self, data: bytes) -> None:
        """Take in one JSON document, or an array of them; what cannot be read is counted."""
        try:
            documents = answer.read(data)
        except answer.UNREADABLE:
            self.unreadable += 1
            return
        for document in documents:
            self._take(document)

    def _take(self, document: answer.Document) -> None:
        self.model = answer.model(document) or self.model
        said = answer.statement(document)
        if said is None:
            return
        if said.merges and self._family == said.family:
            self._fields.update({name: n for name, n in said.fields.items() if n is not None})
        else:
            self._fields = said.fields
        self._family = said.family
        self._final = said.final
