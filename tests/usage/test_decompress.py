"""Decoders of content codings."""

from __future__ import annotations

import gzip
import tracemalloc
import zlib
from importlib import import_module
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokenpulse_mw.usage.bounds import MAX_COMPRESSED_FRAMES
from tokenpulse_mw.usage.decompress import CorruptError, Decoder, decoders_for

from ..support.chunks import chunkings, chunks_of
from ..support.memory import held_after
from .codings import CODINGS, ZSTD, Encode, brotlied, deflated, gzipped, zstded

TEXT = b"".join(b"data: %d\n\n" % number for number in range(400))


def _brotli(data: bytes) -> bytes:
    brotli = pytest.importorskip("brotli", reason="install the package brotli")
    return bytes(brotli.compress(data, quality=3))


BOMBS: dict[bytes, Encode] = {
    b"gzip": gzip.compress,
    b"deflate": zlib.compress,
    b"br": _brotli,
    b"zstd": zstded,
}
every_coding = pytest.mark.parametrize(("coding", "encode"), CODINGS.values(), ids=CODINGS)


def only(*names: str) -> Any:
    """Return an import function that finds only these packages; "a=b" imports `a` as `b`."""
    known = {name.rpartition("=")[2]: name.partition("=")[0] for name in names}

    def load(name: str) -> Any:
        if name not in known:
            raise ImportError(name)
        return import_module(known[name])

    return load


def decoder_of(coding: bytes, *packages: str) -> Decoder:
    """Return a decoder of one coding, with these packages installed."""
    factories = decoders_for(coding, only(*packages)) if packages else decoders_for(coding)
    assert factories is not None
    (factory,) = factories
    return factory()


@every_coding
@given(st.data())
def test_any_chunking_gives_the_same_bytes(
    coding: bytes, encode: Encode, data: st.DataObject
) -> None:
    """The decoded bytes are the encoded ones in any chunking, and the end is detected."""
    text = TEXT[: data.draw(st.integers(0, len(TEXT)))]
    chunks: list[bytes] = data.draw(chunkings(encode(text)))
    factories = decoders_for(coding)
    assert factories is not None
    decoders = [factory() for factory in factories]

    for decoder in decoders:
        chunks = [piece for chunk in chunks for piece in decoder.feed(chunk)]

    assert b"".join(chunks) == text
    assert all(decoder.ended for decoder in decoders)


@pytest.mark.parametrize(
    ("coding", "encode", "package"),
    [
        (b"br", brotlied, "brotli"),
        (b"br", brotlied, "brotli=brotlicffi"),
        (b"zstd", zstded, f"{ZSTD}=backports.zstd"),
        (b"zstd", zstded, f"{ZSTD}=compression.zstd"),
    ],
)
@pytest.mark.parametrize("size", [1, 50, 100_000])
def test_each_package_decodes(coding: bytes, encode: Encode, package: str, size: int) -> None:
    """Br and zstd are decoded with any of the supported packages."""
    pytest.importorskip(package.partition("=")[0], reason=f"install the package {package}")
    data = encode(TEXT)
    decoder = decoder_of(coding, package)

    pieces = [piece for chunk in chunks_of(data, size) for piece in decoder.feed(chunk)]

    assert b"".join(pieces) == TEXT
    assert decoder.ended is True


@pytest.mark.parametrize(
    ("coding", "package"),
    [
        (b"gzip", ""),
        (b"deflate", ""),
        (b"br", "brotli"),
        (b"zstd", ZSTD),
    ],
)
def test_bomb_is_decoded_in_pieces_of_bounded_memory(coding: bytes, package: str) -> None:
    """A bomb of 30 MB holds the memory of a few pieces only."""
    bomb = BOMBS[coding](bytes(30_000_000))
    if package:
        pytest.importorskip(package, reason=f"install the package {package}")
    decoder = decoder_of(coding, *([package] if package else []))
    size = 0
    tracemalloc.start()
    try:
        for piece in decoder.feed(bomb):
            size += len(piece)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert size == 30_000_000
    assert peak < 6_000_000


@pytest.mark.parametrize(
    ("coding", "package"),
    [
        (b"gzip", ""),
        (b"deflate", ""),
        (b"br", "brotli"),
        (b"zstd", ZSTD),
    ],
)
def test_garbage_is_corrupt(coding: bytes, package: str) -> None:
    """Bytes in none of the codings raise CorruptError in every decoder."""
    if package:
        pytest.importorskip(package, reason=f"install the package {package}")
    decoder = decoder_of(coding, *([package] if package else []))

    with pytest.raises(CorruptError):
        list(decoder.feed(b"\xff" * 100))


