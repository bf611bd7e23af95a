"""Memory of open streams in each coding."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tokenpulse_mw.usage.bounds import MAX_WINDOW_LOG_BROTLI, MAX_WINDOW_LOG_ZSTD
from tokenpulse_mw.usage.decompress import CorruptError, decoders_for, window_log

from .bodies import SSE, event, measure, outcome
from .codings import deflated, gzipped

pytestmark = pytest.mark.slow

MIB = 1024 * 1024
# Documented maximum of bytes that one open stream holds, by its coding.
HELD = {
    "gzip": MIB // 8,
    "deflate": MIB // 8,
    "br": 7 * MIB,
    "zstd": 9 * MIB,
    "gzip, zstd": 9 * MIB + MIB // 8,
    "br, br": 14 * MIB,
}
MEASURE = """
import random, sys, zlib
from pathlib import Path
from tokenpulse_mw.usage import meter_for
from tokenpulse_mw.usage.budget import slices

def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096

def encode(name, data):
    if name in ("gzip", "deflate"):
        return zlib.compress(data, 1, 31 if name == "gzip" else 15)
    if name == "br":
        import brotli
        return brotli.compress(data, quality=1, lgwin=%d)
    from backports import zstd
    parameter = zstd.CompressionParameter
    return zstd.compress(data, options={
        parameter.window_log: %d, parameter.compression_level: 1, parameter.content_size_flag: 0,
    })

encoding = sys.argv[1]
data = random.Random(1).randbytes(10 << 20)
for name in encoding.split(", "):
    data = encode(name, data)
data = data[:-20]  # so that no stream ends
warm = meter_for(b"text/event-stream", encoding.encode())
warm.feed(data[:1000])
meters, before = [], resident()
for _ in range(8):
    meter = meter_for(b"text/event-stream", encoding.encode())
    for chunk in slices(data):
        meter.feed(chunk)
    meters.append(meter)
held = (resident() - before) // len(meters)
print(held, sum(meter.account.budget.exhausted for meter in meters))
""" % (MAX_WINDOW_LOG_BROTLI, MAX_WINDOW_LOG_ZSTD)  # noqa: UP031


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="needs Linux's /proc")
@pytest.mark.parametrize("encoding", HELD)
def test_open_stream_holds_at_most_the_documented_memory(encoding: str) -> None:
    """The resident memory is bounded with the largest window that is accepted."""
    for module in ("brotli", "backports.zstd"):
        pytest.importorskip(module, reason=f"install the package {module}")

    run = subprocess.run(
        [sys.executable, "-c", MEASURE, encoding], capture_output=True, text=True, check=True
    )

    held, exhausted = map(int, run.stdout.split())
    assert exhausted == 0
    assert held <= HELD[encoding] + MIB  # for the event that the meter holds


@pytest.mark.parametrize("log", range(10, 25))
def test_window_log_of_brotli_is_read_from_its_first_byte(log: int) -> None:
    """The first byte has the window size (RFC 7932, section 9.1)."""
    brotli = pytest.importorskip("brotli", reason="install the package brotli")
    data = brotli.compress(bytes(range(256)) * 100_000, lgwin=log, quality=5)

    assert window_log(data[0]) == log


@pytest.mark.parametrize(("first", "log"), [(0x01, 17), (0x11, 63), (0x91, 63), (0x00, 16)])
def test_window_log_of_special_first_bytes_is_as_specified(first: int, log: int) -> None:
    """The short codes of 16 and 17, and that of large windows, are supported."""
    assert window_log(first) == log


@pytest.mark.parametrize("log", [22, 23, 24])
def test_brotli_window_above_the_maximum_is_unreadable(log: int) -> None:
    """The sender cannot choose how much memory a decoder holds."""
    brotli = pytest.importorskip("brotli", reason="install the package brotli")
    compressor = brotli.Compressor(lgwin=log)
    data = compressor.process(event({"usage": {"prompt_tokens": 3}})) + compressor.finish()

    account = measure(SSE, [data[:1], data[1:]], encoding=b"br")

    accepted = log <= MAX_WINDOW_LOG_BROTLI
    assert account.unreadable == (not accepted)
    assert (account.usage is not None) is accepted


@pytest.mark.parametrize("log", [MAX_WINDOW_LOG_ZSTD, MAX_WINDOW_LOG_ZSTD + 1])
def test_zstd_window_above_the_maximum_is_corrupt(log: int) -> None:
    """RFC 9659 limits the window to 8 MiB."""
    zstd = pytest.importorskip("backports.zstd", reason="install the package backports.zstd")
    parameter = zstd.CompressionParameter
    compressor = zstd.ZstdCompressor(options={parameter.window_log: log})
    data = compressor.compress(b"data" * 1000, compressor.FLUSH_BLOCK) + compressor.flush()
    makes = decoders_for(b"zstd")
    assert makes is not None

    if log > MAX_WINDOW_LOG_ZSTD:
        with pytest.raises(CorruptError):
            list(makes[0]().feed(data))
    else:
        assert b"".join(makes[0]().feed(data)) == b"data" * 1000


def test_more_than_two_codings_are_not_decoded() -> None:
    """Each coding holds a window, so their number is bounded."""
    data = deflated(gzipped(event({"usage": {"prompt_tokens": 3}})))

    assert outcome(measure(SSE, [data], encoding=b"gzip, deflate"))[1] == "reported"
    assert outcome(measure(SSE, [gzipped(data)], encoding=b"gzip, deflate, gzip"))[1] == "missing"
