"""The last events of a stream, in which an error is looked for."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.memory import held_after
from tokenpulse_mw.usage.tail import Tail, names_error

from .bodies import event

ERROR = event({"error": {"message": "overloaded"}})
LEAST = 32 * 1024


def suspects(pieces: list[bytes]) -> list[bytes]:
    """The events that may tell of an error, of a stream that came in these pieces."""
    tail = Tail()
    for piece in pieces:
        tail.add(piece)
    return list(tail.suspects())


def test_the_last_event_is_looked_at_whole() -> None:
    """However long it is."""
    long = event({"error": {"message": "x" * 3 * LEAST}})

    assert suspects([ERROR, long]) == [long.strip()]
    assert suspects([ERROR + long]) == [long.strip()]


@given(st.lists(st.integers(1, 12_000), min_size=1, max_size=12), st.data())
def test_events_are_looked_at_until_32_kib_are_passed(
    sizes: list[int], data: st.DataObject
) -> None:
    """And no others, in whatever pieces they came."""
    events = [event({"error": "x" * size}) for size in sizes]
    first = len(events)
    while first and sum(map(len, events[first:])) < LEAST:
        first -= 1
    ends = sorted(data.draw(st.sets(st.integers(1, len(events) - 1)))) if len(events) > 1 else []
    pieces = [
        b"".join(events[start:end])
        for start, end in zip([0, *ends], [*ends, len(events)], strict=True)
    ]

    assert suspects(pieces) == [each.strip() for each in events[first:]]


def test_of_a_long_piece_only_the_end_is_kept() -> None:
    """Servers may send all of an answer at once."""
    tail = Tail()
    held = held_after(3, lambda: tail.add(ERROR * 100_000))

    assert held < 4 * LEAST


@pytest.mark.parametrize("block", [b"event: error\ndata: gone", b'{\n"error": {}\n}', b'"error":'])
def test_an_event_may_be_an_error_by_its_name_or_without_data(block: bytes) -> None:
    """Google ends a stream with JSON on lines of its own."""
    assert names_error(block) is True


@pytest.mark.parametrize("block", [b'data: "error": gone', b"event: add", b': "error"', b""])
def test_other_events_are_no_errors_by_their_name(block: bytes) -> None:
    """What their data tells is another thing."""
    assert names_error(block) is False
