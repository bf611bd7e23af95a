"""Response bodies that are expensive to read, in any size."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from typing import NamedTuple

import pytest

from ..support.chunks import chunks_of
from .bodies import FRAMES, JSON, SSE, frame
from .codings import zstded

TEXT = b"text/plain"


class Kind(NamedTuple):
    """A kind of hostile bodies."""

    content_type: bytes
    encoding: bytes
    body: Callable[[int], bytes]  # takes the approximate size in bytes
    chunk: int = 0  # bytes, or 0 for a single chunk

    def chunks(self, size: int) -> list[bytes]:
        """Return a body of about `size` bytes as its chunks."""
        body = self.body(size)
        return chunks_of(body, self.chunk or len(body))


def repeated(
    unit: bytes, start: bytes = b"", end: bytes = b"", *, most: int = 1 << 40
) -> Callable[[int], bytes]:
    """Return a function of the size that repeats `unit` between `start` and `end`."""
    return lambda size: start + unit * max(min(size, most) // len(unit), 1) + end


def events(unit: bytes, *, most: int = 1 << 19) -> Callable[[int], bytes]:
    """Return a function of the size that builds events with `unit` repeated in a JSON array."""
    return lambda size: (
        (b'data:{"usage":[' + unit * (most // len(unit)) + b'0],"tokens":1}\n\n')
        * (max(size // most, 1))
    )


def sse(body: Callable[[int], bytes], chunk: int = 0) -> Kind:
    """Return a kind of server-sent events."""
    return Kind(SSE, b"", body, chunk)


def _empty_block() -> bytes:
    """Return eight empty deflate blocks, each with its own Huffman tables."""
    order = [16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1]
    fields = [(0, 1), (2, 2), (0, 5), (0, 5), (len(order) - 4, 4)]
    fields += [(int(symbol in (18, 1)), 3) for symbol in order]
    fields += [(1, 1), (127, 7), (1, 1), (107, 7), (0, 3)]
    value = position = 0
    for number, bits in fields * 8:
        value |= number << position
        position += bits
    return value.to_bytes(position // 8, "little")


def _compressed(unit: bytes, start: bytes = b"") -> Callable[[int], bytes]:
    """Return a function of the size whose result decodes to 256 times as many bytes."""
    return lambda size: gzip.compress(start + unit * (size * 256 // len(unit)), 6)


def _brotli(data: bytes) -> bytes:
    brotli = pytest.importorskip("brotli", reason="install the package brotli")
    return bytes(brotli.compress(data, quality=3, lgwin=22))


_EVENT_TYPE = b"\x0b:event-type\x07\x00\x05chunk"
_ITERATIONS = b'{"type":"message_delta","usage":{"iterations":[%s{"output_tokens":1}]}}'

KINDS: dict[str, Kind] = {
    # Server-sent events.
    "events-tiny": sse(repeated(b"a\n\n")),
    "events-tiny-data": sse(repeated(b"data:{}\n\n")),
    "events-cr": sse(repeated(b"a\r\r")),
    "events-crlf": sse(repeated(b"a\r\n\r\n")),
    "events-mixed-ends": sse(repeated(b"a\n\r\nb\r\n\nc\r\r")),
    "events-one-line-ends": sse(repeated(b"a\n")),
    "events-one-cr-ends": sse(repeated(b"a\r")),
    "events-line-feeds": sse(repeated(b"\n")),
    "events-carriage-returns": sse(repeated(b"\r")),
    "events-spaces": sse(repeated(b" ")),
    "events-error-and-spaces": sse(repeated(b" \n", b'"error"\n', most=1 << 19)),
    "events-error-names": sse(repeated(b'"error" \n', most=1 << 19)),
    "events-errors": sse(repeated(b'data:{"error":1}\n\n')),
    "events-comment-lines": sse(repeated(b":a\n" * 300_000 + b"\n")),
    "events-long-then-tiny": sse(repeated(b"x" * 980_000 + b"\n\n" + b"a\n\n" * 20_000)),
    "events-count-names": sse(repeated(b'okens"')),
    "events-count-name-each": sse(repeated(b'okens"\n\n')),
    "events-other-count-name-each": sse(repeated(b'okenCount"\n\n')),
    "events-count-name-cr": sse(repeated(b'okens"\r\r')),
    "events-count-half-names": sse(repeated(b"oken")),
    "events-no-usage": sse(repeated(b'data:{"a_tokens":1}\n\n')),
    "events-deltas": sse(
        repeated(b'data:{"type":"message_delta","usage":{"output_tokens":3}}\n\n')
    ),
    "events-iterations": sse(repeated(b"data:" + _ITERATIONS % (b"{}," * 250) + b"\n\n")),
    "events-calls": sse(
        repeated(b"data:" + _ITERATIONS % (b'{"output_tokens":""},' * 250) + b"\n\n")
    ),
    "events-documents-in-lines": sse(repeated(b"data:{}\n" * 900 + b'data:{"tokens":1}\n\n')),
    "events-array-of-documents": sse(repeated(b"data:[" + b"{}," * 300 + b'{"tokens":1}]\n\n')),
    "events-array-in-lines": sse(
        repeated(b"data:{}\n" + b"data:[" + b"{}," * 300 + b'{"tokens":1}]\n\n')
    ),
    "events-dicts": sse(events(b"{},")),
    "events-numbers": sse(events(b"1.5,")),
    "events-strings": sse(events(b'"",')),
    "events-nan": sse(events(b"NaN,")),
    "events-infinity": sse(events(b"-Infinity,")),
    "events-surrogates": sse(events(b'"\\ud83d",')),
    "events-choices": sse(
        repeated(b'data:{"choices":[' + b"{}," * 320 + b'{"usage":{"tokens":1}}]}\n\n')
    ),
    "events-nested-delta": sse(
        repeated(b'data:{"delta":' + b"[" * 450 + b"]" * 450 + b',"tokens":1}\n\n')
    ),
    "events-nested-usage": sse(
        repeated(b'data:{"usage":' + b"[" * 900 + b"]" * 900 + b',"tokens":1}\n\n')
    ),
    "events-deep": sse(repeated(b"data:" + b"[" * 5000 + b'"tokens"\n\n')),
    "events-long-number": sse(
        repeated(b'data:{"usage":{"prompt_tokens":' + b"9" * 500_000 + b"}}\n\n")
    ),
    "events-in-small-chunks": sse(repeated(b'data:{"a_tokens":1}\n\n'), 100),
    "events-without-end-in-small-chunks": sse(repeated(b'"tokens" \n'), 100),
    # JSON.
    "json-white-space": Kind(JSON, b"", repeated(b" ")),
    "json-brackets": Kind(JSON, b"", repeated(b"[")),
    "json-array": Kind(JSON, b"", repeated(b"{},", b"[")),
    "json-array-usage": Kind(
        JSON, b"", repeated(b'{"usageMetadata":{"promptTokenCount":1}},', b"[")
    ),
    "json-array-strings": Kind(JSON, b"", repeated(b'"",', b"[")),
    "json-array-backslashes": Kind(JSON, b"", repeated(b"\\", b'["')),
    "json-array-numbers": Kind(JSON, b"", repeated(b"1,", b"[")),
    "json-array-long-strings": Kind(JSON, b"", repeated(b'{"a":"' + b"x" * 30_000 + b'"},', b"[")),
    "json-array-long-element": Kind(JSON, b"", repeated(b"{},", b'[{"a":['), 100),
    "json-document-in-small-chunks": Kind(JSON, b"", repeated(b"x", b'{"a":"'), 100),
    "json-members": Kind(JSON, b"", repeated(b'"usage":{},', b"{", b'"a":1}')),
    "text-comments": Kind(TEXT, b"", repeated(b":\n\n")),
    # AWS event streams.
    "frames-empty": Kind(FRAMES, b"", repeated(frame(b"", b""))),
    "frames-headers": Kind(FRAMES, b"", repeated(frame(b"\0\0" * 30_000, b""))),
    "frames-corrupt": Kind(FRAMES, b"", repeated(frame(b"", b"x")[:-1] + b"\0")),
    "frames-too-many-headers": Kind(FRAMES, b"", repeated(frame(b"\0\0" * 33, b""))),
    "frames-payload": Kind(
        FRAMES, b"", repeated(frame(_EVENT_TYPE, b'{"bytes":"eyJhX3Rva2VucyI6MX0="}'))
    ),
    "frames-dicts": Kind(
        FRAMES, b"", repeated(frame(b"", b'{"a_tokens":[' + b"{}," * 100_000 + b"{}]}"))
    ),
    # Compressed.
    "gzip-array": Kind(JSON, b"gzip", lambda size: _compressed(b"{},", b"[")(size // 16)),
    "gzip-events": Kind(SSE, b"gzip", lambda size: _compressed(b"a\n\n")(size // 16)),
    "gzip-zeros": Kind(SSE, b"gzip", lambda size: _compressed(b"\0")(size // 16)),
    "gzip-members": Kind(SSE, b"gzip", repeated(gzip.compress(b"", mtime=0))),
    "gzip-gzip-members": Kind(
        SSE, b"gzip, gzip", lambda size: _compressed(gzip.compress(b"", mtime=0))(size // 16)
    ),
    "deflate-empty-blocks": Kind(SSE, b"deflate", repeated(_empty_block())),
    "deflate-stored-blocks": Kind(SSE, b"deflate", repeated(b"\0\0\0\xff\xff")),
    "br-zeros": Kind(SSE, b"br", lambda size: _brotli(bytes(size * 16))),
    "br-events": Kind(
        SSE, b"br", lambda size: _brotli(repeated(b'data:{"a_tokens":1}\n\n')(size * 16))
    ),
    "zstd-frames": Kind(SSE, b"zstd", lambda size: zstded(b"") * (size // 9)),
}
