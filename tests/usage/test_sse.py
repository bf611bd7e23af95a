"""Server-sent events: any chunking of a stream gives the same events, in bounded memory."""

from __future__ import annotations

import re
from collections.abc import Iterable

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tokenpulse_mw.usage.sse import Event, EventBuffer, event_bounds, parse, split_events

from ..support.chunks import chunkings

BOM = b"\xef\xbb\xbf"
LINE_END = re.compile(rb"\r\n|\n|\r")


def read(chunks: Iterable[bytes], *, longest: int = 10_000) -> tuple[list[Event], int]:
    """The events of a stream that came in these chunks, and how many were too long."""
    buffer = EventBuffer(longest=longest)
    events = []
    for chunk in chunks:
        buffer.held += chunk
        events += [parse(block) for block in split_events(buffer.take_complete())]
    return events, buffer.overlong


def dispatched(events: Iterable[Event]) -> list[Event]:
    """Those events that carry something."""
    return [event for event in events if event.data]


def reference(stream: bytes) -> list[Event]:
    """The events of a whole stream, line by line as in the WHATWG's text."""
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
    """The bytes of each event of a whole stream, blank lines around it left out."""
    found, start, end = [], 0, 0
    for line in re.finditer(rb"([^\r\n]*)(\r\n|\n|\r)", stream):
        if line[1]:
            start, end = (start if end else line.start()), line.end(1)
        elif end:
            found.append(stream[start:end])
            end = 0
    return found


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
    """Event streams with every kind of line and line end; the last event is ended."""
    mark = draw(st.sampled_from([b"", BOM]))
    pairs = draw(st.lists(st.tuples(lines, line_ends), max_size=20))
    return mark + b"".join(line + end for line, end in pairs) + b"\n\n"


def in_chunks(stream: bytes) -> st.SearchStrategy[tuple[bytes, list[bytes]]]:
    """`stream` and a way to cut it."""
    return chunkings(stream).map(lambda chunks: (stream, chunks))


cut_streams = streams().flatmap(in_chunks)


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
def test_examples_of_the_specification(stream: bytes, events: list[Event]) -> None:
    """The examples of the WHATWG's section on event streams are read as it says."""
    assert read([stream]) == (events, 0)


@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\r"])
def test_lines_end_in_three_ways(end: bytes) -> None:
    """LF, CRLF and CR all end a line."""
    stream = end.join([b"event: add", b"data: 1", b"data: 2", b"", b"data: 3", b"", b""])

    assert read([stream]) == ([Event(b"add", b"1\n2"), Event(b"", b"3")], 0)


def test_a_byte_order_mark_is_passed_over() -> None:
    """A stream may begin with a byte order mark."""
    assert read([BOM + b"data: 1\n\n"]) == ([Event(b"", b"1")], 0)


def test_an_event_waits_for_its_blank_line() -> None:
    """Nothing is released before an event is whole."""
    buffer = EventBuffer(longest=100)

    buffer.held += b"data: 1\n"
    assert buffer.take_complete() == b""
    buffer.held += b"\ndata: 2"
    assert buffer.take_complete() == b"data: 1\n\n"


@given(cut_streams)
def test_any_chunking_gives_the_events_of_the_specification(
    case: tuple[bytes, list[bytes]],
) -> None:
    """However a stream is cut, its events are those that the WHATWG's rules give for the whole."""
    stream, chunks = case

    events, overlong = read(chunks)

    assert dispatched(events) == dispatched(reference(stream))
    assert overlong == 0


@given(cut_streams, st.integers(8, 24))
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
def test_events_that_are_too_long_are_skipped_and_counted(
    case: tuple[bytes, list[bytes]], longest: int
) -> None:
    """However a stream is cut, exactly the events of more than `longest` bytes are left out."""
    stream, chunks = case

    events, overlong = read(chunks, longest=longest)

    every = whole_events(stream)
    kept = [block for block in every if len(block) <= longest]
    assert dispatched(events) == dispatched(map(parse, kept))
    assert overlong == len(every) - len(kept)


