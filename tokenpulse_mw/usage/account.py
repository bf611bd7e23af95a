"""Accumulated usage of one response."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Literal, Protocol

import msgspec

from .bounds import (
    MAX_SILENT_BYTES,
    MAX_USELESS_READS,
    MIN_SILENT_EVENT_BYTES,
    OPENING_WORK_NS,
)
from .budget import Budget
from .document import UNREADABLE, Document, read, read_events
from .formats import (
    Format,
    UsageReport,
    find_usage,
    has_error,
    has_output,
    is_error_response,
    is_response,
    is_stored_object,
    model_of,
)
from .reported_cost import COST_NAMES, ImplausibleCostError, reported_cost
from .tokens import TokenUsage

Source = Literal["reported", "partial", "missing"]


class Account(msgspec.Struct, eq=False):
    """The usage reports of one response, merged.

    Attributes:
        failed: The vendor reported an error in a response with a status of success.
        complete: The body was received to its end.
        sniffed: The format is known from the first bytes only: the body may be any page, and the
            model may have written the usage itself.
        implausible: The last report has counts that no response can have.
        usage: The tokens that the vendor reported so far, or None.
    """

    failed: bool = False
    complete: bool = False
    sniffed: bool = False
    implausible: bool = False
    usage: TokenUsage | None = None
    _named_model: str | None = None  # by documents without usage
    _usage_model: str | None = None  # by the document with the usage
    _format: Format | None = None
    _fields: dict[str, Any] = {}
    _cost_nanos: int | None = None
    _final: bool = False
    _error_has_usage: bool = False  # the document with the error also reports usage

    @property
    def model(self) -> str | None:
        """Return the model that the response names, or None."""
        return self._usage_model or self._named_model

    @property
    def source(self) -> Source:
        """Return the reliability of `usage`; usage before an error may be incomplete."""
        if self.usage is None:
            return "missing"
        whole = self._final and self.complete and (self._error_has_usage or not self.failed)
        return "reported" if whole and not (self.sniffed or self.implausible) else "partial"

    @property
    def doubtful(self) -> bool:
        """Return True if `usage` may be wrong, and so must not lower a charge."""
        return self.sniffed or self.implausible

    @property
    def cost_nanos(self) -> int | None:
        """Return the cost that the vendor reports with final usage, in nano-dollars, or None.

        It is None, too, if the usage is doubtful, as the cost is a part of it, or if the cost is
        negative or more than 10,000 dollars.
        """
        return self._cost_nanos if self._final and not self.doubtful else None

    def _add(self, document: Document, report: UsageReport) -> bool:
        """Merge `report` into the account; return False if the result is implausible.

        An implausible report changes no count: it is neither clamped nor read as 0. An implausible
        cost is ignored.
        """
        form, supplements, plausible = report.format, report.is_fallback and self._final, True
        if supplements:
            if self._format is None or self._format.supplement is None:
                return True
            form, fields = self._format, self._format.supplement(self._fields, report.fields)
            usage = form.count(fields)
        elif report.is_delta and self._format is form:
            fields = form.merge(self._fields, report.fields)
            usage = form.count(fields)
        else:
            fields, usage = report.fields, report.usage
        if not usage.is_plausible:
            self.implausible = True
            return False
        if self.usage is None or usage.total:  # zeros after counts mean that they are unknown
            self.usage, self._format, self._fields = usage, form, fields
            if not supplements:  # a delta keeps earlier counts, but not the cost of them alone
                self._cost_nanos = None
                if not COST_NAMES.isdisjoint(report.fields):
                    self._cost_nanos, plausible = _cost(report.fields)
        if not supplements:
            is_part = report.is_delta or report.is_fallback
            self._usage_model = model_of(document) or (self._usage_model if is_part else None)
            self._final = report.is_final
            self.implausible = self.implausible and report.is_delta
        return plausible


def _cost(fields: dict[str, Any]) -> tuple[int | None, bool]:
    """Return the cost that a usage reports, and False if it is implausible."""
    try:
        return reported_cost(fields), True
    except ImplausibleCostError:
        return None, False


class UsageAccount(Account, eq=False):
    """The account of one response, filled from its documents.

    Attributes:
        unreadable: Documents that were malformed, implausible or too long. Those before a complete
            report are not counted, because it replaces their contents.
        complete_scan: Every document of the response was read.
        events: Events, frames or array elements of a stream that were decoded; 0 for one document.
        counts_events: Also count server-sent events, which takes a tenth of the time of a stream.
        budget: Limits the work of reading the documents; beyond it no document is read.
    """

    unreadable: int = 0
    complete_scan: bool = False
    events: int = 0
    counts_events: bool = False
    _has_output: bool = False  # or another sign of a model
    _search_budget: int = MAX_SILENT_BYTES
    _useless_reads: int = 0
    budget: Budget = msgspec.field(default_factory=Budget)

    @property
    def is_response(self) -> bool | None:
        """Return True if a model responded, False if not, and None if unknown.

        True if the response names a model, has output or usage, or has the shape of a vendor's.
        False if every document of a complete body was read and shows none of these (a token count,
        a login), or if a sniffed body shows none. None for other streams, cut bodies and bodies
        that cannot be read.
        """
        if self._has_output or self._format is not None or self.implausible:
            return True
        known = self.complete_scan and self.complete and not self.unreadable
        return False if known or self.sniffed else None

    @property
    def awaits_first_token(self) -> bool:
        """Return True while the first output is searched for."""
        return self._search_budget > 0

    def stop_search(self) -> None:
        """Stop the search for the first output, as the body is not a model's response."""
        self._search_budget = 0

    def read(self, data: bytes) -> None:
        """Add one JSON document, or an array of them; count it if it cannot be read."""
        try:
            documents = read(data)  # a body has only one: its length bounds the work
        except UNREADABLE:
            self.unreadable += 1
            return
        for document in documents:
            if is_stored_object(document):
                continue
            if (report := find_usage(document)) is None:
                self._identify(document)
            else:
                self._named_model = model_of(document) or self._named_model
                if not self._add(document, report):
                    self.unreadable += 1
            if is_error_response(document):
                self._fail(document)

    def check_first_token(self, data: bytes) -> bool:
        """Return True if a document of a stream carries model output.

        The search ends after 1 MiB or 1,024 events without output.
        """
        if self._search_budget <= 0 or not self.budget.spend_document(data, OPENING_WORK_NS):
            return False
        self._search_budget -= max(len(data), MIN_SILENT_EVENT_BYTES)
        try:
            events = read_events(data, self.budget)
        except UNREADABLE:
            return False
        try:
            has_text = any(map(has_output, events))
        except UNREADABLE:
            has_text = False
        self._has_output = self._has_output or has_text
        for event in events:
            self._identify(event)
        return has_text

    def add_usage_events(self, latest_first: Iterable[bytes]) -> None:
        """Add documents of a stream that may report usage, the latest of them first.

        A complete report ends the iteration, because it makes all earlier ones obsolete. After too
        many useless reads only one document per call is read.
        """
        reports: list[tuple[Document, UsageReport]] = []
        unreadable = 0
        for data in latest_first:
            if not self.budget.spend_document(data):
                break
            try:
                latest, is_complete = _usage_reports(read(data, self.budget))
            except UNREADABLE:
                unreadable += 1
            else:
                reports += latest
                if is_complete:
                    self.unreadable = 0
                    break
            self._useless_reads += 1
            if self._useless_reads >= MAX_USELESS_READS:
                break
        self.unreadable += unreadable
        for document, report in reversed(reports):
            self.unreadable += not self._add(document, report)

    def check_error(self, data: bytes, matches: Callable[[Document], bool] = has_error) -> None:
        """Mark the response as failed if a document reports an error according to `matches`."""
        if not self.budget.spend_document(data):
            return
        try:
            for document in filter(matches, read(data, self.budget)):
                self._fail(document)
        except UNREADABLE:
            return

    def _fail(self, document: Document) -> None:
        self.failed = True
        self._error_has_usage = self._error_has_usage or find_usage(document) is not None

    def _identify(self, document: Document) -> None:
        self._named_model = model_of(document) or self._named_model
        if not self._has_output:
            self._has_output = is_response(document)


def _usage_reports(
    documents: list[Document],
) -> tuple[list[tuple[Document, UsageReport]], bool]:
    """Return the documents that report usage, the latest first, and True if one is complete."""
    reports: list[tuple[Document, UsageReport]] = []
    has_complete = False
    for document in reversed(documents):
        if not is_stored_object(document) and (report := find_usage(document)) is not None:
            reports.append((document, report))
            has_complete = has_complete or report.is_complete
    return reports, has_complete


class UsageMeter(Protocol):
    """Reads one response as it passes.

    Attributes:
        account: The usage found so far.
    """

    account: UsageAccount

    @property
    def awaits_output(self) -> bool:
        """Return True while the first output, whose time is measured, has not been seen.

        It stays True for a body that is one document.
        """
        ...

    def feed(self, chunk: bytes, /) -> None:
        """Examine the next bytes of the body, in any chunking."""
        ...

    def finish(self, *, complete: bool) -> None:
        """Examine the rest; `complete` is True if the body was received to its end."""
        ...
