"""Real answers of the vendors, each with the usage that it must be metered as."""

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
_DELICATE = re.compile(rb"[\r\n\\\x80-\xff]")  # halves of line ends, escapes and characters


def recordings() -> list[Any]:
    """One case for each recording, or one that is skipped where there are none."""
    index = RECORDINGS / "index.json"
    if not index.is_file():
        reason = "no recordings: the folder shared/recordings beside the project is absent"
        return [pytest.param({}, marks=pytest.mark.skip(reason=reason), id="absent")]
    entries = json.loads(index.read_bytes())
    return [pytest.param(entry, id=entry["file"]) for entry in entries]


def body(entry: dict[str, Any]) -> tuple[bytes, bytes]:
    """The media type of a recording, and its bytes."""
    return entry["content_type"].encode(), (RECORDINGS / entry["file"]).read_bytes()


def event_ends(content_type: bytes, data: bytes) -> Iterator[int]:
    """Where the events of a stream end; a JSON document has none."""
    if content_type == FRAMES:
        end = 0
        while end < len(data):
            end += struct.unpack_from(">I", data, end)[0]
            yield end
    elif content_type.startswith(b"text/event-stream"):
        yield from (blank.end() for blank in _BLANK_LINE.finditer(data))


def expected(entry: dict[str, Any]) -> tuple[TokenUsage | None, str]:
    """The usage that is listed for a recording, and its source."""
    listed = entry["usage"]
    return (None, "missing") if listed is None else (TokenUsage(**listed), "reported")


every_recording = pytest.mark.parametrize("entry", recordings())


@pytest.mark.parametrize("cutting", ["whole", "1", "7", "random", "events", "delicate"])
@every_recording
def test_a_recording_gives_its_usage(entry: dict[str, Any], cutting: str) -> None:
    """Every recorded answer costs exactly what is listed for it, however it is cut."""
    content_type, data = body(entry)
    chance = random.Random(entry["file"])
    ends = [0, *event_ends(content_type, data)]
    around = {end + step for end in ends for step in (-1, 0, 1, 5, 9)}
    places: dict[str, Any] = {
        "whole": [],
        "1": range(1, len(data)),
        "7": range(7, len(data), 7),
        "random": [chance.randrange(len(data)) for _ in range(40)],
        "events": [place for place in around if 0 < place < len(data)],
        "delicate": [found.end() for found in _DELICATE.finditer(data)],
    }

    account = measure(content_type, split_at(data, places[cutting]))

    assert (account.usage, account.source) == expected(entry)
    assert account.unreadable == 0


@pytest.mark.parametrize(("coding", "encode"), WHOLE.values(), ids=WHOLE)
@every_recording
def test_a_compressed_recording_gives_its_usage(
    entry: dict[str, Any], coding: bytes, encode: Encode
) -> None:
    """What a vendor says does not depend on how it is compressed, nor on where that is cut."""
    content_type, data = body(entry)
    chance = random.Random(entry["file"])
    stream = encode(data)
    places = [chance.randrange(len(stream)) for _ in range(20)]

    for chunks in ([stream], split_at(stream, places)):
        account = measure(content_type, chunks, encoding=coding)
        assert (account.usage, account.source) == expected(entry)
        assert account.unreadable == 0

    part = measure(content_type, [stream[: places[0]]], complete=False, encoding=coding)
    assert part.source == ("missing" if part.usage is None else "partial")


@every_recording
def test_a_cut_recording_says_what_its_whole_events_said(entry: dict[str, Any]) -> None:
    """Half an event says nothing: the account is that of the events before it."""
    content_type, data = body(entry)
    chance = random.Random(entry["file"])
    ends = list(event_ends(content_type, data))

    for place in [chance.randrange(len(data)) for _ in range(12)]:
        # An event lacks nothing without its blank line; a frame lacks its checksum.
        said = max((end for end in ends if not data[place:end].strip(b"\r\n")), default=0)
        account = measure(content_type, [data[:place]], complete=False)

        assert outcome(account) == outcome(measure(content_type, [data[:said]], complete=False))
        assert account.source == ("missing" if account.usage is None else "partial")


@every_recording
def test_a_recorded_stream_has_first_words(entry: dict[str, Any]) -> None:
    """Wherever a model wrote something the time of its first words can be told."""
    content_type, data = body(entry)
    meter = meter_for(content_type)
    assert meter is not None

    meter.feed(data)
    meter.finish(complete=True)

    streamed = not entry["file"].endswith(".json") and entry["usage"] is not None
    assert meter.awaits_output is not (streamed and entry["usage"]["output"] > 0)
