"""Which meter reads an answer, by what its headers say of it."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache, partial

from .encoded_meter import EncodedMeter, UnreadMeter
from .encodings import Make, decoders_for
from .frame_meter import FrameMeter
from .json_meter import JsonMeter
from .ledger import Ledger
from .protocol import UsageMeter
from .sniff import MaybeJsonMeter, SniffMeter
from .stream_meter import StreamMeter

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
        return None if media_type in _UNTOLD else UnreadMeter
    return partial(_encoded, plain, decoders) if decoders else plain


def _plain_meter_of(media_type: bytes) -> MakeMeter | None:
    if media_type == b"text/event-stream":
        return StreamMeter
    if media_type == b"application/json":
        return MaybeJsonMeter
    if media_type.endswith(b"+json"):
        return None if media_type in _NOT_JSON else JsonMeter
    if media_type in _UNTOLD:
        return _guessing
    return FrameMeter if media_type == b"application/vnd.amazon.eventstream" else None


def _guessing() -> UsageMeter:
    return SniffMeter(Ledger(guessed=True))


def _encoded(plain: MakeMeter, decoders: list[Make]) -> UsageMeter:
    return EncodedMeter(plain(), [make() for make in decoders])
