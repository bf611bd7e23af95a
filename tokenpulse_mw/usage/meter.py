"""Which meter reads an answer, by what its headers say of it."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache, partial

from .account import UsageAccount, UsageMeter
from .compressed_meter import CompressedMeter, UnsupportedEncodingMeter
from .decompress import DecoderFactory, decoders_for
from .eventstream_meter import EventStreamMeter
from .json_meter import BEFORE, JsonMeter
from .sse_meter import SSEMeter

_LONGEST_VALUE = 128  # bytes of a header's value


# Documents one after the other, whatever their names say.
_NOT_JSON = (b"application/stream+json", b"application/jsonlines+json")


# What a gateway says that does not know; no type at all, as that of OpenAI's Codex, is one of them.
_UNTOLD = (b"", b"text/plain", b"application/octet-stream")


MakeMeter = Callable[[], UsageMeter]


def meter_for(content_type: bytes, encoding: bytes = b"") -> UsageMeter | None:
    """A meter for a body of this media type, or None for one that no vendor answers with.

    Args:
        content_type: The value of Content-Type.
        encoding: The value of Content-Encoding: gzip, deflate, br or zstd, the last two where a
            package that reads them is installed. In another coding the usage is missing.
    """
    make = _meter_of(content_type[:_LONGEST_VALUE], encoding[:_LONGEST_VALUE])
    return make() if make is not None else None


@lru_cache(maxsize=256)
def _meter_of(content_type: bytes, encoding: bytes) -> MakeMeter | None:
    media_type = content_type.partition(b";")[0].strip().lower()
    plain = _plain_meter_of(media_type)
    if plain is None or not encoding:
        return plain
    decoders = decoders_for(encoding)
    if decoders is None:
        return None if media_type in _UNTOLD else UnsupportedEncodingMeter
    return partial(_encoded, plain, decoders) if decoders else plain


def _plain_meter_of(media_type: bytes) -> MakeMeter | None:
    if media_type == b"text/event-stream":
        return SSEMeter
    if media_type == b"application/json":
        return MaybeJsonMeter
    if media_type.endswith(b"+json"):
        return None if media_type in _NOT_JSON else JsonMeter
    if media_type in _UNTOLD:
        return _guessing
    return EventStreamMeter if media_type == b"application/vnd.amazon.eventstream" else None


def _guessing() -> UsageMeter:
    return SniffMeter(UsageAccount(sniffed=True))


def _encoded(plain: MakeMeter, decoders: list[DecoderFactory]) -> UsageMeter:
    return CompressedMeter(plain(), [make() for make in decoders])


_BRACKETS = (b"{", b"[")


# What a line of server-sent events begins with; a colon alone begins a comment.
_FIELDS = (b"data:", b"event:", b"id:", b"retry:", b":")


class SniffMeter:
    """Reads an answer as server-sent events or as JSON, whichever it begins like.

    Some vendors send a stream of events without a media type (Codex), and some gateways as
    `application/json` or `text/plain`. Once it is clear what it is, `feed` is that of the meter
    which reads it. Until then at most five bytes are kept.

    Args:
        account: Takes the account. What begins like neither is read as JSON, but not looked at
            where the media type only let it be `guessed` to be a model's.
    """

    __slots__ = ("_held", "_meter", "account", "feed")

    def __init__(self, account: UsageAccount) -> None:
        self.account = account
        self.feed: Callable[[bytes], None] = self._sniff
        self._meter: UsageMeter | None = None
        self._held = b""

    @property
    def awaits_output(self) -> bool:
        """The model's first words are still to come; in what is not looked at they never do."""
        return self._meter is None or self._meter.awaits_output

    def finish(self, *, complete: bool) -> None:
        """Look at what is left, which may be too little to tell what it is."""
        if self.feed == self._sniff:
            self._read_by(self._other())
        if self._meter is None:
            self.account.complete = complete
        else:
            self._meter.finish(complete=complete)

    def _sniff(self, chunk: bytes) -> None:
        """Take in the first bytes, until they tell what it is."""
        held = self._held = (self._held + bytes(chunk)).lstrip(BEFORE)
        if held.startswith(_BRACKETS):
            self._read_by(JsonMeter(account=self.account))
        elif held.startswith(_FIELDS):
            self._read_by(SSEMeter(account=self.account))
        elif not any(field.startswith(held) for field in _FIELDS):
            self._read_by(self._other())

    def _other(self) -> UsageMeter | None:
        return None if self.account.sniffed else JsonMeter(account=self.account)

    def _read_by(self, meter: UsageMeter | None) -> None:
        held, self._held = self._held, b""
        self._meter = meter
        if meter is None:
            self.feed = _ignore
            self.account.stop_search()
        else:
            self.feed = meter.feed
            meter.feed(held)


class MaybeJsonMeter(JsonMeter):
    """Reads an answer that is called JSON, as some streams are, too."""

    __slots__ = ()

    def _reader_of(self, start: bytes) -> UsageMeter | None:
        return super()._reader_of(start) or (SniffMeter(self.account) if start else None)


def _ignore(chunk: bytes) -> None:
    """Look at nothing: it is no model's answer."""