@pytest.mark.parametrize(("coding", "encode"), [(b"gzip", gzipped), (b"deflate", deflated)])
def test_bytes_before_the_corruption_are_decoded(coding: bytes, encode: Encode) -> None:
    """Bytes decoded before a wrong checksum or size are returned."""
    data = encode(TEXT)
    decoder = decoder_of(coding)

    pieces = list(decoder.feed(data[:-4]))
    with pytest.raises(CorruptError):
        list(decoder.feed(b"\xff" * 4))  # instead of the checksum or the size

    assert b"".join(pieces) == TEXT


def test_bytes_after_the_end_of_deflate_are_ignored() -> None:
    """Some servers send extra bytes after the end of deflate."""
    decoder = decoder_of(b"deflate")

    pieces = [*decoder.feed(deflated(TEXT) + b"garbage"), *decoder.feed(b"more")]

    assert b"".join(pieces) == TEXT


def test_padding_without_end_is_not_held() -> None:
    """Zeros after a gzip member, or between two of them, are discarded."""
    decoder = decoder_of(b"gzip")
    pieces = list(decoder.feed(gzipped(b"one") + bytes(9)))
    held = held_after(20, lambda: pieces.extend(decoder.feed(bytes(10_000))))
    assert decoder.ended is True
    pieces += decoder.feed(b"\0" + gzipped(b"two"))

    assert held < 20_000
    assert b"".join(pieces) == b"onetwo"


def test_garbage_after_gzip_is_corrupt() -> None:
    """Only another member or padding may follow a gzip member."""
    decoder = decoder_of(b"gzip")
    pieces: list[bytes] = []

    with pytest.raises(CorruptError):
        pieces.extend(decoder.feed(gzipped(TEXT) + b"garbage"))

    assert b"".join(pieces) == TEXT


@pytest.mark.parametrize(("coding", "encode"), [(b"gzip", gzip.compress), (b"zstd", zstded)])
def test_number_of_frames_is_bounded(coding: bytes, encode: Encode) -> None:
    """Empty frames decode to nothing, but each of them takes time."""
    frame = encode(b"")

    assert list(decoder_of(coding).feed(frame * MAX_COMPRESSED_FRAMES)) == []
    with pytest.raises(CorruptError):
        list(decoder_of(coding).feed(frame * (MAX_COMPRESSED_FRAMES + 2)))


def test_ended_of_incomplete_coding_is_false() -> None:
    """`ended` is False for an incomplete body, even if it is empty."""
    for coding, encode in CODINGS.values():
        factories = decoders_for(coding)
        assert factories is not None
        decoder = factories[-1]()
        assert decoder.ended is False
        list(decoder.feed(encode(TEXT)[:1]))
        assert decoder.ended is False


@pytest.mark.parametrize("encoding", [b"", b"identity", b" , ", b"Identity, identity"])
def test_decoders_for_identity_are_empty(encoding: bytes) -> None:
    """Identity needs no decoder."""
    assert decoders_for(encoding) == []


@pytest.mark.parametrize(
    "encoding",
    [b"compress", b"aws-chunked", b"gzip, compress", b"gzip;q=1", b"\xff", b"gzip," * 4],
)
def test_decoders_for_unsupported_encoding_are_none(encoding: bytes) -> None:
    """An unknown coding, or too many codings, cannot be decoded."""
    assert decoders_for(encoding) is None


def test_coding_without_an_installed_package_is_unsupported() -> None:
    """Br and zstd need a package; gzip and deflate do not."""
    absent = only("none")

    assert decoders_for(b"br", absent) is None
    assert decoders_for(b"zstd", absent) is None
    assert decoders_for(b"gzip, br", absent) is None
    assert decoders_for(b"gzip, deflate", absent) is not None


def test_brotli_without_an_output_limit_is_unsupported() -> None:
    """Versions of brotli before 1.2 would decode a bomb as a whole."""

    class Unbounded:
        class Decompressor:
            def process(self, data: bytes) -> bytes:
                return data

    assert decoders_for(b"br", lambda name: Unbounded) is None


@every_coding
@given(st.lists(st.binary(max_size=40)))
def test_random_bytes_raise_only_corrupt_error(
    coding: bytes, encode: Encode, chunks: list[bytes]
) -> None:
    """Random bytes raise no other error than CorruptError."""
    factories = decoders_for(coding)
    assert factories is not None
    decoder = factories[0]()

    try:
        for chunk in chunks:
            assert all(isinstance(piece, bytes) for piece in decoder.feed(chunk))
    except CorruptError:
        assert chunks
