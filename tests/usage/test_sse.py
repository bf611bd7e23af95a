"""Buffer and parser of server-sent events."""

from __future__ import annotations

import re
from collections.abc import Iterable

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tokenpulse_mw.usage.sse import Event, EventBuffer, data_of, event_bounds, parse, split_events

from ..support.chunks import chunkings

BOM = b"\xef\xbb\xbf"
LINE_END = re.compile(rb"\r\n|\n|\r")


def read(chunks: Iterable[bytes], *, max_bytes: int = 10_000) -> tuple[list[Event], int]:
    """Return the events of a stream received in `chunks`, and the number of too long events."""
    buffer = EventBuffer(max_bytes=max_bytes)
    events = []
    for chunk in chunks:
        buffer.held += chunk
        events += [parse(block) for block in split_events(buffer.take_complete())]
    return events, buffer.overlong


def dispatched(events: Iterable[Event]) -> list[Event]:
    """Return the events that have data."""
    return [event for event in events if event.data]


def reference(stream: bytes) -> list[Event]:
    """Return the events of a whole stream, parsed line by line as specified by WHATWG."""
    events, name, data = [], b"", b""
    *lines, _unended = LINE_END.split(stream.removeprefix(BOM))
    for line in lines:
        if not line:  # "If the line is empty: dispatch the event"
            if data:
                events.append(Event(name, data.removesuffix(b"\n")))
            name, data = b"", b""
        elif not line.startswith(b":"):
            field, _, value = line.partition(b":")
            value = value[1:] if value.startswith(b" ") else value
            if field == b"data":
                data += value + b"\n"
            elif field == b"event":
                name = value
    return events


def whole_events(stream: bytes) -> list[bytes]:
    """Return the bytes of each event of a whole stream, without the blank lines around it."""
    blocks, start, end = [], 0, 0
    for line in re.finditer(rb"([^\r\n]*)(\r\n|\n|\r)", stream):
        if line[1]:
            start, end = (start if end else line.start()), line.end(1)
        elif end:
            blocks.append(stream[start:end])
            end = 0
    return blocks


line_ends = st.sampled_from([b"\n", b"\r\n", b"\r"])
known_lines = st.sampled_from(
    [
        b"data: one",
        b"data:two",
        b"data:  three: 3",
        b"data",
        b"data:",
        b"event: add",
        b"event:remove",
        b"event",
        b"id: 7",
        b"retry: 10",
        b": a comment",
        b":",
        b"datum: x",
        b"data : x",
    ]
)
odd_lines = st.binary(max_size=8).map(lambda line: re.sub(rb"[\r\n\xef]", b"", line))
lines = st.one_of(known_lines, known_lines, odd_lines, st.just(b""), st.just(b""))


@st.composite
def streams(draw: st.DrawFn) -> bytes:
    """Draw an event stream with lines of every kind; its last event is complete."""
    mark = draw(st.sampled_from([b"", BOM]))
    pairs = draw(st.lists(st.tuples(lines, line_ends), max_size=20))
    return mark + b"".join(line + end for line, end in pairs) + b"\n\n"


def with_chunking(stream: bytes) -> st.SearchStrategy[tuple[bytes, list[bytes]]]:
    """Return a strategy for `stream` with a chunking of it."""
    return chunkings(stream).map(lambda chunks: (stream, chunks))


chunked_streams = streams().flatmap(with_chunking)