@given(cut_streams, st.integers(0, 24))
def test_no_more_is_held_than_the_longest_event_and_a_chunk(
    case: tuple[bytes, list[bytes]], longest: int
) -> None:
    """Memory is bounded by `longest`, the last chunk and the line ends around one event."""
    buffer = EventBuffer(longest=longest)

    for chunk in case[1]:
        buffer.held += chunk
        assert len(buffer.held) <= longest + 4 + len(chunk)
        buffer.take_complete()
        assert len(buffer.held) <= longest + 4


def test_a_stream_without_blank_lines_is_one_overlong_event() -> None:
    """An event that never ends is counted once and held no longer."""
    buffer = EventBuffer(longest=10)

    for _ in range(100):
        buffer.held += b"data: 12345\n"
        assert buffer.take_complete() == b""

    assert buffer.overlong == 1
    assert len(buffer.held) <= 14


def test_the_event_after_an_overlong_one_is_read() -> None:
    """Skipping ends with the event that was too long."""
    chunks = [b"data: 1\n\ndata: 1234567890\n", b"more\n", b"\ndata: 2\n\n"]

    assert read(chunks, longest=10) == ([Event(b"", b"1"), Event(b"", b"2")], 1)


def test_overlong_events_that_came_whole_are_left_out() -> None:
    """A large chunk is held to the same limit as many small ones."""
    stream = b"data: 1\n\ndata: 1234567890\n\ndata: 2\n\n"

    assert read([stream], longest=10) == ([Event(b"", b"1"), Event(b"", b"2")], 1)


def test_an_event_of_the_limit_is_kept() -> None:
    """`longest` itself is not too long."""
    assert read([b"data: 1234\n\n"], longest=10) == ([Event(b"", b"1234")], 0)
    assert read([b"data: 12345\n\n"], longest=10) == ([], 1)


@given(cut_streams)
def test_what_is_released_ends_with_a_blank_line(case: tuple[bytes, list[bytes]]) -> None:
    """Pieces released one after the other can be put together again without joining events."""
    stream, chunks = case
    buffer = EventBuffer(longest=8)
    released = b""

    for chunk in chunks:
        buffer.held += chunk
        released += buffer.take_complete()

    kept = [block for block in whole_events(stream) if len(block) <= 8]
    assert dispatched(map(parse, split_events(released))) == dispatched(map(parse, kept))


@pytest.mark.parametrize("place", range(9, 16))
def test_around_gives_the_event_of_a_place(place: int) -> None:
    """From any place in an event it is found where the event begins and ends."""
    whole = b"data: 1\n\ndata: 2\n\ndata: 3\n\n"

    assert event_bounds(whole, place) == (9, 16)


def test_around_takes_the_ends_of_the_bytes_for_ends_of_events() -> None:
    """The first event needs no blank line before it, and the last none after it."""
    assert event_bounds(b"data: 1\n\ndata: 2", 3) == (0, 7)
    assert event_bounds(b"data: 1\n\ndata: 2", 12) == (9, 16)


@given(st.lists(st.tuples(line_ends, line_ends, line_ends), min_size=1, max_size=6))
def test_around_finds_every_event_between_any_line_ends(
    ends: list[tuple[bytes, bytes, bytes]],
) -> None:
    """Whatever ends its lines, an event is found from a place in it, with or without a start."""
    pieces = [
        b"event: e%d%sdata: <%d>%s%s" % (number, first, number, second, third)
        for number, (first, second, third) in enumerate(ends)
        if second + third != b"\r\n"  # that is one line end
    ]
    whole = b"".join(pieces)
    position = 0

    for event in reference(whole):
        place = whole.index(event.data, position)
        begin, end = event_bounds(whole, place)
        assert parse(whole[begin:end]) == event
        begin, position = event_bounds(whole, place, position)
        assert parse(whole[begin:position]) == event

    assert not whole[position:].strip(b"\r\n")
