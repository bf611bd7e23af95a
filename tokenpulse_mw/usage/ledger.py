"""What an answer has said of its cost so far, by the merge rule of whoever said it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Literal

from . import answer, words
from .answer import Document, Statement
from .tokens import TokenUsage
from .vendors import READERS, Family

Source = Literal["reported", "partial", "missing"]


class Ledger:
    """The running account of one answer.

    Attributes:
        complete: The body came to its end.
        failed: The vendor reported an error inside a stream that had begun well.
        unreadable: Pieces that were malformed or too long to be kept. What was malformed before
            a whole statement is not counted: that statement leaves nothing of it to be known.
    """

    __slots__ = (
        "_family",
        "_fields",
        "_final",
        "_named",
        "_stated",
        "complete",
        "failed",
        "unreadable",
    )

    def __init__(self) -> None:
        self.failed = False
        self.complete = False
        self.unreadable = 0
        self._named: str | None = None  # the model of documents that were read as they came
        self._stated: str | None = None  # the model of whoever spoke of the usage
        self._family: Family | None = None
        self._fields: dict[str, Any] = {}
        self._final = False

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
            self._named = answer.model(document) or self._named
            if (said := answer.statement(document)) is not None:
                self._take(document, said)

    def opens(self, data: bytes) -> bool:
        """Look at a document of a stream in which the model is still to speak: whether it does."""
        try:
            documents = answer.read(data)
            for document in documents:
                self._named = answer.model(document) or self._named
            return any(map(words.speaks, documents))
        except answer.UNREADABLE:
            return False

    def hear(self, latest_first: Iterable[bytes]) -> None:
        """Take in documents of a stream that may speak of usage, the latest of them first.

        No more of them are asked for after a whole statement, which makes void what came before.
        """
        heard: list[tuple[Document, Statement]] = []
        unreadable = 0
        for data in latest_first:
            try:
                documents = answer.read(data)
            except answer.UNREADABLE:
                unreadable += 1
                continue
            said = [pair for each in reversed(documents) if (pair := _said(each)) is not None]
            heard += said
            if any(statement.whole for _, statement in said):
                self.unreadable = 0
                break
        self.unreadable += unreadable
        for document, statement in reversed(heard):
            self._take(document, statement)

    def _take(self, document: Document, said: Statement) -> None:
        if said.yields and self._final:
            return
        name = answer.model(document)
        if said.merges and self._family == said.family:
            self._fields.update({name: n for name, n in said.fields.items() if n is not None})
        else:
            self._fields = said.fields
        self._stated = name if said.whole else name or self._stated
        self._family = said.family
        self._final = said.final


def _said(document: Document) -> tuple[Document, Statement] | None:
    said = answer.statement(document)
    return None if said is None else (document, said)
