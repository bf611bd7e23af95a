"""The meter of answers whose media type does not tell what they are: their first bytes do."""

from __future__ import annotations

from collections.abc import Callable

from .json_meter import BEFORE, JsonMeter
from .ledger import Ledger
from .protocol import UsageMeter
from .stream_meter import StreamMeter

_BRACKETS = (b"{", b"[")
# What a line of server-sent events begins with; a colon alone begins a comment.
_FIELDS = (b"data:", b"event:", b"id:", b"retry:", b":")


class SniffMeter:
    """Reads an answer as server-sent events or as JSON, whichever it begins like.

    Some vendors send a stream of events without a media type (Codex), and some gateways as
    `application/json` or `text/plain`. Once it is clear what it is, `feed` is that of the meter
    which reads it. Until then at most five bytes are kept.

    Args:
        ledger: Takes the account. What begins like neither is read as JSON, but not looked at
            where the media type only let it be `guessed` to be a model's.
    """

    __slots__ = ("_held", "_meter", "feed", "ledger")

    def __init__(self, ledger: Ledger) -> None:
        self.ledger = ledger
        self.feed: Callable[[bytes], None] = self._sniff
        self._meter: UsageMeter | None = None
        self._held = b""

    @property
    def waiting(self) -> bool:
        """The model's first words are still to come; in what is not looked at they never do."""
        return self._meter is None or self._meter.waiting

    def finish(self, *, complete: bool) -> None:
        """Look at what is left, which may be too little to tell what it is."""
        if self.feed == self._sniff:
            self._read_by(self._other())
        if self._meter is None:
            self.ledger.complete = complete
        else:
            self._meter.finish(complete=complete)

    def _sniff(self, chunk: bytes) -> None:
        """Take in the first bytes, until they tell what it is."""
        held = self._held = (self._held + bytes(chunk)).lstrip(BEFORE)
        if held.startswith(_BRACKETS):
            self._read_by(JsonMeter(ledger=self.ledger))
        elif held.startswith(_FIELDS):
            self._read_by(StreamMeter(ledger=self.ledger))
        elif not any(field.startswith(held) for field in _FIELDS):
            self._read_by(self._other())

    def _other(self) -> UsageMeter | None:
        return None if self.ledger.guessed else JsonMeter(ledger=self.ledger)

    def _read_by(self, meter: UsageMeter | None) -> None:
        held, self._held = self._held, b""
        self._meter = meter
        if meter is None:
            self.feed = _ignore
            self.ledger.stop_listening()
        else:
            self.feed = meter.feed
            meter.feed(held)


class MaybeJsonMeter(JsonMeter):
    """Reads an answer that is called JSON, as some streams are, too."""

    __slots__ = ()

    def _reader_of(self, start: bytes) -> UsageMeter | None:
        return super()._reader_of(start) or (SniffMeter(self.ledger) if start else None)


def _ignore(chunk: bytes) -> None:
    """Look at nothing: it is no model's answer."""
