"""Selection of the meter of a response by its headers, or by its first bytes."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache, partial

from .account import UsageAccount, UsageMeter
from .compressed_meter import CompressedMeter, UnsupportedEncodingMeter
from .decompress import DecoderFactory, decoders_for
from .eventstream import EventStreamMeter
from .json_meter import BEFORE, JsonMeter
from .sse_meter import SSEMeter

_MAX_VALUE_BYTES = 128  # of a header

# Streams of documents, despite the suffix.
_NOT_JSON = (b"application/stream+json", b"application/jsonlines+json")

# Media types that do not state a format; Codex sends no media type.
_UNSPECIFIC = (b"", b"text/plain", b"application/octet-stream")

MeterFactory = Callable[[], UsageMeter]


def meter_for(content_type: bytes, encoding: bytes = b"") -> UsageMeter | None:
    """Return a meter for a body of this media type, or None if no vendor responds with it.

    Args:
        content_type: The value of Content-Type.
        encoding: The value of Content-Encoding: gzip, deflate, br or zstd, the last two if
            their package is installed. In another coding the usage is missing.
    """
    factory = _factory_for(content_type[:_MAX_VALUE_BYTES], encoding[:_MAX_VALUE_BYTES])
    return factory() if factory is not None else None


@lru_cache(maxsize=256)
def _factory_for(content_type: bytes, encoding: bytes) -> MeterFactory | None:
    media_type = content_type.partition(b";")[0].strip().lower()
    plain = _plain_factory_for(media_type)
    if plain is None or not encoding:
        return plain
    decoders = decoders_for(encoding)
    if decoders is None:
        return None if media_type in _UNSPECIFIC else UnsupportedEncodingMeter
    return partial(_compressed_meter, plain, decoders) if decoders else plain


def _plain_factory_for(media_type: bytes) -> MeterFactory | None:
    if media_type == b"text/event-stream":
        return SSEMeter
    if media_type == b"application/json":
        return MaybeJsonMeter
    if media_type.endswith(b"+json"):
        return None if media_type in _NOT_JSON else JsonMeter
    if media_type in _UNSPECIFIC:
        return _sniff_meter
    return EventStreamMeter if media_type == b"application/vnd.amazon.eventstream" else None


def _sniff_meter() -> UsageMeter:
    return SniffMeter(UsageAccount(sniffed=True))


def _compressed_meter(plain: MeterFactory, decoders: list[DecoderFactory]) -> UsageMeter:
    return CompressedMeter(plain(), [factory() for factory in decoders])


_BRACKETS = (b"{", b"[")

# The start of a line of server-sent events; a colon starts a comment.
_FIELDS = (b"data:", b"event:", b"id:", b"retry:", b":")


class SniffMeter:
    """Reads a response as server-sent events or as JSON, depending on its first bytes.

    Some vendors send a stream of events without a media type (Codex), and some gateways as
    `application/json` or `text/plain`. Once the format is known, `feed` is that of its meter. Until
    then at most five bytes are kept.

    Args:
        account: Receives the usage. A body that starts like neither format is read as JSON, or
            ignored if the account is `sniffed`.
    """

    __slots__ = ("_held", "_meter", "account", "feed")

    def __init__(self, account: UsageAccount) -> None:
        self.account = account
        self.feed: Callable[[bytes], None] = self._sniff
        self._meter: UsageMeter | None = None
        self._held = b""

    @property
    def awaits_output(self) -> bool:
        """Return True while the first output has not been seen; always if the body is ignored."""
        return self._meter is None or self._meter.awaits_output

    def finish(self, *, complete: bool) -> None:
        """Examine the rest, which may be too short to show its format."""
        if self.feed == self._sniff:
            self._continue_with(self._other())
        if self._meter is None:
            self.account.complete = complete
        else:
            self._meter.finish(complete=complete)

    def _sniff(self, chunk: bytes) -> None:
        """Buffer the first bytes until they show the format."""
        held = self._held = (self._held + bytes(chunk)).lstrip(BEFORE)
        if held.startswith(_BRACKETS):
            self._continue_with(JsonMeter(account=self.account))
        elif held.startswith(_FIELDS):
            self._continue_with(SSEMeter(account=self.account))
        elif not any(field.startswith(held) for field in _FIELDS):
            self._continue_with(self._other())

    def _other(self) -> UsageMeter | None:
        return None if self.account.sniffed else JsonMeter(account=self.account)

    def _continue_with(self, meter: UsageMeter | None) -> None:
        held, self._held = self._held, b""
        self._meter = meter
        if meter is None:
            self.feed = _ignore
            self.account.stop_search()
        else:
            self.feed = meter.feed
            meter.feed(held)


class MaybeJsonMeter(JsonMeter, eq=False, kw_only=True):
    """Reads a response that is declared as JSON, as some event streams are, too."""

    def _reader_of(self, start: bytes) -> UsageMeter | None:
        return super()._reader_of(start) or (SniffMeter(self.account) if start else None)


def _ignore(chunk: bytes) -> None:
    """Ignore a chunk of a body that is not a model's response."""
