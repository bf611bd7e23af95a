"""The running account of one response: its usage, merged by the rules of the vendor."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Literal, Protocol

import msgspec

from . import words
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
from .tokens import TokenUsage, count, has_count
from .vendors import ANTHROPIC, READERS, Family
from .whose import is_kept, is_models, model

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
    agree = not has_count(fields, "input_tokens") or count(fields, "input_tokens") == read
    names = _READ | _WRITTEN if agree else _WRITTEN
    missing = {name: metrics.get(names[name]) for name in names if not has_count(fields, name)}
    return {**fields, **missing}


def _merged(fields: _Fields, update: _Fields) -> _Fields:
    """Return `fields` overridden by those of `update` that are not null.

    Anthropic lists the calls that its counts are made of; new counts make an older list void.
    """
    new = {name: value for name, value in update.items() if value is not None}
    old = {name: fields[name] for name in fields if name != "iterations"}
    return {**(old if has_count(new, *ANTHROPIC) else fields), **new}


class UsageAccount(Account, eq=False):
    """The account of one response, kept from its documents.

    Attributes:
        unreadable: Pieces that were malformed, implausible or too long to be kept. Those before a
            whole statement are not counted, because it replaces whatever they contained.
        complete_scan: Every document of the response was read, whatever its contents.
        events: Events, frames or array elements of a stream that were decoded; 0 for one document.
        counts_events: Count server-sent events too, which takes a tenth of the time of a stream.
        budget: Limits the work of reading the documents; beyond it no document is read.
    """

    unreadable: int = 0
    complete_scan: bool = False
    events: int = 0
    counts_events: bool = False
    _has_output: bool = False  # a model, as far as can be seen
    _search_budget: int = MAX_SILENT_BYTES
    _useless_reads: int = 0
    budget: Budget = msgspec.field(default_factory=Budget)

    @property
    def is_response(self) -> bool | None:
        """Whether a model gave this answer; None where that cannot be told.

        It did where one is named, where its words or its usage are seen, or where the answer has
        the form of a vendor's. It certainly did not where every document of a whole answer was
        looked at and none is so: a count of tokens, a login. What was cut, what cannot be read,
        and a stream may be anything, but for one that was only guessed to be a model's.
        """
        if self._has_output or self._family is not None or self.implausible:
            return True
        known = self.complete_scan and self.complete and not self.unreadable
        return False if known or self.guessed else None

    @property
    def awaits_first_token(self) -> bool:
        """The model's first words are still looked for, which is not done for ever."""
        return self._search_budget > 0

    def stop_search(self) -> None:
        """Look for no words of a model any more: this is no answer of one."""
        self._search_budget = 0

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
                self._identify(document)
            else:
                self._named = model(document) or self._named
                if not self._take(document, said):
                    self.unreadable += 1
            if refused(document):
                self._fail(document)

    def check_first_token(self, data: bytes) -> bool:
        """Look at a document of a stream in which the model is still to speak: whether it does.

        It is not looked at any more when the model has not spoken in 1 MiB, or in 1,024 events.
        """
        if not self.awaits_first_token or not self.budget.spend_document(data, OPENING_WORK_NS):
            return False
        self._search_budget -= max(len(data), MIN_SILENT_EVENT_BYTES)
        try:
            events = words.read_events(data, self.budget)
            for event in events:
                self._identify(event)
            spoken = any(map(words.speaks, events))
        except UNREADABLE:
            return False
        self._has_output = self._has_output or spoken
        return spoken

    def add_usage_events(self, latest_first: Iterable[bytes]) -> None:
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
            self._useless_reads += 1
            if self._useless_reads >= MAX_READ_IN_VAIN_EVENTS:
                break
        self.unreadable += unreadable
        for document, each in reversed(heard):
            self.unreadable += not self._take(document, each)

    def check_error(self, data: bytes, tells: Callable[[Document], bool] = failed) -> None:
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

    def _identify(self, document: Document) -> None:
        self._named = model(document) or self._named
        self._has_output = self._has_output or is_models(document)


def _said(document: Document) -> tuple[Document, Statement] | None:
    said = None if is_kept(document) else statement(document)
    return None if said is None else (document, said)


class UsageMeter(Protocol):
    """Reads one answer as it passes.

    Attributes:
        account: What the answer has said of its cost.
    """

    account: UsageAccount

    @property
    def awaits_output(self) -> bool:
        """Whether the model's first words, whose time is of interest, are still to come.

        It stays so where an answer comes all at once.
        """
        ...

    def feed(self, chunk: bytes, /) -> None:
        """Look at the next bytes of the body, in any chunking."""
        ...

    def finish(self, *, complete: bool) -> None:
        """Look at what is left; `complete` says whether the body came to its end."""
        ...