@pytest.mark.parametrize(
    ("stream", "events"),
    [
        pytest.param(
            b"data: This is the first message.\n\n"
            b"data: This is the second message, it\ndata: has two lines.\n\n"
            b"data: This is the third message.\n\n",
            [
                Event(b"", b"This is the first message."),
                Event(b"", b"This is the second message, it\nhas two lines."),
                Event(b"", b"This is the third message."),
            ],
            id="messages-of-one-and-two-lines",
        ),
        pytest.param(
            b"event: add\ndata: 73857293\n\nevent: remove\ndata: 2153\n\n",
            [Event(b"add", b"73857293"), Event(b"remove", b"2153")],
            id="named-events",
        ),
        pytest.param(
            b"data: YHOO\ndata: +2\ndata: 10\n\n",
            [Event(b"", b"YHOO\n+2\n10")],
            id="stock-of-three-lines",
        ),
        pytest.param(
            b": test stream\n\ndata: first event\nid: 1\n\ndata:second event\nid\n\n"
            b"data:  third event",
            [Event(b"", b""), Event(b"", b"first event"), Event(b"", b"second event")],
            id="comment-ids-and-an-unended-event",
        ),
        pytest.param(
            b"data\n\ndata\ndata\n\ndata:",
            [Event(b"", b""), Event(b"", b"\n")],
            id="data-without-a-colon",
        ),
        pytest.param(
            b"data:test\n\ndata: test\n\n",
            [Event(b"", b"test"), Event(b"", b"test")],
            id="one-space-after-the-colon-is-ignored",
        ),
    ],
)
def test_events_of_specification_examples_are_as_specified(
    stream: bytes, events: list[Event]
) -> None:
    """The examples of the WHATWG specification give the specified events."""
    assert read([stream]) == (events, 0)


@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\r"])
def test_line_may_end_with_lf_crlf_or_cr(end: bytes) -> None:
    """LF, CRLF and CR end a line."""
    stream = end.join([b"event: add", b"data: 1", b"data: 2", b"", b"data: 3", b"", b""])

    assert read([stream]) == ([Event(b"add", b"1\n2"), Event(b"", b"3")], 0)


def test_byte_order_mark_is_ignored() -> None:
    """A byte order mark at the start of a stream is ignored."""
    assert read([BOM + b"data: 1\n\n"]) == ([Event(b"", b"1")], 0)


def test_event_is_returned_after_its_blank_line() -> None:
    """No part of an event is returned before it is complete."""
    buffer = EventBuffer(max_bytes=100)

    buffer.held += b"data: 1\n"
    assert buffer.take_complete() == b""
    buffer.held += b"\ndata: 2"
    assert buffer.take_complete() == b"data: 1\n\n"


@given(st.text(alphabet="dataevn: x\r\n", max_size=24).map(str.encode), st.booleans())
def test_comment_before_the_data_of_an_event_changes_nothing(line: bytes, is_data: bool) -> None:
    """An event that is only one line of data is parsed like any other."""
    block = b"data: " + line if is_data else line

    assert data_of(block) == parse(b":\n" + block).data


@given(chunked_streams)
def test_any_chunking_gives_the_events_of_the_specification(
    case: tuple[bytes, list[bytes]],
) -> None:
    """In any chunking the events are those of the WHATWG rules for the whole stream."""
    stream, chunks = case

    events, overlong = read(chunks)

    assert dispatched(events) == dispatched(reference(stream))
    assert overlong == 0


@given(chunked_streams, st.integers(8, 24))
@example((b"\n\n\ndata: 1234\n\n", [b"\n\n\n", b"data: 1234\n\n"]), 10)
@example((b"\n\n\ndata: 1234\n\n", [b"\n\n\ndata: 1234\n\n"]), 10)
@example(
    (
        b"data: a\n\n\r\ndata: 1234\r\n\r\n",
        [b"data: a\n\n", b"\r", b"\ndata: 1234\r\n", b"\r\n"],
    ),
    10,
)
@example((b"data: a\r\n\r\ndata: 1234\r\n\r\n", [b"data: a\r\n\r", b"\ndata: 1234\r\n\r\n"]), 10)
def test_events_above_max_bytes_are_skipped_and_counted(
    case: tuple[bytes, list[bytes]], max_bytes: int
) -> None:
    """In any chunking exactly the events of more than `max_bytes` bytes are omitted."""
    stream, chunks = case

    events, overlong = read(chunks, max_bytes=max_bytes)

    blocks = whole_events(stream)
    short = [block for block in blocks if len(block) <= max_bytes]
    assert dispatched(events) == dispatched(map(parse, short))
    assert overlong == len(blocks) - len(short)


