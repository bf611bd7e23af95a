"""Content codings: any chunking gives the same bytes, in bounded pieces."""

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

from ..support.chunks import chunkings
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
    """Finds no packages but these; "found=asked" is one that goes by another's name."""
    known = {name.rpartition("=")[2]: name.partition("=")[0] for name in names}

    def load(name: str) -> Any:
        if name not in known:
            raise ImportError(name)
        return import_module(known[name])

    return load


def decoder_of(coding: bytes, *packages: str) -> Decoder:
    """The decoder of one coding, with these packages installed."""
    makes = decoders_for(coding, only(*packages)) if packages else decoders_for(coding)
    assert makes is not None
    (make,) = makes
    return make()


@every_coding
@given(st.data())
def test_any_chunking_gives_the_same_bytes(
    coding: bytes, encode: Encode, data: st.DataObject
) -> None:
    """Whatever was encoded comes out, in pieces, and its end is known."""
    text = TEXT[: data.draw(st.integers(0, len(TEXT)))]
    chunks: list[bytes] = data.draw(chunkings(encode(text)))
    makes = decoders_for(coding)
    assert makes is not None
    decoders = [make() for make in makes]

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
    """Br and zstd are read by whichever package is installed."""
    pytest.importorskip(package.partition("=")[0], reason=f"install the package {package}")
    data = encode(TEXT)
    decoder = decoder_of(coding, package)

    chunks = [data[start : start + size] for start in range(0, len(data), size)]
    pieces = [piece for chunk in chunks for piece in decoder.feed(chunk)]

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
def test_what_a_few_bytes_say_comes_in_pieces(coding: bytes, package: str) -> None:
    """A bomb of 30 MB costs no more memory than a few pieces of it."""
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
    """Bytes in no coding at all are told as such, by every decoder alike."""
    if package:
        pytest.importorskip(package, reason=f"install the package {package}")
    decoder = decoder_of(coding, *([package] if package else []))

    with pytest.raises(CorruptError):
        list(decoder.feed(b"\xff" * 100))


@pytest.mark.parametrize(("coding", "encode"), [(b"gzip", gzipped), (b"deflate", deflated)])
def test_what_was_said_before_a_corrupt_piece_is_good(coding: bytes, encode: Encode) -> None:
    """The pieces handed on before are not taken back."""
    data = encode(TEXT)
    decoder = decoder_of(coding)

    pieces = list(decoder.feed(data[:-4]))
    with pytest.raises(CorruptError):
        list(decoder.feed(b"\xff" * 4))  # where its checksum, or its size, should be

    assert b"".join(pieces) == TEXT


def test_bytes_after_a_deflated_answer_are_passed_over() -> None:
    """Its end is its own; some servers send a little more."""
    decoder = decoder_of(b"deflate")

    pieces = [*decoder.feed(deflated(TEXT) + b"garbage"), *decoder.feed(b"more")]

    assert b"".join(pieces) == TEXT


def test_padding_without_end_is_not_held() -> None:
    """Zeros may stand behind a gzip, or between two."""
    decoder = decoder_of(b"gzip")
    found = list(decoder.feed(gzipped(b"one") + bytes(9)))
    tracemalloc.start()
    try:
        for _ in range(20):
            found += decoder.feed(bytes(10_000))
        held, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert decoder.ended is True
    found += decoder.feed(b"\0" + gzipped(b"two"))

    assert held < 20_000
    assert b"".join(found) == b"onetwo"


def test_garbage_after_a_gzip_is_corrupt() -> None:
    """What follows a member must be another member, or padding."""
    decoder = decoder_of(b"gzip")
    found: list[bytes] = []

    with pytest.raises(CorruptError):
        found.extend(decoder.feed(gzipped(TEXT) + b"garbage"))

    assert b"".join(found) == TEXT


@pytest.mark.parametrize(("coding", "encode"), [(b"gzip", gzip.compress), (b"zstd", zstded)])
def test_an_answer_of_very_many_frames_is_corrupt(coding: bytes, encode: Encode) -> None:
    """Empty ones say nothing at all, and still each of them costs time."""
    frame = encode(b"")

    assert list(decoder_of(coding).feed(frame * MAX_COMPRESSED_FRAMES)) == []
    with pytest.raises(CorruptError):
        list(decoder_of(coding).feed(frame * (MAX_COMPRESSED_FRAMES + 2)))


def test_a_coding_that_has_not_ended_is_known() -> None:
    """Also where nothing has come at all."""
    for coding, encode in CODINGS.values():
        makes = decoders_for(coding)
        assert makes is not None
        decoder = makes[-1]()
        assert decoder.ended is False
        list(decoder.feed(encode(TEXT)[:1]))
        assert decoder.ended is False


@pytest.mark.parametrize("encoding", [b"", b"identity", b" , ", b"Identity, identity"])
def test_an_answer_without_a_coding_needs_no_decoder(encoding: bytes) -> None:
    """Identity is none."""
    assert decoders_for(encoding) == []


@pytest.mark.parametrize(
    "encoding",
    [b"compress", b"aws-chunked", b"gzip, compress", b"gzip;q=1", b"\xff", b"gzip," * 4],
)
def test_what_cannot_be_undone_has_no_decoder(encoding: bytes) -> None:
    """An unknown coding, or more of them than anybody means."""
    assert decoders_for(encoding) is None


def test_a_coding_whose_package_is_not_installed_cannot_be_undone() -> None:
    """Gzip and deflate need none."""
    absent = only("none")

    assert decoders_for(b"br", absent) is None
    assert decoders_for(b"zstd", absent) is None
    assert decoders_for(b"gzip, br", absent) is None
    assert decoders_for(b"gzip, deflate", absent) is not None


def test_a_brotli_that_puts_no_bound_to_its_output_is_not_used() -> None:
    """A bomb would be held whole; versions before 1.2 are such."""

    class Unbounded:
        class Decompressor:
            def process(self, data: bytes) -> bytes:
                return data

    assert decoders_for(b"br", lambda name: Unbounded) is None


@every_coding
@given(st.lists(st.binary(max_size=40)))
def test_random_bytes_are_corrupt_at_worst(
    coding: bytes, encode: Encode, chunks: list[bytes]
) -> None:
    """No other error than CorruptError comes of them."""
    makes = decoders_for(coding)
    assert makes is not None
    decoder = makes[0]()

    try:
        for chunk in chunks:
            assert all(isinstance(piece, bytes) for piece in decoder.feed(chunk))
    except CorruptError:
        assert chunks
