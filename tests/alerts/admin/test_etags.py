"""If-Match and If-None-Match, as RFC 9110 reads them."""

from __future__ import annotations

import string
from contextlib import suppress

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tokenpulse_mw.alerts.admin.etags import quoted, tags_of

OPAQUE = st.text(string.ascii_letters + string.digits + "!#,;*/\\ÿ", max_size=8)
SPACE = st.text(" \t", max_size=3)
ELEMENT = st.tuples(st.sampled_from(["", "W/"]), OPAQUE)


@given(st.lists(ELEMENT, min_size=1), st.data())
def test_a_list_is_read_as_it_was_written(
    elements: list[tuple[str, str]], data: st.DataObject
) -> None:
    """Spaces and empty elements mean nothing, and a comma within quotes separates nothing."""
    written = [f'{data.draw(SPACE)}{weak}"{tag}"{data.draw(SPACE)}' for weak, tag in elements]
    for _ in range(data.draw(st.integers(0, 2))):
        written.insert(data.draw(st.integers(0, len(written))), data.draw(SPACE))

    tags = tags_of(",".join(written))

    assert tags.strong == tuple(tag for weak, tag in elements if not weak)
    assert tags.weak == tuple(tag for weak, tag in elements if weak)
    assert not tags.every


@given(OPAQUE)
def test_a_weak_tag_never_matches_strongly(tag: str) -> None:
    """What is only equivalent is not what If-Match asks for."""
    weak, strong = tags_of(f'W/"{tag}"'), tags_of(quoted(tag))

    assert (weak.match(tag), weak.match_weakly(tag)) == (False, True)
    assert (strong.match(tag), strong.match_weakly(tag)) == (True, True)


@given(OPAQUE)
def test_a_star_matches_whatever_there_is(tag: str) -> None:
    """It asks only that there is something."""
    assert tags_of(" * ").match(tag)


@pytest.mark.slow
@given(st.text(max_size=20))
@example("\n")
@example('"3"\n')
def test_no_header_breaks_anything(header: str) -> None:
    """Whatever a client sends, it is read or refused."""
    with suppress(ValueError):
        tags = tags_of(header)
        assert tags.every or tags.strong or tags.weak


@pytest.mark.parametrize("header", ["", " , ", "3", '"3', '"3" "4"', 'w/"3"', '*, "3"', '"a b"'])
def test_what_is_no_list_of_tags_is_refused(header: str) -> None:
    """A tag without its quotes is none, and neither is a part of one."""
    with pytest.raises(ValueError, match="expected"):
        tags_of(header)