@given(chunked_streams, st.integers(0, 24))
def test_held_bytes_are_bounded(case: tuple[bytes, list[bytes]], max_bytes: int) -> None:
    """Memory is bounded by `max_bytes`, the last chunk and the line ends around one event."""
    buffer = EventBuffer(max_bytes=max_bytes)

    for chunk in case[1]:
        buffer.held += chunk
        assert len(buffer.held) <= max_bytes + 4 + len(chunk)
        buffer.take_complete()
        assert len(buffer.held) <= max_bytes + 4


def test_endless_event_is_counted_once() -> None:
    """An event that never ends is counted once and not held."""
    buffer = EventBuffer(max_bytes=10)

    for _ in range(100):
        buffer.held += b"data: 12345\n"
        assert buffer.take_complete() == b""

    assert buffer.overlong == 1
    assert len(buffer.held) <= 14


def test_event_after_a_skipped_one_is_read() -> None:
    """Skipping ends with the event that was too long."""
    chunks = [b"data: 1\n\ndata: 1234567890\n", b"more\n", b"\ndata: 2\n\n"]

    assert read(chunks, max_bytes=10) == ([Event(b"", b"1"), Event(b"", b"2")], 1)


def test_overlong_event_in_a_single_chunk_is_skipped() -> None:
    """A large chunk has the same limit as many small ones."""
    stream = b"data: 1\n\ndata: 1234567890\n\ndata: 2\n\n"

    assert read([stream], max_bytes=10) == ([Event(b"", b"1"), Event(b"", b"2")], 1)


def test_event_of_max_bytes_is_returned() -> None:
    """An event of exactly `max_bytes` bytes is returned."""
    assert read([b"data: 1234\n\n"], max_bytes=10) == ([Event(b"", b"1234")], 0)
    assert read([b"data: 12345\n\n"], max_bytes=10) == ([], 1)


@given(chunked_streams)
def test_returned_bytes_can_be_joined(case: tuple[bytes, list[bytes]]) -> None:
    """Bytes returned by several calls can be joined without joining events."""
    stream, chunks = case
    buffer = EventBuffer(max_bytes=8)
    returned = b""

    for chunk in chunks:
        buffer.held += chunk
        returned += buffer.take_complete()

    short = [block for block in whole_events(stream) if len(block) <= 8]
    assert dispatched(map(parse, split_events(returned))) == dispatched(map(parse, short))


@pytest.mark.parametrize("position", range(9, 16))
def test_event_bounds_at_any_position_are_those_of_its_event(position: int) -> None:
    """Every position in an event gives its start and end."""
    whole = b"data: 1\n\ndata: 2\n\ndata: 3\n\n"

    assert event_bounds(whole, position) == (9, 16)


def test_event_bounds_include_the_ends_of_the_data() -> None:
    """The first event needs no blank line before it, and the last one none after it."""
    assert event_bounds(b"data: 1\n\ndata: 2", 3) == (0, 7)
    assert event_bounds(b"data: 1\n\ndata: 2", 12) == (9, 16)


@given(st.lists(st.tuples(line_ends, line_ends, line_ends), min_size=1, max_size=6))
def test_event_bounds_with_any_line_ends_are_those_of_the_event(
    ends: list[tuple[bytes, bytes, bytes]],
) -> None:
    """Events are found with all line ends, with and without a known start."""
    pieces = [
        b"event: e%d%sdata: <%d>%s%s" % (number, first, number, second, third)
        for number, (first, second, third) in enumerate(ends)
        if second + third != b"\r\n"  # these would be one line end
    ]
    whole = b"".join(pieces)
    previous_end = 0

    for event in reference(whole):
        position = whole.index(event.data, previous_end)
        begin, end = event_bounds(whole, position)
        assert parse(whole[begin:end]) == event
        begin, previous_end = event_bounds(whole, position, previous_end)
        assert parse(whole[begin:previous_end]) == event

    assert not whole[previous_end:].strip(b"\r\n")
