"""Recorded responses of vendors, with their usage."""

from __future__ import annotations

import json
import random
import re
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tokenpulse_mw.usage import TokenUsage, meter_for

from ..support.chunks import split_at
from .bodies import FRAMES, measure, outcome
from .codings import WHOLE, Encode

RECORDINGS = Path(__file__).parents[3] / "shared" / "recordings"
_BLANK_LINE = re.compile(rb"\r\n\r\n|\n\n")
_MULTIBYTE = re.compile(rb"[\r\n\\\x80-\xff]")  # parts of line ends, escapes and characters


def recordings() -> list[Any]:
    """Return a parameter set for each recording, or a skipped one if there are none."""
    index = RECORDINGS / "index.json"
    if not index.is_file():
        reason = "no recordings: the folder shared/recordings beside the project is absent"
        return [pytest.param({}, marks=pytest.mark.skip(reason=reason), id="absent")]
    entries = json.loads(index.read_bytes())
    return [pytest.param(entry, id=entry["file"]) for entry in entries]


def body(entry: dict[str, Any]) -> tuple[bytes, bytes]:
    """Return the media type and the bytes of a recording."""
    return entry["content_type"].encode(), (RECORDINGS / entry["file"]).read_bytes()


def event_ends(content_type: bytes, data: bytes) -> Iterator[int]:
    """Yield the end of each event of a stream; a JSON document has none."""
    if content_type == FRAMES:
        end = 0
        while end < len(data):
            end += struct.unpack_from(">I", data, end)[0]
            yield end
    elif content_type.startswith(b"text/event-stream"):
        yield from (blank.end() for blank in _BLANK_LINE.finditer(data))


# The index of the recordings has neither thoughts that only the total has, nor audio and searches.
_NOT_LISTED = {
    "02f799a570.json": {"audio_input": 80},
    "0cc63de170.json": {"audio_input": 150},
    "10fe96c3e2.json": {"audio_input": 113},
    "1161e9358d.json": {"audio_input": 150},
    "1bc96d3cfb.json": {"audio_input": 144},
    "a2b02f14e9.sse": {"searches": 1},
    "ae39877c37.json": {"output": 34, "reasoning": 28},
}


def expected(entry: dict[str, Any]) -> tuple[TokenUsage | None, str]:
    """Return the usage that the index lists for a recording, and its source."""
    listed = entry["usage"]
    if listed is None:
        return (None, "missing")
    return (TokenUsage(**listed | _NOT_LISTED.get(entry["file"], {})), "reported")


every_recording = pytest.mark.parametrize("entry", recordings())


_ALL_CHUNKINGS = [
    pytest.param(name, marks=() if name == "whole" else pytest.mark.slow)
    for name in ("whole", "1", "7", "random", "events", "multibyte")
]


@pytest.mark.parametrize("chunking", _ALL_CHUNKINGS)
@every_recording
def test_usage_of_recording_equals_the_index(entry: dict[str, Any], chunking: str) -> None:
    """Each recorded response has exactly the listed usage, in any chunking."""
    content_type, data = body(entry)
    chance = random.Random(entry["file"])
    ends = [0, *event_ends(content_type, data)]
    around = {end + step for end in ends for step in (-1, 0, 1, 5, 9)}
    offsets: dict[str, Any] = {
        "whole": [],
        "1": range(1, len(data)),
        "7": range(7, len(data), 7),
        "random": [chance.randrange(len(data)) for _ in range(40)],
        "events": [offset for offset in around if 0 < offset < len(data)],
        "multibyte": [match.end() for match in _MULTIBYTE.finditer(data)],
    }

    account = measure(content_type, split_at(data, offsets[chunking]))

    assert (account.usage, account.source) == expected(entry)
    assert account.unreadable == 0


@pytest.mark.slow
@pytest.mark.parametrize(("coding", "encode"), WHOLE.values(), ids=WHOLE)
@every_recording
def test_usage_of_compressed_recording_equals_the_index(
    entry: dict[str, Any], coding: bytes, encode: Encode
) -> None:
    """The usage does not depend on the coding or the chunks, and is partial if it is cut."""
    content_type, data = body(entry)
    chance = random.Random(entry["file"])
    stream = encode(data)
    offsets = [chance.randrange(len(stream)) for _ in range(20)]

    for chunks in ([stream], split_at(stream, offsets)):
        account = measure(content_type, chunks, encoding=coding)
        assert (account.usage, account.source) == expected(entry)
        assert account.unreadable == 0

    cut = measure(content_type, [stream[: offsets[0]]], complete=False, encoding=coding)
    assert cut.source == ("missing" if cut.usage is None else "partial")


@every_recording
def test_cut_recording_has_the_account_of_its_complete_events(entry: dict[str, Any]) -> None:
    """A cut event changes nothing: the account is that of the events before it."""
    content_type, data = body(entry)
    chance = random.Random(entry["file"])
    ends = list(event_ends(content_type, data))

    for cut in [chance.randrange(len(data)) for _ in range(12)]:
        # An event is complete without its blank line, but a frame is not without its checksum.
        read = max((end for end in ends if not data[cut:end].strip(b"\r\n")), default=0)
        account = measure(content_type, [data[:cut]], complete=False)

        assert outcome(account) == outcome(measure(content_type, [data[:read]], complete=False))
        assert account.source == ("missing" if account.usage is None else "partial")


@every_recording
def test_first_output_of_recorded_stream_is_found(entry: dict[str, Any]) -> None:
    """`awaits_output` is False at the end of each stream with output."""
    content_type, data = body(entry)
    meter = meter_for(content_type)
    assert meter is not None

    meter.feed(data)
    meter.finish(complete=True)

    streamed = not entry["file"].endswith(".json") and entry["usage"] is not None
    assert meter.awaits_output is not (streamed and entry["usage"]["output"] > 0)
