"""What the documents of an answer say of its cost so far, as they are read."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import msgspec

from . import words
from .account import Account
from .bounds import (
    MAX_READ_IN_VAIN_EVENTS,
    MAX_SILENT_BYTES,
    MIN_SILENT_EVENT_BYTES,
    OPENING_WORK_NS,
)
from .budget import Budget
from .document import UNREADABLE, Document, read
from .failure import failed, refused
from .statement import Statement, statement
from .whose import is_kept, is_models, model


class Ledger(Account, eq=False):
    """The account of one response, kept from its documents.

    Attributes:
        unreadable: Pieces that were malformed, implausible or too long to be kept. Those before a
            whole statement are not counted, because it replaces whatever they contained.
        searched: Every document of the response was read, whatever its contents.
        events: Events, frames or array elements of a stream that were decoded; 0 for one document.
        counts_events: Count server-sent events too, which takes a tenth of the time of a stream.
        budget: Limits the work of reading the documents; beyond it no document is read.
    """

    unreadable: int = 0
    searched: bool = False
    events: int = 0
    counts_events: bool = False
    _spoke: bool = False  # a model, as far as can be seen
    _patience: int = MAX_SILENT_BYTES
    _read_in_vain: int = 0
    budget: Budget = msgspec.field(default_factory=Budget)

    @property
    def is_answer(self) -> bool | None:
        """Whether a model gave this answer; None where that cannot be told.

        It did where one is named, where its words or its usage are seen, or where the answer has
        the form of a vendor's. It certainly did not where every document of a whole answer was
        looked at and none is so: a count of tokens, a login. What was cut, what cannot be read,
        and a stream may be anything, but for one that was only guessed to be a model's.
        """
        if self._spoke or self._family is not None or self.implausible:
            return True
        known = self.searched and self.complete and not self.unreadable
        return False if known or self.guessed else None

    @property
    def listens(self) -> bool:
        """The model's first words are still looked for, which is not done for ever."""
        return self._patience > 0

    def stop_listening(self) -> None:
        """Look for no words of a model any more: this is no answer of one."""
        self._patience = 0

    def read(self, data: bytes) -> None:
        """Take in one JSON document, or an array of them; what cannot be read is counted."""
        try:
            documents = read(data)  # a body has only one: its length bounds the work
        except UNREADABLE:
            self.unreadable += 1
            return
        for document in documents:
            if document.object is not None and is_kept(document):
                continue
            if (said := statement(document)) is None:
                self._meet(document)
            else:
                self._named = model(document) or self._named
                if not self._take(document, said):
                    self.unreadable += 1
            if refused(document):
                self._fail(document)

    def opens(self, data: bytes) -> bool:
        """Look at a document of a stream in which the model is still to speak: whether it does.

        It is not looked at any more when the model has not spoken in 1 MiB, or in 1,024 events.
        """
        if not self.listens or not self.budget.spend_document(data, OPENING_WORK_NS):
            return False
        self._patience -= max(len(data), MIN_SILENT_EVENT_BYTES)
        try:
            events = words.read_events(data, self.budget)
            for event in events:
                self._meet(event)
            spoken = any(map(words.speaks, events))
        except UNREADABLE:
            return False
        self._spoke = self._spoke or spoken
        return spoken

    def hear(self, latest_first: Iterable[bytes]) -> None:
        """Take in documents of a stream that may speak of usage, the latest of them first.

        No more of them are asked for after a whole statement, which makes void what came before;
        and only for one at a time, when too many were asked for in vain.
        """
        heard: list[tuple[Document, Statement]] = []
        unreadable = 0
        for data in latest_first:
            if not self.budget.spend_document(data):
                break
            try:
                said = list(filter(None, map(_said, reversed(read(data, self.budget)))))
            except UNREADABLE:
                unreadable += 1
                said = []
            heard += said
            if any(each.whole for _, each in said):
                self.unreadable = 0
                break
            self._read_in_vain += 1
            if self._read_in_vain >= MAX_READ_IN_VAIN_EVENTS:
                break
        self.unreadable += unreadable
        for document, each in reversed(heard):
            self.unreadable += not self._take(document, each)

    def fails(self, data: bytes, tells: Callable[[Document], bool] = failed) -> None:
        """Take in a document that may tell of an error, as `tells` knows it by."""
        if not self.budget.spend_document(data):
            return
        try:
            for document in filter(tells, read(data, self.budget)):
                self._fail(document)
        except UNREADABLE:
            return

    def _fail(self, document: Document) -> None:
        self.failed = True
        self._settled = self._settled or statement(document) is not None

    def _meet(self, document: Document) -> None:
        self._named = model(document) or self._named
        self._spoke = self._spoke or is_models(document)


def _said(document: Document) -> tuple[Document, Statement] | None:
    said = None if is_kept(document) else statement(document)
    return None if said is None else (document, said)
